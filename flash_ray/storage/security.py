"""Closes the inner ports of the embedded store: whoever lacks its certificate is turned away.

SeaweedFS is a master, a volume server, a filer, an S3 gateway and an administration, each with an
HTTP and a gRPC port that anybody on the machine reaches. S3 asks for the store's credentials; the
others, as they are configured here, for a certificate (mutual TLS) that is made at every start.
"""

import ipaddress
import json
import os
import secrets
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

ADDRESS = "127.0.0.1"
GRPC = ("master", "volume", "filer", "s3", "admin", "worker", "client")
HTTPS = ("master", "volume", "filer", "admin", "client")
JWT = ("signing", "signing.read", "filer_signing", "filer_signing.read")


def write_security(folder: Path) -> None:
    """Makes a certificate, and beside it the security.toml by which every part of weed wants it.

    Args:
        folder: made, or emptied of an earlier start's; nobody else may enter it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    certificate, key = _self_signed()
    _write(folder / "certificate.pem", certificate)
    _write(folder / "key.pem", key)
    _write(folder / "security.toml", _configuration(folder.resolve()).encode())


def client_context(folder: Path) -> ssl.SSLContext:
    """The TLS context of a caller who has the certificate that `write_security` left."""
    context = ssl.create_default_context(cafile=folder / "certificate.pem")
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def _self_signed() -> tuple[bytes, bytes]:
    """A certificate that is its own authority, for servers and their clients, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flash-ray store")])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    address = x509.IPAddress(ipaddress.ip_address(ADDRESS))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))  # a server may run for long
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _configuration(folder: Path) -> str:
    """weed's security.toml: mutual TLS on all ports but S3, and signed requests within."""
    certificate, key = (_quoted(str(folder / name)) for name in ("certificate.pem", "key.pem"))
    pair = f"cert = {certificate}\nkey = {key}\n"
    authority = f"ca = {certificate}\n"
    sections = {"grpc": authority, **{f"grpc.{part}": pair for part in GRPC}}
    sections |= {f"https.{part}": pair + authority for part in HTTPS}
    sections["https.client"] += "enabled = true\n"
    sections |= {f"jwt.{use}": f"key = '{secrets.token_hex(16)}'\n" for use in JWT}
    return "".join(f"[{name}]\n{text}" for name, text in sections.items())


def _quoted(text: str) -> str:
    """A string of TOML."""
    return json.dumps(text, ensure_ascii=False)


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)

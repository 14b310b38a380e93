"""Runs first in every worker of a Ray of one's own, so it imports next to nothing."""

from typing import Any


def listen_locally() -> None:
    """Has the gRPC servers that Ray Serve starts in its replicas listen on loopback alone.

    They would on all addresses, and unpickle what the holder of Ray's token sends.
    """
    from ray._common import tls_utils

    add_port = tls_utils.add_port_to_grpc_server

    def add_local_port(server: Any, address: str) -> int:
        port: int = add_port(server, address.replace("[::]:", "127.0.0.1:"))
        return port

    tls_utils.add_port_to_grpc_server = add_local_port

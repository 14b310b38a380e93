"""Opens the store that a command names: an S3 bucket, or the embedded store over a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flash_ray.errors import UserError
from flash_ray.storage.embedded import embedded_store
from flash_ray.storage.s3 import Store

HOME = Path("~/.flash_ray/store")


@contextmanager
def open_store(
    address: str | None, endpoint: str | None = None, create: bool = False
) -> Iterator[Store]:
    """Yield a store that answers.

    Args:
        address: s3://bucket/prefix, or the folder of an embedded store; None is ~/.flash_ray/store.
        endpoint: of a bucket that is not AWS's; None means AWS_ENDPOINT_URL_S3.
        create: makes the folder if it is not there.

    Raises:
        UserError: the bucket cannot be used, or there is no such folder.
    """
    if address and address.startswith("s3://"):
        store = Store.from_url(address, endpoint)
        store.check()
        yield store
        return
    folder = Path(address or HOME).expanduser()
    if not create and not (folder / "credentials.json").is_file():
        raise UserError(
            f"--store: no store in {folder}; allowed: s3://bucket/prefix, or the folder that "
            "`flash-ray distill` or `flash-ray demo` used; correct it, or distill a student first"
        )
    with embedded_store(folder) as store:
        yield store

"""`flash-ray models`: the published students of a store."""

from flash_ray.storage.embedded import open_store
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.students import Student, list_students, read_aliases


def published_students(store_address: str | None) -> tuple[list[Student], list[CorruptRecord]]:
    """Lists the students, by name, and the manifests and aliases that are corrupt.

    Args:
        store_address: the store, as `open_store` takes it.

    Raises:
        UserError: the store cannot be used.
    """
    with open_store(store_address) as store:
        students, faults = list_students(store)
        return students, faults + read_aliases(store)[1]

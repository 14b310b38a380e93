"""`flash-ray models`: the published students of a store."""

from flash_ray.storage.open import open_store
from flash_ray.storage.students import Student, list_students


def published_students(place: str | None) -> list[Student]:
    """Lists the students, by name.

    Args:
        place: the store, as `open_store` takes it.

    Raises:
        UserError: the store cannot be used, or a manifest is corrupt.
    """
    with open_store(place) as store:
        return list_students(store)

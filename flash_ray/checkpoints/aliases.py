"""Aliases: names that point to published students and may be pointed elsewhere.

A student's name never changes what it means. An alias does: endpoints that serve it go over to the
student that it points to now, without a request lost.
"""

import json

from flash_ray.checkpoints.publish import MANIFEST, read_student
from flash_ray.checkpoints.storage import Store, check_name
from flash_ray.errors import UserError

PREFIX = "aliases/"


def set_alias(store: Store, alias: str, student: str) -> None:
    """Points `alias` to a published student.

    Raises:
        UserError: there is no such student, or a student or `teacher` has the alias's name.
    """
    check_name("alias", alias)
    read_student(store, student)
    if alias == "teacher" or store.get_bytes(f"students/{alias}/{MANIFEST}") is not None:
        raise UserError(f"alias: {alias!r} is a model's own name; choose another alias")
    store.put_bytes(f"{PREFIX}{alias}.json", json.dumps({"student": student}).encode())


def read_aliases(store: Store) -> dict[str, str]:
    """Student names by alias; UserError if one is corrupt."""
    found = {}
    for key in store.list(PREFIX):
        text = store.get_bytes(key)
        if text is None:  # removed meanwhile
            continue
        try:
            found[key[len(PREFIX) :].removesuffix(".json")] = str(json.loads(text)["student"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{store.url(key)}: is corrupt; set the alias anew") from error
    return found

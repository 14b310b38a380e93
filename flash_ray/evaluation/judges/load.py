"""From the words of --judge to judges: what can be refused is, before models are loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.endpoint import VlmSettings, read_settings
from flash_ray.storage.open import open_store

if TYPE_CHECKING:
    from flash_ray.evaluation.judges.base import Judge

Choice = str | VlmSettings  # "exact", "ocr", or a VLM's settings


def read_judges(words: Sequence[str]) -> list[Choice]:
    """What `exact`, `ocr` and `vlm:FILE.yaml` ask for.

    Raises:
        UserError: there is no such judge, one is named twice, its extra is not installed, its file
            is wrong, or its key is not in the environment.
    """
    choices = [_read(word) for word in words]
    names = [c if isinstance(c, str) else f"vlm:{c.model}" for c in choices]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--judge: {name} is given twice; allowed: once; remove one")
    return choices


@contextmanager
def opened_judges(choices: Sequence[Choice], place: str | None) -> Iterator[list["Judge"]]:
    """Judges ready to be asked; VLMs keep their answers in the store at `place`, which `open_store`
    opens for the block if there is one of them."""
    settings = [choice for choice in choices if isinstance(choice, VlmSettings)]
    judges: list[Judge] = []
    if "exact" in choices:
        from flash_ray.evaluation.judges.exact import ExactJudge

        judges.append(ExactJudge())
    if "ocr" in choices:
        from flash_ray.evaluation.judges.ocr import OcrJudge

        judges.append(OcrJudge())
    if not settings:
        yield judges
        return
    from flash_ray.evaluation.judges.vlm import VlmJudge

    with open_store(place, create=True) as store:
        yield [*judges, *(VlmJudge(each, store) for each in settings)]


def unknown_judge(word: str) -> str:
    """What to say of a word that names no judge."""
    return f"--judge: {word!r} is no judge; allowed: exact, ocr, vlm:FILE.yaml; choose one"


def _read(word: str) -> Choice:
    if word == "exact":
        return word
    if word == "ocr":
        from flash_ray.evaluation.judges.ocr import validate_missing

        validate_missing()
        return word
    kind, _, file = word.partition(":")
    if kind != "vlm" or not file:
        raise UserError(unknown_judge(word))
    from flash_ray.evaluation.judges.base import require

    require("openai", "vlm")
    settings = read_settings(file)
    settings.key()
    return settings

"""What the writer is asked, and what of its answers can be used."""

import base64
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from flash_ray.data.rows import QUOTED
from flash_ray.data.values import whole_characters
from flash_ray.data.writing.wanted import Wanted
from flash_ray.models.endpoint import answers

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

Kind = Literal["t2i", "pictures", "edit"]  # of what is written: prompts, pictures to edit, edits
SHOWN = 120  # characters of a prompt that was written earlier


class Answer(BaseModel):
    """One row as the writer answers it; what else it says is left aside."""

    model_config = ConfigDict(frozen=True)
    number: int
    prompt: str
    text: str | None = None


def messages(
    kind: Kind,
    about: str,
    wanted: Sequence[Wanted],
    written: Sequence[str],
    picture: bytes | None = None,
) -> "list[ChatCompletionMessageParam]":
    """Asks for rows of one category.

    Args:
        about: what the category is.
        written: prompts that it has already.
        picture: the one to edit, as PNG.
    """
    texts = _instructions()
    category = f"The category is {wanted[0].category!r}: {about}"
    lines = [f"{number}. {_line(row)}" for number, row in enumerate(wanted, 1)]
    if written:
        shown = [f"- {w[:SHOWN]}{'...' if len(w) > SHOWN else ''}" for w in written]
        lines += ["", "There are these already; write others:", *shown]
    parts: list[ChatCompletionContentPartParam] = [{"type": "text", "text": "\n".join(lines)}]
    if picture is not None:
        data = base64.b64encode(picture).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    return [
        {"role": "system", "content": "\n\n".join((texts[kind], category, texts["answer"]))},
        {"role": "user", "content": parts},
    ]


def read_answers(text: str | None) -> dict[int, Answer]:
    """The rows in an answer by number; of several with one number the last."""
    return {answer.number: answer for answer in answers(text, _answer)}


def fault(wanted: Wanted, answer: Answer) -> str | None:
    """Why an answer is not the row that was wanted, in a few words; None: it is."""
    fewest, most = wanted.length
    if not fewest <= len(answer.prompt) <= most:
        return "too short" if len(answer.prompt) < fewest else "too long"
    quoted = QUOTED.findall(answer.prompt)
    if wanted.has_text and not (answer.text and any(answer.text in words for words in quoted)):
        return "without its text in quotation marks"
    if wanted.has_text is False and quoted:
        return "with text that was not asked for"
    return None


def _line(row: Wanted) -> str:
    fewest, most = row.length
    text = {True: "; with words that can be read", False: "; without words", None: ""}
    return (
        f"{row.theme}; in {row.language}; about {row.aim} characters, {fewest} to {most}"
        f"{text[row.has_text]}"
    )


def _answer(found: object) -> Answer | None:
    try:
        answer = Answer.model_validate(found)
    except ValidationError:
        return None
    text = _clean(answer.text or "") or None
    return Answer(number=answer.number, prompt=_clean(answer.prompt), text=text)


def _clean(text: str) -> str:
    """One line without halves of characters, which no file in UTF-8 can hold."""
    return " ".join(whole_characters(text)[0].split())


@cache
def _instructions() -> dict[str, str]:
    file = resources.files("flash_ray.data.writing") / "instructions.yaml"
    texts: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return texts

"""Keeps what a user writes text: no word of a prompt becomes a control token of the tokenizer.

A pipeline puts the prompt into a template and tokenizes both together, so `<|im_start|>` in a
prompt would be the template's. `as_text` breaks such words with a character that no text has, and
`TextTokenizer`, in the tokenizer's place, takes it out again where it tokenizes the rest as text.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

BREAK = "\ufdd0"  # a noncharacter: Unicode assigns it to nothing


def as_text(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The prompt with its control words broken, and without lone surrogates, which are no text."""
    text = prompt.encode("utf-8", "ignore").decode("utf-8").replace(BREAK, "")
    return _control(tokenizer).sub(lambda word: word[0][:1] + BREAK + word[0][1:], text)


@contextmanager
def user_text(processor: "ProcessorMixin") -> Iterator[None]:
    """Has a processor take broken words as text for the block."""
    tokenizer = processor.tokenizer
    processor.tokenizer = TextTokenizer(tokenizer)
    try:
        yield
    finally:
        processor.tokenizer = tokenizer


class TextTokenizer:
    """A tokenizer that takes broken control words as text and others as control tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Sequence[str], **options: Any) -> "BatchEncoding":
        """As the tokenizer's, of several texts; without broken words it is the tokenizer's own."""
        if not any(BREAK in row for row in text):
            return self._tokenizer(text, **options)
        padding = {name: options[name] for name in ("padding", "padding_side") if name in options}
        return self._tokenizer.pad({"input_ids": [self._ids(row) for row in text]}, **padding)

    def _ids(self, row: str) -> list[int]:
        """What the tokenizer does: control words are looked up, all between them is text."""
        control, ids, end = _control(self._tokenizer), [], 0
        for word in control.finditer(row):
            ids += [*self._text_ids(row[end : word.start()]), _added(self._tokenizer)[word[0]]]
            end = word.end()
        return [*ids, *self._text_ids(row[end:])]

    def _text_ids(self, text: str) -> list[int]:
        backend = self._tokenizer.backend_tokenizer
        text = text.replace(BREAK, "")
        if backend.normalizer:
            text = backend.normalizer.normalize_str(text)
        pieces = backend.pre_tokenizer.pre_tokenize_str(text)
        return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]


def _added(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    return {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}


def _control(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    words = sorted(_added(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)) or r"(?!)")

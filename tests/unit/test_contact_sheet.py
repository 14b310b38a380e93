"""The grid of one model's pictures: all of them, in order, with prompts and inputs."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.contact_sheet import APART, CLOSE, COLUMNS, GAP, contact_sheet, wrapped

RED, GREEN, BLUE = ((255, 0, 0), (0, 200, 0), (0, 0, 255))
CASE = Case("one", "t2i", "any", "a red house", (64, 64), 0)
EDIT = Case("two", "edit", "any", "make it blue", (64, 64), 0, [Image.new("RGB", (64, 64), GREEN)])


def picture(color, height=64, width=64) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


def boxes(sheet: Image.Image, color) -> list[tuple[int, int]]:
    """Width and height of what has the color, of each patch from left to right, top to bottom."""
    array = np.all(np.asarray(sheet) == color, axis=-1)
    found = []
    for top, bottom in _runs(array.any(1)):
        for left, right in _runs(array[top:bottom].any(0)):
            found.append((right - left, bottom - top))
    return found


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def test_every_picture_is_there_and_rows_are_full():
    count = 2 * COLUMNS + 3
    sheet = contact_sheet([CASE] * count, [picture(RED)] * count)
    assert boxes(sheet, RED) == [(128, 128)] * count
    assert sheet.width == COLUMNS * (128 + APART) - APART + 2 * GAP


def test_an_edit_stands_after_its_inputs():
    row = np.asarray(contact_sheet([EDIT], [picture(BLUE)]))[GAP + 10]
    colors = [tuple(row[GAP + 10 + column * (128 + CLOSE)]) for column in (0, 1)]
    assert colors == [GREEN, BLUE]
    two = replace(EDIT, references=[*EDIT.references] * 2)
    sheet = contact_sheet([CASE, two], [picture(RED), picture(BLUE)])
    assert [len(boxes(sheet, color)) for color in (RED, GREEN, BLUE)] == [1, 2, 1]


@pytest.mark.parametrize(
    ("size", "shown"), [((32, 96), (128, 43)), ((1024, 512), (128, 256)), ((200, 200), (200, 200))]
)
def test_pictures_keep_their_shape_and_large_ones_are_shrunk(size, shown):
    (box,) = boxes(contact_sheet([CASE], [picture(RED, *size)]), RED)
    assert box == shown


def test_the_prompt_is_under_the_picture():
    blank = contact_sheet([replace(CASE, prompt="")], [picture(RED)])
    for prompt in ("a red house", "写着“EXIT”的金属牌"):
        sheet = contact_sheet([replace(CASE, prompt=prompt)], [picture(RED)])
        below = np.asarray(sheet)[GAP + 128 :]
        assert sheet.size == blank.size and (below < 128).any()
        assert np.array_equal(np.asarray(sheet)[: GAP + 128], np.asarray(blank)[: GAP + 128])


@pytest.mark.parametrize("text", ["seven words that are not too long", "一二三四五六七八九十" * 3])
def test_long_prompts_are_wrapped_and_cut(text):
    font = ImageFont.load_default(12)
    width = int(font.getlength(text)) // 2 + 30
    assert "".join(wrapped(text, width, font, 3).split()) == "".join(text.split())
    lines = wrapped(text, width // 2, font, 2).split("\n")
    assert len(lines) == 2 and lines[-1].endswith("…")
    assert all(font.getlength(line) <= width // 2 for line in lines)

"""Rows of files as cases: what is usable, and the reasons why others are not."""

import io

import numpy as np
import pytest
from PIL import Image

from flash_ray.data.pictures import decode_picture
from flash_ray.data.rows import RowFormat, parse_line, read_row
from flash_ray.data.values import BadRow
from flash_ray.recipe.schema import Columns

FILES = {}


def encoded(width=40, height=30, kind="PNG", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def read(row, task="edit", **columns):
    def picture(path):
        if path not in FILES:
            raise FileNotFoundError(path)
        return FILES[path]

    form = RowFormat(Columns(**columns), task)
    (case,) = read_row({"prompt": "p", "category": "c", **row}, form, picture)
    return case


def test_a_picture_may_be_bytes_a_path_hugging_faces_struct_or_several():
    data = encoded()
    FILES["a.png"] = data
    forms = [data, "a.png", {"bytes": data, "path": None}, {"bytes": None, "path": "a.png"}]
    cases = [read({"image": form}) for form in forms]
    assert {case.digest for case in cases} == {cases[0].digest}
    assert cases[0].sizes == ((30, 40),)
    both = read({"image": [data, {"bytes": encoded(64, 64)}]})
    assert both.sizes == ((30, 40), (64, 64))
    assert both.digest != cases[0].digest


def test_what_the_model_is_shown_decides_the_digest_and_nothing_else():
    data = encoded()
    one = read({"image": data, "q": 0.1, "category": "x"}, score="q")
    assert read({"image": data, "q": 0.9}, score="q").digest == one.digest
    assert read({"image": data, "prompt": "other"}).digest != one.digest
    assert read({"image": encoded(41)}).digest != one.digest


def test_a_turned_photograph_is_measured_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    data = encoded(40, 30, "JPEG", exif=exif)
    assert read({"image": data}).sizes == ((40, 30),)
    assert decode_picture(data).size == (30, 40)


def test_text_to_image_reads_no_picture():
    case = read({"image": "no such file"}, task="t2i")
    assert case.pictures == ()


@pytest.mark.parametrize(
    ("prompt", "contains"),
    [
        ('a sign that says "OPEN"', True),
        ("a sign that says “OPEN”", True),
        ("the cat's bowl and the dog's", False),
        ('a 6" nail', False),
    ],
)
def test_words_in_quotation_marks_are_rendered_text(prompt, contains):
    assert read({"prompt": prompt}, task="t2i").rendered_text is contains


def test_a_column_says_what_is_rendered_text():
    row = {"prompt": 'a "word"', "has_text": False}
    assert not read(row, task="t2i", rendered_text="has_text").rendered_text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "  "}, "empty prompt"),
        ({"prompt": None}, "empty prompt"),
        ({"prompt": 3}, "prompt is not a text"),
        ({"category": ""}, "no category"),
        ({}, "no picture"),
        ({"image": []}, "no picture"),
        ({"image": b"no picture at all"}, "broken picture"),
        ({"image": encoded()[:200]}, "broken picture"),
        ({"image": encoded(40, 8)}, "a side outside 16 to 16384 pixels"),
        ({"image": "missing.png"}, "a picture cannot be read"),
        ({"image": 7}, "neither a path nor encoded"),
        ({"image": encoded(), "score": "high"}, "score is not a number"),
    ],
)
def test_bad_rows_say_why(row, reason):
    with pytest.raises(BadRow, match=reason):
        read(row, score="score")


@pytest.mark.parametrize(("line", "reason"), [("{", "not JSON"), ("[1]", "not a JSON object")])
def test_bad_lines_say_why(line, reason):
    with pytest.raises(BadRow, match=reason):
        parse_line(line)

"""Data files as people have them: each is read as it is meant, or the message says what to do."""

import base64
import io
import json
import tarfile
from decimal import Decimal

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from flash_ray.data.catalog import from_parquet, listing_of, to_parquet
from flash_ray.data.files import find_files, validate_columns
from flash_ray.data.readers import read_rows
from flash_ray.errors import UserError
from flash_ray.recipe.schema import Files


def picture(width=40, kind="PNG"):
    buffer = io.BytesIO()
    noise = np.random.default_rng(width).integers(0, 255, (32, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def rows(count=4, **more):
    return [{"prompt": f"hill {n}", "category": "land", **more} for n in range(count)]


def jsonl(items):
    return "".join(json.dumps(item) + "\n" for item in items)


def edits(*images):
    return jsonl({"prompt": f"e{n}", "category": "c", "image": i} for n, i in enumerate(images))


def parquet(items):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), buffer)
    return buffer.getvalue()


def tar(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(stem, *pictures):
    fields = json.dumps({"prompt": f"p {stem}", "category": "c"}).encode()
    return [
        *((f"{stem}{end}", picture(width)) for end, width in pictures),
        (f"{stem}.json", fields),
    ]


def catalog(folder, task="t2i", address=".", **settings):
    """The catalog of files as a run makes it, without Ray."""
    files = Files(**{task: str(folder / address), **settings})
    found = find_files(files, task, None)
    validate_columns(found)
    listed = [
        e for p in found.paths for row in read_rows(found, p) for e in listing_of(*row, found)
    ]
    return from_parquet(found.field, to_parquet(listed), found.left_aside)


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


B64 = base64.b64encode(picture()).decode()
PLAIN = jsonl(rows())
# name -> (files, settings, usable cases, what a line says; None: nothing is to be said)
READ = {
    "byte order mark": ({"a.jsonl": b"\xef\xbb\xbf" + PLAIN.encode()}, {}, 4, None),
    "utf-16": ({"a.jsonl": PLAIN.encode("utf-16")}, {}, 4, None),
    "utf-16 without a mark": ({"a.jsonl": PLAIN.encode("utf-16-le")}, {}, 4, None),
    "windows lines": ({"a.jsonl": PLAIN.replace("\n", "\r\n")}, {}, 4, None),
    "appledouble": ({"a.jsonl": PLAIN, "._a.jsonl": b"\0\5\26\7"}, {}, 4, None),
    "check points": ({"a.jsonl": PLAIN, ".ipynb_checkpoints/a.jsonl": PLAIN + PLAIN}, {}, 4, None),
    "upper case ending": ({"A.JSONL": PLAIN}, {}, 4, None),
    "half an emoji": (
        {"a.jsonl": jsonl([*rows(), {"prompt": "sun \ud83d up", "category": "land"}])},
        {},
        5,
        "1 rows: half a character (a lone surrogate) was taken out of the prompt, e.g. a.jsonl li",
    ),
    "scores as text": ({"a.parquet": parquet(rows(q="5.5"))}, {"columns": {"score": "q"}}, 4, None),
    "scores as decimal": (
        {"a.parquet": parquet(rows(q=Decimal("5.50")))},
        {"columns": {"score": "q"}},
        4,
        None,
    ),
    "categories as numbers": (
        {"a.jsonl": jsonl([{**row, "category": 7} for row in rows()])},
        {},
        4,
        None,
    ),
    "twice in one category": (
        {"a.jsonl": PLAIN + jsonl(rows(2))},
        {},
        4,
        "2 rows: they repeat an earlier one and count once, e.g. a.jsonl line 5",
    ),
    "in two categories": (
        {"a.jsonl": PLAIN + jsonl({**row, "category": "sea"} for row in rows(2))},
        {},
        6,
        "2 rows: they are in another category too and count in both, e.g. a.jsonl line 5",
    ),
    "no category": (
        {"m.jsonl": jsonl({"file_name": f"{n}.png", "text": f"hill {n}"} for n in range(3))},
        {"category": "land", "columns": {"prompt": "text"}},
        3,
        None,
    ),
    "csv": ({"m.csv": 'image,prompt\n0.png,"a hill, big"\n1.png,b\n'}, {"category": "l"}, 2, None),
    "csv of Excel": ({"m.csv": "\ufeffprompt;category\r\na, b;land\r\n"}, {}, 1, None),
    "tsv": ({"m.tsv": "prompt\tcategory\na\tland\nb\tland\n"}, {}, 2, None),
    "json": ({"m.json": json.dumps(rows())}, {}, 4, None),
    "lines called json": ({"m.json": PLAIN}, {}, 4, None),
    "captions": (
        {"0.txt": "a hill\n", "0.png": picture(), "1.txt": "a lake\na sea\n", "1.JPG": picture()},
        {"category": "land"},
        3,
        None,
    ),
    "a picture without caption": (
        {"0.txt": "a hill", "0.png": picture(), "1.png": picture()},
        {"category": "land"},
        1,
        "1 files have no caption beside them and are not read, e.g. ",
    ),
    "several captions": (
        {"a.jsonl": jsonl([{"prompt": ["one", "two"], "category": "c"}])},
        {},
        2,
        None,
    ),
    "a table beside its description": (
        {"a.parquet": parquet(rows()), "info.json": "{}"},
        {},
        4,
        "1 files are no parquet files and are not read, e.g. ",
    ),
    "hive": (
        {f"category={c}/p.parquet": parquet([{"prompt": f"a {c}"}]) for c in ("land", "sea%20x")},
        {},
        2,
        None,
    ),
    "one bad line": (
        {"a.jsonl": PLAIN + "{\n" + '{"prompt": "caf\\u00e9"}\n'},
        {"max_bad": 0.5},
        4,
        "1 rows skipped: not JSON, e.g. a.jsonl line 5",
    ),
    "latin-1": (
        {"a.jsonl": PLAIN.encode() + '{"prompt": "café", "category": "c"}\n'.encode("latin-1")},
        {"max_bad": 0.5},
        4,
        "1 rows skipped: not UTF-8; save the file as UTF-8, e.g. a.jsonl line 5",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_prompts_are_read(tmp_path, name):
    files, settings, usable, line = READ[name]
    write(tmp_path, files)
    read = catalog(tmp_path, **settings)
    assert len(read.usable) == usable, read.complaints
    assert all(entry.category and entry.length for entry in read.usable)
    if line is None:
        assert read.complaints == []
    else:
        assert any(
            complaint.startswith(f"data.source.t2i: {line}") for complaint in read.complaints
        )


def test_values_count_and_not_their_classes(tmp_path):
    write(tmp_path, {"a.jsonl": jsonl([{**rows(1)[0], "category": 7, "q": "5.5"}])})
    (entry,) = catalog(tmp_path, columns={"score": "q"}).usable
    assert (entry.category, entry.score) == ("7", 5.5)


EDITS = {
    "base64": {"e.jsonl": edits(B64)},
    "base64 in lines": {"e.jsonl": edits("\n".join([B64[:76], B64[76:]]))},
    "data URI": {"e.jsonl": edits(f"data:image/png;base64,{B64}")},
    "base64 in csv": {"e.csv": f"prompt,category,image\nx,c,{B64}\n"},
    "a path in a folder": {"e.jsonl": edits("sub/0.png"), "sub/0.png": picture()},
    "upper case in a tar": {"a.tar": tar(*sample("0000", (".JPG", 40)))},
    "an input named in a tar": {
        "a.tar": tar(*sample("x", (".input.jpg", 40), (".target.png", 64)))
    },
    "dots in a tar": {"a.tar": tar(*sample("d/v1.0.b", (".png", 40)))},
    "captions": {"0.png": picture(), "0.txt": "make it red"},
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_find_their_picture(tmp_path, name):
    write(tmp_path, EDITS[name])
    settings = {"category": "c"} if name == "captions" else {}
    read = catalog(tmp_path, "edit", **settings)
    assert [entry.sizes for entry in read.usable] == [((32, 40),)]
    assert read.complaints == []


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_absolute_paths_are_taken(tmp_path, form):
    (tmp_path / "a picture.png").write_bytes(picture())
    write(tmp_path / "rows", {"e.jsonl": edits(form.format(tmp_path / "a picture.png"))})
    assert len(catalog(tmp_path / "rows", "edit").usable) == 1


def test_samples_with_dots_in_their_names_stay_apart_and_numbers_are_in_order(tmp_path):
    several = sample("c", *((f".{n}.png", 30 + n) for n in (1, 10, 2)))
    one, two = sample("photo.v1", (".png", 50)), sample("photo.v2", (".input_2.png", 60))
    write(tmp_path, {"a.tar": tar(*several, *one, *two, ("__MACOSX/x.json", b"{"))})
    sizes = {tuple(w for _, w in e.sizes) for e in catalog(tmp_path, "edit").usable}
    assert sizes == {(31, 32, 40), (50,), (60,)}


def test_one_file_holds_both_tasks(tmp_path):
    both = [*rows(3), {"prompt": "redder", "category": "style", "image": B64}]
    write(tmp_path, {"all.jsonl": jsonl(both)})
    where = {"t2i": str(tmp_path / "all.jsonl"), "edit": str(tmp_path / "all.jsonl")}
    for task, usable, line in (
        ("t2i", 3, "1 rows: with a picture, they are edits, e.g. all.jsonl line 4"),
        ("edit", 1, "3 rows: without a picture, they are text to image, e.g. all.jsonl line 1"),
    ):
        read = catalog(tmp_path, task, "all.jsonl", **where)
        assert len(read.usable) == usable
        assert read.complaints == [f"data.source.{task}: {line}"]


def test_a_message_is_one_line_a_kind_and_shows_no_picture(tmp_path):
    missing = [f"lost/{n}.png" for n in range(30)]
    broken = base64.b64encode(picture()[:120]).decode()
    web = ["http://example.org/a.png"]
    write(tmp_path, {"e.jsonl": edits(B64, *missing, broken, B64[:-7] + "A", *web)})
    read = catalog(tmp_path, "edit")
    assert [line.partition(" rows ")[0].split()[-1] for line in read.complaints] == [
        "30", "1", "1", "1",
    ]  # fmt: skip
    assert "e.g. e.jsonl line 2 ('lost/0.png')" in read.complaints[0]
    assert all(len(line) < 200 and "iVBOR" not in line for line in read.complaints)


def test_a_folder_that_contradicts_its_file_is_named(tmp_path):
    write(tmp_path, {"category=sea/p.parquet": parquet(rows(2))})
    (line,) = catalog(tmp_path).complaints
    assert "category is not what the name of the folder says" in line
    assert "('land' in category=sea)" in line


@pytest.mark.parametrize(
    ("files", "settings", "says"),
    [
        ({"a.tar": tar(("0.json", b'{"prompt": "p", "category": "c"}'), ("0.xyz", b"?"))}, {},
         "whose first sample holds 0.json, 0.xyz"),
        ({"a.jsonl": '{"prompt": "p"}'}, {}, "set data.source.category=NAME for all rows"),
        ({"a.jsonl": PLAIN, "b.parquet": parquet(rows())}, {}, "holds jsonl and parquet files"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_to_do(tmp_path, files, settings, says):
    write(tmp_path, files)
    with pytest.raises(UserError, match="data.source") as caught:
        catalog(tmp_path, "edit", **settings)
    assert says in str(caught.value)

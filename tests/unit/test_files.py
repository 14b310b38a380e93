"""Where a source's files are and what columns they have, before anything starts."""

import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from flash_ray.data.files import find_files, validate_columns
from flash_ray.errors import UserError
from flash_ray.recipe.schema import Files

ROW = {"prompt": "p", "kind": "c", "image": b"x"}


def write(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), file)
    elif name.endswith(".tar"):
        with tarfile.open(file, "w") as tar:
            fields = json.dumps({"prompt": "p", "kind": "c"}).encode()
            for member, data in (("a/1.json", fields), ("a/1.png", b"x"), ("a/2.txt", b"y")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        file.write_text("\n" + json.dumps({**ROW, "image": "a.png"}) + "\n")
    return file


def found(address, task="edit", **columns):
    return find_files(Files(**{task: str(address)}, columns=columns), task, None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jsonl", "jsonl"), ("a.parquet", "parquet"), ("a.tar", "webdataset")],
)
def test_files_and_folders_of_each_format(tmp_path, name, kind):
    file = write(tmp_path / "data", name)
    write(tmp_path / "data" / "sub", name)
    (tmp_path / "data" / "README.md").write_text("no data")
    one, all_of_them = found(file), found(tmp_path / "data")
    assert one.kind == all_of_them.kind == kind
    assert one.paths == (str(file),)
    assert len(all_of_them.paths) == 2
    assert one.folder == all_of_them.folder == str(tmp_path / "data")
    validate_columns(found(file, category="kind"))
    with pytest.raises(UserError) as caught:
        validate_columns(found(file, category="kin"))
    message = str(caught.value)
    assert message.startswith("data.source.columns.category: unknown column 'kin'; did you mean ki")
    assert str(file) in message


def test_a_file_that_changes_changes_the_digest(tmp_path):
    file = write(tmp_path, "a.jsonl")
    before = found(file).digest
    assert found(file).digest == before
    file.write_text(file.read_text() + "{}\n")
    assert found(file).digest != before


def test_a_column_for_a_filter_must_be_there(tmp_path):
    file = found(write(tmp_path, "a.jsonl"), "t2i", category="kind", score="aesthetic")
    with pytest.raises(UserError, match="data.source.columns.score: unknown column 'aesthetic'"):
        validate_columns(file)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "holds no such file"),
        (["a.txt"], "holds no such file"),
        (["a.jsonl", "b.parquet"], "holds jsonl and parquet files"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path, names, says):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in names:
        write(folder, name)
    with pytest.raises(UserError, match=f"data.source.edit: .*{says}; allowed: a .jsonl"):
        found(folder)
    with pytest.raises(UserError, match="data.source.edit: .*holds no such file"):
        found(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "a.jsonl"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"garbage")
    with pytest.raises(UserError, match=f"{name} is no .* file"):
        validate_columns(found(file))


def test_rows_of_jsonl_may_leave_fields_out(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = ["not JSON", json.dumps({"prompt": "p"}), json.dumps({"category": "c", "q": 1})]
    file.write_text("\n".join(rows))
    validate_columns(found(file, "t2i", score="q"))

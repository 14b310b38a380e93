"""What a spec wants: how rows are dealt out, which are still lacking, what is wrong with a spec."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from flash_ray.data.writing.spec import WritingSpec, read_spec
from flash_ray.data.writing.wanted import (
    Wanted,
    lacking,
    wanted_edits,
    wanted_pictures,
    wanted_prompts,
)
from flash_ray.errors import UserError

WRITER = {"base_url": "http://127.0.0.1/v1", "model": "author", "max_requests": 1}
STYLE = {"rows": 7, "about": "styles", "themes": ["ink", "oil"], "pictures": ["a pier", "a cat"]}
EDIT = {
    "per_picture": 3,
    "languages": {"English": {"share": 1}, "Chinese": {"share": 2}},
    "categories": {"style": STYLE},
}


def spec_of(**sections: Any) -> WritingSpec:
    return WritingSpec.model_validate({"writer": WRITER, **sections})


def as_row(row: Wanted) -> dict[str, Any]:
    return {
        "category": row.category,
        "language": row.language,
        "theme": row.theme,
        "rendered_text": row.has_text,
        "picture": row.picture,
    }


def test_edits_share_the_pictures_of_their_category():
    spec = spec_of(edit=EDIT)
    pictures = wanted_pictures(spec)
    assert Counter(row.theme for row in pictures) == {"a pier": 2, "a cat": 1}
    there = [{"id": f"p{n}", "category": "style"} for n in range(3)]
    edits = wanted_edits(spec, there)
    assert [row.picture for row in edits] == ["p0"] * 3 + ["p1"] * 3 + ["p2"]
    assert Counter(row.language for row in edits) == {"Chinese": 5, "English": 2}
    without_last = wanted_edits(spec, there[:2])
    assert without_last == edits[:6]  # a picture that could not be had takes nothing from others


def test_what_lacks_is_what_no_row_is():
    wanted = wanted_prompts(spec_of(edit=EDIT), "edit")
    rows = [as_row(row) for row in wanted]
    assert lacking(wanted, rows) == [] and lacking(wanted, []) == wanted
    assert lacking(wanted, rows[:3]) == wanted[3:]
    foreign = {**rows[0], "theme": "what nobody asked for"}
    assert len(lacking(wanted, [foreign, {}, *rows[1:]])) == 1
    assert (
        len(lacking(wanted, rows[:1] * 20)) >= len(wanted) - Counter(map(str, rows))[str(rows[0])]
    )


def test_the_same_spec_wants_the_same_and_its_seed_decides_the_order():
    wanted = wanted_prompts(spec_of(edit=EDIT), "edit")
    turned = {**EDIT, "languages": dict(reversed(EDIT["languages"].items()))}
    assert wanted_prompts(spec_of(edit=turned), "edit") == wanted
    assert wanted_prompts(spec_of(edit=EDIT, seed=1), "edit") != wanted


def test_who_writes_is_not_part_of_what_is_written():
    one = spec_of(edit=EDIT)
    other = spec_of(edit=EDIT, writer={**WRITER, "model": "other", "max_tokens": 9}, batch=3)
    assert one.identity == other.identity != spec_of(edit=EDIT, alike=90).identity


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"writer": None}, "writer: not a mapping; allowed: YAML with the keys base_url"),
        ({"writer": {**WRITER, "api_key": "sk-1234"}}, "writer: api_key: unknown key"),
        ({"edit": {**EDIT, "sizes": [[64, 65]]}}, "edit.sizes: 64x65 (height x width)"),
        ({"edit": {**EDIT, "languages": {}}}, "edit.languages: value {}"),
        ({"edit": {**EDIT, "languages": {"E": {"length": [9, 3]}}}}, "edit.languages.E.length"),
        ({"edit": {"categories": {"style": {**STYLE, "row": 4}}}}, "style.row: unknown key"),
        ({"edit": {"categories": {"style": {**STYLE, "rows": 0}}}}, "style.rows: value 0"),
        ({"alike": 20}, "alike: value 20"),
    ],
)
def test_what_is_wrong_with_a_spec_is_one_line(tmp_path: Path, changes, says):
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump({"writer": WRITER, "edit": EDIT, **changes}))
    with pytest.raises(UserError) as refusal:
        read_spec(str(file))
    assert says in str(refusal.value) and "\n" not in str(refusal.value)
    assert "sk-1234" not in str(refusal.value)

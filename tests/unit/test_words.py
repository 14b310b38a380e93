"""What a judge says, in words: those of the miniature's judge, and of one that nobody foresaw."""

import json

from flash_ray.evaluation.words import WORDS_FILE, failure_in_words, fault_lines
from flash_ray.miniature.scenes import FACTORS


def test_faults_are_told_by_what_an_edit_was_to_change_and_to_keep():
    credits = {"changed.kind": 0.0, "changed.colour": 0.5, "kept.middle_x": 0.0, "kept.sky": 1.0}
    assert fault_lines(credits) == [
        "Not changed as asked: kind of the new object, color of the new object (half right).",
        "Not kept: place of the middle object.",
    ]
    assert fault_lines({"object_2": 0.0, "no_other_objects": 0.0}) == [
        "Wrong: second object asked for, number of objects."
    ]
    assert fault_lines({"sky": 1.0}) == fault_lines({}) == []


def test_no_name_of_the_miniature_is_shown_as_code():
    names = {factor.name for factors in FACTORS.values() for factor in factors}
    (line,) = fault_lines(dict.fromkeys(names, 0.0))
    assert "_" not in line and "colour" not in line


def test_names_that_have_no_words_are_shown_as_they_are():
    assert fault_lines({"depth_of_field": 0.0}) == ["Wrong: depth of field."]
    assert failure_in_words("refused") == "the judge refused to answer"
    assert failure_in_words("timeout") == "timeout"


def test_the_file_has_words_only():
    tables = json.loads(WORDS_FILE.read_text(encoding="utf-8"))
    assert set(tables) == {"attributes", "properties", "headings", "failures"}
    assert all("_" not in word for table in tables.values() for word in table.values())

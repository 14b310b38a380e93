import pytest

from flash_ray.data.stream import Mixture


@pytest.mark.parametrize(("t2i", "edit"), [(1, 1), (3, 1), (1, 4), (3, 2), (7, 5), (1, 0), (0, 2)])
def test_every_window_holds_the_exact_ratio(t2i, edit):
    mixture = Mixture(t2i, edit)
    period = t2i + edit
    for start in range(3 * period):
        window = [mixture.task(n) for n in range(start, start + period)]
        assert (window.count("t2i"), window.count("edit")) == (t2i, edit)


def test_the_rarer_task_is_spread_evenly():
    edits = [n for n in range(40) if Mixture(3, 1).task(n) == "edit"]
    assert {b - a for a, b in zip(edits, edits[1:], strict=False)} == {4}


def test_ordinals_count_each_task_without_gaps():
    mixture = Mixture(3, 2)
    for task in ("t2i", "edit"):
        ordinals = [mixture.ordinal(n) for n in range(50) if mixture.task(n) == task]
        assert ordinals == list(range(len(ordinals)))

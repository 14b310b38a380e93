import pytest

from flash_ray.data.select import category_counts, take
from flash_ray.errors import UserError


def test_counts_follow_the_weights_and_sum_to_the_total():
    counts = category_counts({"a": 2, "b": 1, "c": 0, "d": 0.7}, 100, "weights")
    assert counts == {"a": 54, "b": 27, "c": 0, "d": 19}


def test_equal_weights_differ_by_one_at_most():
    counts = category_counts(dict.fromkeys("abcdef", 1.0), 512, "weights")
    assert sum(counts.values()) == 512
    assert max(counts.values()) - min(counts.values()) == 1


def test_a_category_that_would_get_no_case_is_refused():
    with pytest.raises(UserError, match="data.num_cases: 10 cases leave none for weights.rare"):
        category_counts({"common": 100, "rare": 1}, 10, "weights")


def test_every_epoch_holds_each_case_once_in_another_order():
    first, second = take(0, 12, 12, 0, "t2i"), take(12, 12, 12, 0, "t2i")
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_stream_does_not_depend_on_how_it_is_cut():
    whole = take(0, 40, 12, 7, "edit")
    parts = [take(start, 5, 12, 7, "edit") for start in range(0, 40, 5)]
    assert sum(parts, []) == whole


def test_seed_and_task_change_the_order():
    orders = [take(0, 50, 50, seed, task) for seed in (0, 1) for task in ("t2i", "edit")]
    assert len({tuple(order) for order in orders}) == 4

"""Which cases a recipe uses: filters, caps, categories; the same whatever the rows' order."""

import random

import pytest

from flash_ray.data.catalog import Entry, Index, from_parquet, to_parquet
from flash_ray.data.describe import category_uses
from flash_ray.data.select import choose_drawn, choose_entries
from flash_ray.errors import UserError
from flash_ray.miniature.source import training_case
from flash_ray.recipe import load_recipe

FILES = "data.source={t2i: a.jsonl, columns: {subset: set, score: q}}"


def recipe(*overrides):
    return load_recipe("miniature", ["tasks.edit=0", *overrides])


def of_files(*overrides):
    composition = "data.composition.t2i={photo: 3, poster: 1}"
    return recipe(FILES, composition, "data.num_cases=8", *overrides)


def index():
    entries = [
        Entry(f"{n:032x}", "photo" if n % 2 else "poster", 10 * n, (), "ab"[n < 20], n / 40, n < 10)
        for n in range(40)
    ]
    random.Random(0).shuffle(entries)
    return Index("data.source.t2i", tuple(entries), 0, ())


def test_the_first_by_digest_whatever_the_order():
    chosen = choose_entries(of_files(), "t2i", index())
    assert {name: len(own) for name, own in chosen.items()} == {"photo": 6, "poster": 2}
    again = choose_entries(of_files(), "t2i", index())
    assert chosen == again
    more = choose_entries(of_files("data.num_cases=16"), "t2i", index())
    assert more["photo"][:6] == chosen["photo"]


@pytest.mark.parametrize(
    ("override", "holds"),
    [
        ("data.filter.subsets=[a]", lambda entry: entry.subset == "a"),
        ("data.filter.length=[100, 300]", lambda entry: 100 <= entry.length <= 300),
        ("data.filter.rendered_text=false", lambda entry: not entry.rendered_text),
        ("data.filter.min_score=0.5", lambda entry: entry.score >= 0.5),
    ],
)
def test_filters(override, holds):
    without = choose_entries(of_files(), "t2i", index())
    assert not all(holds(e) for own in without.values() for e in own)
    chosen = choose_entries(of_files(override), "t2i", index())
    assert all(holds(e) for own in chosen.values() for e in own)
    assert sum(map(len, chosen.values())) == 8


def test_a_case_without_a_score_passes_no_score_filter():
    unscored = Index("f", (Entry("0" * 32, "photo", 5, (), None, None, False),), 0, ())
    wanted = "data.composition.t2i={photo: 1}"
    asked = recipe(FILES, wanted, "data.num_cases=1", "data.filter.min_score=-5")
    with pytest.raises(UserError, match="the source has 0 that data.filter lets pass"):
        choose_entries(asked, "t2i", unscored)


def test_an_unknown_category_is_named_with_the_nearest():
    wanted = of_files("data.composition.t2i={photos: 1}")
    with pytest.raises(UserError, match=r"t2i.photos: unknown category 'photos'; did you mean ph"):
        choose_entries(wanted, "t2i", index())


def test_too_few_cases_are_refused_with_the_cap_that_would_do():
    with pytest.raises(
        UserError, match=r"photo: 75 cases asked for, the source has 20; .*max_per_category=20"
    ):
        choose_entries(of_files("data.num_cases=100"), "t2i", index())
    capped = of_files("data.num_cases=100", "data.max_per_category=20")
    assert len(choose_entries(capped, "t2i", index())["photo"]) == 20
    uses = category_uses(capped)["t2i"]
    assert {name: use.unique for name, use in uses.items()} == {"photo": 20, "poster": 20}
    assert uses["photo"].passes == pytest.approx(3 * uses["poster"].passes)  # shares stay


def test_the_miniature_draws_on_until_the_filter_is_satisfied():
    composition = "data.composition.t2i={landscape: 1, text: 1}"
    short = recipe("data.num_cases=8", "data.filter.length=[0, 70]", composition)
    chosen = choose_drawn(short, "t2i", 1)
    for category, own in chosen.items():
        assert len(own) == 4
        assert all(len(training_case("t2i", category, n).prompt) <= 70 for n in own)
    assert max(chosen["landscape"]) > 3  # some did not pass
    text = recipe("data.filter.rendered_text=true", "data.num_cases=6")
    with pytest.raises(
        UserError, match="landscape: 2 .* has 0 that data.filter lets pass; .*loosen"
    ):
        choose_drawn(text, "t2i", 1)


def test_an_index_survives_its_file_and_counts_what_is_bad():
    rows = [{**vars(entry), "sizes": [[30, 40]]} for entry in index().entries]
    rows += [rows[0], {"bad": "empty prompt", "excerpt": "'x'"}]
    rows += [{"bad": "empty prompt", "excerpt": "'y'"}, {"bad": "not JSON", "excerpt": "'{'"}]
    read = from_parquet("data.source.t2i", to_parquet(rows))
    assert len(read.entries) == 40
    assert read.duplicates == 1
    assert read.entries[0].sizes == ((30, 40),)
    assert read.complaints() == [
        "data.source.t2i: 2 rows skipped: empty prompt, e.g. 'x'",
        "data.source.t2i: 1 rows skipped: not JSON, e.g. '{'",
    ]
    assert to_parquet(list(reversed(rows))) == to_parquet(rows)

"""Which cases a recipe uses: filters, caps, categories; the same whatever the rows' order."""

import random

import pytest

from flash_ray.data.catalog import FileCatalog, from_parquet, to_parquet
from flash_ray.data.describe import category_uses
from flash_ray.data.select import choose
from flash_ray.data.source import Entry
from flash_ray.errors import UserError
from flash_ray.miniature.source import MiniatureSource, training_case
from flash_ray.recipe import load_recipe

FILES = "data.source={t2i: a.jsonl, columns: {subset: set, score: q}}"


def recipe(*overrides):
    return load_recipe("miniature", ["tasks.edit=0", *overrides])


def of_files(*overrides):
    composition = "data.composition.t2i={photo: 3, poster: 1}"
    return recipe(FILES, composition, "data.num_cases=8", *overrides)


def entry(number):
    digest, category = f"{number:032x}", "photo" if number % 2 else "poster"
    subset, score = "ab"[number < 20], number / 40
    return Entry(digest, digest, category, 10 * number, (), subset, score, number < 10)


def catalog():
    entries = [entry(number) for number in range(40)]
    random.Random(0).shuffle(entries)
    return FileCatalog("data.source.t2i", tuple(entries), 0, ())


def test_the_first_by_digest_whatever_the_order():
    chosen = choose(of_files(), "t2i", catalog(), 1)
    assert {name: len(entries) for name, entries in chosen.items()} == {"photo": 6, "poster": 2}
    again = choose(of_files(), "t2i", catalog(), 1)
    assert chosen == again
    more = choose(of_files("data.num_cases=16"), "t2i", catalog(), 1)
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
    without = choose(of_files(), "t2i", catalog(), 1)
    assert not all(holds(e) for entries in without.values() for e in entries)
    chosen = choose(of_files(override), "t2i", catalog(), 1)
    assert all(holds(e) for entries in chosen.values() for e in entries)
    assert sum(map(len, chosen.values())) == 8


def test_a_case_without_a_score_passes_no_score_filter():
    unscored = FileCatalog("f", (Entry("0" * 32, "0" * 32, "photo", 5),), 0, ())
    composition = "data.composition.t2i={photo: 1}"
    wanted = recipe(FILES, composition, "data.num_cases=1", "data.filter.min_score=-5")
    with pytest.raises(UserError, match="the source has 0 that data.filter lets pass"):
        choose(wanted, "t2i", unscored, 1)


def test_an_unknown_category_is_named_with_the_nearest():
    wanted = of_files("data.composition.t2i={photos: 1}")
    with pytest.raises(UserError, match=r"t2i.photos: unknown category 'photos'; did you mean ph"):
        choose(wanted, "t2i", catalog(), 1)


def test_too_few_cases_are_refused_with_the_cap_that_would_do():
    with pytest.raises(
        UserError, match=r"photo: 75 cases asked for, the source has 20; .*max_per_category=20"
    ):
        choose(of_files("data.num_cases=100"), "t2i", catalog(), 1)
    capped = of_files("data.num_cases=100", "data.max_per_category=20")
    assert len(choose(capped, "t2i", catalog(), 1)["photo"]) == 20
    uses = category_uses(capped)["t2i"]
    assert {name: use.unique for name, use in uses.items()} == {"photo": 20, "poster": 20}
    assert uses["photo"].passes == pytest.approx(3 * uses["poster"].passes)  # shares stay


def test_the_miniature_draws_on_until_the_filter_is_satisfied():
    composition = "data.composition.t2i={landscape: 1, text: 1}"
    drawn = MiniatureSource().catalog("t2i", None)
    short = recipe("data.num_cases=8", "data.filter.length=[0, 70]", composition)
    chosen = choose(short, "t2i", drawn, 1)
    for category, entries in chosen.items():
        prompts = [training_case("t2i", category, int(entry.id)).prompt for entry in entries]
        assert [len(prompt) for prompt in prompts] == [entry.length for entry in entries]
        assert len(prompts) == 4 and max(map(len, prompts)) <= 70
    assert int(chosen["landscape"][-1].id) > 3  # some did not pass
    text = recipe("data.filter.rendered_text=true", "data.num_cases=6")
    with pytest.raises(
        UserError, match="landscape: 2 .* has 0 that data.filter lets pass; .*loosen"
    ):
        choose(text, "t2i", drawn, 1)


def ids(chosen):
    return {name: [entry.id for entry in entries] for name, entries in chosen.items()}


def test_a_selection_seed_draws_others_of_finite_cases_and_all_where_there_are_no_more():
    first, other, again, third = (
        ids(choose(of_files(*override), "t2i", catalog(), 4))
        for override in (
            (),
            ("data.selection_seed=1",),
            ("data.selection_seed=1",),
            ("data.selection_seed=2",),
        )
    )
    assert other == again
    assert len({str(first), str(other), str(third)}) == 3
    assert [len(of) for of in other.values()] == [6, 2]
    every = of_files("data.num_cases=80", "data.max_per_category=20")
    drawn = of_files("data.num_cases=80", "data.max_per_category=20", "data.selection_seed=1")
    assert ids(choose(every, "t2i", catalog(), 1)) == ids(choose(drawn, "t2i", catalog(), 1))
    filtered = of_files("data.filter.subsets=[a]", "data.selection_seed=1")
    chosen = choose(filtered, "t2i", catalog(), 1)
    assert all(entry.subset == "a" for entries in chosen.values() for entry in entries)


def test_a_selection_seed_begins_elsewhere_in_what_has_no_end():
    drawn = MiniatureSource().catalog("t2i", None)
    first, other, third = (
        ids(choose(recipe("data.num_cases=24", *override), "t2i", drawn, 4))
        for override in ((), ("data.selection_seed=1",), ("data.selection_seed=2",))
    )
    for category, of in first.items():
        assert [len(ids[category]) for ids in (first, other, third)] == [8, 8, 8]
        assert not {*of} & {*other[category]} and not {*other[category]} & {*third[category]}


def test_a_catalog_survives_its_file_and_counts_what_is_bad():
    rows = [
        {**vars(entry), "sizes": [[30, 40]], "place": f"a line {number}"}
        for number, entry in enumerate(catalog().usable)
    ]
    rows += [{**rows[0], "place": "a line 99"}, {"bad": "empty prompt", "place": "b line 10"}]
    rows += [{"bad": "empty prompt", "place": "b line 9"}]
    rows += [{"bad": "not JSON", "place": "c", "detail": "why"}]
    read = from_parquet("data.source.t2i", to_parquet(rows))
    assert len(read.usable) == 40
    assert read.duplicates == 1
    assert read.usable[0].sizes == ((30, 40),)
    assert read.complaints == [
        "data.source.t2i: 2 rows skipped: empty prompt, e.g. b line 9",
        "data.source.t2i: 1 rows skipped: not JSON, e.g. c (why)",
        "data.source.t2i: 1 rows: they repeat an earlier one and count once, e.g. a line 99",
    ]
    assert [read.count(category) for category in ("photo", "poster", "tent")] == [20, 20, 0]
    assert to_parquet(list(reversed(rows))) == to_parquet(rows)

"""What a server scores on: benchmarks of its settings, its recipe, its students; their judges."""

import pickle
from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import load_benchmark
from flash_ray.evaluation.judges import choose
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.serving.benchmarks import checked_benchmarks, reference_paths, with_published
from flash_ray.serving.settings import Serving, load_serving
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import publish_student
from tests.helpers.storage import MemoryStore

ROWS = "id,prompt,category,text\n1,a lake,land,\n2,a sign,signs,OPEN\n3,a hill,land,\n"
VLM = "base_url: http://127.0.0.1:1/v1\nmodel: seer\nmax_requests: 9\n"


def recipe(*overrides: str) -> Recipe:
    return load_recipe("miniature", list(overrides))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file of cases."""
    (tmp_path / "own.csv").write_text(ROWS)
    return tmp_path / "own.csv"


def test_settings_name_benchmarks_as_commands_and_recipes_do(own, tmp_path):
    both = BenchmarkFiles(t2i=str(own), edit=str(own))
    named = tmp_path / "named.yaml"
    named.write_text(f"{{t2i: {own}, category: all}}")
    words = f"benchmarks=[starter, {own}, {named}, {{t2i: {own}, category: all}}]"
    of_one = BenchmarkFiles(t2i=str(own), category="all")
    assert load_serving(None, [words]).benchmarks == ("starter", both, of_one, of_one)
    assert load_serving(None, ["benchmarks=[]"]).benchmarks == ()
    assert load_serving(None).benchmarks is None
    for value, message in (
        ("[startr]", "benchmarks: unknown benchmark 'startr'; did you mean starter?"),
        ("[nowhere.yaml]", "benchmarks: nowhere.yaml: No such file"),
        ("starter", "allowed: what models are scored on, a list"),
        ("[null]", "names no benchmark; allowed: a registered benchmark's name, a file of cases"),
        ("[{}]", "benchmarks: neither t2i nor edit"),
        ("[{t2: x}]", "benchmarks.0.t2: unknown key; did you mean benchmarks.0.t2i?"),
    ):
        with pytest.raises(UserError) as error:
            load_serving(None, [f"benchmarks={value}"])
        assert message in str(error.value) and "\n" not in str(error.value)


def test_each_benchmark_has_the_judges_that_can_judge_its_cases(own, tmp_path):
    (tmp_path / "seer.yaml").write_text(VLM)
    changes = [f"benchmarks=[miniature, {own}]", f"judges.mine={tmp_path / 'seer.yaml'}"]
    served = checked_benchmarks(recipe(), load_serving(None, changes))
    assert list(served) == ["miniature", "own"]
    # Both of its tasks have texts, and `own` asks for no edits.
    assert served["miniature"].judges["t2i"] == ("exact", "ocr", "mine")
    assert served["miniature"].judges["edit"][0] == "exact"
    assert served["own"].judges == {"t2i": ("ocr", "mine")}


def test_nothing_is_served_that_the_settings_leave_out(own):
    assert checked_benchmarks(recipe(), load_serving(None, ["benchmarks=[]"])) == {}
    assert list(checked_benchmarks(recipe(), Serving())) == ["miniature"]
    assert checked_benchmarks(recipe("evaluation.benchmark="), Serving()) == {}
    served = checked_benchmarks(recipe(), load_serving(None, [f"benchmarks=[{own}]"]))
    assert list(served) == ["own"]


def test_a_recipe_without_a_judge_may_have_its_benchmark_drawn_alone(own):
    named = recipe(f"evaluation={{benchmark: {{t2i: {own}}}}}")
    assert checked_benchmarks(named, Serving())["own"].judges == {"t2i": ("ocr",)}
    own.write_text("id,prompt,category\n1,a lake,land\n")
    assert checked_benchmarks(named, Serving())["own"].judges == {"t2i": ()}


def problem(settings: Serving, *overrides: str, **evaluation: str) -> str:
    """Why a server of that recipe does not start, in one line."""
    found = recipe(*overrides)
    changed = found.evaluation.model_copy(update=evaluation)
    with pytest.raises(UserError) as error:
        checked_benchmarks(found.model_copy(update={"evaluation": changed}), settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_server_does_not_start_without_its_benchmarks_or_their_judges(own, tmp_path, monkeypatch):
    assert "evaluation.benchmark: unknown benchmark 'none'" in problem(Serving(), benchmark="none")
    assert "evaluation.judge: unknown judge 'none'" in problem(Serving(), judge="none")
    said = problem(load_serving(None, [f"benchmarks=[{own}]"]), judge="none")
    assert "evaluation.judge: unknown judge 'none'" in said

    other = own.rename(tmp_path / "lakes.csv")
    other.write_text("id,prompt,category\n1,a lake,land\n")
    assert "evaluation.benchmark: exact can judge none of the cases of 'starter'" in problem(
        Serving(), benchmark="starter"
    )
    lakes = load_serving(None, [f"benchmarks=[starter, {other}]"])
    said = problem(lakes)
    assert said.startswith("benchmarks.1: exact and ocr can judge none of the cases of 'lakes'")
    monkeypatch.setattr(choose.plugins, "find_spec", lambda module: None)  # no ocr
    said = problem(lakes, "evaluation.benchmark=", "evaluation.judge=")
    assert said.startswith("benchmarks.0: no judge is here for any of the cases of 'starter'")


def test_a_bad_row_or_a_name_that_is_given_twice_is_named(own, tmp_path):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "own.csv"
    twin.write_text("id,prompt,category,text\n1,a cat,cats,CAT\n")
    said = problem(load_serving(None, [f"benchmarks=[{own}, starter, {twin}]"]))
    assert said.startswith("benchmarks.2: 'own' is the name of an entry before it too;")
    twin.write_text("id,prompt,category,text\n1,,cats,CAT\n")
    said = problem(load_serving(None, [f"benchmarks=[{twin}]"]))
    assert said.startswith("benchmarks.0.t2i: own.csv line 2: empty prompt")


def test_vlms_need_a_benchmark(tmp_path):
    (tmp_path / "seer.yaml").write_text(VLM)
    judges = f"judges.mine={tmp_path / 'seer.yaml'}"
    for changes, overrides in (
        ([judges], ["evaluation.benchmark="]),
        ([judges, "benchmarks=[]"], []),
    ):
        said = problem(load_serving(None, changes), *overrides)
        assert said.startswith("judges: mine without a benchmark;")


def test_what_is_served_is_pickled_and_names_nothing_of_the_miniature(own):
    named = recipe(f"evaluation={{benchmark: {{t2i: {own}}}, judge: ocr}}")
    here = checked_benchmarks(named, load_serving(None, ["limits.cases=1"]))
    own.unlink()
    (there,) = pickle.loads(pickle.dumps(here)).values()
    assert (there.name, there.digest) == ("own", here["own"].digest)
    assert there.categories == {"t2i": ("land", "signs")} and there.judges == {"t2i": ("ocr",)}
    assert [case.id for case in there.cases("t2i", 1)] == ["1", "2"]
    assert there.case("t2i", "2").text == "OPEN" and there.case("t2i", "3") is None
    assert there.cases("edit", 1) == [] and there.case("edit", "1") is None


def test_cases_are_found_by_task_and_id():
    served = checked_benchmarks(recipe(), load_serving(None, ["limits.cases=2"]))["miniature"]
    case = served.case("edit", "scene-001")
    assert case in served.cases("edit", 2) or case.id == "scene-001"
    assert served.case("edit", "scene-002") is None  # one more than a request may ask for
    assert served.case("t2i", "scene-001") is None
    path = "/v1/benchmarks/miniature/edit/cases/scene-001/input.png"
    assert reference_paths(served.name, case) == [path]
    assert reference_paths(served.name, served.cases("t2i", 1)[0]) == []


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("bucket", "", None)


@pytest.fixture
def publish(store, tmp_path):
    """Publishes a student with the scores that somebody gave it."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")

    def published(name: str, of: Recipe, benchmark: str, digest: str, judge: str = "ocr") -> None:
        scores = PublishedScores(
            benchmark=benchmark,
            digest=digest,
            judge=judge,
            scale="any",
            cases_per_category=1,
            tasks={"t2i": 0.5},
        )
        publish_student(store, name, tmp_path / "weights", of, scores)

    return published


def test_benchmarks_that_published_students_name_are_served_where_they_are_installed(
    store, publish
):
    bare = recipe("evaluation.benchmark=", "evaluation.judge=")
    starter = load_benchmark("starter", bare).digest
    publish("one", bare, "starter", starter)
    publish("two", bare, "miniature", MiniatureBenchmark().digest, "exact")
    publish("three", bare, "miniature", MiniatureBenchmark().digest, "clip:somebody/elses")
    lines: list[str] = []
    served = with_published({}, bare, Serving(), store, lines.append)
    assert {name: one.digest for name, one in served.items()} == {
        "starter": starter,
        "miniature": MiniatureBenchmark().digest,
    }
    assert served["starter"].judges["t2i"] == ("ocr",)
    assert served["miniature"].judges["t2i"] == ("exact", "ocr")
    assert lines == []

    # The settings have the last word, and what the recipe names is not asked for again.
    empty = load_serving(None, ["benchmarks=[]"])
    assert with_published({}, bare, empty, store, lines.append) == {}
    own = checked_benchmarks(recipe(), Serving())
    both = with_published(own, recipe(), Serving(), store, lines.append)
    assert list(both) == ["miniature", "starter"] and both["miniature"] is own["miniature"]
    assert lines == []


def test_why_a_students_benchmark_is_not_served_is_said(store, publish, own):
    bare = recipe("evaluation.benchmark=", "evaluation.judge=")
    starter = load_benchmark("starter", bare).digest
    publish("a", bare, "[/]lost", "0" * 16)
    publish("b", bare, "[/]lost", "0" * 16)
    publish("c", bare, "starter", "1" * 16)
    publish("d", bare.model_copy(update={"base": "another"}), "gone", "2" * 16)
    lines: list[str] = []
    assert with_published({}, bare, Serving(), store, lines.append) == {}
    lost, other = lines
    assert lost == (
        "not served: benchmark '[/]lost' ('0000000000000000') of a, b: no installed package has "
        "it; name its files in benchmarks"
    )
    assert other.startswith("not served: benchmark 'starter' ('1111111111111111') of c: ")
    assert other.endswith(f"the installed one of that name has other cases, '{starter}'")

    # One with the name of the recipe's.
    named = recipe(f"evaluation={{benchmark: {{t2i: {own}}}, judge: ocr}}")
    publish("e", named, "own", "3" * 16)
    served = checked_benchmarks(named, Serving())
    lines.clear()
    assert with_published(served, named, Serving(), store, lines.append) == served
    assert f"of e: the one that is served has other cases, '{served['own'].digest}'" in lines[-1]


def test_a_benchmark_that_nobody_here_can_judge_is_not_served(store, publish, monkeypatch):
    bare = recipe("evaluation.benchmark=", "evaluation.judge=")
    publish("one", bare, "starter", load_benchmark("starter", bare).digest, "exact")
    monkeypatch.setattr(choose.plugins, "find_spec", lambda module: None)  # no ocr
    lines: list[str] = []
    assert with_published({}, bare, Serving(), store, lines.append) == {}
    assert "of one: exact can judge none of the cases of 'starter'" in lines[0]

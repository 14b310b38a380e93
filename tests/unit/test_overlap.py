"""Training on the test is found: prompts that are the same but for case, and near ones."""

from collections.abc import Iterator, Sequence

import pytest

from flash_ray.data.select import CasePlan
from flash_ray.data.source import DataSource, Shard
from flash_ray.evaluation import overlap
from flash_ray.evaluation.benchmark import load_benchmark
from flash_ray.evaluation.case_files import FileBenchmark
from flash_ray.evaluation.describe import describe_benchmark
from flash_ray.evaluation.overlap import find_overlap
from flash_ray.recipe import load_recipe
from flash_ray.recipe.sections import BenchmarkFiles

RECIPE = load_recipe("miniature")
LONG = "a small red house on a hill above the sea, with smoke rising from its chimney at dusk"


class Listed(DataSource):
    """Prompts of a list, each one the id of its case."""

    def prompts(self, shards: Sequence[Shard]) -> Iterator[str]:
        return (case for shard in shards for case in shard.cases)


def plan(*prompts: str, task="t2i") -> CasePlan:
    shards = [Shard(prompt, task, "c", (prompt,), 1, ((64, 64),)) for prompt in prompts]
    return CasePlan(Listed(), shards, [])


@pytest.fixture
def benchmark(tmp_path) -> FileBenchmark:
    prompts = ["A  Lake at\tdawn", LONG, "山上的红房子", "something else altogether"]
    file = tmp_path / "mine.csv"
    file.write_text("prompt\n" + "".join(f'"{prompt}"\n' for prompt in prompts))
    return load_benchmark(BenchmarkFiles(t2i=str(file), category="land"), RECIPE)


def test_prompts_are_the_same_but_for_case_and_whitespace_or_nearly(benchmark):
    training = ["a lake at dawn", "a lake at dawn", LONG.replace("red", "blue"), "山上的红房子"]
    (found,) = find_overlap(benchmark, plan(*training))
    assert (found.cases, found.exact, found.near) == (4, 2, 1)
    assert str(found) == (
        "mine, text to image: 2 of 4 prompts are training prompts too, 1 more nearly (85 % alike "
        "or more); compared with all 4"
    )
    assert find_overlap(benchmark, plan("a lake at dawn", task="edit")) == []


def test_one_that_is_near_first_and_the_same_later_counts_once(benchmark, monkeypatch):
    monkeypatch.setattr(overlap, "BATCH", 1)
    (found,) = find_overlap(benchmark, plan(LONG.replace("red", "blue"), LONG, "other"))
    assert (found.exact, found.near, found.compared) == (1, 0, 3)


def test_when_the_time_is_over_it_says_how_many_were_compared(benchmark, monkeypatch):
    clock = iter([0.0, 1.0, 99.0])
    monkeypatch.setattr(overlap, "BATCH", 2)
    monkeypatch.setattr(overlap.time, "monotonic", lambda: next(clock))
    (found,) = find_overlap(benchmark, plan("x", "y", "a lake at dawn"))
    assert (found.exact, found.compared, found.prompts) == (0, 2, 3)
    assert str(found).endswith("compared with 2 of 3")


def test_a_benchmark_is_described_without_a_recipe(tmp_path):
    drawn = describe_benchmark("miniature", None)
    assert drawn.counts["t2i"]["text"] == 16 and "the first 16 cases" in drawn.notes[0]
    sized = tmp_path / "sized.jsonl"
    sized.write_text('{"prompt": "a", "category": "b", "size": [32, 64]}')
    choice = BenchmarkFiles(t2i=str(sized))
    assert describe_benchmark(choice, None).digest == load_benchmark(choice, RECIPE).digest

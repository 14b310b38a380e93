"""`flash-ray data`: what a run will see, and its conditions encoded ahead."""

import json

import pytest


@pytest.fixture
def settings(base, tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"text": f"a tent, number {n}", "kind": "tents"} for n in range(6)]
    file.write_text("\n".join(map(json.dumps, [*rows, {"text": "", "kind": "tents"}])))
    words = [
        f"base={base}",
        "tasks.edit=0",
        "data.source={t2i: prompts.jsonl, columns: {prompt: text, category: kind}, max_bad: 0.5}",
        "data.composition.t2i={tents: 1}",
        "data.num_cases=6",
        "runtime.num_workers=1",
        "runtime.micro_batch_size=6",
        "training.iterations=5",
    ]
    return [word for setting in words for word in ("--set", setting)]


@pytest.mark.slow
def test_describe_encode_describe(flash_ray, settings):
    encoded = flash_ray("data", "encode", "miniature", "--store", "store", *settings)
    assert encoded.returncode == 0, encoded.stderr
    assert encoded.stdout == "6 cases; 6 of 6 shards encoded now\n"
    assert "data.source.t2i: 1 rows skipped: empty prompt" in encoded.stderr
    described = flash_ray("data", "describe", "miniature", "--store", "store", *settings)
    assert described.returncode == 0, described.stderr
    assert "miniature: 30 samples in 5 updates" in described.stdout
    (row,) = [line for line in described.stdout.splitlines() if "│ tents" in line]
    assert [word for word in row.split() if word != "│"] == "t2i tents 100.0% 6 30 5.00".split()
    assert "conditions: 6 of 6 cases encoded, 0.0" in described.stdout
    assert described.stderr == ""


def test_the_miniature_is_described_without_a_cluster(flash_ray, base):
    ended = flash_ray("data", "describe", "miniature", "--set", f"base={base}")
    assert ended.returncode == 0, ended.stderr
    assert "miniature: 8,000 samples in 250 updates" in ended.stdout
    assert "conditions: 0 of 1,024 cases encoded" in ended.stdout


def test_a_missing_column_is_named_with_the_nearest(flash_ray_forked, settings, tmp_path):
    column = "data.source.columns={prompt: texts, category: kind}"
    ended = flash_ray_forked("data", "describe", "miniature", *settings, "--set", column)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "data.source.columns.prompt: unknown column 'texts'; did you mean text?" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]

"""A trial that is cut off between its horizons, begun again, or begun by other code."""

from functools import partial

import numpy as np
import pytest
import yaml

from flash_ray.evaluation.judges.base import CaseScore, summarize
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.studies import trial as trials
from flash_ray.studies.code import code_digest
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.studies.trial import EncodedCases, run_trial
from flash_ray.trainer.driver import DistillResult
from tests.helpers.storage import MemoryStore
from tests.helpers.study_records import history

STUDY = {
    "name": "try",
    "recipe": "miniature",
    "budget": {"iterations": 10},
    "early": 5,
    "cases": {"t2i": 1},
    "diversity": {"prompts": 1, "noises": 2},
    "arms": {"half": {}, "images": {"tasks": {"t2i": 1, "edit": 0}}},
}


class Encoded:
    """A range of cases, answered by one gray."""

    batches = {"t2i": ()}

    def __init__(self, wanted):
        self._cases = wanted.of(MiniatureBenchmark())

    def cases(self, task):
        return self._cases[task]

    def images(self, model, transformer, sampler):
        return {
            "t2i": [np.full((64, 64, 3), transformer + n % 2, np.uint8) for n in range(self.count)]
        }

    @property
    def count(self):
        return len(self._cases["t2i"])


@pytest.fixture
def trial(tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.setattr(trials, "score_answers", gray)
    monkeypatch.setattr(trials, "_publish", lambda *asked: "s3://bucket/students/x")
    return plan_trials(load_study(str(tmp_path / "study.yaml")))[0]


def gray(judge, cases, images, workers):
    """Scores by the gray of a picture."""
    scores = [CaseScore(score=1 + float(image[0, 0, 0]) / 100) for image in images]
    return summarize(judge, cases, scores)


def distilled(calls, cut_off, recipe, store, name, folder, resume, callbacks, teacher_set):
    """A run whose average is the number of the call; it may be cut off after the early horizon."""
    calls.append(resume)
    store.put_bytes(f"runs/{name}/run.json", b"{}")
    drawn = callbacks.once.evaluate.draw(None, 10 * len(calls))
    callbacks.once.evaluate.score(drawn)
    store.put_bytes(f"runs/{name}/train/iteration-000005/manifest-00000.json", b"{}")
    if cut_off and len(calls) == 1:
        raise ConnectionError
    metrics = history()
    for each in metrics[5 if resume else 0 :]:
        callbacks.live(each)
    return DistillResult(folder, metrics, {}, callbacks.final(None, 10 * len(calls)))


def encoded(trial):
    return EncodedCases(Encoded(trial.scored), None, Encoded(trial.varied))


def test_early_scores_outlive_a_trial_that_is_cut_off(trial, monkeypatch):
    store, calls = MemoryStore("bucket"), []
    monkeypatch.setattr(trials, "distill", partial(distilled, calls, True))
    with pytest.raises(ConnectionError):
        run_trial(trial, store, encoded(trial), None, lambda metrics: None)
    record, _ = run_trial(trial, store, encoded(trial), None, lambda metrics: None)
    assert calls == [False, True]
    assert record.early["t2i"]["landscape-016"].score == 1.1
    assert record.scores["t2i"]["landscape-016"].score == 1.2
    assert record.diversity == {"t2i": dict.fromkeys(record.scores["t2i"], round(1 / 255, 4))}
    assert record.code == code_digest()
    before = sum(metrics.seconds for metrics in history()[:5])
    assert before < record.cost.total_seconds < before + 60


def test_a_trial_that_other_code_began_starts_anew(trial, monkeypatch):
    store, calls = MemoryStore("bucket"), []
    monkeypatch.setattr(trials, "distill", partial(distilled, calls, True))
    with pytest.raises(ConnectionError):
        run_trial(trial, store, encoded(trial), None, lambda metrics: None)
    monkeypatch.setattr(trials, "code_digest", lambda: "0123456789abcdef")
    record, _ = run_trial(trial, store, encoded(trial), None, lambda metrics: None)
    assert calls == [False, False] and record.code == "0123456789abcdef"
    assert record.early["t2i"]["landscape-016"].score == 1.2

"""The bench beside training: a few cases, encoded once, that a worker answers in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.evaluation.scores import judge_bench

CASES = {"t2i": 2, "edit": 1}  # of each category


@dataclass(frozen=True)
class TrainingEval:
    """Scores a student by bench; sent to a worker, called there."""

    questions: EncodedBenchmark
    sigmas: Sequence[float]

    def __call__(self, transformer: nn.Module) -> dict[str, float]:
        pictures = self.questions.answers(transformer, self.sigmas)
        # Judged in this process: the cluster's cores belong to the run.
        return {
            bench: judge_bench(self.questions.cases(bench), own, parallel=False).score
            for bench, own in pictures.items()
        }

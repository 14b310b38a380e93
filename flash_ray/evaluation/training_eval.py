"""Scores the student during training: few cases, encoded once, answered in seconds."""

from dataclasses import dataclass

from torch import nn

from flash_ray.evaluation.judges.base import Judge
from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.evaluation.scores import score_answers
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe.schema import Task


@dataclass(frozen=True)
class TrainingEval:
    """Scores a student by task; it is pickled, sent to a worker and called there."""

    encoded: EncodedBenchmark
    judge: Judge
    sampler: SamplerConfig

    def __call__(self, transformer: nn.Module) -> dict[Task, float]:
        """Mean scores, 1 to 5, of the tasks that the judge has a score of."""
        scores: dict[Task, float] = {}
        for task, images in self.encoded.images(transformer, self.sampler).items():
            # Judged in this process: the cluster's cores belong to the run.
            result = score_answers(self.judge, self.encoded.cases(task), images, in_tasks=False)
            if result.score is not None:
                scores[task] = result.score
        return scores

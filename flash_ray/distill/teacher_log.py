"""What the teachers did in one update: λ and score fields, by teacher and rung."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from flash_ray.distill.guidance import score_gap
from flash_ray.recipe import Recipe
from flash_ray.teachers.scorer import voice_of

FIELDS = ("weight", "samples", "norm", "cosine", "compared")


class TeacherLog:
    """Sums over an update's samples. Their size is fixed, so that workers whose samples asked
    different teachers can add them."""

    def __init__(self, recipe: Recipe):
        self._names = [teacher.name for teacher in recipe.teachers]
        models = [teacher.model for teacher in recipe.teachers]
        base = [index for index, model in enumerate(models) if model in ("base", recipe.base)]
        self._base = base[0] if base else None
        self._calls = [voice_of(recipe, index).calls for index in range(len(models))]
        self.calls = 0  # of the teachers' transformers for one picture, by this worker
        rungs = len(recipe.student.rungs)
        self._sums_MKF = torch.zeros(len(models), rungs, len(FIELDS), dtype=torch.float64)

    def add(
        self,
        rung: int,
        weights_BM: Tensor,
        velocities: Mapping[int, Tensor],
        v_real_BNC: Tensor,
        v_fake_BNC: Tensor,
        t_B: Tensor,
    ) -> None:
        """Takes a micro-batch: the teachers' weights, and the velocities of those asked."""
        self._sums_MKF[:, rung, 0] += weights_BM.double().sum(0)
        self._sums_MKF[:, rung, 1] += len(weights_BM)
        self.calls += len(weights_BM) * sum(self._calls[index] for index in velocities)
        if self._base not in velocities:
            return
        for index, v_BNC in velocities.items():
            if index != self._base:
                norm_B, cosine_B = score_gap(
                    v_BNC, velocities[self._base], v_fake_BNC, v_real_BNC, t_B
                )
                sums = (norm_B.sum(), cosine_B.sum(), torch.tensor(float(len(t_B))))
                self._sums_MKF[index, rung, 2:] += torch.stack([s.double().cpu() for s in sums])

    def result(self, device: torch.device) -> dict[str, dict[str, dict[str, Any]]]:
        """A collective. By teacher and rung (from 1): the mean `weight`; and where it and the base
        were asked, `norm` and `cosine` as `guidance.score_gap` has them, means over samples."""
        sums_MKF = self._sums_MKF.to(device)
        dist.all_reduce(sums_MKF)
        table: dict[str, dict[str, dict[str, Any]]] = {}
        for name, rows in zip(self._names, sums_MKF.tolist(), strict=True):
            table[name] = {
                str(rung): _means(dict(zip(FIELDS, row, strict=True)))
                for rung, row in enumerate(rows, 1)
                if row[1]
            }
        return table


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    means = {"weight": sums["weight"] / sums["samples"]}
    if sums["compared"]:
        means |= {name: sums[name] / sums["compared"] for name in ("norm", "cosine")}
    return means

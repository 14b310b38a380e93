"""A study's trials: every arm under every seed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from flash_ray.backbones.load import is_lora, lora_digest
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.studies.load import arm_recipe
from flash_ray.studies.schema import Study


@dataclass(frozen=True)
class Trial:
    """One arm under one seed.

    Args:
        recipe: named as the trial.
        benches: cases of each category, by bench.
    """

    name: str
    arm: str
    seed: int
    recipe: Recipe
    benches: Mapping[str, int]

    @property
    def study(self) -> str:
        return self.name.removesuffix(f"-{self.arm}-{self.seed}")

    @property
    def digest(self) -> str:
        """16 hex digits that change with whatever decides the trial's result."""
        loras = [t.model for t in self.recipe.teachers if is_lora(t.model)]
        content = [self.recipe.digest, dict(self.benches), *map(lora_digest, loras)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def plan_trials(study: Study) -> list[Trial]:
    """All trials, seed by seed, so that a study that is cut off has whole seeds; noise arms last.

    Raises:
        UserError: the recipe of an arm cannot be, or there are no arms.
    """
    if not study.arms:
        raise UserError(
            f"arms: {study.name} has none, only a space; allowed: two or more; add them, or run "
            "`flash-ray study search`"
        )
    pairs = [(arm, seed) for seed in study.seeds for arm in study.arms]
    pairs += [(arm, seed) for seed in study.noise.seeds for arm in study.noise.arms]
    return [make_trial(study, arm, seed) for arm, seed in pairs]


def make_trial(study: Study, arm: str, seed: int) -> Trial:
    """The trial of an arm of the study under a seed."""
    name = f"{study.name}-{arm}-{seed}"
    recipe = arm_recipe(study, arm, seed).model_copy(update={"name": name})
    return Trial(name, arm, seed, recipe, study.benches)

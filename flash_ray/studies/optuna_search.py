"""Optuna's proposals for Ray Tune, none of them twice.

Ray's own OptunaSearch would repeat what scored well: in a small space of listed values a trial with
the same recipe and seed tells nothing new.
"""

import random
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

ATTEMPTS = 20  # at a new proposal, before one is drawn at random


class OptunaProposals(Searcher):
    """Proposes {"trial": number} by the tree-structured Parzen estimator.

    Args:
        choices: for each combination the positions of its values in their lists.
        count: how many proposals there will be, at most as many as there are combinations; the
            first third is drawn at random.
    """

    def __init__(self, choices: Sequence[tuple[int, ...]], count: int, seed: int):
        super().__init__(metric="score", mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(1, count // 3),
            n_ei_candidates=8,  # the best of more is mostly one that was tried
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._space: dict[str, BaseDistribution] = {
            str(path): CategoricalDistribution(sorted(set(positions)))
            for path, positions in enumerate(zip(*choices, strict=True))
        }
        self._left = {choice: number for number, choice in enumerate(choices)}
        self._random = random.Random(seed)
        self._open: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The number of a combination that was not proposed yet."""
        for _ in range(ATTEMPTS):
            trial = self._study.ask(self._space)
            if (choice := _choice(trial)) in self._left:
                break
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            choice = self._random.choice(list(self._left))
            self._study.enqueue_trial({str(path): position for path, position in enumerate(choice)})
            trial = self._study.ask(self._space)
        self._open[trial_id] = trial
        return {"trial": self._left.pop(choice)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Takes the last score, also of a trial that was stopped; a failed one has none."""
        trial = self._open.pop(trial_id)
        if result and "score" in result:
            self._study.tell(trial, result["score"])
        else:
            self._study.tell(trial, state=TrialState.FAIL)


def _choice(trial: Trial) -> tuple[int, ...]:
    return tuple(trial.params[str(path)] for path in range(len(trial.params)))

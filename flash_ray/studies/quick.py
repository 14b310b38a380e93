"""The small version of a study, which --quick runs in its own folder and under its own name."""

from collections.abc import Collection

from pydantic import ValidationError

from flash_ray.errors import UserError
from flash_ray.recipe import messages
from flash_ray.studies.parts import Budget, Diversity, Quick
from flash_ray.studies.study import Claim, Factor, Study, validate_study


def quick_study(study: Study) -> Study:
    """The study with the seeds, iterations, cases and arms of its `quick`.

    Tables keep the arms that are left, claims go that are about others, or about what it does
    not measure. It is NAME-quick, so that
    its trials and students are others than the study's.

    Raises:
        UserError: it says nothing of a quick version, or what it says cannot be.
    """
    quick = study.quick
    if quick is None:
        raise UserError(
            f"--quick: study {study.name} has no quick version; allowed: studies with the key "
            "quick; add e.g. quick: {iterations: 40, cases: {t2i: 24}}, or leave --quick out"
        )
    arms = {arm: study.arms[arm] for arm in quick.arms or study.arms}
    changes = {
        "name": f"{study.name}-quick",
        "arms": arms,
        "seeds": quick.seeds,
        "budget": Budget(iterations=quick.iterations),
        "early": quick.early,
        "cases": quick.cases,
        "diversity": _diversity(study, min(quick.cases.values())),
        "factors": _factors(study, arms),
        "claims": tuple(claim for claim in study.claims if _is_about(claim, quick, arms)),
        "quick": None,
    }
    try:
        small = Study(**{**dict(study), **changes})
        validate_study(small)
    except ValidationError as error:
        raise UserError(f"--quick: {messages.problem(error, Study)}") from None
    except UserError as error:
        raise UserError(f"--quick: {error}") from error
    return small


def _diversity(study: Study, most: int) -> Diversity | None:
    if study.diversity is None:
        return None
    return Diversity(prompts=min(study.diversity.prompts, most), noises=study.diversity.noises)


def _factors(study: Study, arms: Collection[str]) -> dict[str, Factor]:
    """The tables of two arms or more that are left."""
    tables: dict[str, Factor] = {}
    for name, factor in study.factors.items():
        left = tuple(arm for arm in factor.arms if arm in arms)
        if len(left) > 1:
            tables[name] = factor.model_copy(update={"arms": left})
    return tables


def _is_about(claim: Claim, quick: Quick, arms: Collection[str]) -> bool:
    is_measured = claim.measure.partition(".")[0] in quick.cases
    has_horizon = claim.horizon == "late" or quick.early is not None
    return is_measured and has_horizon and set(arms).issuperset((*claim.left, *claim.right))

"""The miniature's exact judge: reads pictures by synthesis, scores them and measures diversity.

Compliance is the share of attributes that hold, in which objects and letters weigh as much as all
others; quality the closeness to the nearest clean rendering; the score 1 to 5.
`python -m tests.benchmarks.judge_errors` prints the judge's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from flash_ray.miniature.edits import Edit
from flash_ray.miniature.fit import Fitted, distance_with, fit, is_periodic, observable_numbers
from flash_ray.miniature.scenes import FACTORS, SLOTS, STYLES, Scene, levels, unstated

Array = np.ndarray

# A value that the fit did not choose still holds if it explains the picture as well as the chosen
# one: mean square error at most this share and this much higher. 2e-5 is a tenth of what the
# smallest part of a picture (a mouth) costs when wrong, and more than gray shades cost in sepia.
SAME_SHARE, SAME_ERROR = 0.01, 2e-5

# How far hues may move and still count as kept, a change of 0.05 in a channel; any other number may
# move by half the step between its levels.
KEPT_HUES = {"tint": 0.25, "skin": 0.2}

UNRELATED = 0.4  # weighted SSIM at and below which a picture has no quality left
FLAT = 0.05  # weight of flat regions, as a standard deviation
C1, C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a range of 1
UNRECOGNIZABLE, NOT_DONE = 2.0, 2.5  # highest scores under the two caps
SIMULATIONS = 400  # of true samples, for the floor of diversity


@dataclass(frozen=True)
class ExactScore:
    """What the judge says of one picture.

    Attributes:
        compliance: share of what was asked that holds, in [0, 1].
        quality: closeness to the nearest clean rendering, in [0, 1].
        score: from 1 to 5: `1 + 2 * compliance + 2 * quality`, or lower under a cap.
        attributes: credit in [0, 1] by attribute; of edits `changed.*` and `kept.*`.
        fitted: the scene found in the picture.
        cap: why the score was capped, None if it was not.
    """

    compliance: float
    quality: float
    score: float
    attributes: dict[str, float]
    fitted: Scene
    cap: str | None


def judge(picture_3HW: Array, target: Scene | Edit) -> ExactScore:
    """Judges an answer to what was asked for; the picture is `(3, 64, 64)` float32 in [0, 1]."""
    if isinstance(target, Edit):
        return judge_edit(picture_3HW, target)
    return judge_scene(picture_3HW, target)


def judge_scene(picture_3HW: Array, wanted: Scene) -> ExactScore:
    """Judges a picture against a scene's stated attributes; its unstated ones are free."""
    reading = _Reading(picture_3HW, fit(picture_3HW, wanted.category, (wanted,)))
    if wanted.category == "landscape":
        credits = {name: reading.credit(wanted, name) for name in ("sky", "ground")}
        credits |= _object_credits(reading, wanted)
    else:
        names = [f.name for f in FACTORS[wanted.category] if f.stated and f.name != "style"]
        credits = {name: reading.credit(wanted, name) for name in names}
    return _capped_score(reading, _compliance(credits), credits, _missing(credits))


def judge_edit(picture_3HW: Array, edit: Edit) -> ExactScore:
    """Judges an edited picture: half what was asked to change, half what had to stay."""
    styles = STYLES if edit.category == "style" else ("none",)
    found = fit(picture_3HW, edit.source.category, (edit.target, edit.source), styles)
    reading = _Reading(picture_3HW, found)
    changed = _changed_credits(reading, edit)
    kept = _kept_credits(reading, edit)
    compliance = _mean(kept) if not changed else (_mean(changed) + _mean(kept)) / 2
    credits = {f"changed.{name}": credit for name, credit in changed.items()}
    credits |= {f"kept.{name}": credit for name, credit in kept.items()}
    return _capped_score(reading, compliance, credits, _undone(reading, edit, changed))


def quality(picture_3HW: Array, rendering_3HW: Array) -> float:
    """Closeness of a picture to a clean rendering, in [0, 1].

    SSIM over Gaussian windows of 7x7 pixels (sigma 1.5) of each channel (Wang et al. 2004), where
    windows weigh as much as they hold detail, since flat ones show neither blur nor smear. Pictures
    that have nothing in common still reach about 0.1 to 0.4, so `UNRELATED` to 1 becomes 0 to 1.
    """

    def window(values_3HW: Array) -> Array:
        return gaussian_filter(values_3HW, (0, 1.5, 1.5), mode="reflect", truncate=2.0)

    a, b = picture_3HW.astype(np.float64), rendering_3HW.astype(np.float64)
    mean_a, mean_b = window(a), window(b)
    spread_a = np.maximum(window(a * a) - mean_a**2, 0)
    spread_b = np.maximum(window(b * b) - mean_b**2, 0)
    shared = window(a * b) - mean_a * mean_b
    ssim = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    ssim *= (2 * shared + C2) / (spread_a + spread_b + C2)
    weights = np.sqrt(spread_a + spread_b) + FLAT
    return float(np.clip((np.average(ssim, weights=weights) - UNRELATED) / (1 - UNRELATED), 0, 1))


def diversity(
    category: str, fitted: Sequence[Scene], edits: Sequence[Edit] | None = None
) -> dict[str, dict[str, float]]:
    """Distance of each unstated factor's values from its true distribution: equally likely levels.

    Args:
        category: of scenes; those of other categories are left out.
        fitted: scenes found in pictures; a factor that a picture does not show is left out of it.
        edits: the edit each picture answers, if any; then only the factors it leaves free count.

    Returns:
        By factor: `distance`, the 1-Wasserstein distance to the factor's levels, and `floor`, the
        mean distance of as many true samples. A factor seen in fewer than two pictures is absent.
    """
    table = {}
    for name in unstated(category):
        values = [
            scene.factors[name]
            for index, scene in enumerate(fitted)
            if scene.category == category
            and name in observable_numbers(scene)
            and (edits is None or _leaves_free(edits[index], name))
        ]
        if len(values) > 1:
            true = tuple(levels(category, name))
            table[name] = {
                "distance": float(wasserstein_distance(values, true)),
                "floor": diversity_floor(len(values), true),
            }
    return table


def diversity_gap(table: dict[str, dict[str, float]]) -> float | None:
    """Mean over factors of distance minus floor: 0 for true samples, up to about 0.5.

    None if there is no factor, as in edits that leave nothing free.
    """
    if not table:
        return None
    return float(np.mean([row["distance"] - row["floor"] for row in table.values()]))


@cache
def diversity_floor(count: int, true: tuple[float, ...]) -> float:
    """Mean 1-Wasserstein distance of `count` samples of equally likely values, by simulation."""
    rng = np.random.default_rng(count)
    samples = rng.choice(true, size=(SIMULATIONS, count))
    return float(np.mean([wasserstein_distance(sample, true) for sample in samples]))


class _Reading:
    """A picture and the scene found in it; says which values hold."""

    def __init__(self, picture_3HW: Array, fitted: Fitted):
        self.picture_3HW, self.fitted, self.scene = picture_3HW, fitted, fitted.scene

    def holds(self, **values: float) -> bool:
        """Whether the picture shows these values, or could as well show them."""
        if all(self.scene.factors[name] == value for name, value in values.items()):
            return True
        allowed = self.fitted.distance**2 * (1 + SAME_SHARE) + SAME_ERROR
        return distance_with(self.picture_3HW, self.scene, **values) ** 2 <= allowed

    def credit(self, wanted: Scene, name: str, at: str | None = None) -> float:
        """1 if factor `at` (default: the same) has the value that `name` has in `wanted`."""
        return float(self.holds(**{at or name: wanted.factors[name]}))

    def stayed(self, source: Scene, name: str) -> bool:
        """Whether a stated or unstated factor is as it was, to the eye."""
        before, now = source.factors[name], self.scene.factors[name]
        if name in unstated(source.category):
            moved = abs(now - before)
            if is_periodic(source, name):
                moved = min(moved, 1 - moved)
            if moved <= KEPT_HUES.get(name, 0.5 / len(levels(source.category, name))):
                return True
        return self.holds(**{name: before})


def _object_credits(reading: _Reading, wanted: Scene) -> dict[str, float]:
    """One attribute per wanted object, in whatever slot (half for kind or colour), one for no more.

    The assignment of wanted objects to slots that gives most credit counts.
    """
    objects = [s for s in SLOTS if wanted.factors[s]]
    table = {
        (want, slot): _object_credit(reading, slot, wanted, want)
        for want in objects
        for slot in SLOTS
    }
    best = max(
        (
            [table[pair] for pair in zip(objects, slots, strict=True)]
            for slots in permutations(SLOTS, len(objects))
        ),
        key=sum,
    )
    credits = {f"object_{number}": credit for number, credit in enumerate(best, 1)}
    filled = [slot for slot in SLOTS if reading.scene.factors[slot]]
    spare = len(filled) - len(objects)
    # An object that explains nothing of the picture was not seen but guessed.
    ghosts = sum(reading.holds(**{slot: 0}) for slot in filled) if spare > 0 else 0
    return credits | {"no_other_objects": float(spare <= ghosts)}


def _object_credit(reading: _Reading, slot: str, wanted: Scene, want: str) -> float:
    """1 if a slot shows the wanted object, 0.5 if only its kind or its colour, 0 otherwise."""
    if not reading.scene.factors[slot]:
        return 0.0
    kind = reading.holds(**{slot: wanted.factors[want]})
    colour = reading.holds(**{f"{slot}_colour": wanted.factors[f"{want}_colour"]})
    return (kind + colour) / 2


def _changed_credits(reading: _Reading, edit: Edit) -> dict[str, float]:
    if edit.operation[0] != "add":
        return {name: reading.credit(edit.target, name) for name in edit.changed}
    slot = edit.operation[1]
    new = _new_slots(reading, edit)
    shown = [
        {
            "kind": reading.credit(edit.target, slot, at=new_slot),
            "colour": reading.credit(edit.target, f"{slot}_colour", at=f"{new_slot}_colour"),
        }
        for new_slot in new
    ]
    return max(
        shown, key=lambda credits: sum(credits.values()), default={"kind": 0.0, "colour": 0.0}
    )


def _new_slots(reading: _Reading, edit: Edit) -> list[str]:
    """Slots that were empty in the source and are not in the picture."""
    return [s for s in SLOTS if not edit.source.factors[s] and reading.scene.factors[s]]


def _kept_credits(reading: _Reading, edit: Edit) -> dict[str, float]:
    """Whether each factor that had to stay did, of those that show in the target's picture."""
    target = edit.target
    shows = set(observable_numbers(target)) | {
        factor.name
        for factor in FACTORS[target.category]
        if factor.stated and factor.name != "style"
    }
    if target.category == "landscape":
        shows -= {f"{slot}_colour" for slot in SLOTS if not target.factors[slot]}
    shows.discard("style_phase")
    credits = {
        name: float(reading.stayed(edit.source, name)) for name in edit.kept if name in shows
    }
    if edit.operation[0] == "add":
        credits["no_other_objects"] = float(len(_new_slots(reading, edit)) <= 1)
    return credits


def _undone(reading: _Reading, edit: Edit, changed: dict[str, float]) -> str | None:
    """Says so if nothing of what the edit asks for was done."""
    if edit.degradation:
        to_input = float(np.square(reading.picture_3HW - edit.source_picture()).mean())
        return (
            "nearer to the spoilt input than to a clean picture"
            if (to_input < reading.fitted.distance**2)
            else None
        )
    asked = {
        name: credit
        for name, credit in changed.items()
        if name in ("kind", "colour") or edit.target.factors[name] != edit.source.factors[name]
    }
    return None if any(asked.values()) else "nothing of what was asked was done"


def _compliance(credits: dict[str, float]) -> float:
    """The share of attributes that hold; what a picture is of weighs as much as all the rest."""
    main = _main(credits)
    rest = {name: credit for name, credit in credits.items() if name not in main}
    return (_mean(main) + _mean(rest)) / 2 if main and rest else _mean(credits)


def _missing(credits: dict[str, float]) -> str | None:
    """Says so if nothing of what a picture should be of is there."""
    main = _main(credits)
    return "nothing of what was asked for is there" if main and not any(main.values()) else None


def _main(credits: dict[str, float]) -> dict[str, float]:
    """The objects of a landscape, the letters of a word: what a person looks for first."""
    return {k: credit for k, credit in credits.items() if k.startswith(("object_", "letter_"))}


def _mean(credits: dict[str, float]) -> float:
    return float(np.mean(list(credits.values())))


def _capped_score(
    reading: _Reading, compliance: float, credits: dict[str, float], undone: str | None
) -> ExactScore:
    closeness = quality(reading.picture_3HW, reading.fitted.rendering)
    score, cap = 1 + 2 * compliance + 2 * closeness, None
    if undone and score > NOT_DONE:
        score, cap = NOT_DONE, undone
    if closeness < 0.3 and score > UNRECOGNIZABLE:
        score, cap = UNRECOGNIZABLE, "the picture cannot be recognized"
    return ExactScore(compliance, closeness, score, credits, reading.scene, cap)


def _leaves_free(edit: Edit, name: str) -> bool:
    """Whether the edit says nothing of a factor."""
    return name not in edit.kept and name not in edit.changed

"""What a study found, in sentences: a line for each claim, and one for each table."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from flash_ray.evaluation.benchmark import TASK_TITLES
from flash_ray.studies.figures import sides_of
from flash_ray.studies.inference import Effect
from flash_ray.studies.power import Needs
from flash_ray.studies.tables import AVERAGE, Table
from flash_ray.studies.verdicts import ClaimVerdict

DIRECTIONS = {"higher": "higher", "lower": "lower", "not lower": "lower", "best": "ahead"}


def verdict_in_words(v: ClaimVerdict) -> str:
    """The verdict, of "no effect" with the size that there is none of."""
    return f"no effect of {v.margin:g} or more" if v.verdict == "no effect" else v.verdict


def summary_of(verdicts: Sequence[ClaimVerdict]) -> str:
    """How many claims have which verdict."""
    counts = Counter(map(verdict_in_words, verdicts))
    said = ", ".join(f"{count} {words}" for words, count in counts.most_common())
    return f"{len(verdicts)} claims: {said}."


def answer(v: ClaimVerdict) -> str:
    """What the data say of a claim, how surely, and what is left open."""
    verdict = verdict_in_words(v)
    said = [
        f"**{verdict[0].upper()}{verdict[1:]}**: {v.claim.text.rstrip('.')} ({v.claim.source})."
    ]
    if v.effect is None:
        return f"{said[0]} Not all of its arms have been scored."
    unit = "" if v.claim.outcome == "score" else f" {v.claim.outcome}"
    corrected = "" if v.p is None else f", p {p_value(v.p)}"
    said.append(f"{sides_of(v)}{unit}: {signed(v.effect)}{corrected}.")
    if v.p is None:
        return " ".join([*said, "One seed, or one case, says nothing of others."])
    if v.verdict in ("replicated", "contradicted") and v.is_small:
        said.append(f"The difference is smaller than {v.margin:g}.")
    if v.verdict in ("no effect", "undecided"):
        said.append(f"{DIRECTIONS[v.claim.expect].capitalize()} by at most {v.at_most:.3f}.")
    if v.best is not None:
        chance = "less than 1 %" if v.best < 0.01 else f"{v.best:.0%}"
        said.append(f"The probability that it is the best of them: {chance}.")
    if v.claim.effect is not None:
        place = "excluded by" if v.source == "excluded" else "inside"
        said.append(f"The source's {v.claim.effect:+.3g} is {place} the interval.")
    if v.needs:
        said.append(_needs_in_words(v.needs, v.margin))
    return " ".join(said)


def _needs_in_words(needs: Needs, margin: float) -> str:
    ways = [
        *([f"{needs.seeds} seeds with these cases"] if needs.seeds else []),
        *([f"{needs.cases} cases of each category with these seeds"] if needs.cases else []),
    ]
    if not ways:
        return f"Neither seeds nor cases alone would find a difference of {margin:g}."
    return f"To find a difference of {margin:g} it takes about {' or '.join(ways)}."


def leader(table: Table) -> str:
    """Which arm of a table is ahead, how far it got, and what it cannot be told from."""
    best = min(table.rows, key=lambda row: row.rank)
    words = [
        f"{table.title}, {TASK_TITLES[table.task]}: `{best.arm}` is ahead with "
        f"{best.cells[AVERAGE].mean:.3g}"
    ]
    if best.closed:
        words.append(f", {best.closed.mean:.0%} of the way from the untrained base to the teacher")
    if AVERAGE in best.best:
        words.append("; it beats every other arm")
    elif best.ties:
        tied = [f"`{row.arm}`" for row in table.rows if row.rank in best.ties]
        words.append(f"; it cannot be told from {', '.join(tied)}")
    return f"{''.join(words)}."


def signed(effect: Effect | None) -> str:
    """A difference with its interval."""
    if effect is None:
        return "no data"
    if np.isnan(effect.se):
        return f"{effect.mean:+.3f}, no interval"
    return f"{effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"


def p_value(p: float | None) -> str:
    """A p value with the digits that count."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"

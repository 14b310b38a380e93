"""How many teachers a group should have, from its queue alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Pace:
    """When teachers are hired and dismissed.

    The two loads lie far enough apart that no number of teachers is both too small and too large:
    where dismissals leave half a question per teacher, even a queue of random arrivals
    (M/M/1) holds one question per teacher on average, which is not crowded.

    Args:
        crowded: questions per teacher, on average over `hire_after_s`, above which more are hired.
        idle: questions per teacher that would be left after a dismissal, on average over
            `dismiss_after_s`, up to which there is one.
        hire_after_s: seconds.
        dismiss_after_s: seconds; longer than the workers' usual pauses.
    """

    crowded: float = 1.25
    idle: float = 0.5
    hire_after_s: float = 5.0
    dismiss_after_s: float = 60.0


def wanted(
    queue: Sequence[tuple[float, int]],
    teachers: int,
    coming: int,
    fewest: int,
    most: int,
    pace: Pace,
) -> int:
    """The number of teachers that a queue calls for; `teachers` while it may stay as it is.

    Args:
        queue: (second, questions that wait or are worked on), oldest first, since a teacher last
            came or went.
        teachers: hired.
        coming: how many of these have no place yet; the queue does not show their work, so nobody
            else is hired meanwhile.
    """
    crowd = _mean_over_last(queue, pace.hire_after_s)
    needed = 0 if crowd is None or coming else math.ceil(crowd / pace.crowded)
    if needed > teachers:
        return min(needed, most)
    calm = _mean_over_last(queue, pace.dismiss_after_s)
    if calm is not None and (enough := math.ceil(calm / pace.idle)) < teachers:
        return max(enough, fewest)
    return teachers


def _mean_over_last(queue: Sequence[tuple[float, int]], seconds: float) -> float | None:
    """None if less than that was observed."""
    if not queue or queue[-1][0] - queue[0][0] < seconds:
        return None
    return fmean(length for second, length in queue if second >= queue[-1][0] - seconds)

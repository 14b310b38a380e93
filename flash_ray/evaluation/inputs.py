"""Pictures to edit that a recipe's base draws itself, from prompts that a benchmark states: each is
drawn once, and kept in the store where answers are, by what decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark, Case
from flash_ray.evaluation.pictures import PictureStore, StoredPictures
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.progress import Steps


@dataclass(frozen=True)
class DrawnPictures(Sequence[Image.Image]):
    """Pictures to edit that are fetched from a store when they are indexed; pickled.

    Args:
        asked: what each of them answers, a case of text to image.
        kept: where they are; None: nobody has said, and none can be looked at.
    """

    asked: tuple[Case, ...]
    kept: PictureStore | None = None

    def __len__(self) -> int:
        return len(self.asked)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "DrawnPictures": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | DrawnPictures":
        if isinstance(index, slice):
            return DrawnPictures(self.asked[index], self.kept)
        asked = self.asked[index]
        if self.kept is None:
            raise UserError(
                f"benchmark: the picture to edit of case {asked.id} is not drawn; run `flash-ray "
                "benchmark draw`"
            )
        return Image.fromarray(StoredPictures(self.kept.store, (self.kept.key(asked),))[0])


def with_inputs(
    benchmark: Benchmark, recipe: Recipe, store: Store, per_category: int | None, steps: Steps
) -> Benchmark:
    """The benchmark with its pictures to edit; the cluster draws those that the store lacks, and
    each is kept as soon as it is drawn. Ray must run.

    Args:
        recipe: as the benchmark was loaded with; its base draws, as the teacher is sampled.
        per_category: edits of each category that need theirs, the first ones; None: all.
    """
    benchmark = kept_in(benchmark, store)
    if missing := undrawn(drawn_cases(benchmark, per_category)):
        draw_by_base(recipe, store, missing, f"draw pictures to edit, {benchmark.name}", steps)
    return benchmark


def kept_in(benchmark: Benchmark, store: Store) -> Benchmark:
    """The benchmark whose cases look for pictures that a base draws in that store."""
    from flash_ray.evaluation.case_files import FileBenchmark

    if isinstance(benchmark, FileBenchmark) and benchmark.is_drawn:
        return benchmark.kept_in(store)
    return benchmark


def drawn_cases(benchmark: Benchmark, per_category: int | None = None) -> list[Case]:
    """The cases whose pictures to edit a base draws, of the first of each category.

    Args:
        per_category: None: all.
    """
    from flash_ray.evaluation.case_files import FileBenchmark

    if not isinstance(benchmark, FileBenchmark) or not benchmark.is_drawn:
        return []
    most = len(benchmark.stated) if per_category is None else per_category
    return [c for c in benchmark.cases("edit", most) if isinstance(c.references, DrawnPictures)]


def undrawn(cases: Sequence[Case]) -> list[Case]:
    """What a base is still to be asked for the pictures that cases of a benchmark edit, each once:
    cases of text to image, those of one size together, so that they share batches."""
    return sorted(_lacking(cases).values(), key=lambda asked: asked.size)


def undrawn_line(benchmark: Benchmark) -> str | None:
    """What a server says of pictures to edit that its store lacks, since it draws none; None: it
    lacks none.

    Args:
        benchmark: kept in the server's store.
    """
    cases = drawn_cases(benchmark)
    if not (missing := undrawn(cases)):
        return None
    return (
        f"{benchmark.name}: {len(missing)} pictures to edit, of {len(cases)} cases, are not drawn, "
        "and their cases are left out; draw them with `flash-ray benchmark draw --recipe RECIPE`, "
        "while no server uses the store if that is an embedded one"
    )


def with_pictures(cases: Sequence[Case]) -> list[Case]:
    """Those cases of a benchmark that can be answered now: all but edits of pictures that are not
    drawn."""
    lacking = _lacking(cases)
    return [case for case in cases if lacking.keys().isdisjoint(_asked(case))]


def draw_by_base(
    recipe: Recipe, store: Store, cases: Sequence[Case], stage: str, steps: Steps
) -> Sequence[np.ndarray]:
    """Has the cluster draw cases of text to image as the recipe's teacher does, each once; gives
    a uint8 picture (H, W, 3) of each, which is in the store.

    Args:
        stage: what the progress line says.
    """
    from flash_ray.evaluation.drawing import Weights, drawn_by_actors
    from flash_ray.evaluation.sample import teacher_sampler

    sampler, done = teacher_sampler(recipe), 0

    def show(evaluations: int) -> None:
        nonlocal done
        done += evaluations
        steps.show(stage, done // sampler.nfe, len(cases))

    with drawn_by_actors(recipe, store, {"base": Weights()}) as draw:
        return draw("base", sampler, cases, show)


def _lacking(cases: Sequence[Case]) -> dict[str, Case]:
    """What a base is to be asked for the pictures to edit that their store lacks, by key."""
    asked = {key: picture for case in cases for key, picture in _asked(case).items()}
    stores = {c.references.kept for c in cases if isinstance(c.references, DrawnPictures)}
    there = {key for kept in stores if kept for key in kept.store.list(kept.home)}
    return {key: picture for key, picture in asked.items() if key not in there}


def _asked(case: Case) -> dict[str, Case]:
    """What a base is asked for the pictures that a case edits, by their keys in the store."""
    if not isinstance(case.references, DrawnPictures):
        return {}
    kept = case.references.kept
    assert kept, "the benchmark is kept in a store"
    return {kept.key(asked): asked for asked in case.references.asked}

"""What a study's trials draw: cases held out, several noises, pictures of the early horizon."""

import numpy as np
import pytest

from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.models.sampling import SamplerConfig
from flash_ray.studies.cases import CaseRange
from flash_ray.studies.diversity import diversity, spread
from flash_ray.studies.early import EarlyPictures, early_home
from tests.helpers.storage import MemoryStore

BENCHMARK = MiniatureBenchmark()


def test_held_out_cases_are_those_after_the_development_cases():
    counts = {"t2i": 2, "edit": 1}
    seen, held_out = CaseRange(counts).of(BENCHMARK), CaseRange(counts, 3).of(BENCHMARK)
    assert [case.id for case in seen["t2i"]][:3] == [
        "landscape-000",
        "landscape-001",
        "portrait-000",
    ]
    assert [case.id for case in held_out["t2i"]][:3] == [
        "landscape-003",
        "landscape-004",
        "portrait-003",
    ]
    assert held_out["t2i"] == [
        case for case in BENCHMARK.cases("t2i", 5) if int(case.id[-3:]) in (3, 4)
    ]
    assert (CaseRange(counts, 3).edits, CaseRange({"t2i": 2}, 3).edits) == (4, 0)


def test_noises_differ_and_nothing_else_does():
    cases = CaseRange({"t2i": 2}, 1, noises=3).of(BENCHMARK)["t2i"]
    assert len(cases) == 3 * 2 * 3
    first, again, third = cases[:3]
    assert first == BENCHMARK.cases("t2i", 2)[1]
    assert {first.id, again.id, third.id} == {"landscape-001"} and first.prompt == third.prompt
    assert len({case.seed for case in cases}) == len(cases)


def test_the_spread_of_pictures_is_of_their_pixels_small():
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert spread([black, white]) == 1.0
    assert spread([black, black, white]) == pytest.approx(2 / 3)
    grain = np.indices((256, 256)).sum(0) % 2 * 255
    grain_HW3 = np.repeat(grain[..., None], 3, 2).astype(np.uint8)
    assert spread([grain_HW3, 255 - grain_HW3]) < 0.01  # averages out where it is shrunk

    cases = CaseRange({"t2i": 1}, noises=2).of(BENCHMARK)
    images = {"t2i": [black, white, black, black, white, white]}
    assert diversity(cases, images) == {
        "t2i": {"landscape-000": 1.0, "portrait-000": 0.0, "text-000": 0.0}
    }


class Encoded:
    """Cases that are answered by the number of times that they were."""

    batches = {"t2i": ()}

    def __init__(self):
        self.drawn = 0

    def cases(self, task):
        return BENCHMARK.cases(task, 1)

    def images(self, model, transformer, sampler):
        self.drawn += 1
        return {"t2i": [np.full((4, 4, 3), self.drawn, np.uint8)] * 3}


def test_early_pictures_are_drawn_once_and_are_whole_or_drawn_again():
    encoded, store = Encoded(), MemoryStore("memory")
    early = EarlyPictures(encoded, SamplerConfig((1.0, 0.5)), store, "run")
    for _ in range(2):
        evaluated = early.score(early.draw(None, None))
        assert (evaluated.scores, evaluated.sheet) == ({}, None)
    assert encoded.drawn == 1
    assert [int(picture[0, 0, 0]) for picture in early.images()["t2i"]] == [1, 1, 1]
    store.delete(f"{early_home('run')}t2i/text-000.png")  # cut off between two of them
    early.score(early.draw(None, None))
    assert [int(picture[0, 0, 0]) for picture in early.images()["t2i"]] == [2, 2, 2]

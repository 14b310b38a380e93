from types import SimpleNamespace

import torch

from flash_ray.trainer import rng


def rows(size, mine):
    """What `rng.noise` reads of a micro-batch."""
    layout = SimpleNamespace(tokens=16)
    return SimpleNamespace(size=size, rows=mine, conditions=SimpleNamespace(layout=layout))


def test_workers_draw_disjoint_rows_of_the_same_noise():
    whole = rng.noise(rows(8, slice(0, 8)), 4, 0, 3, "noise")
    halves = [rng.noise(rows(8, slice(i, i + 4)), 4, 0, 3, "noise") for i in (0, 4)]
    assert torch.equal(torch.cat(halves), whole)


def test_seed_number_and_purpose_give_other_numbers():
    batch = rows(2, slice(0, 2))
    labels = [(0, 3, "noise"), (1, 3, "noise"), (0, 4, "noise"), (0, 3, "xi"), (0, 3, "fake", 0)]
    drawn = {tuple(rng.noise(batch, 4, *each).flatten().tolist()) for each in labels}
    assert len(drawn) == len(labels)

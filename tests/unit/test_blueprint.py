"""A blueprint holds no weights, and what is built from it is a copy that learns."""

import torch

from flash_ray.models.adapters import Adapters
from flash_ray.trainer.blueprint import Blueprint

CPU = torch.device("cpu")


def test_what_is_built_is_a_trainable_copy(backbone):
    base = backbone.transformer
    blueprint = Blueprint(base, CPU)
    assert blueprint.weights == sum(weight.numel() for weight in base.parameters())
    assert all(weight.is_meta for weight in blueprint._module.parameters())
    expected = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    buffers = dict(base.named_buffers())
    copy = blueprint.build()
    assert copy.training and type(copy) is type(base)
    weights = dict(copy.named_parameters())
    assert list(weights) == list(expected)
    theirs = {weight.data_ptr() for weight in base.parameters()}
    for name, weight in weights.items():
        assert weight.requires_grad and weight.data_ptr() not in theirs
        assert torch.equal(weight, expected[name]), name
    assert all(torch.equal(value, buffers[name]) for name, value in copy.named_buffers())


def test_loras_that_are_added_to_the_base_meanwhile_do_not_matter(backbone):
    base = backbone.copy_transformer().requires_grad_(False)
    names = [name for name, _ in base.named_parameters()]
    blueprint = Blueprint(base, CPU)
    Adapters(base).add("teacher", 2, 2, ("to_q",), trainable=False)
    assert [name for name, _ in base.named_parameters()] != names
    assert [name for name, _ in blueprint.build().named_parameters()] == names

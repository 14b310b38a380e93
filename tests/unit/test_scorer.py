import pytest
import torch
from PIL import Image

from flash_ray.methods.guidance import guided_velocity
from flash_ray.teachers.actor import pack, pack_conditions, unpack, unpack_conditions
from flash_ray.teachers.protocol import UnknownRequest
from flash_ray.teachers.scorer import Scorer, TeacherSpec, fingerprint


@pytest.fixture(scope="module", params=["t2i", "edit"])
def conditions(request, backbone):
    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    references = [[picture], [picture]] if request.param == "edit" else None
    return backbone.encode(["a red house", "a blue tree on a field"], references, (64, 64))


def noised(backbone):
    generator = torch.Generator().manual_seed(0)
    x_BNC = torch.randn(2, 16, backbone.latent_channels, generator=generator)
    return x_BNC, torch.tensor([0.3, 0.9])


@pytest.mark.parametrize(("guidance", "rescale"), [(1.0, True), (3.0, True), (3.0, False)])
def test_prefilled_answers_equal_plain_velocities(backbone, conditions, guidance, rescale):
    x_BNC, t_B = noised(backbone)
    scorer = Scorer(backbone, {1: TeacherSpec(None, guidance, rescale)})
    scorer.prefill(0, conditions, [1])
    with torch.no_grad():
        plain = [
            backbone.velocity(backbone.transformer, x_BNC, t_B, side)
            for side in (conditions.positive, conditions.negative)
        ]
    expected = plain[0] if guidance == 1.0 else guided_velocity(*plain, guidance, rescale)
    answers = scorer.score(0, x_BNC, t_B)
    assert list(answers) == [1]
    torch.testing.assert_close(answers[1], expected, rtol=1e-4, atol=1e-5)


def test_a_request_is_scored_once(backbone, conditions):
    scorer = Scorer(backbone, {0: TeacherSpec(None, 1.0, True)})
    scorer.prefill(0, conditions, [0])
    scorer.score(0, *noised(backbone))
    with pytest.raises(UnknownRequest):
        scorer.score(0, *noised(backbone))


def test_a_changed_weight_changes_the_fingerprint(backbone):
    transformer = backbone.copy_transformer()
    before = fingerprint(transformer)
    assert before == fingerprint(backbone.transformer)
    with torch.no_grad():
        next(transformer.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(transformer) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_tensors_cross_the_wire_unchanged(dtype):
    tensor = torch.randn(3, 5).to(dtype)
    back = unpack(pack(tensor))
    assert back.dtype == dtype and torch.equal(back, tensor)


def test_conditions_cross_the_wire_unchanged(conditions):
    back = unpack_conditions(pack_conditions(conditions))
    assert back.layout == conditions.layout
    for side in ("positive", "negative"):
        sent, got = getattr(conditions, side).tensors(), getattr(back, side).tensors()
        assert sent.keys() == got.keys()
        assert all(torch.equal(sent[name], got[name]) for name in sent)

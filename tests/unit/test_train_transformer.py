"""The training of the miniature's transformer: what learns by which optimizer, and resuming."""

import pytest
import torch

from flash_ray.miniature.training import networks
from flash_ray.miniature.training.networks import Lesson, optimizers_of, train_transformer
from flash_ray.miniature.training.teacher import draw_examples, encode_examples
from flash_ray.models.qwen_image_21 import QwenImage21


@pytest.fixture(scope="module")
def lesson(miniature_folder):
    backbone = QwenImage21.from_pretrained(miniature_folder)
    return Lesson(
        4,
        {
            task: encode_examples(backbone, draw_examples(task, 4, 1, careless=False))
            for task in ("t2i", "edit")
        },
    )


def test_every_weight_is_learned_once(miniature_folder):
    """Muon has the matrices of the blocks, AdamW the rest."""
    transformer = QwenImage21.from_pretrained(miniature_folder, encoders=False).transformer
    learned = {
        name: [weight for group in optimizer.param_groups for weight in group["params"]]
        for name, optimizer in optimizers_of(transformer).items()
    }
    ids = [id(weight) for weights in learned.values() for weight in weights]
    assert sorted(ids) == sorted(id(weight) for weight in transformer.parameters())
    block = transformer.transformer_blocks[0]
    assert any(weight is block.attn.to_q.weight for weight in learned["muon"])
    assert any(weight is block.attn.norm_q.weight for weight in learned["adamw"])
    assert any(weight is transformer.img_in.weight for weight in learned["adamw"])


def test_a_run_that_was_stopped_ends_as_the_whole_one(miniature_folder, lesson, tmp_path):
    class Stopped(Exception):
        pass

    def stop_after_two(steps, parts, folder):
        for step in resumable(steps, parts, folder, every=1):
            if step == 2:
                raise Stopped
            yield step

    def train(folder):
        backbone = QwenImage21.from_pretrained(miniature_folder, encoders=False)
        before = [weight.clone() for weight in backbone.transformer.parameters()]
        train_transformer(backbone, [lesson], tmp_path / folder, batch=2, bf16=False)
        after = list(backbone.transformer.parameters())
        assert not any(map(torch.equal, before, after))
        return after

    resumable = networks.resumable
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(networks, "resumable", stop_after_two)
        train("stopped")
    assert all(map(torch.equal, train("stopped"), train("whole")))

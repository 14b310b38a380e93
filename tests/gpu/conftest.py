"""Tests that need a CUDA device: all are marked `gpu`, and skipped where there is none."""

from pathlib import Path

import pytest
import torch

from flash_ray.miniature.pipeline import build_pipeline
from flash_ray.models.qwen_image_21 import QwenImage21

SMALL_VAE = {
    "base_dim": 8,
    "decoder_base_dim": 8,
    "z_dim": 64,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, False],
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": 4,
    "is_residual": True,
    "latents_mean": [0.0] * 64,
    "latents_std": [1.0] * 64,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    missing = pytest.mark.skip(reason="there is no CUDA device")
    for item in items:
        if here in item.path.parents:
            item.add_marker("gpu")
            if not torch.cuda.is_available():
                item.add_marker(missing)


@pytest.fixture
def exact():
    """fp32 products that are fp32, and cuDNN that repeats itself."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def make_model():
    """make_model(device, dtype): the miniature's architecture, untrained; the same every time."""

    def make(device, dtype=torch.float32):
        pipeline = build_pipeline(["a red circle"], SMALL_VAE)
        generator = torch.Generator().manual_seed(1)
        for weight in pipeline.transformer.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
        return QwenImage21(pipeline.to(device, dtype))

    return make

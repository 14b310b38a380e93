"""Tests that need a CUDA device: all are marked `gpu`, and skipped where there is none."""

from pathlib import Path

import pytest
import torch

from flash_ray.models.qwen_image_21 import QwenImage21
from tests.helpers.small import untrained_pipeline


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
        return QwenImage21(untrained_pipeline(["a red circle"]).to(device, dtype))

    return make

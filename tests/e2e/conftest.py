"""What the tests of the commands share: the installed `flash-ray`, and a very small base."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flash_ray.miniature.captions import corpus
from flash_ray.miniature.pipeline import TRANSFORMER_CONFIG, VAE_CONFIG, build_pipeline

Command = Callable[..., subprocess.CompletedProcess[str]]

# A run of seconds: what is left of the preset is its structure.
SMALL = (
    "data.prompts=8",
    "runtime.workers=1",
    "runtime.micro_batch=4",
    "runtime.checkpoint_every=2",
    "runtime.bench_every=2",
    "optimisation.updates=4",
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline, untrained; weights are scaled so that prompts and times matter."""
    pipeline = build_pipeline(
        corpus(60),
        {**VAE_CONFIG, "base_dim": 8, "decoder_base_dim": 8},
        {**TRANSFORMER_CONFIG, "num_layers": 2, "num_attention_heads": 2},
    )
    generator = torch.Generator().manual_seed(1)
    for weight in pipeline.transformer.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    folder = tmp_path_factory.mktemp("base")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small(base: Path) -> list[str]:
    """Options that make any run small."""
    settings = (f"base={base}", *SMALL)
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's home: nothing of the tests ends up in the real one."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def flash_ray(home: Path, tmp_path: Path) -> Command:
    """Runs the installed console script in `tmp_path`, as a user without a terminal does."""
    script = shutil.which("flash-ray", path=sysconfig.get_path("scripts"))
    assert script, f"flash-ray is not installed in {sys.prefix}"

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
        # A busy machine takes its time to start Ray's dashboard.
        environment |= {"HOME": str(home), "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600", **variables}
        return subprocess.run(
            [script, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run

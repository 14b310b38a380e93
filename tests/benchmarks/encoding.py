"""`python -m tests.benchmarks.encoding`: bytes of a cached case, cases a second, and memory.

A small untrained pipeline that is built here encodes cases of 1024², as a data set of photographs
has them: pictures and prompts a few at a time, and all at once as before. What a case takes of a
model as wide as Qwen-Image-2.1 follows from its widths and the tokens that were counted.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Annotated

import torch
import typer

from flash_ray.data.cache import ConditionCache
from flash_ray.models import vae
from flash_ray.models.base import ConditionPair
from flash_ray.models.prompt_cache import SLOT
from flash_ray.models.qwen_image_21 import QwenImage21
from tests.helpers.foreign import photograph, save_pipeline
from tests.helpers.storage import FolderStore

SIDE = 1024
STATES, LATENTS, BYTES = 4096, 64, 2  # widths of Qwen-Image-2.1, bf16
PROMPT = "A glass jar of honey on a wooden table by the window, soft light from the left. " * 3


def encode(model: QwenImage21, cases: int, edit: bool) -> ConditionPair:
    """Conditions of so many cases, all different."""
    prompts = [f"{PROMPT}{case}" for case in range(cases)]
    picture = photograph((SIDE, SIDE))
    return model.encode(prompts, [[picture]] * cases if edit else None, (SIDE, SIDE))


def one(folder: Path, cases: int, edit: bool, at_once: bool) -> None:
    """Prints seconds and MiB that encoding took in this process."""
    torch.set_num_threads(1)
    model = QwenImage21.from_pretrained(folder, transformer=False)
    encode(model, 1, edit)
    if at_once:
        vae.PIXELS = SIDE * SIDE * cases
    before, start = getrusage(RUSAGE_SELF).ru_maxrss, time.perf_counter()
    encode(model, cases, edit)
    seconds = time.perf_counter() - start
    print(seconds, (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024)


def measured(folder: Path, cases: int, edit: bool, at_once: bool) -> tuple[float, float]:
    """Seconds and MiB of `one` in a process of its own."""
    code = (
        "from pathlib import Path; from tests.benchmarks.encoding import one; "
        f"one(Path({str(folder)!r}), {cases}, {edit}, {at_once})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, mebibytes = ran.stdout.split()[-2:]
    return float(seconds), float(mebibytes)


def stored_bytes(conditions: ConditionPair, folder: Path) -> int:
    """Bytes of a case's file in the store."""
    store = FolderStore(folder / "store")
    ConditionCache(store, folder / "node").add("case", conditions.rows([0]).trimmed())
    return (store.root / "conditions/case.safetensors").stat().st_size


def wide_bytes(conditions: ConditionPair) -> tuple[int, int]:
    """Bytes of a case at the widths of Qwen-Image-2.1: with all states, and what is kept."""
    whole = kept = 0
    references = conditions.positive.references_BNC
    tokens = 0 if references is None else references.shape[1]
    for side in (conditions.positive, conditions.negative):
        texts = int((side.mask_BL & ~side.slots_BL)[0].sum())
        whole += (texts + tokens // SLOT) * STATES * BYTES
        is_shared = side is conditions.negative and not conditions.layout.references
        kept += 0 if is_shared else texts * STATES * BYTES
    latents = tokens * LATENTS * BYTES
    return whole + latents, kept + latents


def main(cases: Annotated[int, typer.Option(help="Cases of a batch.")] = 4) -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = save_pipeline(Path(name) / "pipeline")
        model = QwenImage21.from_pretrained(folder, transformer=False)
        for edit, task in ((False, "text to image"), (True, "edit of one 1024² picture")):
            conditions = encode(model, 1, edit)
            whole, kept = wide_bytes(conditions)
            print(
                f"{task}: {stored_bytes(conditions, Path(name) / task):,} bytes in the store; as "
                f"wide as Qwen-Image-2.1 {kept / 2**20:.2f} MiB, with all states "
                f"{whole / 2**20:.2f} MiB: {1 - kept / whole:.0%} less"
            )
            parts, memory = measured(folder, cases, edit, at_once=False)
            whole_s, whole_memory = measured(folder, cases, edit, at_once=True)
            print(
                f"  {cases} cases: {cases / parts:.2f} cases a second in parts, "
                f"{cases / whole_s:.2f} at once; memory grew by {memory:.0f} and "
                f"{whole_memory:.0f} MiB"
            )


if __name__ == "__main__":
    typer.run(main)

"""A LoRA loop that is killed and goes on from what it saved, against one that was not."""

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.benchmarks.gpu.loop import Loop, lora_loop
from tests.benchmarks.gpu.measure import GB, Row, timed
from tests.benchmarks.gpu.networks import SIGMAS, Size, as_model, build_transformer, conditions_of

SAVED, KILLED, LAST = 2, 3, 5  # iterations after which


def resume(size: Size, device: torch.device) -> Iterator[Row]:
    """Losses after a kill; every loop is a process of its own, on a base of two blocks."""
    small = replace(size, transformer=size.transformer | {"num_layers": 2})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _losses(folder / "whole", small, device, kill=False)
        killed = _losses(folder / "killed", small, device, kill=True)
        resumed = _losses(folder / "killed", small, device, kill=False)
        facts = json.loads((folder / "whole/facts.json").read_text())
        yield Row("state saved", facts["seconds"], note=f"{facts['bytes'] / GB:.3f} GB")
    expected = {n: losses for n, losses in whole.items() if n > SAVED}
    again = {n: losses for n, losses in resumed.items() if n > SAVED}
    difference = max(
        abs(again[n][loss] / losses[loss] - 1) for n, losses in expected.items() for loss in losses
    )
    verdict = "bit-equal" if again == expected else f"largest relative difference {difference:.1e}"
    yield Row(
        f"killed after {KILLED}, resumed from {SAVED}, {LAST} in all",
        note=f"losses {verdict}; before the kill "
        + ("bit-equal" if all(whole[n] == v for n, v in killed.items()) else "not equal"),
    )


def _losses(
    folder: Path, size: Size, device: torch.device, kill: bool
) -> dict[int, dict[str, float]]:
    """Losses by iteration of a run in a process of its own."""
    # CUDA does not stand a fork.
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(folder, size, device, kill)
    )
    process.start()
    process.join()
    expected = -signal.SIGKILL if kill else 0
    if process.exitcode != expected:
        raise RuntimeError(f"the loop ended with {process.exitcode}, not {expected}")
    lines = (folder / "losses.jsonl").read_text().splitlines()
    return {line["iteration"]: line["losses"] for line in map(json.loads, lines)}


def _run(folder: Path, size: Size, device: torch.device, kill: bool) -> None:
    folder.mkdir(exist_ok=True)
    transformer = build_transformer(size.transformer, size.dtype, device)
    loop = lora_loop(as_model(transformer), size.rank)
    conditions = conditions_of("t2i", size, transformer.config.context_in_dim, device)
    state, start = folder / "state.safetensors", 0
    if state.exists():
        _load(loop, load_file(state))
        start = SAVED
    with (folder / "losses.jsonl").open("a", buffering=1) as log:
        for number in range(start + 1, LAST + 1):
            losses = loop.iteration(number, conditions, number % len(SIGMAS))
            values = {name: float(loss) for name, loss in losses.items()}
            log.write(json.dumps({"iteration": number, "losses": values}) + "\n")
            if number == SAVED:
                seconds = timed(device, lambda: save_file(_state(loop), state))
                facts = {"seconds": seconds, "bytes": state.stat().st_size}
                (folder / "facts.json").write_text(json.dumps(facts))
            if kill and number == KILLED:
                os.kill(os.getpid(), signal.SIGKILL)


def _state(loop: Loop) -> dict[str, torch.Tensor]:
    parts = {"student": loop.student.state_dict(), "fake": loop.fake_score.state_dict()}
    named = {f"{part}.{n}": v.cpu() for part, values in parts.items() for n, v in values.items()}
    return named | {"ema": loop.ema.average.cpu()}


def _load(loop: Loop, tensors: dict[str, torch.Tensor]) -> None:
    for part, learner in (("student", loop.student), ("fake", loop.fake_score)):
        start = f"{part}."
        learner.load_state_dict(
            {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
        )
    loop.ema.average.copy_(tensors["ema"])

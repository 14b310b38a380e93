"""`python -m tests.benchmarks.gpu`: one table of what the GPU at hand does, in eight minutes.

Every section is a process of its own with a time limit: one that fails or takes too long is a line
of the table, and the others go on. `--tiny` runs them all on small networks, on the CPU too.
"""

import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer

from tests.benchmarks.gpu import inference, measure, training
from tests.benchmarks.gpu.measure import HEADER, Row
from tests.benchmarks.gpu.networks import REAL, TINY, Size

TOTAL = 480.0  # seconds


def machine(size: Size, device: torch.device) -> Iterator[Row]:
    """The card, its software, and its rate."""
    import diffusers
    import peft
    import transformers

    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, diffusers "
    versions += f"{diffusers.__version__}, transformers {transformers.__version__}, "
    versions += f"peft {peft.__version__}, Python {sys.version.split()[0]}"
    if device.type == "cuda":
        import subprocess

        smi = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        yield Row(subprocess.run(smi, capture_output=True, text=True).stdout.strip())
    yield Row("software", note=versions)
    rate = measure.matmul_rate(device, size.matmul)
    yield Row(f"bf16 product of {size.matmul}²", note=f"{rate / 1e12:.4g} TFLOP/s")


def peer(size: Size, device: torch.device) -> Iterator[Row]:
    """Against Model-Optimizer."""
    from tests.benchmarks.gpu.peer import peer as run

    return run(size, device)


def resume(size: Size, device: torch.device) -> Iterator[Row]:
    """Kill and resume."""
    from tests.benchmarks.gpu.resume import resume as run

    return run(size, device)


def miniature(size: Size, device: torch.device) -> Iterator[Row]:
    """The small world."""
    from tests.benchmarks.gpu.miniature import miniature as run

    return run(size, device)


def ray(size: Size, device: torch.device) -> Iterator[Row]:
    """The installed command, with Ray and DeepSpeed."""
    from tests.benchmarks.gpu.ray_run import ray_run as run

    return run(size, device)


Section = Callable[[Size, torch.device], Iterator[Row]]
# By name: what it does, and seconds that it may take; in order of what is most worth knowing.
SECTIONS: Mapping[str, tuple[Section, float]] = {
    "machine": (machine, 40),
    "lora": (training.lora, 110),
    "sampling": (inference.sampling, 60),
    "vae": (inference.vae, 40),
    "fp8": (partial(training.quantized_base, "fp8"), 70),
    "nf4": (partial(training.quantized_base, "nf4"), 100),
    "full": (training.full, 50),
    "peer": (peer, 60),
    "resume": (resume, 60),
    "miniature": (miniature, 120),
    "compile": (training.compiled, 120),
    "ray": (ray, 300),
}
DEFAULT = [name for name in SECTIONS if name != "ray"]


def main(
    section: Annotated[list[str] | None, typer.Option(help="Only these, repeatable.")] = None,
    tiny: Annotated[bool, typer.Option(help="Small networks, on the CPU if need be.")] = False,
    out: Annotated[Path | None, typer.Option(help="Rows as JSON, after every section.")] = None,
    total: Annotated[float, typer.Option(min=1, help="Seconds in all.")] = TOTAL,
    patience: Annotated[float, typer.Option(min=1, help="Times a section's seconds.")] = 1.0,
) -> None:
    """Print the table, section by section; all of them but `ray` unless some are named."""
    chosen = section or DEFAULT
    if unknown := [name for name in chosen if name not in SECTIONS]:
        raise typer.BadParameter(f"{unknown[0]!r}: no section; allowed: {', '.join(SECTIONS)}")
    if tiny:
        torch.set_num_threads(1)
    method, device = find_device()
    if not tiny and device.type == "cpu":
        raise typer.BadParameter("there is no GPU; --tiny runs on the CPU")
    started, rows = time.monotonic(), []
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * len(HEADER), flush=True)
    for name in chosen:
        run, limit = SECTIONS[name]
        left = total - (time.monotonic() - started)
        if left < 10:
            found = [Row("not run", note=f"{total:.0f} s are used up")]
        else:
            found = isolated(
                method, run, TINY if tiny else REAL, device, min(patience * limit, left)
            )
        for row in found:
            print("| " + " | ".join([name, *row.cells()]) + " |", flush=True)
        rows += [{"section": name, **asdict(row)} for row in found]
        if out:
            out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{time.monotonic() - started:.0f} s in all", flush=True)


def find_device() -> tuple[str, torch.device]:
    """How sections are started, and the device: CUDA works in processes that were not forked."""
    if torch.cuda.is_available():
        return "spawn", torch.device("cuda")
    return "fork", torch.device("cpu")


def isolated(
    method: str, run: Section, size: Size, device: torch.device, limit: float
) -> list[Row]:
    """A section's rows from a process of its own; an error or an early end is the last one."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(run, size, device, theirs))
    started, rows, ended = time.monotonic(), [], False
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, limit - (time.monotonic() - started))):
            rows.append(ours.recv())
    except EOFError:
        ended = True
    if not ended:
        rows.append(Row("stopped", note=f"took more than {limit:.0f} s"))
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
    process.join()
    if ended and process.exitcode:
        rows.append(Row("failed", note=f"the process ended with {process.exitcode}"))
    return [*rows, Row("section, all of it", time.monotonic() - started)]


def _send(run: Section, size: Size, device: torch.device, pipe: Connection) -> None:
    try:
        for row in run(size, device):
            pipe.send(row)
    except ImportError as error:
        pipe.send(Row("skipped", note=f"{type(error).__name__}: {error}"[:200]))
    except Exception as error:  # the others go on, and this one is told
        traceback.print_exc()
        reason = " ".join(str(error).split())[:200]
        pipe.send(Row("failed", note=f"{type(error).__name__}: {reason}"))

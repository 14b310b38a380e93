"""Times, memory and rows of the table."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

GB = 1e9


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        what: was measured.
        seconds: of one of it, None where nothing was timed.
        peak_gb, reserved_gb: GPU memory at most, allocated and taken from the driver, in 1e9 bytes.
        plan_gb: what the formula of `lora.planned_gb` says.
        mfu: share of the card's measured matrix rate, without what is computed again.
        note: anything else.
    """

    what: str
    seconds: float | None = None
    peak_gb: float | None = None
    reserved_gb: float | None = None
    plan_gb: float | None = None
    mfu: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """The row's cells as text."""
        seconds = "" if self.seconds is None else f"{self.seconds:.4g}"
        memory = [
            "" if value is None else f"{value:.2f}"
            for value in (self.peak_gb, self.reserved_gb, self.plan_gb)
        ]
        return [
            self.what,
            seconds,
            *memory,
            "" if self.mfu is None else f"{self.mfu:.1%}",
            self.note,
        ]


HEADER = ("section", "what", "seconds", "peak GB", "reserved GB", "formula GB", "MFU", "note")


def synchronize(device: torch.device) -> None:
    """Waits for what the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Gives unused memory back and forgets the peaks."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def timed(device: torch.device, run: Callable[[], object], repeats: int = 1) -> float:
    """Median seconds of a run, the device's work included."""
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peaks(device: torch.device) -> dict[str, float]:
    """`peak_gb` and `reserved_gb` since `free`; nothing on the CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak_gb": torch.cuda.max_memory_allocated(device) / GB,
        "reserved_gb": torch.cuda.max_memory_reserved(device) / GB,
    }


def matmul_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a bf16 product of random size x size matrices, median of ten after three."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * size**3 / timed(device, lambda: a @ b, repeats=10)

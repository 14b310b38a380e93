"""The miniature distilled on the device without Ray, and what its exact judge says of it."""

import multiprocessing
import multiprocessing.pool
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import yaml

import flash_ray.miniature
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.sample import encode_cases, sample_cases, student_sampler
from flash_ray.methods import DMD
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.judge import judge
from flash_ray.miniature.scenes import CATEGORIES
from flash_ray.miniature.source import training_case
from flash_ray.models.base import ConditionPair
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe.schema import sigma_schedule
from flash_ray.recipe.sections import Training
from tests.benchmarks.gpu.loop import Loop, full_loop, lora_loop
from tests.benchmarks.gpu.measure import Row, synchronize
from tests.benchmarks.gpu.networks import REAL, Size

SIDE = (64, 64)
RANK = 16


def miniature(size: Size, device: torch.device) -> Iterator[Row]:
    """Full and LoRA students of the miniature, against the base at the same four sigmas."""
    real = size is REAL
    training, sigmas = _preset()
    iterations, rows, cases = (training.iterations, 32, 8) if real else (2, 2, 1)
    # Judging is NumPy's work; the processes are made before anything is on the device.
    with multiprocessing.get_context("fork").Pool(8 if real else 1) as pool:
        model = _load(device)
        encoded = {task: _conditions(model, task, 8 * rows) for task in CATEGORIES}
        asked = [case for task in CATEGORIES for case in MiniatureBenchmark().cases(task, cases)]
        sampler = student_sampler(sigmas)
        yield Row("base, its scores", note=_scores(pool, asked, model, model.transformer, sampler))
        for kind in ("full", "LoRA"):
            model = _load(device)
            loop = _loop(model, training, sigmas, kind)
            start, losses = time.perf_counter(), {}
            for number in range(iterations):
                task = list(CATEGORIES)[number % 2]
                generator = torch.Generator().manual_seed(number)
                chosen = torch.randperm(8 * rows, generator=generator)[:rows]
                rung = loop.method.sample_rung(generator)
                losses = loop.iteration(number, encoded[task].rows(chosen), rung)
            synchronize(device)
            seconds = (time.perf_counter() - start) / iterations
            note = f"{iterations} iterations of {rows}; fake score's loss {losses['fake']:.3f}; "
            with _averaged(loop) as transformer:
                scores = _scores(pool, asked, model, transformer, sampler)
            yield Row(f"{kind} student, an iteration", seconds, note=f"{note}scores {scores}")


def _load(device: torch.device) -> QwenImage21:
    folder = Path(flash_ray.miniature.__file__).parent / "base"
    return QwenImage21.from_pretrained(folder, torch.bfloat16, device)


def _preset() -> tuple[Training, tuple[float, ...]]:
    """What the preset says of training, and its rungs; checking all of it would load its judge."""
    values = yaml.safe_load((files("flash_ray.recipe.presets") / "miniature.yaml").read_text())
    student = values["student"]
    sigmas = sigma_schedule(student["steps"], student["timestep_shift"])
    return Training.model_validate(values["training"]), tuple(sigmas)


def _loop(model: QwenImage21, training: Training, sigmas: tuple[float, ...], kind: str) -> Loop:
    """As the preset says; a LoRA learns ten times as fast."""
    scale = 1 if kind == "full" else 10
    first, second = (
        adam.model_copy(update={"lr": scale * adam.lr})
        for adam in (training.optimizer, training.fake_score.optimizer)
    )
    given = {"decay": training.ema_decay, "method": DMD(sigmas), "recompute": False}
    if kind == "full":
        return full_loop(model, (first, second), **given)
    return lora_loop(model, RANK, (first, second), **given)


@contextmanager
def _averaged(loop: Loop) -> Iterator[torch.nn.Module]:
    """The transformer with the averaged student."""
    loop.ema.write("ema")
    with loop.student.adapters.use("ema"):
        yield loop.student.module


def _conditions(model: QwenImage21, task: str, count: int) -> ConditionPair:
    """The first training cases of all categories in turn, encoded."""
    names = CATEGORIES[task]
    cases = [training_case(task, names[n % len(names)], n // len(names)) for n in range(count)]
    references = [list(case.references) for case in cases] if task == "edit" else None
    pair = model.encode([case.prompt for case in cases], references, SIDE)
    return ConditionPair(pair.positive, pair.negative)


def _scores(
    pool: "multiprocessing.pool.Pool",
    cases: Sequence[Case],
    model: QwenImage21,
    transformer: torch.nn.Module,
    sampler: SamplerConfig,
) -> str:
    means = []
    for task in CATEGORIES:
        asked = [case for case in cases if case.task == task]
        images = sample_cases(model, encode_cases(model, asked), transformer, sampler)
        pairs = [
            (image.astype(np.float32).transpose(2, 0, 1) / 255, case.target)
            for image, case in zip(images, asked, strict=True)
        ]
        scores = [found.score for found in pool.starmap(judge, pairs)]
        means.append(f"{task} {np.mean(scores):.2f}")
    return ", ".join(means)

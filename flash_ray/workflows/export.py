"""`flash-ray export`: a published student as a folder or a repository of the Hugging Face hub."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from flash_ray import __version__
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import TASK_TITLES
from flash_ray.models.loading import on_hub, resolve_base
from flash_ray.recipe.schema import Task
from flash_ray.storage.embedded import open_store
from flash_ray.storage.outputs import new_folder, validate_folder
from flash_ray.storage.scores import Baseline, PublishedScores, digits_of
from flash_ray.storage.students import LORA, Student, get_samples, load_student, read_student

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

Form = Literal["diffusers", "comfyui"]
HUB_TASKS: dict[Task, str] = {"t2i": "text-to-image", "edit": "image-to-image"}
SAMPLES = "samples.png"  # the contact sheet's file
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def export(
    name: str,
    folder: Path | None,
    push: str | None,
    store_address: str | None,
    force: bool,
    form: Form = "diffusers",
) -> str:
    """Writes the student's files, its recipe, a model card and, if there is one, a contact sheet.

    Args:
        folder: where to; it appears when it is whole.
        push: owner/name of a repository on the hub, made if it is not there.
        store_address: the store, as `open_store` takes it.
        force: whether an earlier folder may be replaced.
        form: for ComfyUI a LoRA's file alone, NAME.safetensors, with its recipe.

    Returns:
        the folder, or the address of the commit on the hub.

    Raises:
        UserError: bad input; a student that is damaged; the hub's refusal.
    """
    if folder is None and push is None:
        raise UserError("DIR: missing, and --push too; allowed: either or both; add one")
    if push is not None and form == "comfyui":
        raise UserError("--push: given with --format comfyui; allowed: DIR alone; leave it out")
    if push is not None:
        _validate_repository(push)
    if folder is not None:
        _validate_new(folder, force)
    with open_store(store_address) as store, tempfile.TemporaryDirectory(prefix="flash-ray-") as t:
        student = read_student(store, name)
        files = load_student(store, name, Path(t) / "student")
        if form == "comfyui":
            files = _for_comfyui(student, files, Path(t) / "comfyui")
        else:
            samples = get_samples(store, name)
            if samples:
                (files / SAMPLES).write_bytes(samples)
            _describe(student, files, push or str(folder), samples is not None)
        _add_recipe(student, files)
        commit = _push(files, push, student) if push else None
        if folder is not None:
            with new_folder(folder) as fresh:
                for each in sorted(files.iterdir()):
                    shutil.move(each, fresh / each.name)
        return commit or str(folder)


def _validate_repository(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise UserError("--push: no name of a repository; allowed: owner/name; correct it")


def _validate_new(folder: Path, force: bool) -> None:
    validate_folder("DIR", folder)
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UserError(
            f"DIR: {folder} holds something; allowed: a new or empty folder; choose another, or "
            "replace it with --force"
        )


def _for_comfyui(student: Student, files: Path, folder: Path) -> Path:
    """The folder with the LoRA's file as ComfyUI reads it.

    Raises:
        UserError: the student is no LoRA.
    """
    from flash_ray.models.comfyui import save_for_comfyui

    if student.kind != "lora":
        raise UserError(
            f"--format: comfyui with {student.name}, a whole transformer; allowed for it: "
            "diffusers; leave --format out"
        )
    folder.mkdir()
    about = {"base": student.base, "sigmas": ", ".join(map(str, student.sigmas))}
    save_for_comfyui(files / LORA, folder / f"{student.name}.safetensors", about)
    return folder


def _add_recipe(student: Student, folder: Path) -> None:
    recipe = yaml.safe_dump(student.recipe, sort_keys=False, default_flow_style=None, width=100)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")


def _describe(student: Student, folder: Path, address: str, samples: bool) -> None:
    """Adds the card in the hub's form.

    Args:
        address: where the student can be loaded from.
        samples: whether the folder has a contact sheet, which the card then shows.
    """
    from huggingface_hub import ModelCard

    page = Environment(
        loader=PackageLoader("flash_ray.workflows", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    base, revision = on_hub(student.base)
    text = page.get_template("model_card.md.jinja").render(
        student=student,
        base=base,
        revision=revision,
        version=__version__,
        address=address,
        sigmas=[round(sigma, 6) for sigma in student.sigmas],
        dtype=DTYPES[student.recipe["training"]["precision"]],
        titles=TASK_TITLES,
        samples=SAMPLES if samples else None,
        **_score_cells(student),
    )
    card = ModelCard(f"---\n{_metadata(student).to_yaml()}\n---\n\n{text}")
    card.save(folder / "README.md")


def _score_cells(student: Student) -> dict[str, Any]:
    """What the card's table of scores is made of."""
    if (scores := student.scores) is None:
        return {}
    digits, gaps = digits_of(scores.scale), scores.gap_closed

    def mean(scored: PublishedScores | Baseline, task: Task) -> str:
        if task not in scored.tasks:
            return ""
        cell = f"{scored.tasks[task]:.{digits}f}"
        if (interval := scored.intervals.get(task)) is None:
            return cell
        return f"{cell} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"

    def gap(task: Task) -> str:
        if task not in gaps:
            return "no gap"
        low, high = gaps[task].interval
        return f"{gaps[task].share:.0%} [{low:.0%}, {high:.0%}]"

    baselines = [(name, of.nfe, of) for name, of in scores.baselines.items()]
    return {"rows": [*baselines, ("student", student.nfe, scores)], "mean": mean, "gap": gap}


def _metadata(student: Student) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    if scores := student.scores:
        results = [
            EvalResult(
                task_type=HUB_TASKS[task],
                dataset_type=scores.benchmark,
                dataset_name=scores.benchmark,
                dataset_revision=scores.digest,
                metric_type=scores.judge,
                metric_value=round(score, 4),
            )
            for task, score in scores.tasks.items()
        ]
    return ModelCardData(
        base_model=on_hub(student.base)[0],
        base_model_relation="adapter" if student.kind == "lora" else "finetune",
        library_name="diffusers",
        pipeline_tag=HUB_TASKS["t2i"],
        license=_license(student.base),
        tags=["flash_ray", "distillation", *(["lora"] if student.kind == "lora" else [])],
        model_name=student.name,
        eval_results=results or None,
    )


def _license(base: str) -> str | None:
    """The licence that the base's own card states; None if it is not known."""
    from huggingface_hub import ModelCard

    source, _ = on_hub(resolve_base(base))
    card = Path(source) / "README.md"
    if Path(source).is_dir() and not card.is_file():
        return None
    loaded = ModelCard.load(card if card.is_file() else source, ignore_metadata_errors=True)
    return loaded.data.license


def _push(folder: Path, repository: str, student: Student) -> str:
    """Uploads the folder as one commit; returns its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        message = f"{student.name}, a {student.nfe}-step student of {student.base}"
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--push: {repository}: {reason}; allowed: a repository that the token in HF_TOKEN, or "
            "of `hf auth login`, may write; log in, or choose another"
        ) from error
    return str(commit.commit_url)

"""`flash-ray data write`: prompts and edits that a language model writes; checks first."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_ray import plugins
from flash_ray.cluster.session import validate_embedded_in_job, validate_gpu
from flash_ray.data.writing.folder import PICTURES, ROWS, Row, WritingFolder, open_folder
from flash_ray.data.writing.spec import EditSpec, WritingSpec, read_spec
from flash_ray.data.writing.wanted import wanted_edits, wanted_pictures, wanted_prompts
from flash_ray.errors import UserError
from flash_ray.models.endpoint import Budget, Endpoint
from flash_ray.models.loading import base_digest, with_pinned_base
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import TASKS, Task
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.distill import open_run_store, validate_cluster

if TYPE_CHECKING:
    from flash_ray.data.writing.writer import Stage, Writer
    from flash_ray.evaluation.benchmark import Case
    from flash_ray.models.sampling import SamplerConfig


@dataclass(frozen=True)
class CategoryRows:
    """What there is of a category, and how much the spec wants."""

    task: Task
    category: str
    wanted: int
    written: int
    with_text: int
    languages: Mapping[str, int]


@dataclass(frozen=True)
class Written:
    """What a folder holds when a command ends, and what the command spent.

    Args:
        dropped: answers of this command that could not be used, by why.
        requests, tokens: of this command, as the endpoint counts tokens.
        tokens_in_all: of all commands that wrote into the folder.
        problem: why not everything is written; None: it is.
    """

    folder: Path
    rows: tuple[CategoryRows, ...]
    dropped: Mapping[str, int]
    requests: int
    tokens: int
    tokens_in_all: int
    problem: str | None

    @property
    def data(self) -> dict[str, Any]:
        """What a recipe says to train on it, below its key `data`."""
        there = [row for row in self.rows if row.written]
        composition: dict[str, dict[str, int]] = {task: {} for task in TASKS}
        for row in there:
            composition[row.task][row.category] = 1
        tasks = [task for task in TASKS if composition[task]]
        return {
            "source": {task: str(self.folder / ROWS[task]) for task in tasks},
            "composition": composition,
        }


def write_data(
    spec_file: str, out: Path, recipe: Recipe | None, store_address: str | None, steps: Steps
) -> Written:
    """Writes what a spec wants into a folder, or goes on with it.

    Args:
        recipe: its base draws the pictures to edit; needed where the spec has edits.
        store_address: the embedded store's folder, if that is used; None: the default one.

    Returns:
        What there is, also where the budget or the endpoint ended the work early.

    Raises:
        UserError: bad input, found before anything is started; the folder cannot be used.
    """
    spec = read_spec(spec_file)
    plugins.require("openai", "vlm", f"SPEC: {spec_file}: writer")
    spec.writer.key()
    if spec.edit and recipe is None:
        raise UserError(
            "--recipe: missing, and the spec has edits, whose pictures a recipe's base draws; "
            "allowed: a preset's name or a YAML file; add --recipe RECIPE"
        )
    drawn = _DrawnPictures(recipe, spec.edit, store_address) if recipe and spec.edit else None
    avoid = _benchmark_prompts(spec.against, recipe)
    identity = {"spec": spec.identity, "pictures": drawn.identity if drawn else None}
    budget = Budget(spec.writer)
    with open_folder(out, identity) as folder, Endpoint(spec.writer, budget) as endpoint:
        from flash_ray.data.writing.writer import Writer

        def show(kind: str, done: int, wanted: int) -> None:
            steps.show(kind, done, wanted, f"{budget.tokens:,} tokens")

        writer = Writer(spec, endpoint, folder.requests, show)
        try:
            problem = _write(spec, writer, folder, drawn, avoid, steps)
        except UserError as error:  # the command ends with it, after saying what there is
            problem = str(error)
        return Written(
            out,
            tuple(_category_rows(spec, folder)),
            writer.dropped,
            budget.requests,
            budget.tokens,
            sum(request["tokens"] for request in folder.requests.rows),
            problem,
        )


class _DrawnPictures:
    """The pictures to edit: a recipe's base draws them, sampled as its checkpoint says."""

    def __init__(self, recipe: Recipe, edit: EditSpec, store_address: str | None):
        """Raises UserError if the base or the machine cannot be used."""
        from flash_ray.evaluation.sample import teacher_sampler

        recipe = with_pinned_base(recipe)
        validate_gpu(recipe)
        validate_embedded_in_job(recipe)
        self._recipe, self._store_address = recipe, store_address
        self._sizes = edit.sizes or (recipe.data.resolution,)
        self._sampler: SamplerConfig = teacher_sampler(recipe)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the pictures beside their prompts, as plain data."""
        return {
            "base": base_digest(self._recipe.base),
            "precision": self._recipe.training.precision,
            "sampler": self._sampler.title,
            "guidance_scale": self._sampler.guidance_scale,
            "sizes": self._sizes,
        }

    def origin(self, row: Row) -> Row:
        """The fields of an edit that say where its picture comes from."""
        return {
            "image": f"{PICTURES}/{row['id']}.png",
            "picture_prompt": row["prompt"],
            "picture_base": self._recipe.base,
            "picture_sampler": self._sampler.title,
            "picture_seed": _seed(row["id"]),
        }

    def draw(self, folder: WritingFolder, steps: Steps) -> None:
        """Draws the pictures that the folder lacks, by Ray actors; the store keeps them too, so
        that a command that was cut off has not drawn in vain."""
        cases = self._cases(folder)
        if not cases:
            return
        from PIL import Image

        from flash_ray.cluster.resources import cluster_needs
        from flash_ray.cluster.session import ray_session
        from flash_ray.evaluation.inputs import draw_by_base

        recipe = self._recipe
        with (
            open_run_store(recipe, self._store_address) as store,
            ray_session(cluster_needs(recipe, teachers=0)),
        ):
            validate_cluster(recipe, store, teachers=0)
            pictures = draw_by_base(recipe, store, cases, "draw", steps)
            for case, picture in zip(cases, pictures, strict=True):
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, "PNG")
                folder.put_picture(case.id, buffer.getvalue())

    def _cases(self, folder: WritingFolder) -> "list[Case]":
        """What is to be drawn, sizes together, so that pictures share batches."""
        from flash_ray.evaluation.benchmark import Case

        rows = enumerate(folder.picture_rows.rows)
        cases = [
            Case(
                row["id"],
                "t2i",
                row["category"],
                row["prompt"],
                self._sizes[number % len(self._sizes)],
                _seed(row["id"]),
            )
            for number, row in rows
            if not folder.picture(row["id"]).exists()
        ]
        return sorted(cases, key=lambda case: case.size)


def _write(
    spec: WritingSpec,
    writer: "Writer",
    folder: WritingFolder,
    drawn: _DrawnPictures | None,
    avoid: Mapping[Task, Sequence[str]],
    steps: Steps,
) -> str | None:
    """Writes, draws and looks; says what could not be had, if anything."""
    missed = writer.write(_t2i(spec, folder, avoid["t2i"]))
    if drawn:
        missed += writer.write(_pictures(spec, folder))
        drawn.draw(folder, steps)
        missed += writer.write(_edits(spec, folder, drawn, avoid["edit"]))
    if not missed:
        return None
    category, count = Counter(row.category for row in missed).most_common(1)[0]
    why = ", ".join(f"{number} {reason}" for reason, number in writer.dropped.most_common(3))
    return (
        f"SPEC: {len(missed)} rows could not be had in several tries each, {count} of them of "
        f"{category} ({why}); what was written is kept; run again to go on, add themes, or loosen "
        "length or alike"
    )


def _t2i(spec: WritingSpec, folder: WritingFolder, avoid: Sequence[str]) -> "Stage":
    from flash_ray.data.writing.writer import Stage

    categories = spec.categories("t2i")
    wanted = wanted_prompts(spec, "t2i")
    return Stage("t2i", wanted, folder.rows["t2i"], lambda name: categories[name].about, avoid)


def _pictures(spec: WritingSpec, folder: WritingFolder) -> "Stage":
    from flash_ray.data.writing.writer import Stage

    categories = spec.categories("edit")

    def about(name: str) -> str:
        return f"pictures on which can be carried out: {categories[name].about}"

    return Stage("pictures", wanted_pictures(spec), folder.picture_rows, about)


def _edits(
    spec: WritingSpec, folder: WritingFolder, drawn: _DrawnPictures, avoid: Sequence[str]
) -> "Stage":
    from flash_ray.data.writing.writer import Stage

    categories, pictures = spec.categories("edit"), folder.picture_rows.rows
    by_id = {row["id"]: row for row in pictures}
    return Stage(
        "edit",
        wanted_edits(spec, pictures),
        folder.rows["edit"],
        lambda name: categories[name].about,
        avoid,
        lambda picture: folder.picture(picture).read_bytes(),
        lambda picture: drawn.origin(by_id[picture]),
    )


def _benchmark_prompts(names: Sequence[str], recipe: Recipe | None) -> dict[Task, list[str]]:
    """The prompts of benchmarks by task.

    Raises:
        UserError: there is no such benchmark, or a row of its files cannot be used.
    """
    prompts: dict[Task, list[str]] = {task: [] for task in TASKS}
    if names:
        from flash_ray.evaluation.describe import listed_prompts

        for name in names:
            for task, prompt in listed_prompts(name, recipe, "SPEC: against"):
                prompts[task].append(prompt)
    return prompts


def _category_rows(spec: WritingSpec, folder: WritingFolder) -> "list[CategoryRows]":
    found = []
    for task in TASKS:
        for name, category in spec.categories(task).items():
            rows = [row for row in folder.rows[task].rows if row.get("category") == name]
            languages = Counter(str(row.get("language")) for row in rows)
            texts = sum(bool(row.get("text")) for row in rows)
            found.append(CategoryRows(task, name, category.rows, len(rows), texts, languages))
    return found


def _seed(picture: str) -> int:
    """Of the noise that a picture is drawn from."""
    return int(picture[:7], 16)

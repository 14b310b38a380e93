"""The Ray task that runs one evaluation; begun again, it draws only what is not drawn."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from flash_ray.backbones.process import one_process
from flash_ray.checkpoints.storage import Store
from flash_ray.data.cache import cache_home
from flash_ray.errors import UserError
from flash_ray.evaluation.generate import source_image
from flash_ray.miniature.bench import Case, cases
from flash_ray.recipe import Recipe
from flash_ray.serving.engine import Engine, Question, Row, Way, load_engine
from flash_ray.serving.evaluations import Asked, EvaluationBook
from flash_ray.serving.judging import scoring
from flash_ray.serving.models import Model
from flash_ray.serving.pictures import png
from flash_ray.serving.settings import MIB, Serving
from flash_ray.serving.weights import WeightCache

SEEDS = 2**31


def evaluate(name: str, recipe: Recipe, store: Store, settings: Serving) -> None:
    """Draws and judges what the evaluation `name` asks for, and writes how it ended."""
    book = EvaluationBook(store)
    asked = book.asked(name)
    if asked is None or book.end(name):
        return
    one_process(recipe)
    try:
        score = scoring(asked, store, settings)  # who cannot judge is known before it is drawn
        own = cases(asked.bench, asked.cases)
        _draw(book, name, asked, own, recipe, store, settings)
        pictures = [Image.open(BytesIO(book.picture(name, case.id))) for case in own]
        scored = score(own, np.stack([np.asarray(picture) for picture in pictures]))
    except UserError as error:
        book.finish(name, "failed", {"error": str(error)})
        return
    book.finish(name, "result", _result(name, own, scored))


def _draw(
    book: EvaluationBook,
    name: str,
    asked: Asked,
    own: Sequence[Case],
    recipe: Recipe,
    store: Store,
    settings: Serving,
) -> None:
    drawn = book.pictures(name)
    missing = [case for case in own if case.id not in drawn]
    if not missing:
        return
    engine = load_engine(recipe, settings.condition_mib * MIB, 0)
    way = _way(engine, asked.model, store, settings)
    for start in range(0, len(missing), settings.batch):
        part = missing[start : start + settings.batch]
        questions = [_question(case) for case in part]
        conditions = engine.encode(questions).conditions
        rows = [
            Row(question.digest, condition, (case.seed + asked.seed) % SEEDS)
            for case, question, condition in zip(part, questions, conditions, strict=True)
        ]
        pictures = engine.draw(way, rows).pictures_BHW3
        for case, picture in zip(part, pictures, strict=True):
            book.put_picture(name, case.id, png(picture))


def _question(case: Case) -> Question:
    references = (png(source_image(case)),) if case.bench == "edit" else ()
    return Question(case.prompt, references, (64, 64))


def _way(engine: Engine, model: Model, store: Store, settings: Serving) -> Way:
    transformer = engine.backbone.transformer
    if model.student is not None:
        weights = WeightCache(store, cache_home() / "students", settings.weights_mib * MIB)
        transformer = engine.backbone.load_transformer(weights.folder_of(model))
    return Way(model.digest, transformer, model.sigmas, model.guidance, model.rescale)


def _result(name: str, own: Sequence[Case], scored: dict[str, Any]) -> dict[str, Any]:
    verdicts = scored.pop("verdicts")
    answers = [
        {
            "case": case.id,
            "category": case.category,
            "prompt": case.prompt,
            **verdicts[case.id],
            "picture": f"/v1/evaluations/{name}/pictures/{case.id}.png",
            "input": f"/v1/benches/edit/cases/{case.id}/input.png"
            if case.bench == "edit"
            else None,
        }
        for case in own
    ]
    return {**scored, "answers": answers}

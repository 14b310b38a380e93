"""Which models can be asked."""

from fastapi import APIRouter

from flash_ray.serving.registry import ServedModel
from flash_ray.serving.routes.images import find_model
from flash_ray.serving.schemas import ModelCard, ModelCards
from flash_ray.serving.service import Served, Service, needs

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[needs("read")])


@router.get("")
async def models(service: Served) -> ModelCards:
    """The teacher, and the published students of its base."""
    found = await service.registry.models()
    return ModelCards(data=[_card(service, model) for model in found.values()])


@router.get("/{model}")
async def one(model: str, service: Served) -> ModelCard:
    """One model."""
    return _card(service, await find_model(service, model))


def _card(service: Service, model: ServedModel) -> ModelCard:
    height, width = service.recipe.data.resolution
    return ModelCard(
        id=model.id,
        created=model.created,
        kind=model.kind,
        base=model.base,
        sigmas=list(model.sigmas),
        steps=len(model.sigmas),
        evaluations=model.evaluations(),
        guidance=model.guidance,
        digest=model.digest,
        sizes=[f"{width}x{height}"],
        scores=model.scores,
    )

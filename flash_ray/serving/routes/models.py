"""Who asks, and which models there are."""

from fastapi import APIRouter

from flash_ray.recipe.sizes import MAX_ASPECT, MULTIPLE
from flash_ray.serving.http import ApiError
from flash_ray.serving.judges import scale_of
from flash_ray.serving.registry import ServedModel
from flash_ray.serving.schemas import Bounds, Me, ModelCard, ModelCards
from flash_ray.serving.service import Caller, Served, Service, needs

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/me")
def me(service: Served, caller: Caller) -> Me:
    """The role of the token, the limits of one request, and the judges of evaluations."""
    limits = service.settings.limits.model_dump() | {"pixels": service.most_pixels}
    served = service.benchmarks.values()
    judges = list(dict.fromkeys(j for one in served for able in one.judges.values() for j in able))
    return Me(
        role=caller,
        limits=Bounds(**limits, size_step=MULTIPLE, aspect=MAX_ASPECT),
        judges=judges,
        scales={judge: scale_of(judge, service.settings) for judge in judges},
    )


@router.get("/models", dependencies=[needs("read")])
async def list_models(service: Served) -> ModelCards:
    """The teacher, and the published students of its base."""
    models = await service.registry.models()
    return ModelCards(data=[_card(service, model) for model in models.values()])


@router.get("/models/{model}", dependencies=[needs("read")])
async def read_model(model: str, service: Served) -> ModelCard:
    """One model."""
    return _card(service, await find_model(service, model))


async def find_model(service: Service, name: str) -> ServedModel:
    """The model of that name.

    Raises:
        CorruptRecord: a student of that name is published, but its manifest is corrupt.
        ApiError: 404, there is none.
    """
    models = await service.registry.models()
    if name not in models:
        if fault := service.registry.fault(name):
            raise fault
        known = ", ".join(list(models)[:20])
        raise ApiError(
            404, f"model: there is no {name[:100]!r}; allowed: {known}.", "model", "model_not_found"
        )
    return models[name]


def _card(service: Service, model: ServedModel) -> ModelCard:
    height, width = service.recipe.data.resolution
    return ModelCard(
        id=model.id,
        created=model.created,
        kind=model.kind,
        base=model.base,
        sigmas=list(model.sampler.sigmas),
        steps=len(model.sampler.sigmas),
        evaluations=model.sampler.nfe,
        guidance=model.sampler.guidance_scale,
        digest=model.digest,
        identity=model.identity,
        sizes=[f"{width}x{height}"],
        scores=model.scores,
    )

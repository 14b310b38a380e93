"""What the caller may do here, and how much of it."""

from fastapi import APIRouter

from flash_ray.serving.judging import judges_of
from flash_ray.serving.routes.images import SIDE, most_pixels
from flash_ray.serving.schemas import Bounds, Me
from flash_ray.serving.service import Caller, Served

router = APIRouter(prefix="/v1/me", tags=["me"])


@router.get("")
def me(service: Served, caller: Caller) -> Me:
    """The role of the token, the limits of one request, and the judges of evaluations."""
    limits = service.settings.limits.model_dump() | {"pixels": most_pixels(service)}
    return Me(
        role=caller,
        limits=Bounds(**limits, size_step=SIDE),
        judges=judges_of(service.settings),
    )

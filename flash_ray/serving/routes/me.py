"""What the caller may do here, and how much of it."""

from fastapi import APIRouter

from flash_ray.serving.routes.images import SIDE, most_pixels
from flash_ray.serving.schemas import Bounds, Me
from flash_ray.serving.service import Caller, Served

router = APIRouter(prefix="/v1/me", tags=["me"])


@router.get("")
def me(service: Served, caller: Caller) -> Me:
    """The role of the token, and the limits of one request."""
    limits = service.settings.limits.model_dump() | {"pixels": most_pixels(service)}
    return Me(role=caller, limits=Bounds(**limits, size_step=SIDE))

"""The HTTP application: routes, errors and limits around a `Service`."""

from fastapi import FastAPI

from flash_ray import __version__
from flash_ray.serving import http as errors
from flash_ray.serving.http import BoundedBodies, Counted
from flash_ray.serving.metrics import GatewayMetrics
from flash_ray.serving.routes import benchmarks, evaluations, gallery, images, models
from flash_ray.serving.schemas import Error
from flash_ray.serving.service import Service
from flash_ray.serving.settings import MIB

DESCRIPTION = (
    "Pictures from few-step students and their teacher, by OpenAI's Images API; scores of models "
    "on a benchmark. Every error has OpenAI's shape."
)
STATUSES = {
    400: "The request is not allowed; `param` says which field.",
    401: "No token, or one that is not known.",
    403: "The token's role does not allow this.",
    404: "There is no such thing.",
    413: "The body is too large.",
    429: "The queue is full; `Retry-After` says for how many seconds.",
}


def build_api(service: Service) -> FastAPI:
    """The application; it holds no state but the service."""
    app = FastAPI(
        title="flash_ray",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses={
            status: {"model": Error, "description": text} for status, text in STATUSES.items()
        },
    )
    app.state.service = service
    for routes in (models, images, benchmarks, evaluations, gallery):
        app.include_router(routes.router)
    errors.install(app)
    limits = service.settings.limits
    edits = limits.images * limits.image_bytes + MIB
    app.add_middleware(BoundedBodies, most={"": 2 * MIB, "/v1/images/edits": edits})
    app.add_middleware(Counted, metrics=GatewayMetrics())
    return app

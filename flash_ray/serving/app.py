"""The Ray Serve application: a gateway, a painter for each task, a scorer."""

from collections.abc import Sequence

from ray import serve

from flash_ray.backbones.process import environment
from flash_ray.checkpoints.storage import Store
from flash_ray.recipe import Recipe
from flash_ray.serving.gateway import Gateway
from flash_ray.serving.painter import painter_keeping
from flash_ray.serving.scorer import Scorer
from flash_ray.serving.settings import Replicas, Serving
from flash_ray.serving.tokens import Token

NAME = "flash-ray"


def application(
    recipe: Recipe, store: Store, settings: Serving, tokens: Sequence[Token]
) -> serve.Application:
    """The application, for `serve.run`. Every process reads its own AWS_* variables."""
    painters = {
        "generate": _painter("generate", settings.generate, recipe, store, settings),
        "edit": _painter("edit", settings.edit, recipe, store, settings),
    }
    scorer = serve.deployment(
        Scorer, name="score", max_ongoing_requests=64, ray_actor_options={"num_cpus": 0}
    ).bind(recipe, store, settings)
    return serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        max_ongoing_requests=1000,  # the painters' queues are the limit
        ray_actor_options={"num_cpus": 0},
    ).bind(recipe, store, settings, tokens, painters, scorer)


def _painter(
    task: str, replicas: Replicas, recipe: Recipe, store: Store, settings: Serving
) -> serve.Application:
    ongoing = 2 * settings.batch  # one batch on the device, one that fills meanwhile
    return serve.deployment(
        painter_keeping(settings.models),
        name=task,
        max_ongoing_requests=ongoing,
        max_queued_requests=settings.queue,
        autoscaling_config={
            "min_replicas": replicas.min,
            "initial_replicas": replicas.min,
            "max_replicas": replicas.max,
            "target_ongoing_requests": settings.batch,
            "downscale_delay_s": replicas.idle_s,
            "upscale_delay_s": 5.0,
        },
        ray_actor_options={
            "num_cpus": settings.cpus,
            "num_gpus": 1 if recipe.runtime.gpu else 0,
            "runtime_env": {"env_vars": environment(settings.threads)},
        },
    ).bind(task, recipe, store, settings)

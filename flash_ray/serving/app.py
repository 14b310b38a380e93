"""The Ray Serve application, and what a Serve configuration's `import_path` names."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from ray import serve

from flash_ray.cluster.environment import environment
from flash_ray.models.loading import with_pinned_base
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.recipe.schema import Section
from flash_ray.serving.benchmarks import Benchmarks, checked_benchmarks, with_published
from flash_ray.serving.evaluator import Evaluator
from flash_ray.serving.gateway import Gateway
from flash_ray.serving.generator import generator_keeping
from flash_ray.serving.settings import Replicas, Serving
from flash_ray.serving.tokens import Token, read_tokens
from flash_ray.storage.s3 import Store

NAME = "flash-ray"

logger = logging.getLogger("ray.serve")


def application(
    recipe: Recipe,
    store: Store,
    settings: Serving,
    tokens: Sequence[Token],
    benchmarks: Benchmarks,
) -> serve.Application:
    """Makes the application for `serve.run`. Every process reads its own AWS_* variables."""
    drawing = {
        name: _generator(name, replicas, recipe, store, settings)
        for name, replicas in settings.drawing.items()
    }
    generators = {name: drawing.get(name, drawing["generate"]) for name in ("generate", "edit")}
    evaluator = serve.deployment(
        name="score", max_ongoing_requests=64, ray_actor_options={"num_cpus": 0}
    )(Evaluator).bind(recipe, store, settings, benchmarks)
    return serve.deployment(
        name="gateway",
        # The doors and the generators' queues are the limit, so that liveness is always answered.
        max_ongoing_requests=100_000,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress()(Gateway)).bind(
        recipe, store, settings, tokens, benchmarks, generators, evaluator
    )


def _generator(
    name: str, replicas: Replicas, recipe: Recipe, store: Store, settings: Serving
) -> serve.Application:
    ongoing = 2 * settings.batch  # one batch on the device, one that fills meanwhile
    return serve.deployment(
        name=name,
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
            "num_gpus": settings.gpu_share if recipe.runtime.gpu else 0,
            "runtime_env": {"env_vars": environment(settings.threads)},
        },
    )(generator_keeping(settings.models)).bind(recipe, store, settings)


class BuildArgs(Section):
    """`applications[].args` of a Serve configuration, as in cluster/kuberay/base/endpoints.yaml."""

    recipe: str = Field(description="a preset's name or a YAML file on every node")
    overrides: list[str] = Field([], description="KEY=VALUE changes of the recipe")
    store: str = Field(pattern="^s3://", description="s3://bucket/prefix that all nodes can reach")
    serving: Serving = Field(Serving(), description="what `flash-ray serve --settings` reads")
    tokens: Path = Field(description="a file that `flash-ray token` made, on every node")


def build(args: BuildArgs) -> serve.Application:
    """Builds the endpoints. A cluster's are open to others, so there is no way without tokens.

    Raises:
        UserError: the recipe, its base, a benchmark, a judge, the store or the tokens cannot be
            used.
    """
    recipe = with_pinned_base(load_recipe(args.recipe, args.overrides))
    named = checked_benchmarks(recipe, args.serving)
    tokens = read_tokens(args.tokens)
    store = Store.from_url(args.store)
    store.check()
    benchmarks = with_published(named, recipe, args.serving, store, logger.warning)
    return application(recipe, store, args.serving, tokens, benchmarks)

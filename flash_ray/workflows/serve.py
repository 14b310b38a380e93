"""What `flash-ray serve` does: everything is checked before Ray starts."""

import logging
import math
import os
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from flash_ray.cluster.session import (
    HOST,
    free_ports,
    in_cluster_job,
    ray_session,
    validate_gpu,
    validate_port,
)
from flash_ray.errors import UserError
from flash_ray.evaluation.inputs import undrawn_line
from flash_ray.models.loading import with_pinned_base
from flash_ray.recipe import Recipe
from flash_ray.serving.benchmarks import Benchmarks, checked_benchmarks, with_published
from flash_ray.serving.settings import Serving
from flash_ray.serving.tokens import Token, read_tokens
from flash_ray.storage.embedded import open_store
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.progress import Steps


def serve(
    recipe: Recipe,
    store_url: str | None,
    settings: Serving,
    tokens_file: Path | None,
    address: tuple[str, int],
    steps: Steps,
) -> None:
    """Serves until it is interrupted or terminated; both end it in good order.

    Args:
        store_url: s3://bucket/prefix, or an embedded store's folder; None for the default one.
        address: host and port to listen on.

    Raises:
        UserError: there is no such base, benchmark or store, a judge cannot be used, the address
            is taken, or it is open to others and there are no tokens.
    """
    recipe = with_pinned_base(recipe)
    validate_gpu(recipe)
    if recipe.runtime.gpu and not in_cluster_job():
        import torch

        validate_replicas(settings, torch.cuda.device_count())
    named = checked_benchmarks(recipe, settings)
    tokens = read_tokens(tokens_file) if tokens_file else []
    host, port = address
    if not _is_loopback(host) and not tokens:
        raise UserError(
            f"--host: {host} can be reached from other machines; allowed: 127.0.0.1, or any "
            "address with --tokens; make tokens with `flash-ray token FILE NAME`"
        )
    if in_cluster_job() and not (store_url or "").startswith("s3://"):
        raise UserError(
            f"--store: {store_url or 'the embedded store'} in a Ray cluster; allowed: "
            "s3://bucket/prefix that all its nodes can reach"
        )
    validate_port(host, port)
    with open_store(store_url, create=store_url is None) as store:
        benchmarks = with_published(named, recipe, settings, store, steps.say)
        for served in benchmarks.values():
            if line := undrawn_line(served.benchmark):
                steps.say(line)
        _serve(recipe, store, settings, tokens, benchmarks, address, steps)


def validate_replicas(settings: Serving, gpus: int) -> None:
    """Checks that a machine has the GPUs of all replicas and evaluations, which wait for them.

    Raises:
        UserError: it has fewer.
    """
    if settings.gpus > gpus:
        replicas = sum(each.max for each in settings.drawing.values())
        raise UserError(
            f"generate.max: {replicas} drawing replicas and {settings.evaluations} evaluations at "
            f"gpu_share {settings.gpu_share:g} need {settings.gpus} GPUs; allowed: the {gpus} of "
            "this machine; lower generate.max, leave out edit, or set gpu_share=0.5"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name: who knows whose
        return False


def _serve(
    recipe: Recipe,
    store: Store,
    settings: Serving,
    tokens: Sequence[Token],
    benchmarks: Benchmarks,
    address: tuple[str, int],
    steps: Steps,
) -> None:
    host, port = address
    if not in_cluster_job():
        _configure_local_ray(host, port)
    from ray import serve  # here, so that the checks above cost nothing

    from flash_ray.serving.app import NAME, application

    if not in_cluster_job():
        # It would call the address of the proxy, which nobody asks, the one to ask.
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    replicas = sum(each.max for each in settings.drawing.values())
    evaluations = settings.evaluations * recipe.runtime.cpus_per_worker
    cpus = math.ceil(replicas * settings.cpus + evaluations)
    steps.say("start Ray")
    with ray_session({"CPU": cpus, "trainer": 0, "teacher": 0}):
        steps.say("start the replicas")
        # On a Ray of one's own Serve's proxy has nothing to do, and others must not reach it.
        proxy = (host, port) if in_cluster_job() else (HOST, free_ports(1)[0])
        serve.start(proxy_location="HeadOnly", http_options={"host": proxy[0], "port": proxy[1]})
        try:
            app = application(recipe, store, settings, tokens, benchmarks)
            serve.run(app, name=NAME, route_prefix="/")
            steps.say(f"serving at http://{host}:{port}  (Ctrl-C ends it)")
            threading.Event().wait()  # until Ctrl-C or SIGTERM
        finally:
            _shut_down()


def _shut_down() -> None:
    """Ends Serve as `serve.shutdown` does, which asks the controller to end itself and, since that
    never answers, asks it again and complains in red."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=30)
    except (ValueError, ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        pass  # it has ended, or ends with its Ray


def _configure_local_ray(host: str, port: int) -> None:
    """Sets what a Ray of this command reads as it starts and as it is imported."""
    from flash_ray.serving.connections import HOST_VARIABLE

    settings = {
        "RAY_worker_niceness": 0,  # workers are nice by default: here they answer people
        # The gateway listens itself: Serve's proxy before it would cost 10 ms a request. It takes
        # a port from a range, whose end is not in it.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": 1,
        HOST_VARIABLE: host,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": port,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": port + 1,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 0,  # no load balancer to wait for
        # Less of the two cores for Serve itself: one event loop, gRPC between replicas. The log
        # keeps its line for each request, at once.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": 1,
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": 1,
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": 1,  # ten times a second is 2 % of a core
        "RAY_SERVE_PORT_QUARANTINE_S": 0,
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "flash_ray.serving.connections:install",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, str(value))

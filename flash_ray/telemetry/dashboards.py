"""The dashboards. Their JSON, for Grafana's file provisioning, is in infra/grafana."""

from flash_ray.telemetry.alerts import ERRORS, STRAIN, WAIT
from flash_ray.telemetry.panels import Dashboard, Panel, Query


def _latest(metric: str, labels: str = "run") -> str:
    """A gauge of runs: of a run's processes the one that is there."""
    return f'max by ({labels}) (ray_flash_{metric}{{run=~"$run"}})'


def _rate(metric: str, labels: str, where: str = "") -> str:
    """Of a counter, by second."""
    return f"sum by ({labels}) (rate(ray_flash_{metric}{{{where}}}[$__rate_interval]))"


def _quantile(share: float, metric: str, labels: str, where: str = "") -> str:
    buckets = _rate(f"{metric}_bucket", f"le, {labels}" if labels else "le", where)
    return f"histogram_quantile({share}, {buckets})"


RUN = 'run=~"$run"'

TRAINING = Dashboard(
    "flash-ray-training",
    "flash_ray: training",
    (
        Panel(
            "Progress",
            "percentunit",
            "Updates made, of those planned.",
            (Query(f"{_latest('train_update')} / {_latest('train_planned_updates')}", "{{run}}"),),
        ),
        Panel(
            "Images",
            "short",
            "Training images a second, by all workers.",
            (Query(_latest("train_images_per_second"), "{{run}}"),),
        ),
        Panel(
            "Time of an update, by stage",
            "s",
            "Where an update's seconds go. `teachers`: waiting for them.",
            (
                Query(
                    _rate("train_stage_seconds_total", "stage", RUN)
                    + " / scalar("
                    + f"sum(rate(ray_flash_train_updates_total{{{RUN}}}[$__rate_interval])))",
                    "{{stage}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Bench score",
            "short",
            "Of the averaged student on the small bench, 1 to 5.",
            (Query(_latest("train_bench_score", "run, bench"), "{{run}} {{bench}}"),),
        ),
        Panel(
            "Losses",
            "short",
            "The student's is a pseudo-loss: its level says little, a jump says much.",
            (Query(_latest("train_loss", "run, task, loss"), "{{run}} {{task}} {{loss}}"),),
        ),
        Panel(
            "Gradients",
            "short",
            "Norms before clipping, and the RMS of the DMD gradient.",
            (
                Query(_latest("train_gradient_norm", "run, network"), "{{run}} {{network}}"),
                Query(_latest("train_dmd_gradient_rms"), "{{run}} DMD"),
            ),
        ),
        Panel(
            "Nearness to divergence",
            "percentunit",
            "At 100 % the run ends as diverged.",
            (Query(_latest("train_strain_ratio", "run, measure"), "{{run}} {{measure}}"),),
            limit=STRAIN,
        ),
        Panel(
            "Sample scale",
            "short",
            "Over the base's, at the same rung (spread) and for finished samples (excess).",
            (
                Query(_latest("train_spread_ratio"), "{{run}} spread"),
                Query(_latest("train_excess_ratio"), "{{run}} excess"),
            ),
        ),
        Panel(
            "Checkpoint age",
            "s",
            "What a crash would lose, and how often a checkpoint is due.",
            (
                Query(f"time() - {_latest('checkpoint_timestamp_seconds')}", "{{run}} age"),
                Query(_latest("checkpoint_interval_seconds"), "{{run}} due every"),
            ),
        ),
        Panel(
            "Checkpoint size",
            "bytes",
            "Of the last one, all workers' parts.",
            (Query(f"sum by (run) (ray_flash_checkpoint_bytes{{{RUN}}})", "{{run}}"),),
        ),
        Panel(
            "Restarts",
            "short",
            "Of the workers in the last hour; planned ones, for another size, too.",
            (Query(f"changes({_latest('train_start_timestamp_seconds')}[1h:15s])", "{{run}}"),),
        ),
        Panel(
            "Memory of a worker",
            "bytes",
            "Peak of the GPU's, else what the process holds.",
            (Query(_latest("train_memory_bytes"), "{{run}}"),),
        ),
        Panel(
            "Cache of conditions",
            "short",
            "Look-ups of encoded cases since the nodes started. `store` misses are encoded, `node` "
            "misses are downloaded.",
            (
                Query(
                    "sum by (place, outcome) (ray_flash_condition_lookups_total)",
                    "{{place}} {{outcome}}",
                ),
            ),
        ),
    ),
    ("run", "ray_flash_train_update"),
)

TEACHERS = Dashboard(
    "flash-ray-teachers",
    "flash_ray: teachers",
    (
        Panel(
            "Workers wait for teachers",
            "percentunit",
            "Share of an update. High: more teachers. Near zero: perhaps fewer.",
            (Query(_latest("train_teacher_wait_ratio"), "{{run}}"),),
            limit=WAIT,
        ),
        Panel(
            "Questions that are open",
            "short",
            "Announced or asked by workers, not answered.",
            (Query("sum(ray_flash_teacher_open_questions)", "open"),),
        ),
        Panel(
            "Time to an answer",
            "s",
            "As workers see it: queue, work and transport.",
            (
                Query(_quantile(0.5, "teacher_answer_seconds", ""), "median"),
                Query(_quantile(0.95, "teacher_answer_seconds", ""), "95 %"),
            ),
        ),
        Panel(
            "Time of a call",
            "s",
            "At the teachers, median: `prefill` reads the condition, `score` answers.",
            (
                Query(
                    _quantile(0.5, "teacher_call_seconds", "teachers, call"),
                    "{{teachers}} {{call}}",
                ),
            ),
        ),
        Panel(
            "Teachers at work",
            "short",
            "How many are busy at a time, on average.",
            (
                Query(
                    _rate("teacher_busy_seconds_total", "teachers, call"), "{{teachers}} {{call}}"
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Calls of teachers' transformers",
            "short",
            "A second, for one picture each; guidance takes two.",
            (Query(_rate("train_teacher_calls_total", "run", RUN), "{{run}}"),),
        ),
        Panel(
            "λ that was used",
            "percentunit",
            "Weight of each teacher at each rung, mean over an update's samples.",
            (
                Query(
                    _latest("teacher_weight_ratio", "run, teacher, rung"),
                    "{{run}} {{teacher}} rung {{rung}}",
                ),
            ),
        ),
        Panel(
            "Deaths of teachers",
            "short",
            "That the workers there are have lived through.",
            (Query("sum(ray_flash_teacher_restarts)", "deaths"),),
        ),
    ),
    ("run", "ray_flash_train_update"),
)

STUDY = Dashboard(
    "flash-ray-study",
    "flash_ray: study",
    (
        Panel(
            "Trials",
            "short",
            "By state.",
            (
                Query(
                    'max by (study, state) (ray_flash_study_trials{study=~"$study"})',
                    "{{study}} {{state}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Best score",
            "short",
            "Of a finished trial so far, 1 to 5.",
            (
                Query(
                    'max by (study, bench) (ray_flash_study_best_score{study=~"$study"})',
                    "{{study}} {{bench}}",
                ),
            ),
        ),
        Panel(
            "Progress of trials",
            "percentunit",
            "Updates made, of those planned.",
            (
                Query(
                    "max by (run) (ray_flash_train_update) "
                    "/ max by (run) (ray_flash_train_planned_updates)",
                    "{{run}}",
                ),
            ),
        ),
        Panel(
            "Bench score of trials",
            "short",
            "Of the averaged student on the small bench, 1 to 5.",
            (Query("max by (run, bench) (ray_flash_train_bench_score)", "{{run}} {{bench}}"),),
        ),
        Panel(
            "Trials near divergence",
            "percentunit",
            "The worst measure of each; at 100 % the trial ends as diverged.",
            (Query("max by (run) (ray_flash_train_strain_ratio)", "{{run}}"),),
            limit=STRAIN,
        ),
        Panel(
            "Images",
            "short",
            "Training images a second.",
            (Query("max by (run) (ray_flash_train_images_per_second)", "{{run}}"),),
            stacked=True,
        ),
    ),
    ("study", "ray_flash_study_trials"),
)

_REQUESTS = _rate("serve_request_seconds_count", "route")
_FAILED = _rate("serve_errors_total", "route", 'status=~"5.."')
_LOOKUPS = _rate("serve_cache_lookups_total", "cache")
_HITS = _rate("serve_cache_lookups_total", "cache", 'outcome="hit"')

SERVING = Dashboard(
    "flash-ray-serving",
    "flash_ray: serving",
    (
        Panel(
            "Requests",
            "reqps",
            "By route.",
            (Query(_REQUESTS, "{{route}}"),),
            stacked=True,
        ),
        Panel(
            "Requests that fail",
            "percentunit",
            "Answers of status 500 and above, by route.",
            (
                Query(
                    f"({_FAILED} or 0 * {_REQUESTS}) / {_REQUESTS}",
                    "{{route}}",
                ),
            ),
            limit=ERRORS,
        ),
        Panel(
            "Latency",
            "s",
            "Of all requests by route, 95 %.",
            (Query(_quantile(0.95, "serve_request_seconds", "route"), "{{route}}"),),
        ),
        Panel(
            "Refused and failed",
            "reqps",
            "By status. 429: too many requests; 401, 403: tokens.",
            (Query(_rate("serve_errors_total", "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Time of a picture, by stage",
            "s",
            "Median of each stage. A long `queue` calls for replicas.",
            (Query(_quantile(0.5, "serve_stage_seconds", "stage, task"), "{{task}} {{stage}}"),),
        ),
        Panel(
            "Pictures of a batch",
            "short",
            "Mean. Larger batches draw more pictures a second.",
            (
                Query(
                    f"{_rate('serve_batch_pictures_sum', 'task')} / "
                    f"{_rate('serve_batch_pictures_count', 'task')}",
                    "{{task}}",
                ),
            ),
        ),
        Panel(
            "Caches",
            "percentunit",
            "Share of look-ups that hit.",
            (
                Query(
                    f"({_HITS} or 0 * {_LOOKUPS}) / {_LOOKUPS}",
                    "{{cache}}",
                ),
            ),
        ),
        Panel(
            "Replicas",
            "short",
            "That are healthy.",
            (
                Query(
                    "sum by (deployment) (ray_serve_deployment_replica_healthy)",
                    "{{deployment}}",
                ),
            ),
        ),
    ),
)

CLUSTER = Dashboard(
    "flash-ray-cluster",
    "flash_ray: cluster",
    (
        Panel(
            "Nodes",
            "short",
            "That report, and that the autoscaler waits for.",
            (
                Query("count(count by (instance) (ray_node_cpu_count))", "there"),
                Query("sum(autoscaler_pending_nodes) or vector(0)", "awaited"),
            ),
        ),
        Panel(
            "Places",
            "short",
            "For trainers and teachers: taken and free.",
            (
                Query(
                    'sum by (Name, State) (ray_resources{Name=~"trainer|teacher|CPU|GPU"})',
                    "{{Name}} {{State}}",
                ),
            ),
        ),
        Panel(
            "CPU",
            "percent",
            "By node.",
            (Query("max by (instance) (ray_node_cpu_utilization)", "{{instance}}"),),
        ),
        Panel(
            "GPU",
            "percent",
            "Mean of a node's GPUs; 0 on a node without.",
            (
                Query(
                    "avg by (instance) (ray_node_gpus_utilization) "
                    "or 0 * max by (instance) (ray_node_cpu_utilization)",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Memory",
            "percentunit",
            "Used, by node. Above 95 % Ray ends processes.",
            (
                Query(
                    "max by (instance) (ray_node_mem_used) "
                    "/ max by (instance) (ray_node_mem_total)",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Object store",
            "bytes",
            "Held in memory and spilled, all nodes.",
            (Query("sum by (Location) (ray_object_store_memory)", "{{Location}}"),),
            stacked=True,
        ),
        Panel(
            "Network",
            "Bps",
            "Sent and received, by node.",
            (
                Query("max by (instance) (ray_node_network_send_speed)", "{{instance}} sent"),
                Query(
                    "max by (instance) (ray_node_network_receive_speed)",
                    "{{instance}} received",
                ),
            ),
        ),
        Panel(
            "Disk",
            "percentunit",
            "Used, by node.",
            (
                Query(
                    "max by (instance) (ray_node_disk_utilization_percentage) / 100",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Actors",
            "short",
            "By state.",
            (Query("sum by (State) (ray_actors)", "{{State}}"),),
            stacked=True,
        ),
        Panel(
            "Tasks",
            "short",
            "By state.",
            (Query("sum by (State) (ray_tasks)", "{{State}}"),),
        ),
    ),
)

DASHBOARDS = (TRAINING, TEACHERS, STUDY, SERVING, CLUSTER)

"""All dashboards, with those of endpoints and of the cluster.

Their JSON, for Grafana's file provisioning, is in infra/grafana.
"""

from flash_ray.telemetry.alerts import ERROR_SHARE
from flash_ray.telemetry.panels import Dashboard, Panel, Query, failing, quantile, rate
from flash_ray.telemetry.run_dashboards import STUDY, TEACHERS, TRAINING

_LOOKUPS = rate("serve_cache_lookups_total", "cache")
_HITS = rate("serve_cache_lookups_total", "cache", 'outcome="hit"')

SERVING = Dashboard(
    "flash-ray-serving",
    "flash_ray: serving",
    (
        Panel(
            "Requests",
            "reqps",
            "Requests a second, by route.",
            (Query(rate("serve_request_seconds_count", "route"), "{{route}}"),),
            stacked=True,
        ),
        Panel(
            "Requests that fail",
            "percentunit",
            "Share answered with status 500 and above, by route.",
            (Query(failing("$__rate_interval"), "{{route}}"),),
            limit=ERROR_SHARE,
        ),
        Panel(
            "Latency",
            "s",
            "95th percentile of all requests, by route.",
            (Query(quantile(0.95, "serve_request_seconds", "route"), "{{route}}"),),
        ),
        Panel(
            "Rejected and failed",
            "reqps",
            "Errors by status. 429: too many requests; 401, 403: tokens.",
            (Query(rate("serve_errors_total", "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Time of a picture, by stage",
            "s",
            "Median of each stage. A long `queue` calls for replicas.",
            (Query(quantile(0.5, "serve_stage_seconds", "stage, task"), "{{task}} {{stage}}"),),
        ),
        Panel(
            "Pictures of a batch",
            "short",
            "Mean. Larger batches generate more pictures a second.",
            (
                Query(
                    f"{rate('serve_batch_pictures_sum', 'task')} / "
                    f"{rate('serve_batch_pictures_count', 'task')}",
                    "{{task}}",
                ),
            ),
        ),
        Panel(
            "Caches",
            "percentunit",
            "Share of look-ups that hit.",
            (Query(f"({_HITS} or 0 * {_LOOKUPS}) / {_LOOKUPS}", "{{cache}}"),),
        ),
        Panel(
            "Replicas",
            "short",
            "Healthy replicas of each deployment.",
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
            "Nodes that report, and that the autoscaler waits for.",
            (
                Query("count(count by (instance) (ray_node_cpu_count))", "there"),
                Query("sum(autoscaler_pending_nodes) or vector(0)", "awaited"),
            ),
        ),
        Panel(
            "Resources",
            "short",
            "Trainers, teachers, CPUs and GPUs that nodes offer: used and available.",
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
            "Utilization, by node.",
            (Query("max by (instance) (ray_node_cpu_utilization)", "{{instance}}"),),
        ),
        Panel(
            "GPU",
            "percent",
            "Mean utilization of a node's GPUs; 0 on a node without.",
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
            "Share in use, by node. Above 95 % Ray ends processes.",
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
            "Objects in memory and spilled to disk, all nodes together.",
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
            "Share in use, by node.",
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
            "Actors by state.",
            (Query("sum by (State) (ray_actors)", "{{State}}"),),
            stacked=True,
        ),
        Panel(
            "Tasks",
            "short",
            "Tasks by state.",
            (Query("sum by (State) (ray_tasks)", "{{State}}"),),
        ),
    ),
)

DASHBOARDS = (TRAINING, TEACHERS, STUDY, SERVING, CLUSTER)

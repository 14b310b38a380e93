"""The cluster: nodes, places, memory, network."""

from flash_ray.telemetry.panels import Dashboard, Panel, Query

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

"""A run: progress, speed, losses, checkpoints."""

from flash_ray.telemetry.alerts import STRAIN
from flash_ray.telemetry.panels import RUN, Dashboard, Panel, Query, latest, rate

TRAINING = Dashboard(
    "flash-ray-training",
    "flash_ray: training",
    (
        Panel(
            "Progress",
            "percentunit",
            "Updates made, of those planned.",
            (Query(f"{latest('train_update')} / {latest('train_planned_updates')}", "{{run}}"),),
        ),
        Panel(
            "Images",
            "short",
            "Training images a second, by all workers.",
            (Query(latest("train_images_per_second"), "{{run}}"),),
        ),
        Panel(
            "Time of an update, by stage",
            "s",
            "Where an update's seconds go. `teachers`: waiting for them.",
            (
                Query(
                    rate("train_stage_seconds_total", "stage", RUN)
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
            (Query(latest("train_bench_score", "run, bench"), "{{run}} {{bench}}"),),
        ),
        Panel(
            "Losses",
            "short",
            "The student's is a pseudo-loss: its level says little, a jump says much.",
            (Query(latest("train_loss", "run, task, loss"), "{{run}} {{task}} {{loss}}"),),
        ),
        Panel(
            "Gradients",
            "short",
            "Norms before clipping, and the RMS of the DMD gradient.",
            (
                Query(latest("train_gradient_norm", "run, network"), "{{run}} {{network}}"),
                Query(latest("train_dmd_gradient_rms"), "{{run}} DMD"),
            ),
        ),
        Panel(
            "Nearness to divergence",
            "percentunit",
            "At 100 % the run ends as diverged.",
            (Query(latest("train_strain_ratio", "run, measure"), "{{run}} {{measure}}"),),
            limit=STRAIN,
        ),
        Panel(
            "Sample scale",
            "short",
            "Over the base's, at the same rung (spread) and for finished samples (excess).",
            (
                Query(latest("train_spread_ratio"), "{{run}} spread"),
                Query(latest("train_excess_ratio"), "{{run}} excess"),
            ),
        ),
        Panel(
            "Checkpoint age",
            "s",
            "What a crash would lose, and how often a checkpoint is due.",
            (
                Query(f"time() - {latest('checkpoint_timestamp_seconds')}", "{{run}} age"),
                Query(latest("checkpoint_interval_seconds"), "{{run}} due every"),
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
            (Query(f"changes({latest('train_start_timestamp_seconds')}[1h:15s])", "{{run}}"),),
        ),
        Panel(
            "Memory of a worker",
            "bytes",
            "Peak of the GPU's, else what the process holds.",
            (Query(latest("train_memory_bytes"), "{{run}}"),),
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

"""Dashboards of runs: training, teachers, studies."""

from flash_ray.telemetry.alerts import ALARM_LEVEL, TEACHER_WAIT
from flash_ray.telemetry.panels import RUN, Dashboard, Panel, Query, latest, quantile, rate

BY_RUN = ("run", "ray_flash_train_update")

TRAINING = Dashboard(
    "flash-ray-training",
    "flash_ray: training",
    (
        Panel(
            "Progress",
            "percentunit",
            "Iterations made, of those planned.",
            (Query(f"{latest('train_update')} / {latest('train_planned_updates')}", "{{run}}"),),
        ),
        Panel(
            "Images",
            "short",
            "Training images a second, by all workers.",
            (Query(latest("train_images_per_second"), "{{run}}"),),
        ),
        Panel(
            "Time of an iteration, by stage",
            "s",
            "Where an iteration's seconds go. `teachers`: waiting for them.",
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
            "Benchmark score",
            "short",
            "Mean score of the averaged student, by task of the recipe's benchmark.",
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
            limit=ALARM_LEVEL,
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
            "The last checkpoint, all workers' parts together.",
            (Query(f"sum by (run) (ray_flash_checkpoint_bytes{{{RUN}}})", "{{run}}"),),
        ),
        Panel(
            "Restarts",
            "short",
            "Restarts of the workers in the last hour, planned ones, for another size, included.",
            (Query(f"changes({latest('train_start_timestamp_seconds')}[1h:15s])", "{{run}}"),),
        ),
        Panel(
            "Memory of a worker",
            "bytes",
            "The GPU's peak; without a GPU, what the process holds.",
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
    BY_RUN,
)

TEACHERS = Dashboard(
    "flash-ray-teachers",
    "flash_ray: teachers",
    (
        Panel(
            "Workers wait for teachers",
            "percentunit",
            "Share of an iteration. High: start more teachers. Near zero: fewer may do.",
            (Query(latest("train_teacher_wait_ratio"), "{{run}}"),),
            limit=TEACHER_WAIT,
        ),
        Panel(
            "Open requests",
            "short",
            "Requests that workers have announced or sent, and that are not answered yet.",
            (Query("sum(ray_flash_teacher_open_questions)", "open"),),
        ),
        Panel(
            "Latency of a request",
            "s",
            "As workers see it: queue, computation and transport.",
            (
                Query(quantile(0.5, "teacher_answer_seconds", ""), "median"),
                Query(quantile(0.95, "teacher_answer_seconds", ""), "95 %"),
            ),
        ),
        Panel(
            "Time of a call",
            "s",
            "Median at the teachers: `prefill` reads the condition, `score` answers.",
            (
                Query(
                    quantile(0.5, "teacher_call_seconds", "teachers, call"),
                    "{{teachers}} {{call}}",
                ),
            ),
        ),
        Panel(
            "Busy teachers",
            "short",
            "How many compute at a time, on average.",
            (Query(rate("teacher_busy_seconds_total", "teachers, call"), "{{teachers}} {{call}}"),),
            stacked=True,
        ),
        Panel(
            "Calls of teachers' transformers",
            "short",
            "Calls a second, each for one picture; guidance takes two.",
            (Query(rate("train_teacher_calls_total", "run", RUN), "{{run}}"),),
        ),
        Panel(
            "λ in use",
            "percentunit",
            "Weight of each teacher at each rung, mean over an iteration's samples.",
            (
                Query(
                    latest("teacher_weight_ratio", "run, teacher, rung"),
                    "{{run}} {{teacher}} rung {{rung}}",
                ),
            ),
        ),
        Panel(
            "Teachers that died",
            "short",
            "Deaths of teachers since the running workers started; Ray starts such teachers again.",
            (Query("sum(ray_flash_teacher_restarts)", "deaths"),),
        ),
    ),
    BY_RUN,
)

STUDY = Dashboard(
    "flash-ray-study",
    "flash_ray: study",
    (
        Panel(
            "Trials",
            "short",
            "Trials by state.",
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
            "The best of the finished trials so far, by task.",
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
            "Iterations made, of those planned.",
            (
                Query(
                    "max by (run) (ray_flash_train_update) "
                    "/ max by (run) (ray_flash_train_planned_updates)",
                    "{{run}}",
                ),
            ),
        ),
        Panel(
            "Benchmark score of trials",
            "short",
            "Mean score of the averaged student, by task of the recipe's benchmark.",
            (Query("max by (run, bench) (ray_flash_train_bench_score)", "{{run}} {{bench}}"),),
        ),
        Panel(
            "Trials near divergence",
            "percentunit",
            "The worst measure of each; at 100 % the trial ends as diverged.",
            (Query("max by (run) (ray_flash_train_strain_ratio)", "{{run}}"),),
            limit=ALARM_LEVEL,
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

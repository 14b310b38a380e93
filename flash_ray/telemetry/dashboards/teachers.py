"""Teachers: what they are asked, and who waits for them."""

from flash_ray.telemetry.alerts import WAIT
from flash_ray.telemetry.panels import RUN, Dashboard, Panel, Query, latest, quantile, rate

TEACHERS = Dashboard(
    "flash-ray-teachers",
    "flash_ray: teachers",
    (
        Panel(
            "Workers wait for teachers",
            "percentunit",
            "Share of an update. High: more teachers. Near zero: perhaps fewer.",
            (Query(latest("train_teacher_wait_ratio"), "{{run}}"),),
            limit=WAIT,
        ),
        Panel(
            "EncodedBenchmark that are open",
            "short",
            "Announced or asked by workers, not answered.",
            (Query("sum(ray_flash_teacher_open_questions)", "open"),),
        ),
        Panel(
            "Time to an answer",
            "s",
            "As workers see it: queue, work and transport.",
            (
                Query(quantile(0.5, "teacher_answer_seconds", ""), "median"),
                Query(quantile(0.95, "teacher_answer_seconds", ""), "95 %"),
            ),
        ),
        Panel(
            "Time of a call",
            "s",
            "At the teachers, median: `prefill` reads the condition, `score` answers.",
            (
                Query(
                    quantile(0.5, "teacher_call_seconds", "teachers, call"),
                    "{{teachers}} {{call}}",
                ),
            ),
        ),
        Panel(
            "Teachers at work",
            "short",
            "How many are busy at a time, on average.",
            (Query(rate("teacher_busy_seconds_total", "teachers, call"), "{{teachers}} {{call}}"),),
            stacked=True,
        ),
        Panel(
            "Calls of teachers' transformers",
            "short",
            "A second, for one picture each; guidance takes two.",
            (Query(rate("train_teacher_calls_total", "run", RUN), "{{run}}"),),
        ),
        Panel(
            "λ that was used",
            "percentunit",
            "Weight of each teacher at each rung, mean over an update's samples.",
            (
                Query(
                    latest("teacher_weight_ratio", "run, teacher, rung"),
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

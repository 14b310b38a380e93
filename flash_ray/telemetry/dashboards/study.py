"""A study: its trials and their scores."""

from flash_ray.telemetry.alerts import STRAIN
from flash_ray.telemetry.panels import Dashboard, Panel, Query

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

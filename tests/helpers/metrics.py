"""Records of iterations for tests that train nothing."""

from flash_ray.trainer.metrics import STAGES, TaskLosses, UpdateMetrics


def update_metrics(
    iteration: int = 1,
    student_loss: float = 0.3,
    fake_score_loss: float = 0.4,
    dmd_gradient: float = 0.8,
    spread: float = 1.0,
    excess: float = 0.9,
) -> UpdateMetrics:
    """The record of an iteration of a healthy run on two workers; `dataclasses.replace` others."""
    return UpdateMetrics(
        iteration=iteration,
        num_workers=2,
        student_loss=student_loss,
        fake_score_loss=fake_score_loss,
        diagnostics={"dmd_gradient": dmd_gradient, "real_gap": 0.3, "x_rms": 0.7},
        spread=spread,
        excess=excess,
        student_grad_norm=0.2,
        fake_score_grad_norm=0.6,
        seconds=2.0,
        stages=dict.fromkeys(STAGES, 0.4),
        teacher_wait_share=0.2,
        memory_mib=1000.0,
        images=16,
        teacher_calls=32,
        cpu_seconds=3.0,
        tasks={"t2i": TaskLosses(student_loss, fake_score_loss)},
        teachers={},
    )

"""flash_ray: distill many-step image models into few-step students, on Ray.

The command `flash-ray` does it all: see README.md. In Python, a run is `load_recipe` and `distill`,
a published student is fetched by `load_student`, and `DMD` is the mathematics alone, for a loop and
for networks of your own. Here a student of 4 rungs learns normally distributed data, whose exact
velocity is the teacher:

    import torch
    import flash_ray as fr

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)
            )

        def forward(self, z_BNC, t_B):
            t_BN1 = t_B.view(-1, 1, 1).expand(*z_BNC.shape[:2], 1)
            return self.layers(torch.cat([z_BNC, t_BN1], dim=-1))

    mean_C, std = torch.tensor([0.8, -0.3]), 0.5

    def teacher(z_BNC, t_B):
        t = t_B.view(-1, 1, 1)
        gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
        x_BNC = mean_C + gain * (z_BNC - (1 - t) * mean_C)
        return (z_BNC - x_BNC) / t

    generator = torch.manual_seed(0)
    dmd = fr.DMD(sigmas=(1.0, 0.9, 0.75, 0.5), t_min=0.02, t_max=0.98, shift=1.0)
    student, fake_score = Network(), Network()
    student_optimizer = torch.optim.Adam(student.parameters(), lr=0.002)
    fake_score_optimizer = torch.optim.Adam(fake_score.parameters(), lr=0.01)

    for iteration in range(500):
        noise = torch.randn(64, 4, 2)
        x = dmd.student_x(student, noise, dmd.sample_rung(generator))
        t, xi = dmd.sample_t(len(x), generator), torch.randn_like(x)
        x_t = dmd.renoise(x, t, xi)
        with torch.no_grad():
            v_real, v_fake = teacher(x_t, t), fake_score(x_t, t)
        loss, diagnostics = dmd.student_loss(x, t, xi, v_real, v_fake)
        student_optimizer.zero_grad()
        loss.backward()
        student_optimizer.step()

        for _ in range(4):
            t, eps = dmd.sample_t(len(x), generator), torch.randn_like(x)
            loss = dmd.fake_score_loss(fake_score, x, t, eps)
            fake_score_optimizer.zero_grad()
            loss.backward()
            fake_score_optimizer.step()

    with torch.no_grad():
        samples = dmd.student_x(student, torch.randn(64, 4, 2), rung=3)
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flash_ray.methods import DMD
    from flash_ray.recipe import Recipe, load_recipe
    from flash_ray.storage.students import load_student
    from flash_ray.trainer.driver import distill

# These libraries report what is run to their makers unless told.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
# Ray's workers and trials stay where the command was called: recipes name files from there.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

__version__ = "0.1.0"
__all__ = ["DMD", "Recipe", "__version__", "distill", "load_recipe", "load_student"]

# Imported when used: torch, ray and deepspeed take seconds.
_MODULES = {
    "DMD": "flash_ray.methods",
    "Recipe": "flash_ray.recipe",
    "distill": "flash_ray.trainer.driver",
    "load_recipe": "flash_ray.recipe",
    "load_student": "flash_ray.storage.students",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'flash_ray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

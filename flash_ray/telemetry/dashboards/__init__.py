"""The dashboards. Their JSON, for Grafana's file provisioning, is in infra/grafana."""

from flash_ray.telemetry.dashboards.cluster import CLUSTER
from flash_ray.telemetry.dashboards.serving import SERVING
from flash_ray.telemetry.dashboards.study import STUDY
from flash_ray.telemetry.dashboards.teachers import TEACHERS
from flash_ray.telemetry.dashboards.training import TRAINING

__all__ = ["DASHBOARDS", "SERVING"]

DASHBOARDS = (TRAINING, TEACHERS, STUDY, SERVING, CLUSTER)

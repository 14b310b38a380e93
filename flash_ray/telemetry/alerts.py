"""The alerts: for Prometheus (infra/prometheus/rules.yml) and, the same, for Grafana."""

from dataclasses import dataclass
from typing import Any

from flash_ray.telemetry.panels import DATASOURCE, failing

GROUP = "flash_ray"
ALARM_LEVEL, TEACHER_WAIT, ERROR_SHARE = 0.5, 0.3, 0.05  # where alerts begin
LATE_FACTOR, LATE_SLACK_S = 2, 300  # a checkpoint that took twice its time and five minutes


@dataclass(frozen=True)
class Alert:
    """Something that is wrong while `expr` has series.

    Args:
        expr: PromQL whose series are above 0.
        duration: how long it has to be wrong before the alert fires, as Prometheus writes it.
        summary: one line; Prometheus' {{ $labels }} and {{ $value }} may be in it.
        action: what to do.
    """

    name: str
    uid: str
    expr: str
    duration: str
    severity: str
    summary: str
    action: str


ALERTS = (
    Alert(
        "FlashStudentDiverging",
        "flash-ray-student-diverging",
        f"max by (run, measure) (ray_flash_train_strain_ratio) > {ALARM_LEVEL}",
        "30s",
        "critical",
        "{{ $labels.run }}: {{ $labels.measure }} is at {{ $value | humanizePercentage }} of what "
        "ends the run as diverged.",
        "Look at losses, gradient norms and the sample scale on the training dashboard. If they "
        "grow, stop the run and start another with a lower training.optimizer.lr, more "
        "training.fake_score.updates_per_iteration or a lower teacher_defaults.guidance_scale.",
    ),
    Alert(
        "FlashTeacherStarved",
        "flash-ray-teacher-starved",
        f"max by (run) (avg_over_time(ray_flash_train_teacher_wait_ratio[5m])) > {TEACHER_WAIT}",
        "5m",
        "warning",
        "{{ $labels.run }}: workers wait for teachers {{ $value | humanizePercentage }} of the "
        "time.",
        "Start more teachers (teacher_defaults.replicas, or a larger maximum) on nodes that offer "
        "the resource `teacher`, or raise teacher_defaults.max_in_flight. See whether a teacher "
        "restarts.",
    ),
    Alert(
        "FlashCheckpointOverdue",
        "flash-ray-checkpoint-overdue",
        "time() - max by (run) (ray_flash_checkpoint_timestamp_seconds) "
        f"> {LATE_FACTOR} * max by (run) (ray_flash_checkpoint_interval_seconds) + {LATE_SLACK_S}",
        "1m",
        "critical",
        "{{ $labels.run }}: the last checkpoint is {{ $value | humanizeDuration }} old.",
        "If the run makes no iterations, it hangs: look at its workers' stacks in Ray's dashboard, "
        "stop it and start it again with --resume. If it makes them, look whether the store can "
        "be written to and is full.",
    ),
    Alert(
        "FlashEndpointErrors",
        "flash-ray-endpoint-errors",
        f"{failing('5m')} > {ERROR_SHARE}",
        "2m",
        "critical",
        "{{ $labels.route }}: {{ $value | humanizePercentage }} of the requests fail.",
        "503: replicas are missing or full, raise their maximum. 500: read the replicas' logs in "
        "Ray's dashboard. 502, 504: a judge or the store does not answer.",
    ),
)


def prometheus_rules() -> dict[str, Any]:
    """Returns the content of a rules file for Prometheus."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.duration,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "action": alert.action},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": GROUP, "rules": rules}]}


def grafana_rule_group(folder: str) -> dict[str, Any]:
    """Returns the same as a rule group that Grafana evaluates.

    Args:
        folder: the UID of the folder in Grafana that holds it.
    """
    return {
        "title": GROUP,
        "folderUid": folder,
        "interval": 30,
        "rules": [_grafana_rule(alert, folder) for alert in ALERTS],
    }


def _grafana_rule(alert: Alert, folder: str) -> dict[str, Any]:
    query = {"refId": "A", "expr": alert.expr, "instant": True, "range": False}
    above = {"evaluator": {"type": "gt", "params": [0]}}
    threshold = {"refId": "B", "type": "threshold", "expression": "A", "conditions": [above]}
    span = {"from": 600, "to": 0}
    return {
        "uid": alert.uid,
        "title": alert.name,
        "folderUID": folder,
        "ruleGroup": GROUP,
        "condition": "B",
        "for": alert.duration,
        "noDataState": "OK",  # nothing is wrong: the expression has no series
        "execErrState": "Error",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": _in_grafana(alert.summary), "action": alert.action},
        "data": [
            {
                "refId": "A",
                "datasourceUid": DATASOURCE["uid"],
                "relativeTimeRange": span,
                "model": query,
            },
            {
                "refId": "B",
                "datasourceUid": "__expr__",
                "relativeTimeRange": span,
                "model": threshold,
            },
        ],
    }


def _in_grafana(text: str) -> str:
    """In Grafana $value is a string of all values; the query's number is $values.A.Value."""
    return text.replace("$value ", "$values.A.Value ")

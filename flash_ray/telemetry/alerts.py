"""The alerts: for Prometheus (infra/prometheus/rules.yml) and, the same, for Grafana."""

from dataclasses import dataclass
from typing import Any

from flash_ray.telemetry.panels import DATASOURCE, failing

GROUP = "flash_ray"
STRAIN, WAIT, ERRORS = 0.5, 0.3, 0.05  # where alerts begin
LATE, SLACK_S = 2, 300  # a checkpoint that took twice its time and five minutes


@dataclass(frozen=True)
class Alert:
    """What is wrong while `expr` has series; they are above 0.

    Args:
        lasting: how long before it fires, as Prometheus writes it.
        summary: one line; Prometheus' {{ $labels }} and {{ $value }} may be in it.
        action: what to do.
    """

    name: str
    uid: str
    expr: str
    lasting: str
    severity: str
    summary: str
    action: str


ALERTS = (
    Alert(
        "FlashStudentDiverging",
        "flash-ray-student-diverging",
        f"max by (run, measure) (ray_flash_train_strain_ratio) > {STRAIN}",
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
        f"max by (run) (avg_over_time(ray_flash_train_teacher_wait_ratio[5m])) > {WAIT}",
        "5m",
        "warning",
        "{{ $labels.run }}: workers wait for teachers {{ $value | humanizePercentage }} of the "
        "time.",
        "Start more teachers (teacher_defaults.replicas, or a larger maximum) on nodes that offer the "
        "resource `teacher`, or raise teacher_defaults.max_in_flight. See whether a teacher restarts.",
    ),
    Alert(
        "FlashCheckpointOverdue",
        "flash-ray-checkpoint-overdue",
        "time() - max by (run) (ray_flash_checkpoint_timestamp_seconds) "
        f"> {LATE} * max by (run) (ray_flash_checkpoint_interval_seconds) + {SLACK_S}",
        "1m",
        "critical",
        "{{ $labels.run }}: the last checkpoint is {{ $value | humanizeDuration }} old.",
        "If the run makes no updates, it hangs: look at its workers' stacks in Ray's dashboard, "
        "stop it and start it again with --resume. If it makes them, look whether the store can "
        "be written to and is full.",
    ),
    Alert(
        "FlashEndpointErrors",
        "flash-ray-endpoint-errors",
        f"{failing('5m')} > {ERRORS}",
        "2m",
        "critical",
        "{{ $labels.route }}: {{ $value | humanizePercentage }} of the requests fail.",
        "503: replicas are missing or full, raise their maximum. 500: read the replicas' logs in "
        "Ray's dashboard. 502, 504: a judge or the store does not answer.",
    ),
)


def prometheus_rules() -> dict[str, Any]:
    """The content of a rules file."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "action": alert.action},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": GROUP, "rules": rules}]}


def grafana_rule_group(folder: str) -> dict[str, Any]:
    """The same as a rule group that Grafana evaluates, in a folder by its UID."""
    return {
        "title": GROUP,
        "folderUid": folder,
        "interval": 30,
        "rules": [_grafana_rule(alert, folder) for alert in ALERTS],
    }


def _grafana_rule(alert: Alert, folder: str) -> dict[str, Any]:
    ask = {"refId": "A", "expr": alert.expr, "instant": True, "range": False}
    above = {"evaluator": {"type": "gt", "params": [0]}}
    test = {"refId": "B", "type": "threshold", "expression": "A", "conditions": [above]}
    span = {"from": 600, "to": 0}
    return {
        "uid": alert.uid,
        "title": alert.name,
        "folderUID": folder,
        "ruleGroup": GROUP,
        "condition": "B",
        "for": alert.lasting,
        "noDataState": "OK",  # nothing is wrong: the expression has no series
        "execErrState": "Error",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": _in_grafana(alert.summary), "action": alert.action},
        "data": [
            {
                "refId": "A",
                "datasourceUid": DATASOURCE["uid"],
                "relativeTimeRange": span,
                "model": ask,
            },
            {
                "refId": "B",
                "datasourceUid": "__expr__",
                "relativeTimeRange": span,
                "model": test,
            },
        ],
    }


def _in_grafana(text: str) -> str:
    """There $value is a string of all values; the query's own is $values.A.Value."""
    return text.replace("$value ", "$values.A.Value ")

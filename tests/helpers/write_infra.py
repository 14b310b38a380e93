"""`python -m tests.helpers.write_infra`: writes what infra/ holds of dashboards and alerts.

The JSON is for Grafana's file provisioning, the rules are for Prometheus. A test compares both with
the code, so run this after a change of panels or alerts.
"""

import json
from pathlib import Path

import yaml

from flash_ray.telemetry.alerts import prometheus_rules
from flash_ray.telemetry.dashboards import DASHBOARDS

INFRA = Path(__file__).parents[2] / "infra"
NOTE = "# Written by `python -m tests.helpers.write_infra` from flash_ray/telemetry/alerts.py.\n"


def infra_files() -> dict[str, str]:
    """Returns the contents of the files by their paths within infra/."""
    rules = yaml.safe_dump(prometheus_rules(), sort_keys=False, width=100, allow_unicode=True)
    dashboards = {
        f"grafana/{dashboard.uid.removeprefix('flash-ray-')}.json": (
            json.dumps(dashboard.json(), indent=1, ensure_ascii=False) + "\n"
        )
        for dashboard in DASHBOARDS
    }
    return {"prometheus/rules.yml": NOTE + rules, **dashboards}


def main() -> None:
    """Writes the files into infra/ of this checkout and prints their paths."""
    for name, text in infra_files().items():
        path = INFRA / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(INFRA.parent))


if __name__ == "__main__":
    main()

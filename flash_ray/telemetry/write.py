"""`python -m flash_ray.telemetry.write`: writes what infra/ holds of dashboards and alerts."""

import json
from pathlib import Path

import yaml

from flash_ray.telemetry.alerts import prometheus_rules
from flash_ray.telemetry.dashboards import DASHBOARDS

INFRA = Path(__file__).parents[2] / "infra"
NOTE = "# Written by `python -m flash_ray.telemetry.write` from flash_ray/telemetry/alerts.py.\n"


def files() -> dict[str, str]:
    """Contents by path within infra/."""
    rules = yaml.safe_dump(prometheus_rules(), sort_keys=False, width=100, allow_unicode=True)
    dashboards = {
        f"grafana/{one.uid.removeprefix('flash-ray-')}.json": (
            json.dumps(one.json(), indent=1, ensure_ascii=False) + "\n"
        )
        for one in DASHBOARDS
    }
    return {"prometheus/rules.yml": NOTE + rules, **dashboards}


def main() -> None:
    for name, text in files().items():
        path = INFRA / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(INFRA.parent))


if __name__ == "__main__":
    main()

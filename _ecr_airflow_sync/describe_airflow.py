"""Tells which Airflow a Python has, as one line of JSON, without importing it.

Run by in_airflow.py in Airflow's own Python, 3.6 or later; so it imports nothing of
ours. sys.argv[0] is the path of the airflow script.
"""

import json
import os
import sys
from contextlib import suppress
from typing import List, Optional

AIRFLOWCTL = ("airflowctl", "apache-airflow-ctl")  # its script has two names


def main() -> None:
    script = sys.argv[0]
    is_airflowctl = os.path.basename(script) in AIRFLOWCTL
    home = os.path.expanduser(os.environ.get("AIRFLOW_HOME") or "~/airflow")
    if is_airflowctl:
        packages = ["apache-airflow-ctl"]
        place = _read_api_url(home)
    else:
        packages = ["apache-airflow", "apache-airflow-core"]
        place = "AIRFLOW_HOME " + home
    facts = {
        "script": script,
        "is_airflowctl": is_airflowctl,
        "version": _find_version(packages),
        "home": home,
        "place": place,
        "variables": [name for name in os.environ if name.startswith("AIRFLOW_CONN_")],
    }
    print(json.dumps(facts))


def _find_version(packages: List[str]) -> Optional[str]:
    for package in packages:
        with suppress(Exception):  # each library has its own for what is not there
            return _get_version(package)
    return None


def _get_version(package: str) -> str:
    try:
        from importlib import metadata
    except ImportError:  # before Python 3.8
        import pkg_resources  # type: ignore[import-untyped,unused-ignore]

        return str(pkg_resources.get_distribution(package).version)
    return metadata.version(package)


def _read_api_url(home: str) -> str:
    """Where airflowctl is logged in, or "": it would then take http://localhost:8080."""
    name = os.environ.get("AIRFLOW_CLI_ENVIRONMENT", "production") + ".json"
    try:
        with open(os.path.join(home, name)) as file:
            return str(json.load(file)["api_url"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


if __name__ == "__main__":
    main()

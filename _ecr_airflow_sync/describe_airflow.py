"""Tells which Airflow a Python has, as one line of JSON, without importing it.

Run by in_airflow.py in Airflow's own Python, 3.6 or later; so it imports nothing of
ours. sys.argv[0] is the path of the airflow script.
"""

import json
import os
import re
import sys
from contextlib import suppress
from typing import List, Optional
from urllib.parse import urlsplit

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
        "database": "" if is_airflowctl else _find_database_host(home),
        "variables": [name for name in os.environ if name.startswith("AIRFLOW_CONN_")],
    }
    # What a prefix of --airflow printed may have left a line unended.
    print("\n" + json.dumps(facts))


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


def _find_database_host(home: str) -> str:
    """The host of the metadata database, or "" where it is not plain to see."""
    path = os.environ.get("AIRFLOW_CONFIG") or os.path.join(home, "airflow.cfg")
    settings = ""
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        settings = file.read()
    found = re.search(r"^sql_alchemy_conn\s*=\s*(\S+)", settings, re.MULTILINE)
    url = found.group(1) if found else ""
    for section in ("CORE", "DATABASE"):  # before 2.3, and since
        url = os.environ.get("AIRFLOW__%s__SQL_ALCHEMY_CONN" % section, url)
    with suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


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

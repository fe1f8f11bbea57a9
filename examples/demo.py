"""The main job, whole: a real Airflow connection, filled by the real command.

Only ECR is a stand-in, on loopback. Airflow's environment is built under .envs/ on the
first run; its database is SQLite in a temporary folder. Run by `make demo`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import airflows  # noqa: E402
from ecr_stand_in import EcrStandIn, environment  # noqa: E402


def newest_airflow() -> str:
    """The newest Airflow for which this machine has a Python."""
    for version in reversed(airflows.RECIPES):
        try:
            airflows.find_python(*airflows.RECIPES[version].pythons)
        except airflows.Unavailable as unavailable:
            print(f"Airflow {version} cannot be had: {unavailable}")
        else:
            return version
    raise SystemExit("The demo needs one of these Pythons.")


def show(command: list[str]) -> None:
    print("\n$ " + " ".join(command), flush=True)


def main() -> None:
    version = newest_airflow()
    print(
        f"Installing Airflow {version} under .envs/ (once, a minute or so) ...",
        flush=True,
    )
    airflow = airflows.environment(version) / "bin/airflow"
    ecr = EcrStandIn()
    threading.Thread(target=ecr.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="ecr-airflow-sync-demo-") as folder:
        there = airflows.home(version, Path(folder, "airflow"))
        env = {**os.environ, **there, **environment(ecr.url)}
        command = ["ecr-airflow-sync", "--region", "us-east-1"]
        options = ["--airflow", os.path.relpath(airflow)]
        began = time.monotonic()
        show([*command, *options])
        script = str(Path(sys.executable).with_name(command[0]))
        subprocess.run([script, *command[1:], *options], env=env, check=True)
        print(f"({time.monotonic() - began:.1f} s)")
        get = ["connections", "get", "docker_default", "--output", "json"]
        show(["airflow", *get])
        (held,) = json.loads(airflows.run(version, there, *get))
        token = held["password"]
        held["password"] = f"*** ({len(token)} characters)"
        held["get_uri"] = "***"
        print(json.dumps(held, indent=2))
        (given,) = next(iter(ecr.tokens.values()))
        if token != given:
            raise SystemExit("The connection does not hold the token that ECR gave.")
        print("\nThe connection holds the token that ECR gave.")


if __name__ == "__main__":
    main()

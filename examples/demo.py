"""The main job, whole: a real Airflow connection, filled by the real command.

Then what a check says, and what a failure looks like. Only ECR and its registry are
stand-ins, on loopback. Airflow's environment is built under .envs/ on the first run; its
database is SQLite in a temporary folder. Run by `make demo`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import airflows
from tests.support.ecr_stand_in import EcrStandIn, Fault, environment, serving_here
from tests.support.registry_stand_in import RegistryStandIn

ROOT = Path(__file__).resolve().parent.parent


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


def run(env: dict[str, str], *options: str) -> int:
    """Show the command, and what it prints; returns its exit status."""
    command = ["ecr-airflow-sync", "--region", "us-east-1", *options]
    show(command)
    script = str(Path(sys.executable).with_name(command[0]))
    began = time.monotonic()
    status = subprocess.run([script, *command[1:]], env=env, check=False).returncode
    print(f"(exit status {status}, {time.monotonic() - began:.1f} s)")
    return status


def show_connection(version: str, there: dict[str, str], ecr: EcrStandIn) -> None:
    """As Airflow has it, without the token."""
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
    print("The connection holds the token that ECR gave.")


def main() -> None:
    version = newest_airflow()
    if not airflows.is_built(version):
        print(f"Installing Airflow {version} under .envs/, which takes a minute or so")
    airflow = os.path.relpath(airflows.environment(version) / "bin/airflow")
    own_folder = tempfile.TemporaryDirectory(prefix="ecr-airflow-sync-demo-")
    with serving_here(EcrStandIn()) as ecr, own_folder as folder:
        there = airflows.home(version, Path(folder, "airflow"))
        env = {**os.environ, **there, **environment(ecr.url), "STATE_DIRECTORY": folder}

        print("\nA run fetches a token, and Airflow writes it:")
        if run(env, "--airflow", airflow) != 0:
            raise SystemExit("The command failed.")
        show_connection(version, there, ecr)

        print("\nCould DockerOperator log in now? A local program plays the registry:")
        with serving_here(RegistryStandIn(ecr)) as registry:
            checking = {**env, **registry.environment()}
            if run(checking, "--airflow", airflow, "--check") != 0:
                raise SystemExit("The check failed.")

        print("\nThe AWS credentials expire. The old token is still there:")
        message = "The security token included in the request is expired"
        ecr.faults["us-east-1"] = Fault(code="ExpiredTokenException", message=message)
        if run(env, "--airflow", airflow) != 1:
            raise SystemExit("The command did not say that it failed.")


if __name__ == "__main__":
    main()

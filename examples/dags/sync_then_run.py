"""An operator that refreshes its connection when needed, and then runs its container.

No schedule to keep, and no task ahead. The package is to be importable by the workers' own Python,
3.8 or later: `pip install .`, or, on Airflow 1.10, which pins Click below 8, `pip install --target
FOLDER .` with FOLDER in PYTHONPATH. For Airflow 1.10, 2 and 3.
"""

from __future__ import annotations

from datetime import datetime
from inspect import signature
from typing import Any

from airflow import DAG

try:
    from airflow.providers.docker.operators.docker import DockerOperator
except ImportError:  # Airflow 1.10
    from airflow.operators.docker_operator import DockerOperator
try:
    import airflow.sdk  # noqa: F401

    AIRFLOW = "airflowctl"  # Airflow 3: see refresh_ecr_connection.py
except ImportError:
    AIRFLOW = "airflow"

REGION = "us-east-1"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/web_scraper:latest"
SCHEDULE = (
    "schedule" if "schedule" in signature(DAG).parameters else "schedule_interval"
)
DAILY = {SCHEDULE: "@daily", "start_date": datetime(2026, 1, 1), "catchup": False}


class EcrDockerOperator(DockerOperator):
    """A DockerOperator whose token has at least six hours to live when it starts."""

    def execute(self, context: Any) -> Any:
        from ecr_airflow_sync import Airflow, Target, sync  # only where the task runs

        targets = [Target(self.docker_conn_id, REGION)]
        sync(targets, Airflow(AIRFLOW), renew_before=6 * 3600)
        return super().execute(context)


with DAG("sync_then_run", **DAILY) as dag:
    EcrDockerOperator(
        task_id="scrape",
        image=IMAGE,
        docker_conn_id="docker_default",
        api_version="auto",
        force_pull=True,
    )

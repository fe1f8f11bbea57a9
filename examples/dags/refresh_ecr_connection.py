"""Refresh the connection from DAGs, where neither cron nor systemd can be had.

Two ways: every six hours, since a token lives twelve; and right before a container runs.
The command is to be on the workers' PATH, from a virtual environment of its own: boto3 and
Click then stay apart from what Airflow pins. For Airflow 1.10, 2 and 3.
"""

from __future__ import annotations

from datetime import datetime
from inspect import signature

from airflow import DAG

try:
    from airflow.providers.docker.operators.docker import DockerOperator
except ImportError:  # Airflow 1.10
    from airflow.operators.docker_operator import DockerOperator
try:
    from airflow.providers.standard.operators.bash import BashOperator
except ImportError:  # Airflow 1.10 and 2
    from airflow.operators.bash_operator import BashOperator
try:
    import airflow.sdk  # noqa: F401

    # A task of Airflow 3 has no access to the metadata database: `airflow connections` fails
    # there. airflowctl asks the API server instead. It wants `airflowctl auth login --skip-keyring
    # --api-url URL` once on each worker, and AIRFLOW_CLI_TOKEN in the worker's environment, which
    # lives an hour unless the server's AIRFLOW__API_AUTH__JWT_CLI_EXPIRATION_TIME says more: raise
    # that, or fetch one ahead of SYNC with `airflowctl auth token`, as in docs/airflow-3-workers.md.
    AIRFLOW = "airflowctl"
except (
    ImportError
):  # Airflow 1.10 and 2: a task reaches the database as its worker does
    AIRFLOW = "airflow"

REGION = "us-east-1"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/web_scraper:latest"
CONN_ID = "docker_default"
SYNC = f"ecr-airflow-sync --region {REGION} --conn-id {CONN_ID} --airflow {AIRFLOW}"

SCHEDULE = (
    "schedule" if "schedule" in signature(DAG).parameters else "schedule_interval"
)
SINCE = {"start_date": datetime(2026, 1, 1), "catchup": False}

with DAG("refresh_ecr_connection", **{SCHEDULE: "0 */6 * * *"}, **SINCE) as by_schedule:
    BashOperator(task_id="refresh", bash_command=SYNC, retries=3)

with DAG("refresh_then_scrape", **{SCHEDULE: "@daily"}, **SINCE) as ahead:
    # Nothing to do while what this worker last wrote has six hours to live.
    refresh = BashOperator(
        task_id="refresh", bash_command=f"{SYNC} --renew-before 6h", retries=3
    )
    scrape = DockerOperator(
        task_id="scrape",
        image=IMAGE,
        docker_conn_id=CONN_ID,
        api_version="auto",
        force_pull=True,
    )
    refresh >> scrape

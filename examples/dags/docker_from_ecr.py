"""A container from Amazon ECR each day, and a clean-up that does not hang at a prompt.

Knows nothing of tokens: DockerOperator logs in with the connection docker_default, which
ecr-airflow-sync keeps fresh, run by cron or a systemd timer. For Airflow 1.10, 2 and 3.
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

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/web_scraper:latest"
CONN_ID = "docker_default"
SCHEDULE = (
    "schedule" if "schedule" in signature(DAG).parameters else "schedule_interval"
)
DAILY = {SCHEDULE: "@daily", "start_date": datetime(2026, 1, 1), "catchup": False}

with DAG("docker_from_ecr", **DAILY) as dag:
    scrape = DockerOperator(
        task_id="scrape",
        image=IMAGE,
        docker_conn_id=CONN_ID,  # without it, the operator does not log in
        api_version="auto",  # Airflow 1.10 logs in only if it is told
        force_pull=True,  # else :latest is what this worker pulled first
    )
    # Without --force, docker asks whether to go on and, as nobody answers, removes nothing.
    # This cleans the worker that it runs on; docker-prune.timer cleans every one.
    clean_up = BashOperator(
        task_id="clean_up",
        bash_command=(
            "docker container prune --force --filter until=24h && docker image prune --all --force --filter until=24h"
        ),
        trigger_rule="all_done",  # a scrape that failed leaves its container too
    )
    scrape >> clean_up

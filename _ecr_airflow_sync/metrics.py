"""What Prometheus is told: a file for node_exporter's textfile collector."""

from __future__ import annotations

import logging
import os
import time
from functools import partial
from typing import Sequence

from .errors import UsageError
from .model import Result

log = logging.getLogger("ecr_airflow_sync")


def require_prometheus_client() -> None:
    """Raises UsageError if the extra [metrics] is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise UsageError(
            "--metrics-file needs the extra [metrics]: pip install prometheus_client"
        ) from None


def write_metrics(
    path: str, results: Sequence[Result], seconds: float, version: str
) -> None:
    """Replace the file in one step. Times in it are Unix, in seconds.

    That it cannot be written is logged, but is no failure of the run.
    """
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    gauge = partial(Gauge, namespace="ecr_airflow_sync", registry=registry)
    build_info = gauge("build_info", "What ran.", ["version"])
    duration = gauge("duration_seconds", "How long the last run took.")
    success = gauge(
        "success", "Whether the connection was fresh after the last run.", ["conn_id"]
    )
    last_run = gauge(
        "last_run_timestamp_seconds", "When the last run ended.", ["conn_id"]
    )
    last_success = gauge(
        "last_success_timestamp_seconds",
        "When the connection was last found or made fresh.",
        ["conn_id"],
    )
    token_expiry = gauge(
        "token_expiry_timestamp_seconds",
        "Until when the connection's token is valid.",
        ["conn_id"],
    )

    build_info.labels(version).set(1)
    duration.set(seconds)
    for result in results:
        conn_id = result.conn_id
        success.labels(conn_id).set(0 if result.error else 1)
        last_run.labels(conn_id).set(time.time())
        if result.last_success:
            last_success.labels(conn_id).set(result.last_success.timestamp())
        if result.expires_at:
            token_expiry.labels(conn_id).set(result.expires_at.timestamp())

    os.umask(0o022)  # node_exporter runs as another user; nothing is written after this
    try:
        write_to_textfile(path, registry)
    except OSError as error:
        log.error("metrics file %s: %s", path, error.strerror)

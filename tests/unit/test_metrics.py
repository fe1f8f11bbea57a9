"""The metrics file: all that is in it, its mode, and what becomes of an old one."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from _ecr_airflow_sync.errors import UsageError
from _ecr_airflow_sync.metrics import require_prometheus_client, write_metrics
from _ecr_airflow_sync.model import Result

from .conftest import catch

UNTIL = datetime.fromtimestamp(1_900_000_000, timezone.utc)
WHEN = datetime.fromtimestamp(1_800_000_000, timezone.utc)
RESULTS = [
    Result("new", "written", expires_at=UNTIL, last_success=WHEN),
    Result("old", "failed", expires_at=UNTIL, last_success=WHEN, error="no"),
    Result("never", "failed", error="no"),
]


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Private, as the unit has it; and set back, for the metrics change it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def read(path: Path) -> dict[str, dict[str, float]]:
    """The values by the metric's name, and then by its label."""
    values: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            name = sample.name[len("ecr_airflow_sync_") :]
            label = "".join(sample.labels.values())
            values.setdefault(name, {})[label] = sample.value
    return values


def test_all_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ecr.prom"
    path.write_text("not { a metric\n")
    began = time.time()
    write_metrics(str(path), RESULTS, 1.5, "0.1.0")
    told = read(path)
    ends = told.pop("last_run_timestamp_seconds")
    assert list(ends) == ["new", "old", "never"]
    assert all(began <= end <= time.time() for end in ends.values())
    assert told == {
        "build_info": {"0.1.0": 1},
        "duration_seconds": {"": 1.5},
        "success": {"new": 1, "old": 0, "never": 0},
        "last_success_timestamp_seconds": {"new": 1.8e9, "old": 1.8e9},
        "token_expiry_timestamp_seconds": {"new": 1.9e9, "old": 1.9e9},
    }
    lines = path.read_text().splitlines()
    assert "# TYPE ecr_airflow_sync_success gauge" in lines
    words = "Whether the connection was fresh after the last run."
    assert f"# HELP ecr_airflow_sync_success {words}" in lines
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_metrics(str(tmp_path), RESULTS, 1, "0.1.0")
    assert caplog.messages == [f"metrics file {tmp_path}: Is a directory"]


def test_the_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    require_prometheus_client()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert catch(UsageError, require_prometheus_client) == (
        "--metrics-file needs the extra [metrics]: pip install prometheus_client"
    )

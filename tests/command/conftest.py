"""What the tests of the command start from."""

from __future__ import annotations

import os

import pytest

from tests.support.command import FakeAirflow, Place


@pytest.fixture(autouse=True)
def _nothing_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "AIRFLOW", "ECR_AIRFLOW_SYNC")):
            monkeypatch.delenv(name)


@pytest.fixture
def airflow(fake: Place) -> FakeAirflow:
    """A fake Airflow 2.11.2. ``fake`` puts another one in its place."""
    return fake()

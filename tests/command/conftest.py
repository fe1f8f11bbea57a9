"""What most tests of the command start from."""

from __future__ import annotations

import pytest

from tests.support.command import FakeAirflow, Place


@pytest.fixture
def airflow(fake: Place) -> FakeAirflow:
    """A fake Airflow 2.11.2. ``fake`` puts another one in its place."""
    return fake()

"""Tests that need the same server run in one worker of pytest-xdist, which starts it once."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.support.real_airflow import (  # noqa: F401 - fixtures
    api_server,
    database_servers,
    on_database,
    real,
)

SERVERS = ("airflowctl", "database_server")  # in the names of tests that need one


class ByServer(LoadScopeScheduling):  # type: ignore[misc]
    """What has the same scope runs in one worker. All others run where there is room.

    --dist=loadgroup would do, but xdist 3.8 loses the groups with pytest 9.
    """

    def _split_scope(self, nodeid: str) -> str:
        needed = [server for server in SERVERS if server in nodeid]
        return needed[0] if needed and "airflow/" in nodeid else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServer:
    return ByServer(config, log)

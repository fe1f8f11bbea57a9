"""A run with nothing due, and the state that tells so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command import HOST, MODULE, Command, FakeAirflow
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn

OPTIONS = ("-r", "us-east-1", "--renew-before", "6h")


@pytest.fixture
def state(command: Command, tmp_path: Path) -> Path:
    """Where the state will be."""
    command.env["STATE_DIRECTORY"] = str(tmp_path / "state")
    return tmp_path / "state/written.json"


def test_nothing_due(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, state: Path
) -> None:
    """Then nobody is asked, and boto3 is not imported."""
    assert command(*OPTIONS).status == 0
    assert (airflow.count_starts(), len(ecr.calls)) == (1, 1)
    command.program = ("-X", "importtime", str(MODULE))
    ran = command(*OPTIONS)
    first, second = ran.stdout.splitlines()
    assert first == "Nothing is due, so Airflow was left alone."
    line = rf"docker_default  fresh    {HOST}, until \d\d:\d\d UTC \(1[12] h\)"
    assert re.fullmatch(line, second)
    assert "| click" in ran.stderr
    assert "boto" not in ran.stderr
    assert (airflow.count_starts(), len(ecr.calls)) == (0, 1)
    assert command(*OPTIONS, "--force").status == 0
    assert (airflow.count_starts(), len(ecr.calls)) == (1, 2)


def test_the_state_is_private_and_holds_no_secret(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, state: Path
) -> None:
    extra = '{"email": "s3cret@example.com"}'
    assert command("-r", "us-east-1", "--conn-extra", extra).status == 0
    content = state.read_text()
    has_token = ecr.tokens["us-east-1", ACCOUNT][0][:60] in content
    assert not has_token
    assert "s3cret" not in content
    assert state.stat().st_mode & 0o777 == 0o600
    assert list(state.parent.iterdir()) == [state]


def test_a_state_that_cannot_be_kept(command: Command, airflow: FakeAirflow) -> None:
    """Which is nobody's concern without --renew-before."""
    command.env["STATE_DIRECTORY"] = "/dev/null/state"
    why = "Not a directory; until it can be kept, each run writes"
    told = f"state /dev/null/state/written.json: {why}\n"
    for options, stderr in ((OPTIONS, told), (OPTIONS[:2], "")):
        ran = command(*options)
        assert (ran.status, ran.stderr) == (0, stderr)
        assert "  written  " in ran.stdout

"""What is read from a real Airflow: for a check, credentials, a dry run, and whose a connection is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Callable

import pytest

from tests.support import airflows
from tests.support.command import (
    Command,
    RealAirflow,
)
from tests.support.ecr_stand_in import ACCOUNT, BUILDER, Call, EcrStandIn, Role
from tests.support.registry_stand_in import RegistryStandIn

HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
ROLE = "arn:aws:iam::555555555555:role/puller"
SHADOWED = (
    "AIRFLOW_CONN_DOCKER_DEFAULT answers instead of the database, so what is synced is "
    "never read"
)


@pytest.mark.parametrize("version", ["2.5.3", "2.11.2", "3.3.2"])
def test_real_airflow(
    command: Command,
    real: Callable[[str], RealAirflow],
    ecr: EcrStandIn,
    registry: RegistryStandIn,
    version: str,
) -> None:
    real(version)
    assert command("-r", "us-east-1", "--check").status == 1
    assert command("-r", "us-east-1", "-q").status == 0
    ran = command("-r", "us-east-1", "--check", "-v")
    assert ran.status == 0, ran.stderr
    assert re.search(rf"docker_default  fine     {HOST}, until ", ran.stdout)
    ran = command(
        "-r",
        "us-east-1",
        "--check",
        AIRFLOW_CONN_DOCKER_DEFAULT=f"docker://AWS:x@{HOST}",
    )
    assert (ran.status, ran.stderr) == (1, f"docker_default: {SHADOWED}\n")
    ecr.ahead = 13 * 3600
    ran = command("-r", "us-east-1", "--check")
    assert (ran.status, "403 Forbidden; its token is valid until" in ran.stderr) == (
        1,
        True,
    )


@pytest.mark.parametrize("version", ["2.5.3", "2.11.2", "3.3.2"])
def test_real_airflow_gives_the_credentials(
    command: Command,
    real: Callable[[str], RealAirflow],
    ecr: EcrStandIn,
    version: str,
) -> None:
    airflow = real(version)
    ecr.roles[ROLE] = Role("555555555555", "night-42", allowed=(BUILDER.account,))
    extra = {
        "region_name": "eu-west-1",
        "role_arn": ROLE,
        "assume_role_kwargs": {"ExternalId": "night-42", "DurationSeconds": 900},
    }
    airflows.run(
        version, airflow.env, "connections", "add", "aws_builder", "--conn-type=aws",
        f"--conn-login={BUILDER.access_key}", f"--conn-password={BUILDER.secret_key}",
        f"--conn-extra={json.dumps(extra)}",
    )  # fmt: skip
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del command.env[name]
    ran = command("--aws-conn-id", "aws_builder", "-v")
    assert ran.status == 0, ran.stderr
    assert ecr.calls == [Call("eu-west-1", (), "555555555555")]
    assert ecr.assumed[0].duration == 900
    assert BUILDER.secret_key not in ran.stdout + ran.stderr
    written = airflow.connection("docker_default")
    assert written
    assert written["host"] == "555555555555.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.mark.parametrize("version", ["1.10.15", "2.5.3", "2.11.2", "3.3.2"])
def test_a_dry_run_opens_the_database(
    command: Command, real: Callable[[str], RealAirflow], tmp_path: Path, version: str
) -> None:
    airflow = real(version)
    assert command("-r", "us-east-1", "--dry-run").status == 0
    (tmp_path / "airflow/airflow.db").unlink()
    ran = command("-r", "us-east-1", "--dry-run", "-q")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert ("no such table: connection" in ran.stderr) or ("airflow db" in ran.stderr)
    assert airflow.version == version


@pytest.mark.parametrize("version", ["2.5.3", "2.11.2", "3.3.2"])
def test_a_real_connection_of_somebody_else(
    command: Command, real: Callable[[str], RealAirflow], version: str
) -> None:
    airflow = real(version)
    options = ["--conn-type=generic", "--conn-host=db.example.com", "--conn-login=app"]
    add = ["connections", "add", "docker_default", *options, "--conn-password=s3cret"]
    airflows.run(version, airflow.env, *add)
    ran = command("-r", "us-east-1", "-q")
    told = "docker_default: there is a connection of that id already, of type generic at db.example.com, which ecr-airflow-sync did not write: choose another --conn-id, or replace it with --replace\n"
    assert (ran.status, ran.stderr) == (1, told)
    kept = airflow.connection("docker_default") or {}
    assert (kept["login"], kept["password"]) == ("app", "s3cret")


@pytest.mark.parametrize("version", ["2.5.3", "2.11.2", "3.3.2"])
def test_a_check_that_cannot_look_says_so(
    command: Command,
    real: Callable[[str], RealAirflow],
    ecr: EcrStandIn,
    tmp_path: Path,
    version: str,
) -> None:
    """`connections get` says "not found" for all of these."""
    real(version)
    assert command("-r", "us-east-1", "-q").status == 0
    away = "postgresql+psycopg2://airflow:s3cret@127.0.0.1:1/airflow"
    another_key = "bm90IHRoZSBrZXkgb2YgdGhlIHdvcmtlcnMsIHJlYWw="
    for env, cause in (
        (dict.fromkeys(URLS, away), "Connection refused"),
        ({"AIRFLOW__CORE__FERNET_KEY": another_key}, "InvalidToken"),
        (dict.fromkeys(URLS, f"sqlite:///{tmp_path}/empty.db"), "no such table"),
    ):
        ran = command("-r", "us-east-1", "--check", **env)
        assert (ran.status, "docker_default  failed" in ran.stdout) == (1, True)
        known = cause in ran.stderr or "airflow db" in ran.stderr
        assert (known, ran.stderr.count("\n"), "s3cret" in ran.stderr) == (
            True,
            1,
            False,
        )
    assert len(ecr.calls) == 1


URLS = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN")


def test_the_old_connection_stands_with_a_malformed_fernet_key(
    command: Command, real: Callable[[str], RealAirflow], ecr: EcrStandIn
) -> None:
    """Airflow 1.10 can then delete, but not add."""
    airflow = real("1.10.15")
    assert command("-r", "us-east-1").status == 0
    ran = command("-r", "us-east-1", "-q", AIRFLOW__CORE__FERNET_KEY="nonsense=")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    held = airflow.connection("docker_default") or {}
    kept = held.pop("password") == ecr.tokens["us-east-1", ACCOUNT][0]
    assert kept, "another token"

"""What the command reads from a real Airflow: for a check, for credentials, and whose a connection is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import airflows
from tests.support.command import Command
from tests.support.database import insert_connection
from tests.support.ecr_stand_in import ACCOUNT, BUILDER, Call, EcrStandIn, Role
from tests.support.real_airflow import Real
from tests.support.registry_stand_in import RegistryStandIn

VERSIONS = ["2.5.3", "2.11.2", "3.3.2"]  # 1.10 has no `connections get`
OURS, THEIRS, SHADOWED, MISSING = (digit * 12 for digit in "1234")
OPTIONS = ("-r", "us-east-1", "--conn-id", "ecr_{registry}")


def select(*registries: str) -> list[str]:
    return [*OPTIONS, *(f"--registry={registry}" for registry in registries)]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_there_already(
    command: Command,
    real: Real,
    ecr: EcrStandIn,
    registry: RegistryStandIn,
    version: str,
) -> None:
    """A dry run, a run and a check tell ours from somebody else's, and both from none."""
    airflow = real(version)
    theirs = {"conn_type": "generic", "host": "db.example.com", "login": "app"}
    insert_connection(airflow.database, f"ecr_{THEIRS}", "s3cret", **theirs)
    told = (
        f"ecr_{THEIRS}: there is a connection of that id already, of type generic at "
        "db.example.com, which ecr-airflow-sync did not write: choose another "
        "--conn-id, or replace it with --replace\n"
    )
    dry = command(*select(OURS, THEIRS), "--dry-run")
    assert (dry.status, dry.stderr) == (1, told)
    assert re.search(rf"^ecr_{OURS}  .*new", dry.stdout, re.MULTILINE)
    assert airflow.connection(f"ecr_{OURS}") is None

    ran = command(*select(OURS, THEIRS))
    assert (ran.status, ran.stderr) == (1, told)
    held = airflow.connection(f"ecr_{OURS}") or {}
    newest = held["password"] == ecr.tokens["us-east-1", OURS][-1]
    assert newest, "another token"
    kept = airflow.connection(f"ecr_{THEIRS}") or {}
    assert (kept["password"] == "s3cret", kept["login"]) == (True, "app")

    variable = f"AIRFLOW_CONN_ECR_{SHADOWED}"
    host = f"{SHADOWED}.dkr.ecr.us-east-1.amazonaws.com"
    check = command(
        *select(OURS, THEIRS, SHADOWED, MISSING),
        "--check",
        "-v",
        **{variable: f"docker://AWS:x@{host}"},
    )
    assert check.status == 1
    host = f"{OURS}.dkr.ecr.us-east-1.amazonaws.com"
    assert re.search(rf"ecr_{OURS}  fine +{host}, until ", check.stdout)
    statuses = dict(re.findall(r"^ecr_(\d+)  (\w+(?: host)?)", check.stdout, re.M))
    assert statuses == {
        OURS: "fine",
        THEIRS: "wrong host",
        SHADOWED: "shadowed",
        MISSING: "missing",
    }
    assert (
        f"ecr_{SHADOWED}: {variable} answers instead of the database, so what is "
        "synced is never read; unset it where the tasks run\n"
    ) in check.stderr


def test_a_dry_run_on_airflow_1(command: Command, real: Real) -> None:
    """It opens the database, and cannot tell what is there."""
    airflow = real("1.10.15")
    ran = command("-r", "us-east-1", "--dry-run")
    assert (ran.status, ran.stderr) == (0, "")
    assert airflow.connection("docker_default") is None


@pytest.mark.parametrize("version", VERSIONS if airflows.NIGHTLY else ["3.3.2"])
def test_credentials(
    command: Command, real: Real, ecr: EcrStandIn, version: str
) -> None:
    airflow = real(version)
    role = "arn:aws:iam::555555555555:role/puller"
    ecr.roles[role] = Role("555555555555", "night-42", allowed=(BUILDER.account,))
    extra = {
        "region_name": "eu-west-1",
        "role_arn": role,
        "assume_role_kwargs": {"ExternalId": "night-42", "DurationSeconds": 900},
    }
    insert_connection(
        airflow.database,
        "aws_builder",
        BUILDER.secret_key,
        conn_type="aws",
        login=BUILDER.access_key,
        extra=json.dumps(extra),
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del command.env[name]
    ran = command("--aws-conn-id", "aws_builder", "-v")
    assert ran.status == 0, ran.stderr
    assert ecr.calls == [Call("eu-west-1", (), "555555555555")]
    assert ecr.assumed[0].duration == 900
    assert BUILDER.secret_key not in ran.stdout + ran.stderr
    written = airflow.connection("docker_default") or {}
    assert written["host"] == "555555555555.dkr.ecr.eu-west-1.amazonaws.com"


ANOTHER_KEY = "bm90IHRoZSBrZXkgb2YgdGhlIHdvcmtlcnMsIHJlYWw="
AWAY = "postgresql+psycopg2://airflow:s3cret@127.0.0.1:1/airflow"
TROUBLES = [(version, "another key") for version in VERSIONS]
TROUBLES += [("2.5.3", "empty"), ("2.11.2", "away")]
if airflows.NIGHTLY:
    TROUBLES = [(v, t) for v in VERSIONS for t in ("another key", "empty", "away")]


@pytest.mark.parametrize(("version", "trouble"), TROUBLES)
def test_a_check_that_cannot_look_says_so(
    command: Command,
    real: Real,
    ecr: EcrStandIn,
    tmp_path: Path,
    version: str,
    trouble: str,
) -> None:
    """`connections get` says "not found" for all of these.

    What it does with a key differs from version to version. A database that is away is
    nothing but SQLAlchemy's word, and test_no_database has all versions without tables.
    """
    airflow = real(version)
    insert_connection(
        airflow.database,
        "docker_default",
        "old",
        conn_type="docker",
        host=f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com",
    )
    env, said = {
        "another key": ({"AIRFLOW__CORE__FERNET_KEY": ANOTHER_KEY}, "InvalidToken"),
        "away": (airflows.on_database({}, AWAY), "Connection refused"),
        "empty": (
            airflows.on_database({}, f"sqlite:///{tmp_path}/empty.db"),
            "no such table|airflow db",
        ),
    }[trouble]
    ran = command("-r", "us-east-1", "--check", **env)
    assert (ran.status, "docker_default  failed" in ran.stdout) == (1, True)
    assert re.search(said, ran.stderr), ran.stderr
    assert ran.stderr.count("\n") == 1
    assert "s3cret" not in ran.stderr
    assert ecr.calls == []

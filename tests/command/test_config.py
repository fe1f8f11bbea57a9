"""--config, as the command shows it: tests/unit/test_config_file.py has every rule."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from tests.support.command import ROOT, A, Command, FakeAirflow
from tests.support.ecr_stand_in import PARTNER, EcrStandIn, Role

pytestmark = pytest.mark.usefixtures("airflow")

KEYS = "region, registry, profile, role_arn, external_id, aws_conn_id, host, extra"
ONE = "[x]\nregion = us-east-1\n"
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        path = tmp_path / "sync.ini"
        path.write_text(text)
        path.chmod(0o644)
        return str(path)

    return write


def test_the_example(command: Command, airflow: FakeAirflow, ecr: EcrStandIn) -> None:
    role = "arn:aws:iam::222222222222:role/ecr-pull"
    ecr.roles[role] = Role("222222222222", "airflow-prod-1")
    keys = {"login": PARTNER.access_key, "password": PARTNER.secret_key}
    airflow.hold(aws_partner=keys)
    ran = command("--config", str(ROOT / "examples/ecr-airflow-sync.ini"))
    assert (ran.status, ran.stderr) == (0, "")
    assert len({call.account for call in ecr.calls}) == 3
    assert ran.stdout.count("  written  ") == len(airflow.connections()) - 1


@pytest.mark.parametrize(
    ("options", "env", "named"),
    [
        ("-r us-east-1", {"REGION": "eu-west-1"}, "--region"),
        (f"--registry {A} --conn-id x", {}, "--registry and --conn-id"),
        (
            "",
            {"REGISTRY": A, "CONN_ID": "x"},
            "ECR_AIRFLOW_SYNC_REGISTRY and ECR_AIRFLOW_SYNC_CONN_ID",
        ),
    ],
)
def test_a_file_names_what_there_is(
    command: Command, write: Write, options: str, env: dict[str, str], named: str
) -> None:
    """Each is called as it was given."""
    command.env.update({f"ECR_AIRFLOW_SYNC_{name}": text for name, text in env.items()})
    why = "regions, registries and connection ids stand in the file"
    ran = command("--config", write(ONE), *options.split())
    assert ran.status == 2
    assert ran.stderr.endswith(f"Error: {named} cannot be used with --config: {why}\n")
    ran = command(*options.split(), ECR_AIRFLOW_SYNC_CONFIG=write(ONE))
    assert ran.stderr.endswith(f" with ECR_AIRFLOW_SYNC_CONFIG: {why}\n")


def test_what_says_nothing_may_stand_beside_a_file(
    command: Command, write: Write
) -> None:
    nothing = {"ECR_AIRFLOW_SYNC_REGION": "", "ECR_AIRFLOW_SYNC_CONN_ID": ""}
    assert command("--config", write(ONE), **nothing).status == 0
    ran = command("--config", write(ONE), "--conn-id", "docker_default")
    assert ran.status == 0


@pytest.mark.parametrize(
    ("text", "mode", "error"),
    [
        (
            "[x]\nregoin = us-east-1\n",
            0o644,
            f", [x]: unknown key regoin; there are {KEYS}",
        ),
        (ONE, 0o646, ": everyone may write it; chmod o-w {path}"),
        ("[x]\nregion = \udcff\n", 0o600, ": 'utf-8' codec can't decode byte 0xff"),
    ],
    ids=["unknown key", "not to be trusted", "no text"],
)
def test_a_bad_file(
    command: Command, ecr: EcrStandIn, write: Write, text: str, mode: int, error: str
) -> None:
    path = Path(write(""))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(mode)
    ran = command("--config", str(path))
    assert (ran.status, ran.stdout, ecr.calls) == (2, "", [])
    assert f"\nError: {path}{error.format(path=path)}" in ran.stderr
    assert ran.stderr.count("\n") == 4


@pytest.mark.parametrize("option", [[], ["--check"], ["--dry-run"]])
def test_no_section_overwrites_the_keys_of_another(
    command: Command, airflow: FakeAirflow, write: Write, option: list[str]
) -> None:
    keys = {"aws_keys": {"password": "secret"}}
    airflow.hold(**keys)
    path = write(f"[partner]\naws_conn_id = aws_keys\n{ONE.replace('x', 'aws_keys')}")
    ran = command("--config", path, *option)
    assert (ran.status, ran.stdout) == (2, "")
    assert (
        "\nError: aws_keys holds AWS credentials, which the token would" in ran.stderr
    )
    assert airflow.connections() == keys

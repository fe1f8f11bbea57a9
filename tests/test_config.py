"""--config: a section for each connection; what is wrong with a file is told with its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest
from conftest import ROOT, Command, FakeAirflow
from ecr_stand_in import ACCOUNT, Call, EcrStandIn, Role

Place = Callable[..., FakeAirflow]
A, B = "111111111111", "222222222222"
KEYS = "region, registry, profile, role_arn, external_id, aws_conn_id, host, extra"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "sync.ini"
        path.write_text(text)
        path.chmod(0o644)
        return str(path)

    return write


Write = Callable[[str], str]


def test_sections_and_what_they_share(
    sync: Command, fake: Place, ecr: EcrStandIn, write: Write
) -> None:
    airflow = fake()
    role = "arn:aws:iam::333333333333:role/puller"
    ecr.roles[role] = Role("333333333333", "x1")
    path = write(f"""\
# what all share
[DEFAULT]
region = us-east-1
extra = {{"email": "ops@example.com"}}

[docker_default]

[ecr.eu-a]
region = eu-west-1
registry = {A}
host = {{registry}}.dkr-ecr.{{region}}.on.aws

[partner]
role_arn = {role}
external_id = x1
extra = {{
  "email": "them@example.com"
  }}
""")
    ran = sync("--config", path)
    assert (ran.status, ran.stderr) == (0, "")
    stored = airflow.connections()
    assert {conn_id: fields["host"] for conn_id, fields in stored.items()} == {
        "docker_default": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com",
        "ecr.eu-a": f"{A}.dkr-ecr.eu-west-1.on.aws",
        "partner": "333333333333.dkr.ecr.us-east-1.amazonaws.com",
    }
    assert "ops@example.com" in stored["docker_default"]["extra"]
    assert "them@example.com" in stored["partner"]["extra"]


def test_options_are_what_a_file_does_not_say(
    sync: Command, fake: Place, ecr: EcrStandIn, write: Write
) -> None:
    airflow = fake()
    path = write(
        f"[one]\nregistry = {A}\n[two]\nextra = {{}}\nhost = {{registry}}.two\nregion = eu-west-1\n"
    )
    options = ("--host", "{registry}.other", "--conn-extra", '{"email": "a@b.example"}')
    assert sync("--config", path, *options, AWS_REGION="us-east-1").status == 0
    stored = airflow.connections()
    assert (stored["one"]["host"], stored["two"]["host"]) == (
        f"{A}.other",
        f"{ACCOUNT}.two",
    )
    assert (stored["one"]["extra"], stored["two"]["extra"]) == (
        '{"email": "a@b.example"}',
        "{}",
    )
    assert sorted(ecr.calls, key=str) == [
        Call("eu-west-1", ()),
        Call("us-east-1", (A,)),
    ]


@pytest.mark.parametrize(
    "options", [["-r", "us-east-1"], ["--registry", A], ["--conn-id", "x"]]
)
def test_a_file_names_what_there_is(
    sync: Command, fake: Place, ecr: EcrStandIn, write: Write, options: list[str]
) -> None:
    fake()
    ran = sync("--config", write("[x]\n"), *options)
    assert (ran.status, ecr.calls) == (2, [])
    assert ran.stderr.endswith(
        "Error: with --config, regions, registries and connection ids stand in the file\n"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[x]\nregoin = us-east-1\n", f", [x]: unknown key regoin; there are {KEYS}"),
        (
            "[x]\nregion\n",
            ": Source contains parsing errors: '{path}' [line 2]: 'region",
        ),
        ("", ": no section, such as [docker_default]"),
    ],
    ids=["a section", "no INI file", "empty"],
)
def test_bad_files(
    sync: Command,
    fake: Place,
    ecr: EcrStandIn,
    write: Write,
    text: str,
    error: str,
) -> None:
    fake()
    path = write(text)
    ran = sync("--config", path)
    assert (ran.status, ecr.calls) == (2, [])
    assert f"Error: {path}{error.format(path=path)}" in ran.stderr
    assert ran.stderr.count("\n") == 4


def test_a_file_that_everyone_may_write(
    sync: Command, fake: Place, write: Write
) -> None:
    fake()
    path = write("[x]\nregion = us-east-1\n")
    os.chmod(path, 0o646)  # noqa: S103
    ran = sync("--config", path)
    assert ran.status == 2
    assert ran.stderr.endswith(
        f"Error: {path}: everyone may write it; chmod o-w {path}\n"
    )


def test_the_example(
    sync: Command, fake: Place, ecr: EcrStandIn, tmp_path: Path
) -> None:
    airflow = fake()
    example_file = ROOT / "examples/ecr-airflow-sync.ini"
    path = tmp_path / "ecr-airflow-sync.ini"
    path.write_text(example_file.read_text())
    ecr.roles["arn:aws:iam::222222222222:role/ecr-pull"] = Role(
        "222222222222", "airflow-prod-1"
    )
    airflow.store.write_text('{"aws_partner": {"login": "AKIAJ55RI9EICEXAMPLE", "extra": "{}", '
                             '"password": "kf8NuHcDmxCG/3Aq0Vul/i4zDp9owcEXAMPLEKEY"}}')  # fmt: skip
    ran = sync("--config", str(path))
    assert (ran.status, ran.stderr) == (0, "")
    assert len({call.account for call in ecr.calls}) == 3
    assert ran.stdout.count("  written  ") == len(airflow.connections()) - 1

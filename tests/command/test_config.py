"""--config: a section for each connection; what is wrong with a file is told with its place."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Callable

import pytest

from tests.support.command import ROOT, Command, FakeAirflow
from tests.support.ecr_stand_in import ACCOUNT, Call, EcrStandIn, Role

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
    command: Command, fake: Place, ecr: EcrStandIn, write: Write
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
    ran = command("--config", path)
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
    command: Command, fake: Place, ecr: EcrStandIn, write: Write
) -> None:
    airflow = fake()
    path = write(
        f"[one]\nregistry = {A}\n[two]\nextra = {{}}\nhost = {{registry}}.two\nregion = eu-west-1\n"
    )
    options = ("--host", "{registry}.other", "--conn-extra", '{"email": "a@b.example"}')
    assert command("--config", path, *options, AWS_REGION="us-east-1").status == 0
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
    ("options", "env", "named"),
    [
        ("-r us-east-1", {}, "--region"),
        (f"--registry {A}", {}, "--registry"),
        ("--conn-id x", {}, "--conn-id"),
        ("", {"REGION": "us-east-1"}, "ECR_AIRFLOW_SYNC_REGION"),
        ("", {"REGISTRY": A, "CONN_ID": "x"}, "ECR_AIRFLOW_SYNC_REGISTRY and ECR_AIRFLOW_SYNC_CONN_ID"),
        ("-r us-east-1", {"REGION": "eu-west-1"}, "--region"),
    ],
)  # fmt: skip
def test_a_file_names_what_there_is(
    command: Command,
    fake: Place,
    ecr: EcrStandIn,
    write: Write,
    options: str,
    env: dict[str, str],
    named: str,
) -> None:
    fake()
    path = write("[x]\nregion = us-east-1\n")
    command.env.update({f"ECR_AIRFLOW_SYNC_{name}": text for name, text in env.items()})
    why = "regions, registries and connection ids stand in the file"
    ran = command("--config", path, *options.split())
    assert (ran.status, ecr.calls) == (2, [])
    assert ran.stderr.endswith(f"Error: {named} cannot be used with --config: {why}\n")
    ran = command(*options.split(), ECR_AIRFLOW_SYNC_CONFIG=path)
    assert ran.stderr.endswith(f" with ECR_AIRFLOW_SYNC_CONFIG: {why}\n")


def test_what_says_nothing_may_stand_beside_a_file(
    command: Command, fake: Place, write: Write
) -> None:
    fake()
    nothing = {"ECR_AIRFLOW_SYNC_REGION": "", "ECR_AIRFLOW_SYNC_CONN_ID": ""}
    path = write("[x]\nregion = us-east-1\n")
    assert command("--config", path, **nothing).status == 0
    assert command("--config", path, "--conn-id", "docker_default").status == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[x]\nregoin = us-east-1\n", f", [x]: unknown key regoin; there are {KEYS}"),
        ("[DEFAULT]\n\nconn_id = x\n[x]\n", f", [x]: unknown key conn_id; there are {KEYS}"),
        ("[x]\n\nregion =\n", ", [x]: region has no value"),
        ("[DEFAULT]\nprofile =\n[x]\nregion = us-east-1\n", ", [x]: profile has no value"),
        ("[x]\nregion = a\n  profile = b\n", ", [x]: region has two lines"),
        ("[x]\nregion\n", ": Source contains parsing errors: '{path}' [line 2]: 'region"),
        ("[x]\nregion: us-east-1\n", ": Source contains parsing errors: '{path}' [line 2]: 'region: us-east-1"),
        ("region = x\n", ": File contains no section headers. file: '{path}', line: 1 'region = x"),
        ("[x]\nregion = a\nregion = b\n",
         ": While reading from '{path}' [line 3]: option 'region' in section 'x' already exists"),
        ("[x]\n[y]\n[x]\n", ": While reading from '{path}' [line 3]: section 'x' already exists"),
        ("", ": no section, such as [docker_default]"),
        ("[DEFAULT]\nregion = us-east-1\n", ": no section, such as [docker_default]"),
        ("[x]\n[y]\nregistry = 12\n", ", [y]: registry '12' is not an account id of twelve digits"),
        ("[x]\nextra = [1]\n", ", [x]: extra is not a JSON object, such as '{{\"email\": "),
        ("[x]\nextra = {{\"reauth\": false}}\n", ", [x]: extra has reauth false"),
        ("[x]\nhost = https://a\n", ", [x]: host 'https://a' is not a bare host"),
        ("[x]\nexternal_id = a\n", ", [x]: external_id is for a role: give its role_arn"),
        ("[DEFAULT]\nprofile = a\n[x]\naws_conn_id = b\n", ", [x]: profile and aws_conn_id are two"),
        ("[x]\nregion = a,b\n", ", [x]: region 'a,b' is not one region"),
        ("[a b]\n", ", [a b]: conn id 'a b': it must be 1 to 200"),
        ("[e_{{region}}]\n", ", [e_{{region}}]: a section is a connection id, without placeholders"),
        ("\N{SNOWMAN}", ": File contains no section headers."),
        ("[x]\nregion = \udcff\n", ": 'utf-8' codec can't decode byte 0xff in position 13"),
    ],
)  # fmt: skip
def test_bad_files(
    command: Command,
    fake: Place,
    ecr: EcrStandIn,
    write: Write,
    tmp_path: Path,
    text: str,
    error: str,
) -> None:
    fake()
    path = write("")
    Path(path).write_bytes(
        text.replace("{{", "{").replace("}}", "}").encode("utf-8", "surrogateescape")
    )
    ran = command("--config", path)
    assert (ran.status, ecr.calls) == (2, [])
    assert f"Error: {path}{error.format(path=path)}" in ran.stderr
    assert ran.stderr.count("\n") == 4


def test_files_that_cannot_be_trusted_or_read(
    command: Command, fake: Place, write: Write, tmp_path: Path
) -> None:
    fake()
    path = write("[x]\nregion = us-east-1\n")
    os.chmod(path, 0o646)  # noqa: S103
    ran = command("--config", path)
    assert ran.status == 2
    assert ran.stderr.endswith(
        f"Error: {path}: everyone may write it; chmod o-w {path}\n"
    )
    for mode in (0o600, 0o664):  # a group is a site's own choice
        os.chmod(path, mode)
        assert command("--config", path).status == 0
    for wrong, why in (
        (f"{path}.gone", "No such file or directory"),
        (str(tmp_path), "Is a directory"),
    ):
        ran = command("--config", wrong)
        assert (ran.status, ran.stderr.endswith(f"Error: {wrong}: {why}\n")) == (
            2,
            True,
        )


def test_a_file_in_a_folder_that_everyone_may_write(
    command: Command, fake: Place, tmp_path: Path
) -> None:
    fake()
    shared = tmp_path / "shared by all"
    path = shared / "mine/sync.ini"
    path.parent.mkdir(parents=True)
    path.write_text("[x]\nregion = us-east-1\n")
    link = tmp_path / "link.ini"
    link.symlink_to(path)
    for folder in (path.parent, shared):
        folder.chmod(0o777)
        for name in (path, link):
            ran = command("--config", str(name))
            assert ran.status == 2
            assert ran.stderr.endswith(
                f"Error: {name}: everyone may write its folder {folder}; chmod o-w '{folder}'\n"
            )
        folder.chmod(0o1777)  # sticky, as /tmp
        assert command("--config", str(path)).status == 0
        folder.chmod(0o775)  # a group's


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user(command: Command, fake: Place, write: Write) -> None:
    fake()
    path = write("[x]\nregion = us-east-1\n")
    for number, name in ((pwd.getpwnam("nobody").pw_uid, "nobody"), (45678, "45678")):
        os.chown(path, number, 0)
        ran = command("--config", path)
        assert ran.status == 2
        assert ran.stderr.endswith(
            f"Error: {path}: its owner is {name}; chown root {path}\n"
        )
    os.chown(path, 0, 0)
    assert command("--config", path).status == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "[partner]\naws_conn_id = aws_keys\n[aws_keys]\nregion = eu-west-1\n",
            "aws_keys holds AWS credentials, which the token would replace: "
            "give another connection id than that of aws_conn_id",
        ),
        (
            "[ecr]\n[other]\n[ECR]\nregion = eu-west-1\n",
            "ecr and ECR differ in capitals only, and MySQL takes them for one "
            "connection: rename one",
        ),
    ],
    ids=["keys of another section", "capitals"],
)
@pytest.mark.parametrize("check", [[], ["--check"], ["--dry-run"]])
def test_sections_that_are_in_each_others_way(
    command: Command, fake: Place, write: Write, text: str, error: str, check: list[str]
) -> None:
    airflow = fake()
    airflow.store.write_text('{"aws_keys": {"password": "secret"}}')
    ran = command("--config", write(text), *check)
    assert (ran.status, ran.stdout) == (2, "")
    assert ran.stderr.endswith(f"\n\nError: {error}\n")
    assert airflow.connections() == {"aws_keys": {"password": "secret"}}


def test_the_example(
    command: Command, fake: Place, ecr: EcrStandIn, tmp_path: Path
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
    ran = command("--config", str(path))
    assert (ran.status, ran.stderr) == (0, "")
    assert len({call.account for call in ecr.calls}) == 3
    assert ran.stdout.count("  written  ") == len(airflow.connections()) - 1

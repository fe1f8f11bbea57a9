"""airflowctl, which writes through the REST API of a real Airflow 3: to no database of its own."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Callable

import pytest

from tests.support import airflows
from tests.support.api_server import PASSWORD, ApiServer
from tests.support.command import HOST, ROOT, Command
from tests.support.database import Reader, find_port, insert_connection
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn
from tests.support.watcher import Watcher

REGISTRIES = [f"{number:012}" for number in range(1, 11)]


@pytest.fixture
def server(command: Command, api_server: ApiServer, tmp_path: Path) -> ApiServer:
    """The API server, with the command pointed at it through airflowctl, logged in."""
    command.env.update(api_server.client(tmp_path / "client"))
    script = airflows.environment(airflows.AIRFLOWCTL) / "bin/airflowctl"
    command.options = ["--airflow", str(script), "-r", "us-east-1"]
    of_ecr = command.secrets
    command.secrets = lambda: [
        *of_ecr(),
        command.env.get("AIRFLOW_CLI_TOKEN", api_server.token),
    ]
    return api_server


def assert_holds(
    server: ApiServer, conn_id: str, token: str, extra: str | None = None
) -> None:
    held = server.connection(conn_id)
    assert held
    newest = held.pop("password") == token
    assert newest, "another token"
    description = held.pop("description")
    assert description.startswith("ECR token valid until 20")
    assert description.endswith(" UTC, written by ecr-airflow-sync")
    expected = {
        "conn_type": "docker",
        "host": HOST,
        "login": "AWS",
        "port": None,
        "schema": None,
    }
    assert held == {**expected, "extra": extra}


def test_write_and_overwrite(
    command: Command, server: ApiServer, ecr: EcrStandIn, tmp_path: Path
) -> None:
    """The second time with -v, which shows no secret either."""
    tokens, extra = ecr.tokens, '{"email": "x@example.com"}'
    old = {"conn_type": "docker", "port": "5000", "schema": "old"}
    insert_connection(server.database, "twice", "old", **old)
    with Watcher(command.secrets, tmp_path, server.folder, Path("/dev/shm")) as watcher:
        first = command("--conn-id", "twice", "--conn-extra", extra)
        assert (first.status, first.stderr) == (0, "")
        assert f"twice  written  {HOST}, until " in first.stdout
        assert_holds(server, "twice", tokens["us-east-1", ACCOUNT][0], extra)
        with Reader(server.database, ("twice",)) as reader:
            second = command("--conn-id", "twice", "-v")
        assert second.status == 0
        assert "Successfully imported ['twice'] connection(s)" in second.stderr
        assert_holds(server, "twice", tokens["us-east-1", ACCOUNT][1])
    assert (reader.missing, len(reader.passwords)) == (0, 2)
    assert reader.reads > 50
    watcher.look()  # and at what is left: the database with its audit log, the logs
    assert watcher.rounds > 20
    assert watcher.seen == set()
    assert list((tmp_path / "tmp").glob("ecr-airflow-sync*")) == []


def test_ten_in_one_request(
    command: Command, server: ApiServer, ecr: EcrStandIn
) -> None:
    before = server.writes()
    registries = [f"--registry={registry}" for registry in REGISTRIES]
    ran = command(*registries, "--conn-id", "ten_{registry}")
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.count("  written  ") == 10
    # One request, which airflowctl sends up to three times if no answer comes in 5 s.
    assert 1 <= server.writes() - before <= 3
    for registry in REGISTRIES:
        held = server.connection(f"ten_{registry}") or {}
        newest = held["password"] == ecr.tokens["us-east-1", registry][-1]
        assert newest, "another token"


@pytest.mark.parametrize("conn_id", ["coloured", "l" * 200])
def test_an_answer_in_colours(
    command: Command, server: ApiServer, ecr: EcrStandIn, conn_id: str
) -> None:
    """As in many CI systems. Left to itself, airflowctl breaks what it says after 80 columns."""
    colours = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "40"}
    ran = command("--conn-id", conn_id, **colours)
    assert (ran.status, ran.stderr) == (0, "")
    assert_holds(server, conn_id, ecr.tokens["us-east-1", ACCOUNT][0])


def test_dry_run(command: Command, server: ApiServer) -> None:
    before = server.writes()
    ran = command("--conn-id", "dry", "--dry-run")
    assert (ran.status, ran.stderr) == (0, "")
    assert (server.writes(), server.connection("dry")) == (before, None)


def test_three_at_once(command: Command, server: ApiServer, ecr: EcrStandIn) -> None:
    """First imports collide (409); the second attempt overwrites what the others wrote."""
    started = [command.start("--conn-id", "at_once") for _ in range(3)]
    ended = [command.end(process) for process in started]
    assert [(ran.status, ran.stderr) for ran in ended] == [(0, "")] * 3
    held = server.connection("at_once") or {}
    known = held["password"] in ecr.tokens["us-east-1", ACCOUNT]
    assert known, "another token"


def without_token(command: Command, server: ApiServer) -> None:
    del command.env["AIRFLOW_CLI_TOKEN"]


def without_login(command: Command, server: ApiServer) -> None:
    """A token only: airflowctl would send it, and ECR's, to http://localhost:8080."""
    command.env["AIRFLOW_HOME"] += "/nothing"


def without_both(command: Command, server: ApiServer) -> None:
    without_token(command, server)
    without_login(command, server)


def with_expired_token(command: Command, server: ApiServer) -> None:
    command.env["AIRFLOW_CLI_TOKEN"] = server.expired_token()


def with_foreign_token(command: Command, server: ApiServer) -> None:
    command.env["AIRFLOW_CLI_TOKEN"] = server.foreign_token()


Trouble = Callable[[Command, ApiServer], None]
TROUBLES = [
    without_token,
    without_login,
    without_both,
    with_expired_token,
    with_foreign_token,
]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_not_logged_in(command: Command, server: ApiServer, trouble: Trouble) -> None:
    conn_id = trouble.__name__
    insert_connection(server.database, conn_id, "old", conn_type="docker")
    trouble(command, server)
    ran = command("--conn-id", conn_id, "-q")
    assert (ran.status, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"{conn_id}: ")
    assert "airflowctl auth login" in ran.stderr
    assert ran.stderr.count("\n") == 1
    held = server.connection(conn_id) or {}
    kept = held["password"] == "old"
    assert kept, "the old connection is lost"


def test_may_not_write(command: Command, server: ApiServer) -> None:
    command.env["AIRFLOW_CLI_TOKEN"] = server.token_for("VIEWER")
    ran = command("--conn-id", "forbidden", "-q")
    assert ran.status == 1
    assert "Forbidden" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert server.connection("forbidden") is None


def test_a_token_with_a_newline(command: Command, server: ApiServer) -> None:
    """airflowctl quotes it in its error message."""
    command.env["AIRFLOW_CLI_TOKEN"] = server.token + "\n"
    ran = command("--conn-id", "newline", "-v", AIRFLOW_CLI_API_RETRIES="1")
    assert ran.status == 1
    assert "Illegal header value" in ran.stderr
    assert server.connection("newline") is None


def test_server_down(command: Command, server: ApiServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{find_port()}"
    command.env.update(server.client(tmp_path / "down", url))
    ran = command("--conn-id", "down", "-q", AIRFLOW_CLI_API_RETRIES="1")
    assert ran.status == 1
    assert url in ran.stderr
    assert "Connection refused" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_server_in_trouble(command: Command, server: ApiServer) -> None:
    """airflowctl 0.1.5 stumbles over the server's own words: httpx has not read them yet."""
    insert_connection(server.database, "trouble", "old", conn_type="docker")
    with server.broken():
        ran = command("--conn-id", "trouble", "-q")
    assert ran.status == 1
    assert server.url in ran.stderr
    assert ran.stderr.count("\n") == 1
    held = server.connection("trouble") or {}
    kept = held["password"] == "old"
    assert kept, "the old connection is lost"


DROP_IN = (ROOT / "examples/systemd/airflowctl.conf").read_text()


@pytest.fixture
def bring_here(
    command: Command, server: ApiServer, tmp_path: Path
) -> Callable[..., str]:
    """What is shipped, with this server's address and this test's paths. Nobody is logged in."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    del command.env["AIRFLOW_CLI_TOKEN"]

    def bring(shipped: str, *more: tuple[str, Path]) -> str:
        for there, here in (
            ("/opt/airflow/bin/airflowctl", command.options[1]),
            ("https://airflow.example.com", server.url),
            ("/etc/ecr-airflow-sync/password", password),
            *more,
        ):
            assert there in shipped
            shipped = shipped.replace(there, str(here))
        return shipped

    return bring


def test_the_shipped_drop_in_logs_in_before_each_run(
    command: Command,
    server: ApiServer,
    bring_here: Callable[..., str],
    tmp_path: Path,
) -> None:
    """As systemd does it: ExecStartPre, then EnvironmentFile."""
    login = ("/run/ecr-airflow-sync/login", tmp_path / "login")
    lines = re.findall(r"^[A-Z].*$", bring_here(DROP_IN, login), re.MULTILINE)
    settings = dict(line.split("=", 1) for line in lines)
    subprocess.run(shlex.split(settings["ExecStartPre"]), env=command.env, check=True)
    written = Path(settings["EnvironmentFile"].lstrip("-")).read_text()
    name, _, token = written.strip().partition("=")
    ran = command("--conn-id", "by_drop_in", **{name: token})
    assert (ran.status, ran.stderr) == (0, "")
    assert server.connection("by_drop_in")


def test_the_shipped_cron_line_logs_in_before_each_run(
    command: Command,
    server: ApiServer,
    bring_here: Callable[..., str],
    tmp_path: Path,
) -> None:
    """As cron does it: by sh, with next to no environment."""
    (line,) = re.findall(r"^#(?:[*/\d]+ ){5}(.*)$", DROP_IN, re.MULTILINE)
    script, default = tmp_path / "ecr-airflow-sync", tmp_path / "default"
    ours = shlex.join(command.arguments("--conn-id", "by_cron"))
    script.write_text(f'#!/bin/sh\nexec {ours} "$@"\n')
    script.chmod(0o755)
    line = bring_here(
        line,
        ("/etc/default/ecr-airflow-sync", default),
        ("/opt/ecr-airflow-sync/bin/ecr-airflow-sync", script),
    )
    variables = [f"{name}={shlex.quote(text)}\n" for name, text in command.env.items()]
    default.write_text("".join(variables))
    bare = {name: command.env[name] for name in ("AIRFLOW_HOME", "HOME", "PATH")}
    ran = command.end(command.launch(["/bin/sh", "-c", line], bare))
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    assert server.connection("by_cron")

"""What the tests share: an ECR to ask, and the real command to run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Callable, Iterator

import airflows
import api_server as api_servers
import mariadb
import postgres
import pytest
from api_server import ApiServer
from database import Server, name_for_airflow
from ecr_stand_in import EcrStandIn, environment
from registry_stand_in import RegistryStandIn

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # what nohup ignores, children would ignore too

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "ecr_airflow_sync.py"
PACKAGE = ROOT / "_ecr_airflow_sync"
FAKE = Path(__file__).with_name("fake_airflow.py")
# As the console script has it: the module's own file would be compiled anew in each run.
INSTALLED = (
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ecr_airflow_sync import main; main()",
)
DATABASE_URL = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
ROUNDS = int(os.environ.get("ROUNDS", "3"))  # of what the figures are medians of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "real" in getattr(item, "fixturenames", ()):
            item.add_marker("airflow")


def has_traceback(stderr: str) -> bool:
    """One of ours. Ctrl-C before the command's own code runs has Python's.

    With -v, Airflow's own may be shown, which begin with in_airflow.py.
    """
    ours = re.search(r'File ".*ecr_airflow_sync(?!/in_airflow)\S*\.py", line', stderr)
    return bool(ours) and not stderr.endswith("\nKeyboardInterrupt\n")


@dataclass(frozen=True)
class Ran:
    """What a run of the command left behind."""

    status: int
    stdout: str
    stderr: str


@dataclass
class Command:
    """The real command in an environment as bare as cron's. No token may ever be printed."""

    env: dict[str, str]
    secrets: Callable[[], list[str]]
    options: list[str] = field(default_factory=list)
    program: tuple[str, ...] = (str(MODULE),)

    def arguments(self, *options: str) -> list[str]:
        return [sys.executable, *self.program, *self.options, *options]

    def start(self, *options: str, **more: str) -> subprocess.Popen[str]:
        return self.launch(self.arguments(*options), {**self.env, **more})

    def launch(
        self, arguments: list[str], env: dict[str, str], cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            arguments,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def end(self, process: subprocess.Popen[str]) -> Ran:
        stdout, stderr = process.communicate(timeout=300)
        for secret in self.secrets():
            # Not in an assert of its own: pytest would print the token.
            leaked = secret in stdout + stderr or secret[200:260] in stdout + stderr
            assert not leaked, "a token was printed"
        assert not has_traceback(stderr), stderr
        return Ran(process.returncode, stdout, stderr)

    def __call__(self, *options: str, **more: str) -> Ran:
        return self.end(self.start(*options, **more))


@pytest.fixture
def ecr() -> Iterator[EcrStandIn]:
    server = EcrStandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def sync(ecr: EcrStandIn, tmp_path: Path) -> Command:
    """The command, with credentials for the stand-in and no Airflow yet."""
    (tmp_path / "tmp").mkdir()
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        **environment(ecr.url),
    }
    env.update(
        {
            name: value
            for name, value in os.environ.items()
            if name.startswith("COVERAGE_")
        }
    )
    return Command(env, lambda: [t for tokens in ecr.tokens.values() for t in tokens])


@pytest.fixture
def registry(ecr: EcrStandIn, sync: Command) -> Iterator[RegistryStandIn]:
    """The registries for which the stand-in gives tokens. The command comes there by proxy."""
    with RegistryStandIn(ecr) as server:
        sync.env.update(server.environment())
        yield server


@dataclass
class FakeAirflow:
    """A strict executable at the boundary, of any version."""

    script: Path
    store: Path
    env: dict[str, str]

    def connections(self) -> dict[str, dict[str, str]]:
        return json.loads(self.store.read_text()) if self.store.exists() else {}


@pytest.fixture
def fake(sync: Command, tmp_path: Path) -> Callable[..., FakeAirflow]:
    """Puts a fake airflow of some version in place, and points the command at it."""

    def place(version: str = "2.11.2", trouble: str = "") -> FakeAirflow:
        script = tmp_path / "venv/bin/airflow"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        script.chmod(0o755)
        package = tmp_path / f"site/apache_airflow-{version}.dist-info"
        package.mkdir(parents=True, exist_ok=True)
        (package / "METADATA").write_text(f"Name: apache-airflow\nVersion: {version}\n")
        store = tmp_path / "connections-store"
        sync.env.update(
            PYTHONPATH=str(package.parent),
            FAKE_AIRFLOW_STORE=str(store),
            FAKE_AIRFLOW_VERSION=version,
            FAKE_AIRFLOW_TROUBLE=trouble,
        )
        sync.options = ["--airflow", str(script)]
        return FakeAirflow(script, store, sync.env)

    return place


@dataclass
class RealAirflow:
    """A real Airflow with a metadata database of its own."""

    version: str
    env: dict[str, str]

    @property
    def script(self) -> str:
        return str(airflows.environment(self.version) / "bin/airflow")

    def connection(self, conn_id: str) -> dict[str, str] | None:
        return airflows.connection(self.version, self.env, conn_id)


# Makes a real Airflow on a database of some kind, and tells its URL.
OnDatabase = Callable[[str, str], "tuple[RealAirflow, str]"]
OnPostgres = Callable[[str], "tuple[RealAirflow, str]"]


@pytest.fixture
def real(sync: Command, tmp_path: Path) -> Callable[[str], RealAirflow]:
    """Makes a real Airflow with a fresh SQLite database, and points the command at it."""

    def place(version: str) -> RealAirflow:
        try:
            env = airflows.home(version, tmp_path / "airflow")
        except airflows.Unavailable as unavailable:
            pytest.skip(str(unavailable))
        airflow = RealAirflow(version, env)
        sync.env.update(env)
        sync.options = ["--airflow", airflow.script]
        return airflow

    return place


@pytest.fixture(scope="session")
def database_servers() -> Iterator[Callable[[str], Server]]:
    """Starts PostgreSQL or MariaDB on loopback, each once."""
    with ExitStack() as running:

        @lru_cache(maxsize=None)
        def start(kind: str) -> Server:
            module = {"postgres": postgres, "mariadb": mariadb}[kind]
            program = module.find_server()
            if not program:
                pytest.skip(f"no {kind} here: apt-get install {module.PACKAGE}")
            server: Server = running.enter_context(module.serving(program))
            return server

        yield start


@pytest.fixture
def on_database(
    sync: Command,
    real: Callable[[str], RealAirflow],
    database_servers: Callable[[str], Server],
) -> OnDatabase:
    """Makes a real Airflow with a database of its own, in a server or in a file."""

    def place(kind: str, version: str) -> tuple[RealAirflow, str]:
        server = None if kind == "sqlite" else database_servers(kind)
        airflow = real(version)
        if not server:
            return airflow, airflow.env[DATABASE_URL]
        url = server.make_database(version, airflow.env)
        airflow.env = airflows.on_database(airflow.env, name_for_airflow(url))
        sync.env.update(airflow.env)
        return airflow, url

    return place


@pytest.fixture
def on_postgres(on_database: OnDatabase) -> OnPostgres:
    return partial(on_database, "postgres")


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server of Airflow 3, for airflowctl. Its database is one for all tests."""
    try:
        airflows.find_python(*airflows.CLIENT.pythons)
    except airflows.Unavailable as unavailable:
        pytest.skip(str(unavailable))
    with api_servers.serving(tmp_path_factory.mktemp("api-server")) as server:
        yield server

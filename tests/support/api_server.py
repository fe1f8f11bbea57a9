"""A real `airflow api-server` on loopback, and what airflowctl needs to write through it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

from tests.support import airflows
from tests.support.database import execute, find_port, query, read_connection

SERVER = "3.3.2"
SECRET = "a fixed secret: that of no server but the tests', of 64 bytes...."
# As docs/airflow-3-workers.md has it, one who may edit connections, and no admin.
USER, PASSWORD = "ecr-sync", "a password of this server's"


@dataclass(frozen=True)
class ApiServer:
    """Where it listens, what it keeps, the way to its database, and a token of its own."""

    url: str
    folder: Path
    env: dict[str, str]
    token: str = field(repr=False)

    def client(self, home: Path, url: str = "") -> dict[str, str]:
        """airflowctl's environment after a login, with ``home`` as its AIRFLOW_HOME.

        It logs in once to each address, which takes a second, and the others are copies.
        """
        env = {
            "AIRFLOW_CLI_TOKEN": self.token,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",  # as on a server
        }
        url = url or self.url
        kept = self.folder / "logins" / url.rpartition(":")[2]
        if not kept.exists():
            login = ("auth", "login", "--skip-keyring", "--api-url", url)
            there = {**env, "AIRFLOW_HOME": str(kept)}
            airflows.run(airflows.AIRFLOWCTL, there, *login)
        shutil.copytree(kept, home, dirs_exist_ok=True)
        return {**env, "AIRFLOW_HOME": str(home)}

    def expired_token(self) -> str:
        """The server's own token, had it ended an hour ago."""
        now = int(time.time())
        return _signed(
            self.token, SECRET, iat=now - 7200, nbf=now - 7200, exp=now - 3600
        )

    def foreign_token(self) -> str:
        """A token such as another server gives."""
        return _signed(
            self.token,
            "another secret, as long as the server's own, of 64 bytes.......",
        )

    def token_for(self, role: str) -> str:
        """A token of somebody else: a VIEWER may look and no more."""
        return _signed(self.token, SECRET, sub=role.lower(), role=role)

    def connection(self, conn_id: str) -> dict[str, Any] | None:
        return read_connection(self.database, conn_id)

    def writes(self) -> int:
        """How many bulk requests were let in, by the audit log."""
        writes = "SELECT 1 FROM log WHERE event = 'bulk_connections'"
        return len(query(self.database, writes))

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """Within the block, the server answers 500 to whatever needs its connections."""
        execute(self.database, "ALTER TABLE connection RENAME TO aside")
        try:
            yield
        finally:
            execute(self.database, "ALTER TABLE aside RENAME TO connection")

    @property
    def database(self) -> str:
        return self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[ApiServer]:
    """A server with a fresh SQLite database in ``folder``, which does not outlive the block."""
    airflows.environment(airflows.AIRFLOWCTL)
    port = find_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        **airflows.home(SERVER, folder / "home"),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:op",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords"),
    }
    (folder / "passwords").write_text(json.dumps({USER: PASSWORD}))
    log = folder / "server.log"
    process = _start(env, port, log)
    try:
        _wait_until_healthy(process, url, log)
        yield ApiServer(url, folder, env, _log_in(url))
    finally:
        _stop(process)


def _start(env: dict[str, str], port: int, log: Path) -> subprocess.Popen[bytes]:
    script = airflows.environment(SERVER) / "bin/airflow"
    options = f"--host 127.0.0.1 --port {port} --workers 1 --apps core"
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(script), "api-server", *options.split()],
            env={**airflows.inherited(), **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            health = _get(f"{url}/api/v2/monitor/health")
        except OSError:
            time.sleep(0.2)
            continue
        assert health["metadatabase"]["status"] == "healthy", health
        return
    raise RuntimeError(f"no API server:\n{log.read_text(errors='replace')[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started, which share a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def _log_in(url: str) -> str:
    """A token of our user's."""
    login = json.dumps({"username": USER, "password": PASSWORD}).encode()
    json_type = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/auth/token", login, json_type)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["access_token"])


def _signed(token: str, secret: str, **changed: str | int) -> str:
    """The token with other claims, signed anew (HS512, Airflow's choice for a secret)."""
    head, body, _ = token.split(".")
    claims = {**json.loads(base64.urlsafe_b64decode(body + "==")), **changed}
    signed = f"{head}.{_encoded(json.dumps(claims).encode())}"
    digest = hmac.new(secret.encode(), signed.encode(), hashlib.sha512).digest()
    return f"{signed}.{_encoded(digest)}"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

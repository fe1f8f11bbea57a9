"""Plays the `airflow connections` command line of one version, strictly.

What the real one would refuse is refused here: unknown arguments, the syntax of another
age, a file that is not JSON. Connections are kept in a JSON file, FAKE_AIRFLOW_STORE, and
FAKE_AIRFLOW_TROUBLE says what goes wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

STORE = Path(os.environ["FAKE_AIRFLOW_STORE"])
VERSION = tuple(int(part) for part in os.environ["FAKE_AIRFLOW_VERSION"].split("."))
TROUBLE = os.environ.get("FAKE_AIRFLOW_TROUBLE", "")
PADDING = int(os.environ.get("FAKE_AIRFLOW_PADDING", "0")) // 2
SLOW = float(os.environ.get("FAKE_AIRFLOW_SLOW", "1.5"))  # seconds
FIELDS = ("type", "host", "login", "password", "extra")


class IntegrityError(Exception):
    """As SQLAlchemy's, when two hosts add the same row."""


class Connection:
    """As much of airflow.models.Connection as tells whether an id is unique."""

    conn_id = SimpleNamespace(unique=VERSION >= (2, 0))
    columns = SimpleNamespace(conn_id=conn_id)
    __table__ = SimpleNamespace(c=columns, fullname="connection")


class Session:
    """What airflow.settings.Session gives to all commands of a thread."""

    def __init__(self) -> None:
        self._pending: dict[str, dict[str, str]] | None = None

    def load(self) -> dict[str, dict[str, str]]:
        if self._pending is not None:
            return dict(self._pending)
        return json.loads(STORE.read_text()) if STORE.exists() else {}

    def change(self, stored: dict[str, dict[str, str]]) -> None:
        self._pending = stored

    def get_bind(self) -> SimpleNamespace:
        return SimpleNamespace(dialect=SimpleNamespace(name="sqlite"))

    def flush(self) -> None:
        pass

    def commit(self) -> None:
        """In one step, as a database does."""
        if TROUBLE == "commit fails":
            raise IntegrityError("the server closed the connection unexpectedly")
        if self._pending is not None:
            new = Path(f"{STORE}.{os.getpid()}.new")
            new.write_text(json.dumps(self._pending))
            new.replace(STORE)
        self._pending = None

    def rollback(self) -> None:
        self._pending = None

    def close(self) -> None:
        self.rollback()


def import_airflow() -> Session:
    """The package's settings, which outlive a run of the script."""
    if "airflow.settings" not in sys.modules:
        settings: Any = ModuleType("airflow.settings")
        session = Session()
        shared = TROUBLE != "no shared session"
        settings.Session = (lambda: session) if shared else Session
        models: Any = ModuleType("airflow.models")
        models.Connection = Connection
        airflow: Any = ModuleType("airflow")
        airflow.settings = settings
        names = {"airflow": airflow, "airflow.settings": settings}
        sys.modules.update({**names, "airflow.models": models})
    settings = sys.modules["airflow.settings"]
    of_this_thread: Session = settings.Session()
    return of_this_thread


def load() -> dict[str, dict[str, str]]:
    return SESSION.load()


def save(stored: dict[str, dict[str, str]]) -> None:
    SESSION.change(stored)
    SESSION.commit()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="airflow", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    connections = commands.add_parser("connections", allow_abbrev=False)
    if VERSION < (1, 10, 14):
        connections.add_argument(
            "--add", action="store_const", const="add", dest="action"
        )
        connections.add_argument(
            "--delete", action="store_const", const="delete", dest="action"
        )
        connections.add_argument(
            "--list", action="store_const", const="list", dest="action"
        )
        connections.add_argument("--conn_id")
        for name in FIELDS:
            connections.add_argument(f"--conn_{name}")
        return parser.parse_args()
    actions = connections.add_subparsers(dest="action", required=True)
    actions.add_parser("delete", allow_abbrev=False).add_argument("conn_id")
    actions.add_parser("list", allow_abbrev=False)
    add = actions.add_parser("add", allow_abbrev=False)
    add.add_argument("conn_id")
    for name in (*FIELDS, "description") if VERSION >= (2, 0) else FIELDS:
        add.add_argument(f"--conn-{name}")
    if VERSION >= (2, 0):
        getting = actions.add_parser("get", allow_abbrev=False)
        getting.add_argument("conn_id")
        getting.add_argument("--output", choices=["json"], required=True)
    if VERSION >= (2, 6):
        importing = actions.add_parser("import", allow_abbrev=False)
        importing.add_argument("--overwrite", action="store_true", required=True)
        importing.add_argument("file")
    return parser.parse_args()


def refuse(sentence: str) -> None:
    """1.10 says it on stdout and ends with 0, later ones on stderr and with 1."""
    if VERSION < (2, 0):
        print(f"\n\t{sentence}\n")
    else:
        raise SystemExit(sentence)


def delete(conn_id: str) -> None:
    stored = load()
    if TROUBLE == "duplicates":
        refuse(f"Found more than one connection with `conn_id`={conn_id}")
    elif conn_id not in stored:
        refuse(f"Did not find a connection with `conn_id`={conn_id}")
    else:
        words = "connection with " if VERSION >= (2, 0) else ""
        print(f"Successfully deleted {words}`conn_id`={conn_id}")
        del stored[conn_id]
        save(stored)
        if TROUBLE == "slow add":
            time.sleep(SLOW)


def add(conn_id: str, fields: dict[str, str]) -> None:
    stored = load()
    if conn_id in stored or TROUBLE in ("overtaken", "duplicates"):
        refuse(f"A connection with `conn_id`={conn_id} already exists")
        return
    print(f"Successfully added `conn_id`={conn_id} : {fields['conn_type']}://...")
    if TROUBLE == "rolled back":
        raise RuntimeError("server closed the connection unexpectedly")
    save({**stored, conn_id: fields})


def import_file(name: str) -> None:
    if Path(name).suffix != ".json":
        raise SystemExit("Unsupported file format.")
    with open(name) as file:
        wanted = json.load(file)
    for conn_id, fields in wanted.items():
        if TROUBLE == f"skip {conn_id}":
            print(
                f"Could not import connection. The key {conn_id!r} has to be made of ..."
            )
            continue
        if TROUBLE == "collide once" and not load():
            save({conn_id: {"password": "of another host"}})
            raise IntegrityError(
                "(psycopg2.errors.UniqueViolation) duplicate key value"
            )
        save({**load(), conn_id: fields})
        print(f"Imported connection {conn_id}")


def get(conn_id: str) -> None:
    """As a task finds it: a variable or a secrets backend comes before the database."""
    fields = None if TROUBLE == "no database" else load().get(conn_id)
    variable = os.environ.get(f"AIRFLOW_CONN_{conn_id.upper()}")
    if fields is None and not variable:
        raise SystemExit("Connection not found.")
    fields = json.loads(variable) if variable else fields or {}
    names = ("conn_type", "description", "host", "login", "password", "port")
    shown: dict[str, object] = {name: fields.get(name) for name in names}
    shown["id"] = None if variable or TROUBLE == "backend" else "7"
    extra = fields.get("extra") or "{}"
    shown["extra_dejson"] = json.loads(extra) if isinstance(extra, str) else extra
    print("a warning of no use")
    print(json.dumps([shown]), flush=True)
    if TROUBLE == "get crashes":
        os.kill(os.getpid(), 11)
    if TROUBLE == "get fails late":
        raise SystemExit("cannot say goodbye")


def trouble() -> None:
    """What can go wrong with any command."""
    if TROUBLE.startswith("hang"):
        child = subprocess.Popen(["sleep", "600"])
        Path(os.environ["FAKE_AIRFLOW_STORE"] + ".pids").write_text(
            f"{os.getpid()} {child.pid}"
        )
        time.sleep(600)
    if TROUBLE == "slow":
        time.sleep(SLOW)
    if TROUBLE == "crash":
        os.kill(os.getpid(), 11)
    if TROUBLE == "say nothing":
        raise SystemExit(0)
    if TROUBLE == "megabyte":
        print("\x00\xff garbage of no use" * 50_000, file=sys.stderr)
        sys.stdout.buffer.write(b"\xff\xfe\x00" * 300_000)
    if TROUBLE == "echo":
        password = next(iter(json.loads(Path(sys.argv[-1]).read_text()).values()))[
            "password"
        ]
        raise RuntimeError("cannot parse " + "x " * PADDING + password)


def main() -> None:
    arguments = parse()
    with Path(f"{STORE}.starts").open("a") as log:
        print(os.getpid(), arguments.action, file=log)
    trouble()
    if arguments.action == "import":
        import_file(arguments.file)
    elif arguments.action == "list":
        if TROUBLE == "no database":
            raise RuntimeError("no such table: connection")
        print(list(load()))
    elif arguments.action == "get":
        get(arguments.conn_id)
    elif arguments.action == "delete":
        delete(arguments.conn_id)
    else:
        given = {
            f"conn_{name}": getattr(arguments, f"conn_{name}", None) for name in FIELDS
        }
        add(arguments.conn_id, {key: value for key, value in given.items() if value})


SESSION = import_airflow()
if __name__ == "__main__":
    main()
elif TROUBLE == "slow import":
    time.sleep(60)
elif TROUBLE == "stopped after the import":
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -STOP {os.getpid()}"])

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
from typing import Any, Dict

STORE = Path(os.environ["FAKE_AIRFLOW_STORE"])
VERSION = tuple(int(part) for part in os.environ["FAKE_AIRFLOW_VERSION"].split("."))
TROUBLE = os.environ.get("FAKE_AIRFLOW_TROUBLE", "")
PADDING = int(os.environ.get("FAKE_AIRFLOW_PADDING", "0")) // 2
FIELDS = ("type", "host", "login", "password", "extra")

Stored = Dict[str, Dict[str, str]]  # fields, by connection id


class IntegrityError(Exception):
    """As SQLAlchemy's."""


class Connection:
    """As much of airflow.models.Connection as tells whether an id is unique."""

    conn_id = SimpleNamespace(unique=VERSION >= (2, 0))
    columns = SimpleNamespace(conn_id=conn_id)
    __table__ = SimpleNamespace(c=columns, fullname="connection")


class Session:
    """What airflow.settings.Session gives to all commands of a thread."""

    def __init__(self) -> None:
        self._pending: Stored | None = None

    def load(self) -> Stored:
        if self._pending is not None:
            return dict(self._pending)
        return json.loads(STORE.read_text()) if STORE.exists() else {}

    def change(self, stored: Stored) -> None:
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
        session = Session()
        shared = TROUBLE != "no shared session"
        airflow, settings, models = map(ModuleType, ("airflow", "settings", "models"))
        make_session: Any = (lambda: session) if shared else Session
        vars(settings)["Session"] = make_session
        vars(models)["Connection"] = Connection
        vars(airflow)["settings"] = settings
        sys.modules["airflow"] = airflow
        sys.modules["airflow.settings"] = settings
        sys.modules["airflow.models"] = models
    of_this_thread: Session = sys.modules["airflow.settings"].Session()
    return of_this_thread


def save(stored: Stored) -> None:
    SESSION.change(stored)
    SESSION.commit()


# --- the command line ---


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="airflow", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    connections = commands.add_parser("connections", allow_abbrev=False)
    if VERSION < (1, 10, 14):
        take_flags(connections)
    else:
        take_subcommands(connections)
    return parser.parse_args()


def take_flags(connections: argparse.ArgumentParser) -> None:
    for action in ("add", "delete", "list"):
        connections.add_argument(
            f"--{action}", action="store_const", const=action, dest="action"
        )
    connections.add_argument("--conn_id")
    for name in FIELDS:
        connections.add_argument(f"--conn_{name}")


def take_subcommands(connections: argparse.ArgumentParser) -> None:
    actions = connections.add_subparsers(dest="action", required=True)
    actions.add_parser("list", allow_abbrev=False)
    actions.add_parser("delete", allow_abbrev=False).add_argument("conn_id")
    add = actions.add_parser("add", allow_abbrev=False)
    add.add_argument("conn_id")
    for name in FIELDS:
        add.add_argument(f"--conn-{name}")
    if VERSION >= (2, 0):
        add.add_argument("--conn-description")
        getting = actions.add_parser("get", allow_abbrev=False)
        getting.add_argument("conn_id")
        getting.add_argument("--output", choices=["json"], required=True)
    if VERSION >= (2, 6):
        importing = actions.add_parser("import", allow_abbrev=False)
        importing.add_argument("--overwrite", action="store_true", required=True)
        importing.add_argument("file")


def refuse(sentence: str) -> None:
    """1.10 says it on stdout and ends with 0, later ones on stderr and with 1."""
    if VERSION >= (2, 0):
        raise SystemExit(sentence)
    print(f"\n\t{sentence}\n")


def delete(conn_id: str) -> None:
    stored = SESSION.load()
    if conn_id not in stored:
        refuse(f"Did not find a connection with `conn_id`={conn_id}")
        return
    words = "connection with " if VERSION >= (2, 0) else ""
    print(f"Successfully deleted {words}`conn_id`={conn_id}")
    del stored[conn_id]
    save(stored)
    if TROUBLE == "slow add":
        time.sleep(1.5)


def add(arguments: argparse.Namespace) -> None:
    conn_id, stored = arguments.conn_id, SESSION.load()
    if conn_id in stored:
        refuse(f"A connection with `conn_id`={conn_id} already exists")
        return
    print(f"Successfully added `conn_id`={conn_id} : {arguments.conn_type}://...")
    if TROUBLE == "rolled back":
        raise RuntimeError("server closed the connection unexpectedly")
    given = {f"conn_{name}": getattr(arguments, f"conn_{name}") for name in FIELDS}
    stored[conn_id] = {name: value for name, value in given.items() if value}
    save(stored)


def import_file(name: str) -> None:
    if Path(name).suffix != ".json":
        raise SystemExit("Unsupported file format.")
    with open(name) as file:
        wanted = json.load(file)
    for conn_id, fields in wanted.items():
        if TROUBLE == "echo":
            raise RuntimeError(f"cannot parse {'x ' * PADDING}{fields['password']}")
        if TROUBLE == f"skip {conn_id}":
            print(f"Could not import connection. The key {conn_id!r} has to be ...")
            continue
        save({**SESSION.load(), conn_id: fields})
        print(f"Imported connection {conn_id}")


def get(conn_id: str) -> None:
    """As a task finds it: a variable comes before the database."""
    variable = os.environ.get(f"AIRFLOW_CONN_{conn_id.upper()}")
    stored = SESSION.load()
    if not variable and conn_id not in stored:
        raise SystemExit("Connection not found.")
    fields = json.loads(variable) if variable else stored[conn_id]
    names = ("conn_type", "description", "host", "login", "password", "port")
    shown = {name: fields.get(name) for name in names}
    shown["id"] = None if variable else "7"
    shown["extra_dejson"] = json.loads(fields.get("extra") or "{}")
    print("a warning of no use")
    print(json.dumps([shown]), flush=True)


def cause_trouble() -> None:
    """What can go wrong with any command."""
    if TROUBLE == "hang":
        child = subprocess.Popen(["sleep", "600"])
        Path(f"{STORE}.pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
    if TROUBLE == "say nothing":
        raise SystemExit(0)
    if TROUBLE == "megabyte":
        print("\x00\xff garbage of no use" * 50_000, file=sys.stderr)
        sys.stdout.buffer.write(b"\xff\xfe\x00" * 300_000)


def main() -> None:
    arguments = parse()
    with Path(f"{STORE}.starts").open("a") as log:
        print(os.getpid(), arguments.action, file=log)
    cause_trouble()
    if arguments.action == "import":
        import_file(arguments.file)
    elif arguments.action == "list":
        print(list(SESSION.load()))
    elif arguments.action == "get":
        get(arguments.conn_id)
    elif arguments.action == "delete":
        delete(arguments.conn_id)
    else:
        add(arguments)


SESSION = import_airflow()
if __name__ == "__main__":
    main()
elif TROUBLE == "slow import":
    Path(f"{STORE}.pids").write_text(str(os.getpid()))
    time.sleep(60)

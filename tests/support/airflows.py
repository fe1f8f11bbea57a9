"""Real Airflow installs, each in a virtual environment of its own under .envs/.

Built once, with uv, as of the day on which their dependencies fitted (Airflow's
constraint files are not to be had everywhere). The interpreter comes from PATH or pyenv.

    python -m tests.support.airflows                  builds all, side by side
    python -m tests.support.airflows 2.11.2           builds one, and prints where it is
    python -m tests.support.airflows 0.1.5            the same for airflowctl
    python -m tests.support.airflows --python 3.8     prints where such a Python is
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator

import uv

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".envs"
FERNET_KEY = base64.urlsafe_b64encode(b"a fixed key: test runs compare!!").decode()

# Of a connection, what a test looks at.
FIELDS = ["conn_type", "description", "host", "port", "schema"]
FIELDS += ["login", "password", "extra"]
PRINT_CONNECTION = Path(__file__).with_name("print_connection.py")
# Then the tests take every Airflow in every place, and not only what differs.
NIGHTLY = os.environ.get("NIGHTLY") == "true"


class Unavailable(Exception):
    """No Python on this machine fits that Airflow."""


@dataclass(frozen=True)
class Recipe:
    """How an Airflow is installed, and how its database is made."""

    pythons: tuple[str, ...]  # the first that is found
    as_of: str
    requirements: tuple[str, ...]
    init: tuple[str, ...] = ("db", "migrate")  # none where there is no database
    package: str = "apache-airflow"
    script: str = "airflow"
    # Whose dependencies it gets, where uv cannot read its own.
    as_version: str = ""


DATABASE_DRIVERS = ("psycopg2-binary", "pymysql")
DOCKER = "apache-airflow-providers-docker"
OLD = Recipe(
    ("3.8",), "2021-04-01", ("sqlalchemy<1.4", "flask-sqlalchemy<2.5"), ("initdb",)
)
RECIPES = {
    "1.10.15": OLD,
    "2.5.3": Recipe(("3.10", "3.9"), "2023-04-10", (DOCKER,), ("db", "init")),
    "2.11.2": Recipe(("3.11", "3.10", "3.12"), "2026-05-01", ("pydantic<3", DOCKER)),
    "3.3.2": Recipe(("3.12", "3.11", "3.13"), "", ("asyncpg", DOCKER)),
}
# The client of Airflow 3's REST API. By its own version, and not among the Airflows.
AIRFLOWCTL = "0.1.5"
CLIENT = Recipe(
    ("3.12", "3.11", "3.13"), "2026-11-20", (), (), "apache-airflow-ctl", "airflowctl"
)
# Built where a test asks for them. 1.10.14 was the first with today's `connections add`.
RARE = {"1.10.12": replace(OLD, as_version="1.10.15")}


def environment(version: str) -> Path:
    """The virtual environment of that Airflow, built if need be."""
    recipe = find_recipe(version)
    folder = _folder(version)
    drivers = DATABASE_DRIVERS if recipe.init else ()
    package = f"{recipe.package}=={recipe.as_version or version}"
    wanted = (package, *drivers, *recipe.requirements)
    with locked(folder):
        built = folder / "built"
        if not is_built(version):
            shutil.rmtree(folder, ignore_errors=True)
            _uv("venv", "--python", find_python(*recipe.pythons), str(folder))
        elif built.read_text() == "\n".join(wanted):
            return folder
        as_of = ("--exclude-newer", recipe.as_of) if recipe.as_of else ()
        install = ("pip", "install", "--compile-bytecode", "--python", str(folder))
        _uv(*install, *as_of, *wanted)  # in one that is there, what it lacks
        if recipe.as_version:
            _uv(*install, "--no-deps", f"{recipe.package}=={version}")
        if recipe.init and not (folder / "home").exists():
            run(version, variables(folder / "home"), *recipe.init)
        built.write_text("\n".join(wanted))
    return folder


def is_built(version: str) -> bool:
    """Whether that environment is there already. Building it takes minutes."""
    return (_folder(version) / "built").exists()


def find_recipe(version: str) -> Recipe:
    return {**RECIPES, **RARE, AIRFLOWCTL: CLIENT}[version]


def _folder(version: str) -> Path:
    return ENVIRONMENTS / f"{find_recipe(version).script}-{version}"


def home(version: str, folder: Path) -> dict[str, str]:
    """A fresh AIRFLOW_HOME in ``folder``, on SQLite; returns the variables that lead to it."""
    shutil.copytree(environment(version) / "home", folder)
    return variables(folder)


def variables(folder: Path) -> dict[str, str]:
    database = f"sqlite:///{folder}/airflow.db"
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SQL_ALCHEMY_CONN": database,  # before 2.3
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{folder}/logs",
    }


def on_database(env: dict[str, str], url: str) -> dict[str, str]:
    """The same AIRFLOW_HOME with another metadata database."""
    names = ("AIRFLOW__CORE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
    return {**env, **dict.fromkeys(names, url)}


def run(version: str, env: dict[str, str], *arguments: str) -> str:
    """What that Airflow's own command line prints."""
    script = _folder(version) / "bin" / find_recipe(version).script
    return _output([str(script), *arguments], env)


def connection(
    version: str, env: dict[str, str], conn_id: str
) -> dict[str, Any] | None:
    """The connection of that id, read and decrypted by Airflow's own code.

    That takes seconds; tests.support.database reads it in no time.
    """
    python = environment(version) / "bin/python"
    # -I: beside the program lies a docker.py, which Airflow would take for the library.
    program = [str(python), "-I", str(PRINT_CONNECTION), conn_id, *FIELDS]
    printed = _output(program, env)
    rows: list[dict[str, Any]] = json.loads(printed.rpartition("\n::")[2])
    count = len(rows)
    assert count < 2, f"{count} connections called {conn_id}"
    return rows[0] if rows else None


def find_python(*versions: str) -> str:
    """An interpreter of the first minor version that really runs, from PATH or pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in versions:
        candidates = [shutil.which(f"python{version}") or ""]
        candidates += sorted(
            str(path) for path in pyenv.glob(f"{version}.*/bin/python{version}")
        )
        for candidate in filter(None, candidates):
            # A pyenv shim on PATH may lead nowhere.
            asked = [candidate, "-c", "import sys; print(sys.executable)"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
    raise Unavailable(f"no Python {' or '.join(versions)} on PATH or in pyenv")


def _uv(*arguments: str) -> None:
    _output([uv.find_uv_bin(), *arguments], {})


def _output(command: list[str], env: dict[str, str]) -> str:
    """Standard output; what the command printed is shown only if it failed."""
    done = subprocess.run(
        command,
        env={**inherited(), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
        done.check_returncode()
    return done.stdout


def inherited() -> dict[str, str]:
    """The environment of the tests, without what would lead to another Airflow or to AWS."""
    mine = ("AIRFLOW", "AWS_")
    return {k: v for k, v in os.environ.items() if not k.startswith(mine)}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For tests that run side by side: one at a time makes something there."""
    folder.parent.mkdir(exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_all() -> None:
    """All that this machine has a Python for; with CI=true, it must have them all."""
    versions = [*RECIPES, AIRFLOWCTL]
    with ThreadPoolExecutor(len(versions)) as pool:
        building = {v: pool.submit(environment, v) for v in versions}
    for version, built in building.items():
        try:
            print(built.result())
        except Unavailable as unavailable:
            if os.environ.get("CI") == "true":
                raise
            print(f"{version}, whose tests skip: {unavailable}")


def main() -> None:
    try:
        if len(sys.argv) == 1:
            build_all()
        elif sys.argv[1] == "--python":
            print(find_python(sys.argv[2]))
        else:
            print(environment(sys.argv[1]))
    except Unavailable as unavailable:
        raise SystemExit(str(unavailable)) from None


if __name__ == "__main__":
    main()

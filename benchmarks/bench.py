"""The sync beside the common method, on real Airflows; `make bench` draws the README's plot.

The common method is one call to ECR, and then two starts of Airflow's command line for
each connection: one to delete it, one to add it. Both have the same ECR (a stand-in),
the same Airflow and the same PostgreSQL, and take turns. What is shown are medians;
ratios are medians of those of the pairs. Ends with 1 if a bar is missed.

    python -m benchmarks.bench --rounds 1 --versions 2.11.2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Callable, Sequence

from benchmarks.measure import Pairs, take_turns
from benchmarks.plot import Row, format_seconds, plot
from tests.support import airflows, postgres
from tests.support.command import INSTALLED, ROOT
from tests.support.database import Reader, Server, name_for_airflow
from tests.support.ecr_stand_in import EcrStandIn, environment, serving_here
from tests.support.watcher import Background, processes

VERSIONS = ("1.10.15", "2.11.2", "3.3.2")
COUNTS = (1, 10)
REGISTRIES = [f"{number:012}" for number in range(max(COUNTS))]
ASK_ECR = str(Path(__file__).with_name("ask_ecr.py"))
# How many times as long as ours the common method takes for ten connections, at least.
BARS = {"1.10.15": 8.0, "2.11.2": 15.0, "3.3.2": 15.0}


@dataclass(frozen=True)
class Cost:
    """What one run cost, in seconds. In those ``missing``, a connection was not there."""

    wall: float
    cpu: float
    missing: float
    showing: int  # processes whose arguments held a token
    starts: int  # of Airflow's command line


@dataclass(frozen=True)
class Result:
    """What was measured of one Airflow with so many connections."""

    version: str
    count: int
    pairs: Pairs[Cost]


@dataclass
class Onlooker(Background):
    """Looks at the arguments of all processes, as any user of the machine can."""

    script: str
    tokens: Callable[[], list[str]]
    showing: set[int] = field(default_factory=set)
    starts: set[int] = field(default_factory=set)

    def work(self) -> None:
        while not self.stop.wait(0.2):
            pieces = [token[300:400] for token in self.tokens()]
            for number, arguments in processes():
                if self.script in arguments:
                    self.starts.add(number)
                if any(piece in arguments for piece in pieces):
                    self.showing.add(number)


@dataclass
class Place:
    """An Airflow with a database and an ECR of its own, and what is measured there."""

    version: str
    script: str  # a link to the airflow script, by a name that no other process has
    env: dict[str, str]
    url: str
    ecr: EcrStandIn

    def tokens(self) -> list[str]:
        """All that ECR has given."""
        return [token for tokens in list(self.ecr.tokens.values()) for token in tokens]

    def run(self, *command: str) -> str:
        """What it printed. No token may be shown, so a failure shows little."""
        done = subprocess.run(
            command, env=self.env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"Airflow {self.version}: {done.stderr[-300:]}")
        return done.stdout

    def ours(self, count: int) -> None:
        registries = [f"--registry={registry}" for registry in REGISTRIES[:count]]
        options = ["--region=us-east-1", *registries, "--conn-id=ecr_{registry}"]
        self.run(sys.executable, *INSTALLED, *options)

    def common(self, count: int) -> None:
        printed = self.run(sys.executable, ASK_ECR, *REGISTRIES[:count])
        for line in printed.splitlines():
            host, token = json.loads(line)
            conn_id = f"ecr_{host.partition('.')[0]}"
            fields = {"type": "docker", "host": host, "login": "AWS", "password": token}
            options = [f"--conn-{name}={value}" for name, value in fields.items()]
            self.run(self.script, "connections", "delete", conn_id)
            self.run(self.script, "connections", "add", conn_id, *options)

    def cost(self, method: Callable[[int], None], count: int) -> Cost:
        """Of one run, beside a reader of the database and one of all arguments.

        They look seldom enough to leave the machine to the run. With a reader who never
        pauses, tests/airflow/test_one_transaction.py shows that nothing is missing.
        """
        conn_ids = tuple(f"ecr_{registry}" for registry in REGISTRIES[:count])
        reader = Reader(self.url, conn_ids, pause=0.005)
        onlooker = Onlooker(self.script, self.tokens)
        with reader, onlooker:
            used, began = cpu_of_children(), time.perf_counter()
            method(count)
            wall, cpu = time.perf_counter() - began, cpu_of_children() - used
        assert reader.reads > 100, "the reader could not look"
        found = len(onlooker.showing), len(onlooker.starts)
        return Cost(wall, cpu, reader.seconds_missing, *found)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepare(version: str, folder: Path, server: Server, ecr: EcrStandIn) -> Place:
    """That Airflow, on a fresh database."""
    (folder / "bin").mkdir(parents=True)
    script = folder / "bin/airflow"
    script.symlink_to(airflows.environment(version) / "bin/airflow")
    home = airflows.home(version, folder / "airflow")
    url = server.make_database(version, home)
    env = {
        **airflows.on_database(home, name_for_airflow(url)),
        **environment(ecr.url),
        "ECR_AIRFLOW_SYNC_AIRFLOW": str(script),  # in no argument: starts are counted
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
    }
    return Place(version, str(script), env, url, ecr)


def compare(there: Place, count: int, rounds: int) -> Result:
    """The first run of ours makes the connections, and is not counted.

    Ten connections are twenty starts for the common method, and so an average already:
    half the rounds will do.
    """
    there.ours(count)
    if count > 1:
        rounds = (rounds + 1) // 2
    else:
        there.common(count)
    ours = partial(there.cost, there.ours, count)
    common = partial(there.cost, there.common, count)
    print(f"{there.version}, {count} connection(s)", file=sys.stderr, flush=True)
    return Result(there.version, count, take_turns(ours, common, rounds))


# --- what is told ---


def describe_machine() -> list[str]:
    """What the figures depend on: the day, the machine, what runs there."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(": ")[2]
    system = platform.platform()
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            system = line.partition("=")[2].strip('"')
    return [
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, {cpu}",
        f"{system}, Python {platform.python_version()}, PostgreSQL on the same machine",
    ]


def format_table(results: Sequence[Result]) -> str:
    lines = [
        "| Airflow | Connections | Time | CPU time | A connection is missing "
        "| Processes with a token | Airflow starts |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        pairs = result.pairs
        showing = pairs.medians(lambda cost: cost.showing)
        starts = pairs.medians(lambda cost: cost.starts)
        cells = [
            result.version,
            str(result.count),
            format_pairs(pairs, lambda cost: cost.wall),
            format_pairs(pairs, lambda cost: cost.cpu),
            format_pairs(pairs, lambda cost: cost.missing),
            f"{showing[1]:.0f} → {showing[0]:.0f}",
            f"{starts[1]:.0f} → {starts[0]:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_pairs(pairs: Pairs[Cost], figure: Callable[[Cost], float]) -> str:
    ours, common = pairs.medians(figure)
    told = f"{format_seconds(common)} → {format_seconds(ours)} s"
    if not ours:
        return told
    return f"{told}, ÷ {1 / pairs.ratio(figure):.1f}"


def list_rows(results: Sequence[Result]) -> list[Row]:
    rows = []
    for result in results:
        walls = result.pairs.medians(lambda cost: cost.wall)
        missing = result.pairs.medians(lambda cost: cost.missing)
        for kind, wall, gone in zip(("ours", "common"), walls, missing):
            rows.append(Row(result.version, result.count, kind, wall, gone))
    return rows


def find_misses(results: Sequence[Result]) -> list[str]:
    """What should hold and does not."""
    misses = []
    for result in results:
        name = f"Airflow {result.version}, {result.count} connection(s)"
        ratio = 1 / result.pairs.ratio(lambda cost: cost.wall)
        if result.count == max(COUNTS) and ratio < BARS[result.version]:
            misses.append(f"{name}: only {ratio:.1f} times as fast")
        for cost in result.pairs.ours:
            if cost.missing or cost.showing:
                misses.append(f"{name}: {cost}")
    return misses


def measure(versions: Sequence[str], rounds: int) -> list[Result]:
    program = postgres.find_server()
    if not program:
        raise SystemExit(f"No PostgreSQL here: apt-get install {postgres.PACKAGE}")
    results = []
    with ExitStack() as stack:
        ecr = stack.enter_context(serving_here(EcrStandIn()))
        server = stack.enter_context(postgres.serving(program))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for version in versions:
            there = prepare(version, Path(folder, version), server, ecr)
            for count in COUNTS:
                results.append(compare(there, count, rounds))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs (3)")
    parser.add_argument("--svg", type=Path, help="where to draw the plot")
    parser.add_argument("--versions", nargs="+", default=VERSIONS, choices=VERSIONS)
    given = parser.parse_args()
    about = describe_machine()
    print(*about, f"Load: {os.getloadavg()[0]:.1f}", sep="\n", flush=True)
    results = measure(given.versions, given.rounds)
    print(f"\n{format_table(results)}")
    if given.svg:
        given.svg.write_text(plot(list_rows(results), about), encoding="utf-8")
    misses = find_misses(results)
    if misses:
        raise SystemExit("\n".join(misses))


if __name__ == "__main__":
    main()

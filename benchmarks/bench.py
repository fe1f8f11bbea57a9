"""The sync beside the common method, on real Airflows. `make bench` prints it, and draws the README's plot.

The common method is one call to ECR, and then two starts of Airflow's command line for each connection:
one to delete it, one to add it. Both have the same ECR (a stand-in), the same Airflow and the same database,
and take turns: ours, common, ours, common. What is shown are medians; ratios are medians of those of the pairs.
Ends with 1 if a bar is missed.

    python -m benchmarks.bench --rounds 1 --versions 2.11.2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Callable, Iterator, Sequence

from tests.support import airflows, postgres
from tests.support.command import INSTALLED, ROOT
from tests.support.database import Reader, Server, connect, name_for_airflow
from tests.support.ecr_stand_in import EcrStandIn, environment
from tests.support.watcher import Background, processes

VERSIONS = ("1.10.15", "2.11.2", "3.3.2")
OLD, NEWEST = "2.5.3", "3.3.2"  # for what the README claims besides
COUNTS = (1, 10)
REGISTRIES = [f"{number:012}" for number in range(max(COUNTS))]
WALL_BARS = {
    "1.10.15": 8.0,
    "2.11.2": 15.0,
    "3.3.2": 15.0,
}  # common ÷ ours, for ten connections
SHARE_AIM = (
    0.1  # of one run, what is ours: no bar, for neighbours on the machine move it
)
DELETES = ("1.", "2.5")  # how the versions begin that have no import --overwrite

SYNC = [sys.executable, *INSTALLED]
ASK = """
import base64, json, sys
import boto3
answer = boto3.client("ecr", "us-east-1").get_authorization_token(registryIds=sys.argv[1:])
for entry in answer["authorizationData"]:
    host = entry["proxyEndpoint"].partition("://")[2]
    print(json.dumps([host, base64.b64decode(entry["authorizationToken"]).decode().partition(":")[2]]))
"""
# Stands in for the airflow script, and says over a FIFO, which is closed with the process, when it runs.
TELLING = """#!{python}
import os, runpy
fifo = os.open({fifo!r}, os.O_WRONLY)
os.write(fifo, b"begins ")
try:
    runpy.run_path({script!r}, run_name=__name__)
finally:
    os.write(fifo, b"ends ")
"""


@dataclass(frozen=True)
class Cost:
    """What one run cost. ``missing`` are seconds in which not all connections were there."""

    wall: float
    cpu: float
    missing: float = 0
    seen: int = 0  # processes whose arguments held a token
    starts: int = 0  # of Airflow's command line


@dataclass
class Onlooker(Background):
    """Looks at the arguments of all processes, as any user of the machine can."""

    script: str
    tokens: Callable[[], list[str]]
    seen: set[int] = field(default_factory=set)
    starts: set[int] = field(default_factory=set)

    def work(self) -> None:
        while not self.stop.wait(0.2):
            pieces = [token[300:400] for token in self.tokens()]
            for number, arguments in processes():
                if self.script in arguments:
                    self.starts.add(number)
                if any(piece in arguments for piece in pieces):
                    self.seen.add(number)


@dataclass
class Place:
    """An Airflow with a database and an ECR of its own, and what is measured there."""

    version: str
    folder: Path
    env: dict[str, str]
    url: str
    ecr: EcrStandIn

    def tokens(self) -> list[str]:
        """All that ECR has given."""
        return [token for tokens in list(self.ecr.tokens.values()) for token in tokens]

    @property
    def script(self) -> str:
        """A link to the airflow script, by a name that no other process has."""
        return str(self.folder / "bin/airflow")

    def start(self, command: Sequence[str], **more: str) -> subprocess.Popen[str]:
        quiet = subprocess.PIPE
        env = {**self.env, **more}
        return subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=quiet,
            stderr=quiet,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> str:
        """What it printed. No token may be shown, so a failure shows little."""
        stdout, stderr = process.communicate(timeout=600)
        if process.returncode:
            raise SystemExit(
                f"Airflow {self.version}: exit status {process.returncode}: {stderr[-300:]}"
            )
        return stdout

    def run(self, command: Sequence[str], **more: str) -> str:
        return self.end(self.start(command, **more))

    def ours(self, count: int) -> None:
        self.run([*SYNC, *options(count)])

    def common(self, count: int) -> None:
        for line in self.run(
            [sys.executable, "-c", ASK, *REGISTRIES[:count]]
        ).splitlines():
            host, token = json.loads(line)
            conn_id = f"ecr_{host.partition('.')[0]}"
            fields = [
                "--conn-type=docker",
                f"--conn-host={host}",
                "--conn-login=AWS",
                f"--conn-password={token}",
            ]
            self.run([self.script, "connections", "delete", conn_id])
            self.run([self.script, "connections", "add", conn_id, *fields])

    def cost(self, method: Callable[[int], None], count: int) -> Cost:
        """Of one run, looked upon by a reader of the database and one of all processes' arguments.

        They look seldom enough to leave the machine to the run. That nothing is ever missing on new
        Airflows, test_one_transaction.py shows with a reader who never pauses.
        """
        conn_ids = tuple(f"ecr_{registry}" for registry in REGISTRIES[:count])
        reader, onlooker = (
            Reader(self.url, conn_ids, pause=0.005),
            Onlooker(self.script, self.tokens),
        )
        with reader, onlooker:
            used, began = cpu_of_children(), time.perf_counter()
            method(count)
            wall, cpu = time.perf_counter() - began, cpu_of_children() - used
        assert reader.reads > 100, "the reader could not look"
        return Cost(
            wall, cpu, reader.seconds_missing, len(onlooker.seen), len(onlooker.starts)
        )


@dataclass(frozen=True)
class Result:
    """The pairs of runs, ours and common, of one Airflow and one number of connections."""

    version: str
    count: int
    ours: list[Cost]
    common: list[Cost]

    def medians(self, name: str) -> tuple[float, float]:
        """Of ours and of the common method."""
        ours, common = (
            median(getattr(cost, name) for cost in costs)
            for costs in (self.ours, self.common)
        )
        return ours, common

    def ratio(self, name: str) -> float:
        """Common ÷ ours."""
        pairs = [
            (getattr(a, name), getattr(b, name)) for a, b in zip(self.common, self.ours)
        ]
        return median(a / b if b else float("inf") for a, b in pairs)


@dataclass(frozen=True)
class Split:
    """Where the seconds of one run went: until the airflow script begins, until its process ends, until all ends.

    ``bare`` is what one Airflow command cost by itself, just before. Ours is what the run cost more.
    """

    before: float
    airflow: float
    after: float
    cpu: float
    bare: Cost

    @property
    def wall(self) -> float:
        return self.before + self.airflow + self.after

    @property
    def share(self) -> float:
        return 1 - self.bare.wall / self.wall

    @property
    def cpu_share(self) -> float:
        return 1 - self.bare.cpu / self.cpu


def options(count: int) -> list[str]:
    registries = [f"--registry={registry}" for registry in REGISTRIES[:count]]
    return ["--region=us-east-1", *registries, "--conn-id=ecr_{registry}"]


def half(rounds: int) -> int:
    return (rounds + 1) // 2


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {text}", file=sys.stderr, flush=True)


# --- what is measured ---


def place(version: str, folder: Path, server: Server | None, ecr: EcrStandIn) -> Place:
    """That Airflow, on a fresh database."""
    say(f"Airflow {version}: its environment and database")
    (folder / "bin").mkdir(parents=True)
    (folder / "tmp").mkdir()
    (folder / "bin/airflow").symlink_to(airflows.environment(version) / "bin/airflow")
    env, url = (
        airflows.home(version, folder / "airflow"),
        f"sqlite:///{folder}/airflow/airflow.db",
    )
    if server:
        url = server.make_database(version, env)
        env = airflows.on_database(env, name_for_airflow(url))
    env.update(
        PATH="/usr/bin:/bin",
        HOME=str(folder),
        TMPDIR=str(folder / "tmp"),
        **environment(ecr.url),
    )
    env["ECR_AIRFLOW_SYNC_AIRFLOW"] = str(folder / "bin/airflow")
    return Place(version, folder, env, url, ecr)


def compare(there: Place, count: int, rounds: int) -> Result:
    """The first run of ours makes the connections, and is not counted; nor is the first pair of all.

    Ten connections are twenty starts for the common method, and so an average already: half the rounds will do.
    """
    rounds = rounds if count == COUNTS[0] else half(rounds)
    there.ours(count)
    if count == COUNTS[0]:
        there.common(count)
    ours, common = [], []
    for number in range(rounds):
        ours.append(there.cost(there.ours, count))
        common.append(there.cost(there.common, count))
        took = f"ours {ours[-1].wall:.1f} s, common {common[-1].wall:.1f} s"
        say(
            f"Airflow {there.version}, {count} connection(s), round {number + 1} of {rounds}: {took}"
        )
    return Result(there.version, count, ours, common)


def split(there: Place) -> Split:
    """Of one run with one connection, as seen by a script in the place of Airflow's."""
    fifo, script = there.folder / "fifo", there.folder / "bin/telling/airflow"
    if not fifo.exists():
        python, real = (
            airflows.environment(there.version) / "bin/python",
            Path(there.script).resolve(),
        )
        script.parent.mkdir()
        script.write_text(
            TELLING.format(python=python, fifo=str(fifo), script=str(real))
        )
        script.chmod(0o755)
        os.mkfifo(fifo)
    used = cpu_of_children()
    wall = seconds(
        lambda: there.run([there.script, "connections", *bare_command(there)])
    )
    bare = Cost(wall, cpu_of_children() - used)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    used, began = cpu_of_children(), time.perf_counter()
    process = there.start([*SYNC, *options(1)], ECR_AIRFLOW_SYNC_AIRFLOW=str(script))
    told = [time.perf_counter() for _ in events(reader)]
    there.end(process)
    ended = time.perf_counter()
    os.close(reader)
    return Split(
        told[0] - began,
        told[-1] - told[0],
        ended - told[-1],
        cpu_of_children() - used,
        bare,
    )


def bare_command(there: Place) -> list[str]:
    """One start of Airflow's that writes one connection; where that takes two, delete and add, the second."""
    if there.version.startswith(DELETES):
        return [
            "add",
            f"of_bench_{time.monotonic_ns()}",
            "--conn-type=docker",
            "--conn-host=h",
            "--conn-password=x",
        ]
    file = there.folder / "connections.json"
    file.write_text(
        '{"of_bench": {"conn_type": "docker", "host": "h", "login": "AWS", "password": "x"}}'
    )
    return ["import", "--overwrite", str(file)]


def events(reader: int) -> Iterator[bytes]:
    """What is written to a FIFO, and b"" when the last writer has ended."""
    poll, told = select.poll(), b"-"
    poll.register(reader, select.POLLIN)
    while told:
        if not poll.poll(120_000):
            raise SystemExit("Airflow was not started within two minutes")
        told = os.read(reader, 100)
        yield told


def median_split(there: Place, rounds: int) -> Split:
    """That with the median share of ours."""
    splits = [split(there) for _ in range(3 * rounds)]
    return sorted(splits, key=lambda found: found.share)[len(splits) // 2]


# --- what the README claims besides ---


def nothing_due(there: Place) -> float:
    """Seconds of a run that finds its token fresh."""
    command = [*SYNC, *options(1), "--renew-before=6h"]
    state = str(there.folder / "rests")
    there.run(command, STATE_DIRECTORY=state)
    return median(
        seconds(lambda: there.run(command, STATE_DIRECTORY=state)) for _ in range(9)
    )


def starts_in_a_day(there: Place) -> int:
    """48 runs, half an hour apart: the state is aged, which is what a clock would do."""
    state, written = there.folder / "day", 0
    for _ in range(48):
        report = json.loads(
            there.run(
                [*SYNC, *options(1), "--renew-before=6h", "--json"],
                STATE_DIRECTORY=str(state),
            )
        )
        written += report["connections"][0]["status"] == "written"
        ((key, (written_at, expires_at, *facts)),) = json.loads(
            (state / "written.json").read_text()
        ).items()
        aged = {key: [written_at - 1800, expires_at - 1800, *facts]}
        (state / "written.json").write_text(json.dumps(aged))
    return written


def eight_at_once(there: Place) -> float:
    """Seconds until the last of eight hosts has synced."""

    def fleet() -> None:
        for host in [there.start([*SYNC, *options(1)]) for _ in range(8)]:
            there.end(host)

    return seconds(fleet)


def calls_and_starts(there: Place) -> tuple[int, int]:
    """Calls to ECR and starts of Airflow in one run, for two registries in two regions."""
    template = "--conn-id=ecr_{registry}_{region}"
    earlier = len(there.ecr.calls)
    with Onlooker(there.script, there.tokens) as onlooker:
        there.run([*SYNC, *options(2), "--region=eu-west-1", template])
    return len(there.ecr.calls) - earlier, len(onlooker.starts)


def rows(there: Place) -> int:
    """How often the database has the connection that all hosts write."""
    with contextlib.closing(connect(there.url)) as database:
        cursor = database.cursor()
        cursor.execute(
            f"SELECT count(*) FROM connection WHERE conn_id = 'ecr_{REGISTRIES[0]}'"
        )
        return int(cursor.fetchone()[0])


def exposures(folder: Path) -> Iterator[str]:
    """What systemd makes of the service: as it comes, and with the drop-in for sudo."""
    unit = shutil.copy(ROOT / "systemd/ecr-airflow-sync.service", folder)
    analyze = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    for drop_in in ("", "sudo.conf"):
        if drop_in:
            Path(f"{unit}.d").mkdir()
            shutil.copy(ROOT / "examples/systemd" / drop_in, f"{unit}.d")
        told = subprocess.run(
            analyze, capture_output=True, text=True, check=True
        ).stdout
        exposure = re.findall(r"exposure level .*: ([\d.]+)", told)[0]
        yield f"exposure of the systemd service{' with ' + drop_in if drop_in else ''}: {exposure}"


def claims(
    places: dict[str, Place], results: Sequence[Result], rounds: int
) -> Iterator[str]:
    """A line for each figure that the README has besides the table's."""
    first = {result.version: result for result in results if result.count == 1}
    gone = {
        v: r.medians("missing")[0] for v, r in first.items() if v.startswith(DELETES)
    }
    if OLD in places:
        places[OLD].ours(1)
        gone[OLD] = median(
            places[OLD].cost(places[OLD].ours, 1).missing for _ in range(rounds)
        )
    for version, missing in gone.items():
        yield f"Airflow {version}: a connection is gone for {missing:.2f} s of a run"
    if NEWEST in places:
        newest, one = places[NEWEST], first[NEWEST].medians("wall")[0]
        with Reader(newest.url, (f"ecr_{REGISTRIES[0]}",), pause=0.005) as reader:
            eight = median(eight_at_once(newest) for _ in range(3))
        lost = f"{reader.missing} of {reader.reads} reads without the connection, {rows(newest)} row(s)"
        yield f"Airflow {NEWEST}: eight hosts at once, three times: {eight:.0f} s a round, one {one:.1f} s; {lost}"
    there = next(iter(places.values()))
    calls, starts = calls_and_starts(there)
    yield f"two registries in two regions: {calls} calls to ECR, {starts} Airflow start(s)"
    yield f"a run with nothing due, --renew-before 6h: {nothing_due(there):.2f} s"
    yield f"a day of 48 runs with --renew-before 6h: {starts_in_a_day(there)} Airflow starts"
    showing = median(seconds(lambda: there.run([*SYNC, "--help"])) for _ in range(9))
    yield f"--help: {showing:.2f} s"
    if shutil.which("systemd-analyze"):
        yield from exposures(there.folder)


# --- what is told ---


def machine(server: Server | None) -> list[str]:
    """What the figures depend on: the day, the machine, what runs there."""
    cpu = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    names = [
        line
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("PRETTY_NAME=")
    ]
    system = names[0].partition("=")[2].strip('"') if names else platform.platform()
    database = (
        "PostgreSQL on the same machine"
        if server
        else "SQLite, for there is no PostgreSQL server here"
    )
    cores = f"{os.cpu_count()} cores, {cpu[0] if cpu else platform.machine()}"
    return [
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {cores}",
        f"{system}, Python {platform.python_version()}, {database}",
    ]


def short(value: float) -> str:
    """With two digits that count, and at least the ones."""
    return (
        f"{value:.0f}"
        if value >= 99.5 or not value
        else f"{value:.1f}"
        if value >= 1
        else f"{value:.2f}"
    )


def compared(result: Result, name: str) -> str:
    ours, common = result.medians(name)
    ratio = result.ratio(name)
    return f"{short(common)} → {short(ours)} s" + (
        f", ÷ {ratio:.1f}" if ratio < float("inf") else ""
    )


def counted(result: Result, name: str) -> str:
    ours, common = result.medians(name)
    return f"{common:.0f} → {ours:.0f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, aligned; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def cost_table(results: Sequence[Result]) -> str:
    head = [
        "Airflow",
        "connections",
        "wall",
        "CPU",
        "one missing",
        "processes with a token",
        "Airflow starts",
    ]
    rows = [
        [
            r.version,
            str(r.count),
            *(compared(r, n) for n in ("wall", "cpu", "missing")),
            *(counted(r, n) for n in ("seen", "starts")),
        ]
        for r in results
    ]
    return table([head, *rows])


def split_table(splits: dict[str, Split]) -> str:
    """First what is ours, then how the run passes."""
    head = [
        "Airflow",
        "one run",
        "bare command",
        "ours",
        "ours, CPU",
        "until Airflow runs",
        "until it ends",
        "then",
    ]
    rows = [
        [version, *(f"{part:.2f} s" for part in (s.wall, s.bare.wall))]
        + [f"{s.wall - s.bare.wall:.2f} s, {s.share:.0%}", f"{s.cpu_share:.0%}"]
        + [f"{part:.2f} s" for part in (s.before, s.airflow, s.after)]
        for version, s in splits.items()
    ]
    return table([head, *rows])


def bars(results: Sequence[Result]) -> Iterator[tuple[str, bool]]:
    """What must hold, and whether it does."""
    for result in results:
        name = f"Airflow {result.version}, {result.count} connection(s)"
        if result.count == 10 and result.version in WALL_BARS:
            ratio, least = result.ratio("wall"), WALL_BARS[result.version]
            yield (
                f"{name}: wall, common ÷ ours {ratio:.1f}, at least {least:.0f}",
                ratio >= least,
            )
        longest = max(cost.missing for cost in result.ours)
        yield f"{name}: never missing in any of our runs", longest == 0
        yield (
            f"{name}: no process of ours shows a token",
            not any(cost.seen for cost in result.ours),
        )


# --- the plot ---

WIDTH, LEFT, RIGHT, BAR, STEP = 720, 150, 175, 14, 20
STYLE = """
  text { font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 } .airflow { font-weight: 600 } .small { font-size: 11px }
  .small, .axis { fill: #59636e } .card { fill: #ffffff; stroke: #d1d9e0 } .ground { fill: #ffffff } .grid { stroke: #d1d9e0 }
  .ours { fill: #1a7f5a } .common { fill: #9aa4af } .missing { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small, .axis { fill: #9198a1 } .card { fill: #0d1117; stroke: #3d444d } .ground { fill: #0d1117 }
    .grid { stroke: #3d444d } .ours { fill: #3fb98a } .common { fill: #6e7781 } .missing { fill: #ff6a69 }
  }
"""


def tick(longest: float) -> float:
    """A round number of seconds, of which four to nine make the axis."""
    return next(
        size
        for size in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
        if longest / size <= 9
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>'


def bar(y: float, scale: float, kind: str, wall: float, missing: float) -> list[str]:
    """Its length is the run, the red part at its foot the seconds in which a connection was missing."""
    drawn = [box(LEFT, y, max(wall * scale, 1), BAR, kind)]
    if missing:
        drawn.append(box(LEFT, y + BAR - 5, max(missing * scale, 1), 5, "missing"))
    words = (
        f"{short(wall)} s, missing {short(missing)} s"
        if missing
        else f"{short(wall)} s, never missing"
    )
    x = LEFT + wall * scale + 6
    return [
        *drawn,
        box(x, y, 6.5 * len(words), BAR, "ground"),
        text(x, y + 11.5, words),
    ]


def legend(y: float) -> list[str]:
    kinds = {
        "ours": "ecr-airflow-sync",
        "common": "connections delete, add",
        "missing": "a connection is missing",
    }
    drawn, x = [], 20.0
    for kind, words in kinds.items():
        height = 5 if kind == "missing" else 12
        drawn += [box(x, y - height + 1, 12, height, kind), text(x + 18, y, words)]
        x += 30 + 7 * len(words)
    return drawn


def axis(top: float, bottom: float, scale: float, longest: float) -> list[str]:
    drawn, size = [], tick(longest)
    for count in range(int(longest / size) + 1):
        x = LEFT + count * size * scale
        drawn.append(
            f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" class="grid"/>'
        )
        drawn.append(
            text(
                x,
                bottom + 15,
                f"{count * size:g} s" if count else "0",
                "axis small",
                "middle",
            )
        )
    return drawn


def plot(results: Sequence[Result], about: Sequence[str]) -> str:
    """An SVG on a card of its own, light or dark as the reader's browser is."""
    longest = max(r.medians("wall")[1] for r in results)
    scale, y, drawn = (WIDTH - LEFT - RIGHT) / longest, 92.0, []
    version = ""
    for result in results:
        y += 14 if version and result.version != version else 4
        if result.version != version:
            version = result.version
            drawn.append(text(20, y + 11.5, f"Airflow {version}", "airflow"))
            y += STEP
        words = f"{result.count} connection{'s' if result.count > 1 else ''}"
        drawn.append(text(LEFT - 10, y + 11.5 + STEP / 2, words, "", "end"))
        for side, kind in enumerate(("ours", "common")):
            drawn += bar(
                y,
                scale,
                kind,
                result.medians("wall")[side],
                result.medians("missing")[side],
            )
            y += STEP
    height = y + 66
    head = text(20, 30, "Seconds to renew ECR tokens in Airflow connections", "title")
    feet = [
        text(20, height - 28 + 15 * line, words, "small")
        for line, words in enumerate(about)
    ]
    inside = [
        box(0.5, 0.5, WIDTH - 1, height - 1, "card"),
        head,
        *legend(56),
        *axis(78, y + 2, scale, longest),
        *drawn,
        *feet,
    ]
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    lines = "\n".join(f"  {element}" for element in inside)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{STYLE}</style>\n{lines}\n</svg>\n'


# --- all of it ---


@contextlib.contextmanager
def serving() -> Iterator[Server | None]:
    """A PostgreSQL server; none if Airflow is to take SQLite."""
    initdb = postgres.find_server()
    if not initdb:
        yield None
        return
    with postgres.serving(initdb) as server:
        yield server


def to_be_had(versions: Sequence[str]) -> list[str]:
    """Those for which this machine has a Python."""
    found = []
    for version in versions:
        try:
            airflows.find_python(*airflows.RECIPES[version].pythons)
            found.append(version)
        except airflows.Unavailable as unavailable:
            print(f"Airflow {version} is left out: {unavailable}")
    return found


def measure(versions: Sequence[str], rounds: int, svg: str) -> bool:
    """Print all of it, and draw the plot; whether every bar is held."""
    ecr = EcrStandIn()
    threading.Thread(target=ecr.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(
        prefix="ecr-airflow-sync-bench-"
    ) as name, serving() as server:
        about = machine(server)
        pairs = f"Medians of {rounds} pair(s), of {half(rounds)} with ten connections: common → ours."
        print(
            *about,
            f"{pairs} Load when it began: {os.getloadavg()[0]:.1f}",
            sep="\n",
            flush=True,
        )
        more = [OLD] if tuple(versions) == VERSIONS else []
        places = {
            v: place(v, Path(name, v), server, ecr)
            for v in to_be_had([*versions, *more])
        }
        measured = [there for version, there in places.items() if version in versions]
        results = [
            compare(there, count, rounds) for there in measured for count in COUNTS
        ]
        print(f"\n{cost_table(results)}\n", flush=True)
        say("where time goes in one run")
        splits = {there.version: median_split(there, rounds) for there in measured}
        print(f"One run, one connection:\n\n{split_table(splits)}\n", flush=True)
        say("what the README claims")
        for line in claims(places, results, rounds):
            print(line, flush=True)
    if svg:
        Path(svg).write_text(plot(results, about), encoding="utf-8")
        print(f"\nThe plot is in {svg}")
    for version, found in splits.items():
        if found.share > SHARE_AIM:
            print(
                f"Airflow {version}: {found.share:.0%} of a run is ours; {SHARE_AIM:.0%} is the aim"
            )
    held = list(bars(results))
    print(
        "",
        *(f"{'held  ' if good else 'MISSED'}  {words}" for words, good in held),
        sep="\n",
    )
    return all(good for _, good in held)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=3, help="pairs of runs to take the median of (3)"
    )
    parser.add_argument("--svg", default="", help="where to draw the plot")
    parser.add_argument(
        "--versions",
        nargs="+",
        default=VERSIONS,
        choices=airflows.RECIPES,
        metavar="VERSION",
    )
    given = parser.parse_args()
    began = time.monotonic()
    held = measure(given.versions, given.rounds, given.svg)
    print(f"\n({(time.monotonic() - began) / 60:.1f} minutes)")
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()

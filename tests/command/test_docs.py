"""README.md and docs/ against the code and the files that they speak of."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from botocore import exceptions as boto
from click.testing import CliRunner

import ecr_airflow_sync
from _ecr_airflow_sync import (
    airflow_errors,
    check,
    config_file,
    interpreter,
    model,
    tokens,
)
from _ecr_airflow_sync.airflow_syntax import Outcome
from _ecr_airflow_sync.aws_errors import explain_aws_error
from _ecr_airflow_sync.errors import ConnectionMissing, Held, StepFailed, advise
from _ecr_airflow_sync.identities import create_client
from _ecr_airflow_sync.report import format_json
from ecr_airflow_sync import Airflow, Result, Target, UsageError
from tests.support.command import (
    HOST,
    PACKAGE,
    ROOT,
    Command,
    FakeAirflow,
    Place,
)
from tests.support.ecr_stand_in import ACCOUNT, PARTNER, EcrStandIn, Fault, Role
from tests.support.registry_stand_in import RegistryStandIn

MAIN = ecr_airflow_sync.main
PREFIX = "ECR_AIRFLOW_SYNC"
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
AIRFLOW = "/opt/airflow/bin/airflow"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of that language, without the indent of a list."""
    found = []
    for indent, name, text in FENCE.findall(page.read_text()):
        if name == language:
            found.append(re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def read_table(text: str, title: str) -> list[list[str]]:
    """The cells of each row, of all tables whose first column has that title."""
    rows = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *lines = table.splitlines()
        if header.startswith(f"| {title} |"):
            rows += [split_cells(line) for line in lines]
    return rows


def split_cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip("|"))
    return [cell.strip().replace("\\|", "|") for cell in cells]


def first_names(text: str, title: str) -> list[str]:
    """What stands in backticks in the first column of those tables."""
    cells = [row[0] for row in read_table(text, title)]
    return re.findall(r"`([^`]+)`", " ".join(cells))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w -]", "", text).replace(" ", "-")
        assert anchor not in found, "two headings of one name"
        found.add(anchor)
    return found


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def command_lines(page: Path) -> list[list[str]]:
    """The words behind the command's name, wherever a block runs it."""
    name = r"(?:^\$ |bin/)ecr-airflow-sync\b"
    words = r"((?: +(?:'[^']*'|[^\s;'}#]+))*)"
    found = []
    for _, _, text in FENCE.findall(page.read_text()):
        joined = text.replace("\\\n", " ")
        lines = re.findall(name + words, joined, re.MULTILINE)
        found += [shlex.split(line) for line in lines]
    return found


def without_times(text: str) -> str:
    """The text with every time made the same, and how many hours something lasts."""
    text = re.sub(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d UTC", "TIME", text)
    return re.sub(r"\d+ h\b", "N h", text)


# --- the pages themselves ---


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # another site's
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.read_text().splitlines()) <= 200
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(README)}
    assert set(DOCS.glob("*.md")) <= linked


@each_page
def test_json_is_json(page: Path) -> None:
    for text in blocks(page, "json"):
        json.loads(text)


def test_the_files_are_those_that_there_are() -> None:
    there = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    listed = first_names(prose(DOCS / "design.md"), "File")
    assert set(listed) == there - {"__init__.py"}


# --- options ---


def read_help() -> str:
    told: str = CliRunner().invoke(MAIN, ["--help"], prog_name="x").output
    assert max(map(len, told.splitlines())) <= 80
    return told


def in_any_order(names: str) -> str:
    """`-h, --help`, whichever of both comes first."""
    return " ".join(sorted(names.replace(",", "").split()))


def test_options_are_those_of_help() -> None:
    """All of them, under the same headings, with their defaults."""
    documented, existing = [], []
    sections = re.split("^### ", prose(DOCS / "options.md"), flags=re.MULTILINE)
    defaults = {}
    for section in sections[1:]:
        heading = section.partition("\n")[0]
        for option, _, default in read_table(section, "Option"):
            names = in_any_order(option.replace("`", ""))
            documented.append((heading, names))
            defaults[names] = default
    context = click.Context(MAIN, **MAIN.context_settings)
    heading = ""
    for parameter in MAIN.get_params(context):
        heading = getattr(parameter, "heading", heading)
        names_and_value, told = parameter.get_help_record(context) or ("", "")
        names = in_any_order(names_and_value)
        existing.append((heading, names))
        shown = re.search(r"\[default: ([^];]+)", told)
        assert shown is None or shown[1] in defaults[names]
    assert sorted(documented) == sorted(existing)


def test_the_readme_knows_each_option_by_its_name() -> None:
    common, all_of_them = (
        {row[0] for row in read_table(prose(page), "Option")}
        for page in (README, DOCS / "options.md")
    )
    assert len(common) == 10
    assert common <= all_of_them


@each_page
def test_variables_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And may have the values that are shown."""
    existing = {f"{PREFIX}_{(option.name or '').upper()}" for option in MAIN.params}
    completion = f"{PREFIX}_COMPLETE"  # Click's own
    named = set(re.findall(rf"{PREFIX}_[A-Z_]*[A-Z]", page.read_text()))
    assert named - existing - {completion} == set()
    for line in "".join(blocks(page, "sh")).splitlines():
        if line.startswith(PREFIX):
            name, value = shlex.split(line)[0].split("=", 1)
            monkeypatch.setenv(name, value)
            MAIN.make_context("x", [])


def test_command_lines_are_understood() -> None:
    lines = [line for page in PAGES for line in command_lines(page)]
    assert len(lines) >= 10
    examples = re.findall("^    ecr-airflow-sync (.*)$", read_help(), re.MULTILINE)
    assert len(examples) == 2
    for line in [*lines, *map(str.split, examples)]:
        MAIN.make_context("x", line)


def test_how_long_aws_may_take() -> None:
    text = " ".join(prose(DOCS / "options.md").split())
    config = create_client(Target(region="us-east-1"), None, "ecr").meta.config
    connect, read = config.connect_timeout, config.read_timeout
    assert f"up to five times, with {connect} s to connect and {read} s to read" in text
    assert config.retries["total_max_attempts"] == 5
    assert "gives up on ECR after three minutes in all" in text
    assert tokens.PATIENCE == check.PATIENCE == 3 * 60


# --- what is printed ---


def test_what_is_printed_is_as_shown(
    command: Command, fake: Place, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    airflow = fake("3.3.2")
    command.env["AIRFLOW_HOME"] = "/srv/airflow"

    def show(*options: str) -> str:
        ran = command("--region", "us-east-1", *options)
        printed = ran.stdout + ran.stderr
        return without_times(printed.replace(str(airflow.script), AIRFLOW))

    written = blocks(README, "console")[0]
    assert show() == without_times(written.partition("\n")[2])
    before = airflow.connections()

    ecr.faults["us-east-1"] = Fault(code="ExpiredTokenException", message="Expired.")
    (failure,) = blocks(DOCS / "options.md")
    begin, end = without_times(failure).split("…")
    told = show("--quiet")
    assert (told.startswith(begin), told.endswith(end)) == (True, True)
    unchanged = airflow.connections() == before
    assert unchanged

    ecr.ahead = 13 * 3600
    refused = blocks(DOCS / "check.md", "console")[0]
    assert show("--check") == without_times(refused.partition("\n")[2])


def test_several_regions_and_registries(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    (words,) = [line for line in command_lines(DOCS / "options.md") if "-r" in line]
    assert command(*words).status == 0
    stored = airflow.connections()
    assert (
        "writes `ecr_111111111111_us-east-1` and three more, with two calls"
        in prose(DOCS / "options.md")
    )
    assert (len(stored), len(ecr.calls), airflow.count_starts()) == (4, 2, 1)
    for conn_id, fields in stored.items():
        _, registry, region = conn_id.split("_")
        assert fields["host"] == f"{registry}.dkr.ecr.{region}.amazonaws.com"


def test_json_has_the_keys_shown() -> None:
    printed = json.loads(format_json(model.Run([Result("a", "written")])))
    shown = json.loads(blocks(DOCS / "options.md", "json")[0])
    assert list(printed) == list(shown)
    assert list(printed["airflow"]) == list(shown["airflow"])
    assert list(printed["connections"][0]) == list(shown["connections"][0])


def test_statuses_are_those_of_the_code() -> None:
    listed = []
    for page in (DOCS / "options.md", DOCS / "check.md"):
        listed += first_names(prose(page), "Status")
    assert set(listed) == set(get_args(model.Status))


# --- what is told when it fails ---

# What the tables of messages quote of others, who may say it however they like.
OTHERS = {
    "no such table: connection": "SQLite",
    "You need to initialize the database": "Airflow",
    "Skipping masking for a secret as it's too short": "Airflow 3",
    "status=217/USER": "systemd",
    "Unable to configure handler": "Python's logging",
    "Read-only file system": "the kernel",
    "Operation not permitted": "the kernel",
}
LONGEST_STATUS = max(map(len, get_args(model.Status)))


def find_airflow(command: str) -> str:
    """Why none is found there."""
    try:
        with Airflow(command, timeout=30).start(import_now=False):
            return ""
    except (StepFailed, UsageError) as error:
        return str(error)


def time_out(script: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told of a write that takes too long, by a clock that goes very fast."""
    asked = model.Connection("docker_default", "host", "AWS", "s3cret")
    starting = Airflow(str(script), 120, "2.11.2").start(import_now=False)
    now = time.monotonic
    with starting as running, monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: 1000 * now())
        patch.setattr(interpreter, "LOOK_EVERY", 0.01)
        return running.write([asked])["docker_default"]


def ask_aws(target: Target, **credentials: Held) -> str:
    return str(tokens.fetch_tokens([target], credentials)[target])


def answer(code: str, words: str, operation: str = "GetAuthorizationToken") -> str:
    response: Any = {"Error": {"Code": code, "Message": words}}
    return explain_aws_error(boto.ClientError(response, operation), "us-east-1")


def judge(host: str, in_database: bool) -> str:
    """What a check says of a connection."""
    held = model.HeldConnection("docker_default", in_database, host, "", "", "", {})
    variables = ["AIRFLOW_CONN_DOCKER_DEFAULT"]
    target = Target(region="us-east-1")
    (result,) = check.check_connections([target], {target.conn_id: held}, variables)
    return str(result.error)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Messages as the code makes them."""
    script = tmp_path / "airflow"
    script.write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    script.chmod(0o755)
    config = tmp_path / "config"
    config.write_text("[profile slow]\ncredential_process = sleep 60\n")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "pg://db.example.com/a")
    monkeypatch.setattr(tokens, "PATIENCE", 0.2)
    ssl = OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    errors = (
        boto.NoCredentialsError(),
        boto.NoRegionError(),
        boto.EndpointConnectionError(endpoint_url="https://x/"),
        boto.SSLError(endpoint_url="https://x/", error=ssl),
    )
    return [
        find_airflow("airflow"),
        find_airflow("/usr/bin/true"),
        find_airflow(str(script)),
        find_airflow("python -m airflow"),
        find_airflow(f'sh -c \'"$0" "$@" </dev/null\' {script}'),
        time_out(script, monkeypatch),
        *(explain_aws_error(error, "us-esat-1") for error in errors),
        answer("ExpiredTokenException", "The security token is expired"),
        answer("AccessDeniedException", "User: a is not authorized to perform: b"),
        answer("AccessDenied", "User: a may not sts:AssumeRole on b", "AssumeRole"),
        ask_aws(Target(region="us-east-1", profile="slow")),
        ask_aws(Target(aws_conn_id="gone"), gone=ConnectionMissing("none there")),
        *(
            airflow_errors.explain_airflow_error(Outcome(1, row.sample), "x", "y", [])
            for row in airflow_errors.ADVICE
        ),
        judge("registry.example.com", in_database=True),
        judge("registry.example.com", in_database=False),
    ]


def test_messages_are_those_of_the_code(told: list[str]) -> None:
    """A number stands for any number, and … for anything."""
    quoted = set()
    for page in (README, DOCS / "troubleshooting.md"):
        quoted.update(first_names(prose(page), "You see"))
    quoted = {text for text in quoted if len(text) > LONGEST_STATUS}
    assert OTHERS.keys() <= quoted
    unknown = []
    for text in quoted - OTHERS.keys():
        pattern = re.sub(r"\d+", r"\\d+", re.escape(text)).replace("…", ".*")
        is_told = any(re.search(pattern, line) for line in told)
        if not is_told and not advise(text, airflow_errors.ADVICE):
            unknown.append(text)
    assert unknown == []


# --- Python ---


def test_the_python_example_runs(command: Command, airflow: FakeAirflow) -> None:
    """It prints nothing by itself: the logger is for whoever listens."""
    code = blocks(DOCS / "python-and-dags.md", "python")[1]
    assert AIRFLOW in code
    code = code.replace(AIRFLOW, str(airflow.script))
    command.env["PYTHONPATH"] += f":{ROOT}"
    command.program, command.options = ("-c", code), []
    ran = command()
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    assert list(airflow.connections()) == ["docker_default"]


def test_what_python_callers_use_is_as_listed() -> None:
    page = DOCS / "python-and-dags.md"
    text = " ".join(prose(page).split())
    signature = inspect.signature(ecr_airflow_sync.sync).parameters.values()
    options = [f"{p.name}={p.default}" for p in signature if p.kind == p.KEYWORD_ONLY]
    assert f"`sync(targets, airflow, *, {', '.join(options)})` does what" in text
    assert set(first_names(prose(page), "Field")) == list_fields(Result)
    assert "fields are those of a [section of the file]" in text
    assert list_fields(Target) == {*config_file.KEYS, "conn_id"}
    assert "and `timeout`, `version` and `method`, which mean" in text
    assert f"Progress goes to the logger `{ecr_airflow_sync.log.name}`" in text
    assert list_fields(Airflow) == {"command", "timeout", "version", "method"}


def list_fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


# --- the file of --config ---


def test_the_example_has_three_identities(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn, tmp_path: Path
) -> None:
    """Of them, the page shows what the keys are for."""
    role = "arn:aws:iam::222222222222:role/ecr-pull"
    ecr.roles[role] = Role("222222222222", "airflow-prod-1")
    keys = {"login": PARTNER.access_key, "password": PARTNER.secret_key}
    airflow.hold(aws_partner=keys)
    example = ROOT / "examples/ecr-airflow-sync.ini"
    ran = command("--config", str(example))
    assert (ran.status, ran.stderr) == (0, "")
    assert (len(ecr.calls), airflow.count_starts()) == (4, 1)
    hosts = {name: row.get("host") for name, row in airflow.connections().items()}
    assert hosts == {
        "aws_partner": None,
        "docker_default": HOST,
        "ecr_ireland": HOST.replace("us-east-1", "eu-west-1"),
        "ecr_platform": HOST.replace(ACCOUNT, "222222222222"),
        "ecr_partner": HOST.replace(ACCOUNT, "345678901234"),
    }
    (text,) = blocks(DOCS / "identities.md", "ini")
    shown = tmp_path / "sync.ini"
    shown.write_text(text)
    default, platform, partner = config_file.read_config(str(shown), Target())
    partner = dataclasses.replace(partner, extra='{"email": "platform@example.com"}')
    asked = config_file.read_config(str(example), Target())
    assert {default, platform, partner} <= set(asked)


def test_the_keys_of_a_section_are_all_named() -> None:
    text = " ".join(prose(DOCS / "identities.md").split())
    (listed,) = re.findall(r"Its keys are (.*?)\.", text)
    assert re.findall(r"`(\w+)`", listed) == list(config_file.KEYS)


# --- what stands around the command ---


def test_cron_lines_are_those_that_are_shipped() -> None:
    shipped = (ROOT / "crontab.example").read_text()
    for drop_in in (ROOT / "examples/systemd").glob("*.conf"):
        shipped += drop_in.read_text()
    form = re.compile(r"^#?((?:[*\d/]+ ){5}.+)$", re.MULTILINE)
    known = set(form.findall(shipped))
    printed = [line for page in PAGES for line in form.findall(page.read_text())]
    assert len(printed) == 4
    assert set(printed) <= known


def test_sudo_rules_are_those_that_are_shipped() -> None:
    shipped = (ROOT / "examples/systemd/sudo.conf").read_text()
    rules = re.findall(r"^# +((?:ecr-sync|Defaults).*\n)", shipped, re.MULTILINE)
    assert "".join(rules) in blocks(DOCS / "containers-and-sudo.md")


@each_page
def test_units_exist(page: Path) -> None:
    shipped = {path.name for path in (ROOT / "systemd").iterdir()}
    names = r"(?<![\w@%-])(?!stamp-)[\w-]+\.(?:service|timer|default)\b"
    assert set(re.findall(names, page.read_text())) - shipped == set()


@each_page
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = re.findall(r"^([a-z ]+):", makefile, re.MULTILINE)
    targets = set(" ".join(rules).split())
    commands = re.findall(r"(?:`|\$ )(?:sudo )?make ([a-z]+)", page.read_text())
    assert set(commands) - targets == set()


def test_metrics_are_those_that_are_written(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    path = tmp_path / "ecr.prom"
    assert command("-r", "us-east-1", "--metrics-file", str(path)).status == 0
    line = re.compile(r"^(\w+?)(?:\{(\w+)=.*\})? [\d.e+]+$", re.MULTILINE)
    written = dict(line.findall(path.read_text()))
    listed = {}
    for name, label, _ in read_table(prose(DOCS / "monitoring.md"), "Metric"):
        listed[name.strip("`")] = label.strip("`")
    assert listed == written
    queries = "".join(blocks(DOCS / "monitoring.md", "yaml"))
    queries += "".join(blocks(DOCS / "monitoring.md"))
    assert set(re.findall(r"\becr_airflow_sync_\w+", queries)) <= set(written)


def test_completion() -> None:
    text = (DOCS / "install.md").read_text()
    assert "_ECR_AIRFLOW_SYNC_COMPLETE=bash_source ecr-airflow-sync" in text
    for shell in ("bash", "zsh", "fish"):
        assert f"{shell}_source" in text
        env = {"_ECR_AIRFLOW_SYNC_COMPLETE": f"{shell}_source"}
        done = CliRunner().invoke(MAIN, [], prog_name="ecr-airflow-sync", env=env)
        assert "_ecr_airflow_sync_completion" in done.output

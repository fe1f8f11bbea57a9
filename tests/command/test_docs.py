"""README.md and docs/ against the code and the files that they speak of."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, get_args

import click
import pytest

import ecr_airflow_sync
from tests.support.command import ROOT, Command, FakeAirflow
from tests.support.ecr_stand_in import ACCOUNT, PARTNER, EcrStandIn, Fault, Role
from tests.support.registry_stand_in import RegistryStandIn

Place = Callable[..., FakeAirflow]
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


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)#* *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower().strip()
        anchor = re.sub(r"[^\w -]", "", text).replace(" ", "-")
        numbered = (f"{anchor}-{number}" for number in itertools.count(1))
        unused = (a for a in itertools.chain([anchor], numbered) if a not in found)
        found.add(next(unused))
    return found


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def table_rows(page: Path) -> Iterator[list[str]]:
    """The cells of each row of each table."""
    for line in prose(page).splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            yield [cell.strip().replace("\\|", "|") for cell in cells]


def without_times(text: str) -> str:
    """The text with every day and every time of day made the same."""
    return re.sub(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d UTC", "TIME", text)


def without_hours(text: str) -> str:
    """The text with every time made the same, and how long something lasts."""
    return re.sub(r"\d+ h ", "N h ", without_times(text))


# --- the pages themselves ---


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# `--check`\n## Docker's own, e.g. [a_b](c.md)\n## Twice\n## Twice\n"
        "```sh\n# no heading\n```\n"
    )
    assert anchors(page) == {"--check", "dockers-own-eg-a_b", "twice", "twice-1"}


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


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


def test_the_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(README)}
    assert set(DOCS.glob("*.md")) <= linked


@each_page
def test_json_is_json(page: Path) -> None:
    for text in blocks(page, "json"):
        json.loads(text)


# --- the command ---


def test_options_are_all_in_the_table() -> None:
    documented = set()
    for cells in table_rows(DOCS / "options.md"):
        if cells[0].startswith("`-"):
            documented.add(in_any_order(cells[0].replace("`", "")))
    command = ecr_airflow_sync.main
    context = click.Context(command, **command.context_settings)
    existing = set()
    for option in command.get_params(context):
        names_and_value, _ = option.get_help_record(context) or ("", "")
        existing.add(in_any_order(names_and_value))
    assert documented == existing


def in_any_order(names: str) -> str:
    """`-h, --help`, whichever of both comes first."""
    return " ".join(sorted(names.replace(",", "").split()))


def test_the_readme_knows_each_option_by_its_name() -> None:
    written = dict.fromkeys(
        cells[0] for cells in table_rows(DOCS / "options.md") if cells[0][:2] == "`-"
    )
    common = [cells[0] for cells in table_rows(README) if cells[0][:2] == "`-"]
    assert len(common) == 10
    assert [option for option in common if option not in written] == []


@each_page
def test_variables_exist(page: Path) -> None:
    prefix = ecr_airflow_sync.main.context_settings["auto_envvar_prefix"]
    options = [option.name or "" for option in ecr_airflow_sync.main.params]
    existing = {f"{prefix}_{option.upper()}" for option in options}
    completion = f"{prefix}_COMPLETE"  # Click's own
    named = set(re.findall(rf"{prefix}_[A-Z_]*[A-Z]", page.read_text()))
    assert named - existing - {completion} == set()


def test_the_report_is_as_shown(command: Command, fake: Place) -> None:
    airflow = fake("3.3.2")
    ran = command("--region", "us-east-1", AIRFLOW_HOME="/srv/airflow")
    printed = ran.stdout.replace(str(airflow.script), AIRFLOW)
    _, _, shown = blocks(README, "console")[0].partition("\n")
    assert without_times(printed) == without_times(shown)


def test_a_check_is_as_shown(
    command: Command, fake: Place, ecr: EcrStandIn, registry: RegistryStandIn
) -> None:
    airflow = fake("3.3.2")
    assert command("--region", "us-east-1", "--quiet").status == 0
    ecr.ahead = 13 * 3600
    ran = command("--region", "us-east-1", "--check", AIRFLOW_HOME="/srv/airflow")
    printed = (ran.stdout + ran.stderr).replace(str(airflow.script), AIRFLOW)
    _, _, shown = blocks(DOCS / "check.md", "console")[0].partition("\n")
    assert without_times(printed) == without_times(shown)


def test_a_failure_says_how_long_the_old_token_lasts(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    assert command("--region", "us-east-1", "--quiet").status == 0
    ecr.faults["us-east-1"] = Fault(code="ExpiredTokenException", message="Expired.")
    ran = command("--region", "us-east-1", "--quiet")
    (shown,) = blocks(DOCS / "options.md")
    before, after = without_hours(shown).split("…")
    assert without_hours(ran.stderr).startswith(before)
    assert without_hours(ran.stderr).endswith(after)


def test_json_has_the_keys_shown(command: Command, fake: Place) -> None:
    fake()
    printed = json.loads(command("--region", "us-east-1", "--json").stdout)
    shown = json.loads(blocks(DOCS / "options.md", "json")[0])
    assert list(printed) == list(shown)
    assert list(printed["airflow"]) == list(shown["airflow"])
    (result,) = printed["connections"]
    assert list(result) == list(shown["connections"][0])


def test_statuses_are_those_of_the_code() -> None:
    from _ecr_airflow_sync.model import Status

    listed = []
    for page in (DOCS / "options.md", DOCS / "check.md"):
        text = page.read_text()
        (table,) = re.findall(
            r"^\| Status \| Meaning \|\n\|.*\n((?:\| `.*\n)+)", text, re.M
        )
        listed += re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert set(listed) == set(get_args(Status))


def test_the_python_example_runs(command: Command, fake: Place) -> None:
    airflow = fake()
    code = blocks(DOCS / "python-and-dags.md", "python")[1]
    assert AIRFLOW in code
    code = code.replace(AIRFLOW, str(airflow.script))
    code += "print(results[0].conn_id, results[0].status)\n"
    ran = command.end(
        command.launch([sys.executable, "-c", code], command.env, cwd=ROOT)
    )
    assert (ran.status, ran.stdout) == (0, "docker_default written\n")


def test_a_result_has_the_fields_listed() -> None:
    rows = table_rows(DOCS / "python-and-dags.md")
    named = [cells[0] for cells in rows if cells[0].startswith("`")]
    listed = set(re.findall(r"`(\w+)`", " ".join(named)))
    fields = dataclasses.fields(ecr_airflow_sync.Result)
    assert listed == {field.name for field in fields}


# --- the file of --config ---


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The file that docs/identities.md shows."""
    path = tmp_path / "ecr-airflow-sync.ini"
    (text,) = blocks(DOCS / "identities.md", "ini")
    path.write_text(text)
    return path


def test_the_file_shown_is_accepted(
    command: Command, fake: Place, ecr: EcrStandIn, config: Path
) -> None:
    airflow = fake()
    role = "arn:aws:iam::222222222222:role/ecr-pull"
    ecr.roles[role] = Role("222222222222", "airflow-prod-1")
    partner = {"login": PARTNER.access_key, "password": PARTNER.secret_key}
    airflow.store.write_text(json.dumps({"aws_partner": {**partner, "extra": "{}"}}))
    ran = command("--config", str(config))
    assert (ran.status, ran.stderr) == (0, "")
    hosts = {name: row.get("host") for name, row in airflow.connections().items()}
    assert hosts == {
        "aws_partner": None,
        "docker_default": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com",
        "ecr_platform": "222222222222.dkr.ecr.us-east-1.amazonaws.com",
        "ecr_partner": "345678901234.dkr.ecr.us-east-1.amazonaws.com",
    }


def test_the_keys_of_a_section_are_all_named(
    command: Command, fake: Place, config: Path
) -> None:
    fake()
    config.write_text("[docker_default]\nregoin = us-east-1\n")
    keys = command("--config", str(config)).stderr.rpartition("there are ")[2].strip()
    text = " ".join(prose(DOCS / "identities.md").split())
    (listed,) = re.findall(r"Its keys are (.*?)\.", text)
    assert re.findall(r"`(\w+)`", listed) == keys.split(", ")


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
    names = r"(?<![\w@%-])[\w-]+\.(?:service|timer|default)\b"
    assert set(re.findall(names, page.read_text())) - shipped == set()


@each_page
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = re.findall(r"^([a-z ]+):", makefile, re.MULTILINE)
    targets = set(" ".join(rules).split())
    commands = re.findall(r"(?:`|\$ )(?:sudo )?make ([a-z]+)", page.read_text())
    assert set(commands) - targets == set()


def test_metrics_are_those_that_are_written(
    command: Command, fake: Place, tmp_path: Path
) -> None:
    fake()
    path = tmp_path / "ecr.prom"
    assert command("-r", "us-east-1", "--metrics-file", str(path)).status == 0
    written = dict(
        re.findall(
            r"^(\w+?)(?:\{(\w+)=.*\})? [\d.e+]+$", path.read_text(), re.MULTILINE
        )
    )
    listed = {}
    for cells in table_rows(DOCS / "monitoring.md"):
        if cells[0].startswith("`"):
            listed[cells[0].strip("`")] = cells[1].strip("`")
    assert listed == written
    queries = "".join(blocks(DOCS / "monitoring.md", "yaml"))
    queries += "".join(blocks(DOCS / "monitoring.md"))
    assert set(re.findall(r"\becr_airflow_sync_\w+", queries)) <= set(written)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(command: Command, shell: str) -> None:
    assert f"{shell}_source" in (DOCS / "install.md").read_text()
    program = "from ecr_airflow_sync import main; main(prog_name='ecr-airflow-sync')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**command.env, "_ECR_AIRFLOW_SYNC_COMPLETE": f"{shell}_source"},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "_ecr_airflow_sync_completion" in done.stdout

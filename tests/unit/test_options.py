"""The options: each as its variable too, durations, and how --help lists them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from _ecr_airflow_sync import help_page
from _ecr_airflow_sync.help_page import find_docs
from _ecr_airflow_sync.model import Target
from _ecr_airflow_sync.options import read_targets
from ecr_airflow_sync import UsageError, main
from tests.support.command import ROOT

from .conftest import B, catch

# Those of ours, without Click's own.
OPTIONS: dict[str, Any] = {
    str(option.name): option for option in main.params if hasattr(option, "heading")
}
# What is given to an option, if not "x".
VALUES = {"timeout": "5", "splay": "7", "renew_before": "6h", "method": "import"}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_is_a_variable_too(
    monkeypatch: pytest.MonkeyPatch, own_environment: None, name: str
) -> None:
    option, value = OPTIONS[name], VALUES.get(name, "x")
    words = [option.opts[-1]] if option.is_flag else [option.opts[-1], value]
    given = main.make_context("x", words).params
    assert main.make_context("x", []).params != given
    variable = f"ECR_AIRFLOW_SYNC_{name.upper()}"
    monkeypatch.setenv(variable, "1" if option.is_flag else value)
    assert main.make_context("x", []).params == given


def test_durations() -> None:
    durations = {"6h": 21600, "90m": 5400, "45s": 45, "1h1m1s": 3661}
    for text, seconds in durations.items():
        context = main.make_context("x", ["--renew-before", text])
        assert context.params["renew_before"] == seconds


def test_what_is_no_duration() -> None:
    for text in ("", "6", "0h", "-6h", "6h\n", "30m1h"):
        told = catch(UsageError, main.make_context, "x", ["--renew-before", text])
        assert told == f"{text!r} is not a duration such as 6h, 90m or 1h30m"


def read(*words: str) -> list[Target]:
    with main.make_context("x", list(words)) as context:
        return read_targets(context.params)


def test_the_targets_of_the_options() -> None:
    identity = ["--profile=p", "--role-arn=r", "--external-id=e", "--aws-conn-id=a"]
    connection = ["--conn-id=c", "--host=h", "--conn-extra={}"]
    assert read("-r", "x", "-r", "y", "--registry", B, *identity, *connection) == [
        Target("c", region, B, "p", "r", "e", "a", "h", "{}") for region in "xy"
    ]


def test_the_targets_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "sync.ini"
    config.touch(0o600)
    config.write_text("[one]\nregion = x\n")
    target = Target("one", "x", host="h")
    assert read("--config", str(config), "--host", "h") == [target]
    monkeypatch.setenv("ECR_AIRFLOW_SYNC_REGION", "x")
    assert catch(UsageError, read, "--config", str(config), "--conn-id", "c") == (
        "ECR_AIRFLOW_SYNC_REGION and --conn-id cannot be used with --config: "
        "regions, registries and connection ids stand in the file"
    )


def test_help_lists_options_under_headings() -> None:
    told = CliRunner().invoke(main, ["--help"], prog_name="ecr-airflow-sync").output
    assert told.startswith("Usage: ecr-airflow-sync [OPTIONS]\n")
    headings = dict.fromkeys(option.heading for option in OPTIONS.values())
    assert re.findall(r"^(\w.*):$", told, re.MULTILINE) == list(headings)
    assert told.index("\nWhat to print:") < told.index("--version") < told.index("-h, ")
    assert told.endswith(f"\nDocumentation: {ROOT}/docs\n")


def test_where_the_documentation_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_docs() == str(ROOT / "docs")
    monkeypatch.setattr(help_page, "__file__", str(tmp_path / "package/help_page.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert find_docs() is None
    installed = tmp_path / "share/ecr-airflow-sync/docs"
    installed.mkdir(parents=True)
    (installed / "options.md").touch()
    assert find_docs() == str(installed)

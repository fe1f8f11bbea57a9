"""Whatever comes in from outside: one line or a result, never a traceback, never a token."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any, Iterator
from unittest import mock

import pytest
from ecr_stand_in import EcrStandIn, Fault, environment, new_token
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from _ecr_airflow_sync.airflow import Airflow
from _ecr_airflow_sync.airflow_syntax import parse_version
from _ecr_airflow_sync.errors import StepFailed, UsageError
from _ecr_airflow_sync.masking import mask
from _ecr_airflow_sync.model import Connection, Target
from _ecr_airflow_sync.state import State
from _ecr_airflow_sync.targets import combine_targets, validate_targets
from _ecr_airflow_sync.tokens import fetch_tokens

often = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just("AWS:x")
)
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just("expiresAt"), inner, max_size=3)
    ),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "authorizationToken": documents
        | st.binary().map(lambda b: base64.b64encode(b).decode()),
        "proxyEndpoint": documents
        | st.just("https://111111111111.dkr.ecr.x.amazonaws.com"),
        "expiresAt": documents | st.integers(0, 2**40),
    },
)
answers = documents | st.fixed_dictionaries(
    {"authorizationData": documents | st.lists(entries | documents, max_size=3)}
)


@pytest.fixture(scope="module")
def ecr() -> Iterator[EcrStandIn]:
    server = EcrStandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with mock.patch.dict(os.environ, environment(server.url)):
        yield server
    server.shutdown()
    server.server_close()


@settings(often, max_examples=25)
@given(st.one_of(answers.map(lambda d: json.dumps(d).encode()), st.binary()))
@example(b"[]")
@example(b"null")
@example(b'{"authorizationData": [{"proxyEndpoint": 5}]}')
@example(b'{"authorizationData": [{"proxyEndpoint": "https://["}]}')
def test_whatever_ecr_answers(ecr: EcrStandIn, body: bytes) -> None:
    ecr.faults["us-east-1"] = Fault(status=200, body=body, times=1)
    targets = [Target("a", "us-east-1", "111111111111"), Target("b", "us-east-1")]
    for got in fetch_tokens(targets, {}).values():
        if isinstance(got, StepFailed):
            assert "\n" not in str(got)
        else:
            assert got.login
            assert got.password
            assert got.host


@often
@given(st.text(), st.text(), st.integers(0, 2000), st.integers(60, 3000), st.booleans())
def test_no_piece_of_a_token_is_shown(
    before: str, after: str, start: int, length: int, named: bool
) -> None:
    token = new_token(1_800_000_000)
    piece = token[start : start + length]
    shown = mask(before + piece + after, [token] * named)
    assert not any(piece[i : i + 60] in shown for i in range(len(piece) - 59))


@often
@given(st.text())
@example("postgresql://airflow:s3cr/et@db/airflow")
@example("x" * 100_000)
@example(":" * 100_000)
@example("://" * 30_000)
def test_masking_is_quick_and_repeatable(text: str) -> None:
    once = mask(text)
    assert mask(once) == once
    assert "s3cr" not in once


@often
@given(st.text() | st.from_regex(r"\d+\.\d+(\.\d+)?.*"))
def test_versions(text: str) -> None:
    try:
        version = parse_version(text)
    except UsageError:
        return
    assert len(version) == 3


@often
@given(st.lists(st.text(max_size=9)), st.lists(st.text(max_size=13)), st.text())
def test_targets(regions: list[str], registries: list[str], template: str) -> None:
    try:
        asked = combine_targets(Target(template), regions, registries)
        targets = validate_targets(asked)
    except UsageError:
        return
    assert len({target.conn_id for target in targets}) == len(targets) > 0


@often
@given(documents.map(lambda d: json.dumps(d).encode()) | st.binary())
def test_any_state(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = Path(tmp_path_factory.getbasetemp())
    (folder / "written.json").write_bytes(content)
    with mock.patch.dict(os.environ, STATE_DIRECTORY=str(folder)):
        assert State.load("airflow").find_fresh([Target()], 1) == {}


@settings(max_examples=15, deadline=None)
@given(
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.integers(-1, 300),
    st.booleans(),
)
def test_whatever_airflow_prints(
    out: bytes, err: bytes, code: int, crash: bool
) -> None:
    """A script that prints anything, and ends as it likes."""
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "airflow")
        end = "os._exit(9)" if crash else f"raise SystemExit({code})"
        lines: list[Any] = [
            f"#!{sys.executable}",
            "import os, sys",
            f"os.write(1, {out!r}); os.write(2, {err!r})",
            end,
        ]
        script.write_text("\n".join(lines))
        script.chmod(0o755)
        airflow = Airflow(str(script), 60, "2.11.2", "auto")
        there = mock.patch.dict(os.environ, TMPDIR=folder)
        with there, airflow.start(import_now=False) as running:
            failures = running.write([Connection("x", "host", "AWS", "y")])
            try:
                assert isinstance(running.read(["x"])["x"], StepFailed)
            except StepFailed:
                assert crash
    assert failures["x"]
    assert "\n" not in failures["x"]

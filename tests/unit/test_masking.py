"""Masks: what each of them hides, and what is still to be read."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _ecr_airflow_sync.masking import mask
from tests.support.ecr_stand_in import new_token

LONG = "Ab1+_=-9" * 8  # 64 characters of what a token is made of
often = settings(max_examples=40, deadline=None)
texts = st.text("ab1:/@'=-_+. \n\u00fc")


ARN = (
    "arn:aws:sts::123456789012:assumed-role/a-very-long-role-name-of-a-company"
    "/i-0123456789abcdef0"
)
SHOWN = {
    "no password": ("sqlite:////a.db", "sqlite:////a.db"),
    "URL with a slash": ("pg://airflow:s3/cr@et@db/a", "pg://airflow:***@db/a"),
    "no user": ("redis://:s3cret@db/0", "redis://:***@db/0"),
    "not quite a URL": ("http:/me:s3cret@proxy", "http:/me:***@proxy"),
    "no URL": ("db:user:s3cret@host", "db:user:***@host"),
    "60 characters": (f"cannot parse {LONG[:60]}", "cannot parse ***"),
    "59 characters": (LONG[:59], LONG[:59]),
    "header": ("Invalid header value b'IQoJb3/Jp\\n'", "Invalid header value ***'"),
    "ids": ("connections ['b', 'my-b']", "connections ['b', 'my-b']"),
    "another value": ("Port 'a' as 's3cret@x'", "Port 'a' as 's3cret@x'"),
    "port": ("to integer value as 's3cret@x'", "to integer value as '***'"),
    "address": ("to ops@example.com at 12:30", "to ops@example.com at 12:30"),
    "ARN": (ARN, ARN),
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.values(), ids=SHOWN)
def test_what_is_hidden(text: str, shown: str) -> None:
    assert mask(text) == shown


def test_secrets_that_are_known() -> None:
    assert mask("a b c b", ["b", "", "x"]) == "a *** c ***"


def cut(text: str) -> set[str]:
    """All pieces that are long enough to be worth having."""
    return {text[i : i + 60] for i in range(len(text) - 59)}


@often
@given(texts, texts, st.integers(0, 2000), st.integers(60, 3000), st.booleans())
def test_no_piece_of_a_token_is_shown(
    before: str, after: str, start: int, length: int, named: bool
) -> None:
    token = new_token(1_800_000_000)
    piece = token[start : start + length]
    shown = mask(before + piece + after, [token] * named)
    assert not cut(piece) & cut(shown)


@often
@given(texts)
@example(":b'/'@")
@example("postgresql://airflow:s3cr/et@db/airflow")
@example("x" * 100_000)
@example(":" * 100_000)
@example("://" * 30_000)
def test_masking_is_quick_and_repeatable(text: str) -> None:
    once = mask(text)
    assert mask(once) == once
    assert "s3cr" not in once

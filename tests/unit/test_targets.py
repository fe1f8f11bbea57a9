"""What is asked for: regions times registries, validated, each with its connection."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _ecr_airflow_sync.errors import UsageError
from _ecr_airflow_sync.model import Target
from _ecr_airflow_sync.targets import (
    combine_targets,
    validate_target,
    validate_targets,
)

A, B = "111111111111", "222222222222"


@pytest.mark.parametrize(
    ("regions", "registries", "pairs"),
    [
        ([], [], [("", None)]),
        (["x"], [], [("x", None)]),
        ([""], [A], [("", A)]),
        (["x", "y"], [A, B], [("x", A), ("x", B), ("y", A), ("y", B)]),
    ],
    ids=["boto3's own", "own registry", "empty region", "two by two"],
)
def test_every_registry_in_every_region(
    regions: list[str], registries: list[str], pairs: list[tuple[str, str | None]]
) -> None:
    common = Target("c", role_arn="r")
    combined = combine_targets(common, regions, registries)
    assert combined == [
        replace(common, region=region, registry=registry) for region, registry in pairs
    ]


@pytest.mark.parametrize(
    ("target", "validated"),
    [
        (Target(), Target()),
        (Target("e_{region}", "x"), Target("e_x", "x")),
        (Target("e_{registry}_{region}", "x"), Target("e_{registry}_x", "x")),
        (Target("e_{registry}", "x", A), Target(f"e_{A}", "x", A)),
        (
            Target("e_{registry}_{region}", "x", "public", host="mirror.example.com"),
            Target("e_public_us-east-1", "us-east-1", "public", host="public.ecr.aws"),
        ),
    ],
    ids=["nothing known", "region", "own registry", "registry", "public"],
)
def test_what_is_known_is_filled_in(target: Target, validated: Target) -> None:
    assert validate_target(target) == validated


@pytest.mark.parametrize(
    "target",
    [
        Target("x" * 200),
        Target(".a-b_c.d"),
        Target("{registry}"),
        Target(host="localhost"),
        Target(host=""),
        Target(host="{registry}.dkr-ecr.{region}.on.aws"),
        Target(role_arn="r", external_id="e"),
        Target(aws_conn_id="a", external_id="e"),
        Target(aws_conn_id="a", role_arn="r"),
        Target(extra=""),
        Target(extra="{}"),
        Target(extra='{"reauth": true}'),
        Target(extra='{"reauth": "Yes"}'),
        Target(extra='{"team": "M\u00fcller"}'),
    ],
    ids=repr,
)
def test_what_may_be_asked_for(target: Target) -> None:
    assert validate_target(target) == target


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (Target(registry=f"{A}\n"), f"registry '{A}\\n' is not an account id of "
         "twelve digits"),
        (Target(registry="Public"), "registry 'Public' is not an account id of "
         "twelve digits"),
        (Target("e_{region"), "conn id 'e_{region': the placeholders are {registry} "
         "and {region}"),
        (Target("e_}"), "conn id 'e_}': the placeholders are {registry} and {region}"),
        (Target(host="a.example:443"), "host 'a.example:443' is not a bare host, "
         "as in an image's name"),
        (Target(host="a.example/x"), "host 'a.example/x' is not a bare host, "
         "as in an image's name"),
        (Target(host="-a.example"), "host '-a.example' is not a bare host, "
         "as in an image's name"),
        (Target(host="{region"), "host '{region' is not a bare host, "
         "as in an image's name"),
        (Target(extra="null"), "extra is not a JSON object, such as "
         "'{\"email\": \"me@example.com\"}'"),
        (Target(extra='{"reauth": 0}'), "extra has reauth false: DockerOperator would "
         "not log in to ECR"),
    ],
    ids=["line feed", "capital", "open", "closing", "port", "path", "dash", "half",
         "null", "zero"],
)  # fmt: skip
def test_what_is_refused(target: Target, error: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate_target(target)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    "extra", ['{"team": "M\udcfcller"}', "[" * 100_000], ids=["no UTF-8", "too deep"]
)
def test_an_extra_that_json_cannot_read(extra: str) -> None:
    with pytest.raises(UsageError, match=r"^extra is not JSON: ") as caught:
        validate_target(Target(extra=extra))
    assert "\n" not in str(caught.value)


def test_repetitions_are_one_target() -> None:
    public = combine_targets(Target("{registry}"), ["x", "y"], ["public"])
    asked = [*public, Target("{registry}", "x", A), Target(A, "x", A)]
    conn_ids = [target.conn_id for target in validate_targets(asked)]
    assert conn_ids == ["public", A]


def test_no_connection_is_asked_for_twice() -> None:
    with pytest.raises(UsageError, match="overwrite each other"):
        validate_targets([Target("a", "x"), Target("b"), Target("a", "y")])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=9)), st.lists(st.text(max_size=13)), st.text())
def test_targets(regions: list[str], registries: list[str], template: str) -> None:
    try:
        asked = combine_targets(Target(template), regions, registries)
        targets = validate_targets(asked)
    except UsageError:
        return
    assert len({target.conn_id for target in targets}) == len(targets) > 0

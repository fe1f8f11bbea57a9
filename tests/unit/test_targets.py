"""What is asked for: regions times registries, validated, each with its connection."""

from __future__ import annotations

from dataclasses import replace

import pytest

from _ecr_airflow_sync.errors import UsageError
from _ecr_airflow_sync.model import Target
from _ecr_airflow_sync.targets import (
    combine_targets,
    find_clashes,
    validate_target,
    validate_targets,
)

from .conftest import A, B, catch, token_for

RULE = (
    "it must be 1 to 200 ASCII letters, digits, underscores, dashes (not in front) and "
    "dots (not two in a row)"
)


def refuse(target: Target) -> str:
    """Why."""
    return catch(UsageError, validate_target, target)


def test_every_registry_in_every_region() -> None:
    common = Target("c", role_arn="r")
    assert combine_targets(common, [], []) == [common]
    pairs = [("x", A), ("x", B), ("y", A), ("y", B)]
    assert combine_targets(common, ["x", "y"], [A, B]) == [
        replace(common, region=region, registry=registry) for region, registry in pairs
    ]


def test_what_is_known_is_filled_in() -> None:
    template = "e_{registry}_{region}"
    assert validate_target(Target(template, "x")) == Target("e_{registry}_x", "x")
    public = Target(template, "x", "public", host="mirror.example.com")
    assert validate_target(public) == Target(
        "e_public_us-east-1", "us-east-1", "public", host="public.ecr.aws"
    )


ALLOWED: list[dict[str, str]] = [
    {"conn_id": "x" * 200},
    {"conn_id": ".a-b_c.d"},
    {"conn_id": "x" * 188 + "{registry}"},
    {"conn_id": "x" * 186 + "{region}"},
    {"host": ""},
    {"host": "localhost"},
    {"host": "{registry}.dkr-ecr.{region}.on.aws"},
    {"role_arn": "r", "external_id": "e"},
    {"aws_conn_id": "a", "external_id": "e"},
    {"extra": ""},
    {"extra": '{"reauth": "Yes", "team": "M\u00fcller"}'},
]


@pytest.mark.parametrize("fields", ALLOWED, ids=lambda fields: ascii(fields)[:30])
def test_what_may_be_asked_for(fields: dict[str, str]) -> None:
    target = Target(**fields)
    assert validate_target(target) == target


def test_regions_registries_and_hosts_that_are_refused() -> None:
    why = "is not one region: give one -r each (in a file, a section each)"
    for region in ("x y", "x,y"):
        assert refuse(Target(region=region)) == f"region {region!r} {why}"
    why = "is not an account id of twelve digits"
    for registry in ("", "12345", "\u0661" * 12, f"{A}\n"):
        assert refuse(Target(registry=registry)) == f"registry {registry!r} {why}"
    why = "is not a bare host, as in an image's name"
    for host in ("https://a.b", "a..b", "a.b:443", "-a.b", "{account}.b"):
        assert refuse(Target(host=host)) == f"host {host!r} {why}"


NO_IDS = ["", "a..b", "-a", "a/b", "a\n", "m\u00fcller", "x" * 201]
TOO_LONG = ["x" * 189 + "{registry}", "x" * 187 + "{region}"]


@pytest.mark.parametrize("conn_id", [*NO_IDS, *TOO_LONG], ids=ascii)
def test_ids_that_are_refused(conn_id: str) -> None:
    assert refuse(Target(conn_id)) == f"conn id {conn_id!r}: {RULE}"


def test_ids_that_are_refused_for_what_fills_them() -> None:
    assert refuse(Target("e_{region}", "a/b")) == f"conn id 'e_a/b': {RULE}"
    why = "the placeholders are {registry} and {region}"
    for conn_id in ("e_{account}", "e_{", "e_}"):
        assert refuse(Target(conn_id)) == f"conn id {conn_id!r}: {why}"


def test_identities_that_are_refused() -> None:
    assert refuse(Target(profile="a", aws_conn_id="b")) == (
        "profile and aws_conn_id are two sources of credentials: give one"
    )
    assert refuse(Target(external_id="a")) == (
        "external_id is for a role: give its role_arn"
    )


def test_extras_that_are_refused() -> None:
    for extra in ("{", '{"team": "M\udcfcller"}', "[" * 100_000):
        told = refuse(Target(extra=extra))
        assert told.startswith("extra is not JSON: ")
        assert "\n" not in told
    example = '\'{"email": "me@example.com"}\''
    told = f"extra is not a JSON object, such as {example}"
    assert refuse(Target(extra="[1]")) == told
    for value in ("false", '"no"', '"False"', "0"):
        assert refuse(Target(extra=f'{{"reauth": {value}}}')) == (
            "extra has reauth false: DockerOperator would not log in to ECR"
        )


def test_an_empty_region_beside_another() -> None:
    regions = ["", "eu-west-1"]
    told = catch(UsageError, combine_targets, Target("x_{region}"), regions, [])
    assert told == "one of several regions is empty"


def test_repetitions_are_one_target() -> None:
    public = combine_targets(Target("{registry}"), ["x", "y"], ["public"])
    asked = [*public, Target("{registry}", "x", A), Target(A, "x", A)]
    conn_ids = [target.conn_id for target in validate_targets(asked)]
    assert conn_ids == ["public", A]


CLASHES = {
    "a b a": "2 connections would both be a: give --conn-id 'ecr_{registry}_{region}'",
    "a a a": "3 connections would all be a: give --conn-id 'ecr_{registry}_{region}'",
    "a b A": "a and A differ in capitals only, and MySQL takes them for one connection: "
    "rename one",
}


@pytest.mark.parametrize("conn_ids", CLASHES)
def test_no_connection_is_asked_for_twice(conn_ids: str) -> None:
    targets = [
        Target(conn_id, region) for conn_id, region in zip(conn_ids.split(), "xyz")
    ]
    assert catch(UsageError, validate_targets, targets) == CLASHES[conn_ids]


def test_ids_that_came_to_be_the_same() -> None:
    """By what ECR told, so no earlier."""
    own, named = Target("e_{registry}"), Target(f"E_{A}", registry=A)
    asked = [own, named, Target("builder"), Target("fine")]
    clashes = find_clashes([token_for(target) for target in asked], ["Builder", "old"])
    assert list(clashes) == [f"e_{A}", f"E_{A}", "builder"]
    assert set(clashes.values()) == {
        "another connection of this run has that id too; give each an id of its own"
    }


def test_no_token_replaces_the_credentials() -> None:
    builder = Target("Builder", "x", aws_conn_id="builder")
    assert catch(UsageError, validate_targets, [builder]) == (
        "builder holds AWS credentials, which the token would replace: give another "
        "connection id than that of aws_conn_id"
    )

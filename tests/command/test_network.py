"""What goes over the network: to ECR and to registries, through proxies, with which secrets."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.support.command import HOST, Command, FakeAirflow, needs_proc, wait_for
from tests.support.ecr_stand_in import EcrStandIn
from tests.support.registry_stand_in import RegistryStandIn
from tests.support.watcher import processes


def test_a_check_logs_in_to_each_registry(
    command: Command,
    airflow: FakeAirflow,
    ecr: EcrStandIn,
    registry: RegistryStandIn,
) -> None:
    options = ("-r", "us-east-1", "-r", "eu-west-1", "--conn-id", "e_{region}")
    ran = command(*options, "--quiet")
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    airflow.count_starts()
    ran = command(*options, "--check")
    assert (ran.status, ran.stderr) == (0, "")
    header, first, second = ran.stdout.splitlines()
    assert header.startswith("Airflow 2.11.2, ")
    hosts = HOST, HOST.replace("us-east-1", "eu-west-1")
    for line, region, host in zip((first, second), ("us-east-1", "eu-west-1"), hosts):
        told = rf"e_{region}  fine     {host}, until \d\d:\d\d UTC \(1[12] h\)"
        assert re.fullmatch(told, line)
    assert registry.told() == set(hosts)
    assert airflow.count_starts() == 1
    assert len(ecr.calls) == 2  # of the first run


def test_a_proxy_with_a_certificate_of_its_own(
    command: Command, airflow: FakeAirflow, registry: RegistryStandIn
) -> None:
    """As companies have them. ECR by FIPS changes nothing in the connection."""
    del command.env["AWS_ENDPOINT_URL_ECR"]
    ca = command.env["SSL_CERT_FILE"]
    ran = command("-r", "us-east-1", "-q")
    assert (ran.status, airflow.connections()) == (1, {})
    assert "CERTIFICATE_VERIFY_FAILED" in ran.stderr
    by_fips = {"AWS_CA_BUNDLE": ca, "AWS_USE_FIPS_ENDPOINT": "true"}
    ran = command("-r", "us-east-1", **by_fips)
    assert (ran.status, ran.stderr) == (0, "")
    assert "ecr-fips.us-east-1" in registry.apis[-1]
    assert airflow.connections()["docker_default"]["host"] == HOST


# --- secrets ---


def test_a_secret_that_cannot_be_sent_is_not_shown(
    command: Command, airflow: FakeAirflow
) -> None:
    """With a line break, as `echo TOKEN | base64` leaves it: http.client quotes it."""
    token = f"{'IQoJb3/JpZ2luX2VjE/' * 20}\n"
    ran = command("-r", "us-east-1", "--quiet", AWS_SESSION_TOKEN=token)
    told = "An HTTP Client raised an unhandled exception: Invalid header value ***'"
    renew = "renew the AWS credentials (aws sso login, a new role session, new keys)"
    assert ran.stderr == f"docker_default: ECR in us-east-1: {told}; {renew}\n"
    assert (ran.status, airflow.connections()) == (1, {})


def test_nothing_of_the_credentials_is_shown_or_kept(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    secret = "a secret key that no mask would know by its looks"
    unknown = {"login": "AKIAIOSFODNN7UNKNOWN", "password": secret}
    airflow.hold(aws={**unknown, "extra": '{"aws_session_token": "tiny"}'})
    ran = command("-r", "us-east-1", "--aws-conn-id", "aws", "-v", "--json")
    assert (ran.status, airflow.count_starts()) == (1, 1)
    assert "UnrecognizedClientException" in ran.stderr
    for hidden in (secret, "tiny"):
        assert hidden not in ran.stdout + ran.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    holding = [path for path in files if secret.encode() in path.read_bytes()]
    assert holding == [airflow.store]


@needs_proc
def test_a_run_that_is_ended_leaves_no_credential_process(
    command: Command, airflow: FakeAirflow, tmp_path: Path
) -> None:
    mark = f"600.{time.time_ns()}"
    (tmp_path / "config").write_text(
        "[profile vault]\nregion = us-east-1\n"
        f'credential_process = sh -c "sleep {mark}; true"\n'
    )

    def count() -> int:
        return sum(mark in arguments for _, arguments in processes())

    config = str(tmp_path / "config")
    process = command.start("-q", "--profile", "vault", AWS_CONFIG_FILE=config)
    wait_for(lambda: count() == 2)  # the shell, and sleep
    process.terminate()
    assert command.end(process).status == 143
    assert count() == 0

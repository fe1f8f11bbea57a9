"""How ECR is asked, and what is told if it, or the way to it, fails."""

from __future__ import annotations

import re
import signal
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from tests.support.command import (
    HOST,
    ROOT,
    Command,
    FakeAirflow,
    needs_proc,
    wait_for,
)
from tests.support.ecr_stand_in import EcrStandIn, Fault
from tests.support.registry_stand_in import RegistryStandIn
from tests.support.watcher import processes

pytestmark = pytest.mark.usefixtures("airflow")

DENIED = Fault(code="AccessDeniedException", message="User: a is not authorized.")
LATER = "the next run tries again"
IMPATIENT = f"""\
import sys
sys.path.insert(0, {str(ROOT)!r})
from _ecr_airflow_sync import tokens
from ecr_airflow_sync import main
tokens.PATIENCE = 2
main()
"""
SYN_SENT = "02"  # in /proc/net/tcp: nobody has answered yet

FAULTS = {
    "denied": (
        DENIED,
        "ECR in us-east-1: AccessDeniedException: User: a is not authorized; "
        "allow this identity ecr:GetAuthorizationToken on resource *",
        1,
    ),
    "unavailable, five times": (
        Fault(status=503, body=b""),
        f"ECR in us-east-1: 503: Service Unavailable; {LATER}",
        5,
    ),
    "half an answer": (
        Fault(status=200, body=b'{"authorizationData": ['),
        "ECR in us-east-1 gave no token for the caller's own registry; that is no "
        "answer of ECR's; check AWS_ENDPOINT_URL, and the proxy",
        1,
    ),
    "no end": (
        Fault(change={"expiresAt": None}),
        f"ECR's answer for {HOST} has no expiresAt; {LATER}",
        1,
    ),
}


@pytest.mark.parametrize(("fault", "error", "calls"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_and_changes_nothing(
    command: Command,
    airflow: FakeAirflow,
    ecr: EcrStandIn,
    fault: Fault,
    error: str,
    calls: int,
) -> None:
    assert command("-r", "us-east-1").status == 0
    before = airflow.connections()
    ecr.faults["us-east-1"] = fault
    ran = command("-r", "us-east-1", "--quiet")
    told, _, held = ran.stderr.partition("; the token written there at ")
    assert told == f"docker_default: {error}"
    assert re.fullmatch(r"\d\d:\d\d UTC is valid for 1[12] h more\n", held)
    assert (ran.status, ran.stdout, len(ecr.calls) - 1) == (1, "", calls)
    assert airflow.connections() == before


def test_regions_are_asked_side_by_side(
    command: Command, airflow: FakeAirflow, ecr: EcrStandIn
) -> None:
    """Their time does not count against Airflow's. One that fails keeps no other."""
    options = ["--conn-id", "e_{region}", "--timeout", "2.5"]
    for region in ("us-east-1", "us-east-2", "eu-west-1", "eu-west-2"):
        ecr.faults[region] = Fault(delay=3)
        options += ["-r", region]
    ecr.faults["eu-west-2"] = Fault(delay=3, code="AccessDeniedException", message="no")
    ran = command(*options)
    times = [call.at for call in ecr.calls]
    assert (ran.status, len(times), max(times) - min(times) < 3) == (1, 4, True)
    statuses = [line.split()[1] for line in ran.stdout.splitlines()[1:]]
    assert statuses == ["written", "written", "written", "failed"]
    assert set(airflow.connections()) == {"e_us-east-1", "e_us-east-2", "e_eu-west-1"}


@contextmanager
def silence() -> Iterator[int]:
    """A port that answers nobody: its queue is full, and nobody takes from it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        queued = [socket.socket() for _ in range(4)]
        for client in queued:
            client.setblocking(False)
            client.connect_ex(address)
        wait_for(lambda: find_attempts(address[1]))
        yield address[1]
        for client in queued:
            client.close()


def find_attempts(port: int) -> set[str]:
    """The ends on this side of what nobody on that port has answered yet."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if remote.endswith(f":{port:04X}") and state == SYN_SENT:
            found.add(local)
    return found


@needs_proc
def test_five_seconds_to_connect_and_ten_to_read(
    command: Command, ecr: EcrStandIn
) -> None:
    """After that, boto3 tries anew."""
    ecr.faults["us-east-1"] = Fault(delay=60)
    reading = command.start("-r", "us-east-1")
    with silence() as port:
        ours = find_attempts(port)
        url = f"http://127.0.0.1:{port}"
        connecting = command.start("-r", "us-east-1", AWS_ENDPOINT_URL_ECR=url)
        wait_for(lambda: find_attempts(port) - ours)
        began = time.monotonic()
        (first,) = find_attempts(port) - ours
        wait_for(lambda: first not in find_attempts(port))
        assert 4.5 < time.monotonic() - began < 9
        connecting.terminate()
    wait_for(lambda: len(ecr.calls) == 2)
    reading.terminate()
    first_call, second_call = ecr.calls
    assert 9.5 < second_call.at - first_call.at < 15
    assert command.end(connecting).status == command.end(reading).status == 143


def test_an_answer_that_never_ends(command: Command, ecr: EcrStandIn) -> None:
    """With less patience than the command has."""
    ecr.faults["us-east-1"] = Fault(delay=60)
    command.program = ("-c", IMPATIENT)
    began = time.monotonic()
    ran = command("-r", "us-east-1", "-q")
    assert time.monotonic() - began < 30
    told = f"docker_default: ECR gave no whole answer; {LATER}\n"
    assert (ran.status, ran.stderr) == (1, told)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_no_credential_process(
    command: Command, tmp_path: Path, number: signal.Signals
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
    process.send_signal(number)
    assert command.end(process).status in (1, 143)
    assert count() == 0


CREDENTIALS = {
    "none": (
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        "Unable to locate credentials; boto3 looked at the environment, ~/.aws and "
        "instance metadata; HOME is {home}",
    ),
    "a wrong key": (
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        "InvalidSignatureException: The request signature we calculated does not match "
        "the signature you provided; check the secret key, and this host's clock",
    ),
    # As `echo TOKEN | base64` leaves it. http.client quotes what it refuses.
    "a line break": (
        {"AWS_SESSION_TOKEN": f"{'IQoJb3/JpZ2luX2VjE/' * 20}\n"},
        "An HTTP Client raised an unhandled exception: Invalid header value ***'; "
        "renew the AWS credentials (aws sso login, a new role session, new keys)",
    ),
}


@pytest.mark.parametrize(("env", "error"), CREDENTIALS.values(), ids=CREDENTIALS)
def test_credentials_that_are_wrong(
    command: Command, airflow: FakeAirflow, env: dict[str, str], error: str
) -> None:
    for name, value in env.items():
        command.env[name] = value
        if not value:
            del command.env[name]
    ran = command("-r", "us-east-1", "--quiet")
    error = error.replace("{home}", command.env["HOME"])
    assert ran.stderr == f"docker_default: ECR in us-east-1: {error}\n"
    assert (ran.status, airflow.connections()) == (1, {})


def test_a_region_that_does_not_exist(command: Command) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        ran = command("-r", "us-esat-1", "-q", AWS_ENDPOINT_URL_ECR=url)
    assert (ran.status, ran.stderr) == (
        1,
        "docker_default: ECR in us-esat-1: Could not connect to the endpoint URL: "
        f'"{url}/"; check the region, and this host\'s DNS, proxy and network; '
        "did you mean us-east-1?\n",
    )


# --- through a proxy ---


def test_a_proxy_whose_certificate_is_not_trusted(
    command: Command, airflow: FakeAirflow, registry: RegistryStandIn
) -> None:
    """As companies have them. Then the same proxy, trusted."""
    del command.env["AWS_ENDPOINT_URL_ECR"]
    ca = command.env["SSL_CERT_FILE"]
    for more in ({}, {"AWS_CA_BUNDLE": "/nowhere/ca.pem"}):
        ran = command("-r", "us-east-1", "-q", **more)
        assert (ran.status, airflow.connections()) == (1, {})
        assert ran.stderr.endswith(
            "; check AWS_CA_BUNDLE, a CA bundle that must know this network's proxy, "
            "and this host's clock\n"
        )
    assert command("-r", "us-east-1", AWS_CA_BUNDLE=ca).status == 0
    assert registry.apis[-1] == "api.ecr.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("variable", "api"),
    [
        ("AWS_USE_FIPS_ENDPOINT", "ecr-fips.us-east-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "ecr.us-east-1.api.aws"),
    ],
)
def test_another_endpoint_changes_nothing_in_the_connection(
    command: Command,
    airflow: FakeAirflow,
    registry: RegistryStandIn,
    variable: str,
    api: str,
) -> None:
    """Its host is another only with --host."""
    del command.env["AWS_ENDPOINT_URL_ECR"]
    command.env["AWS_CA_BUNDLE"] = command.env["SSL_CERT_FILE"]
    ran = command("-r", "us-east-1", **{variable: "true"})
    assert (ran.status, ran.stderr) == (0, "")
    (asked,) = registry.apis
    assert api in asked
    assert airflow.connections()["docker_default"]["host"] == HOST

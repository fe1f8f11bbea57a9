"""What ECR answers, over HTTP: its faults, one by one, and moto's ECR as a second one."""

from __future__ import annotations

import base64
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.support.command import MODULE, Command, FakeAirflow
from tests.support.ecr_stand_in import ACCOUNT, EcrStandIn, Fault
from tests.support.registry_stand_in import RegistryStandIn, Trouble
from tests.support.watcher import processes

Place = Callable[..., FakeAirflow]
A, B = "111111111111", "222222222222"
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
DENIED = (
    "User: arn:aws:sts::123456789012:assumed-role/acme-production-airflow-worker-instance-role"
    "/i-0123456789abcdef0 is not authorized to perform: "
    "ecr:GetAuthorizationToken on resource: * because no identity-based policy allows it"
)
RENEW = "renew the AWS credentials (aws sso login, a new role session, new keys)"
LATER = "the next run tries again"
IMPATIENT = (
    "from _ecr_airflow_sync import check, tokens\n"
    "check.PATIENCE = tokens.PATIENCE = 4\n"
    "import ecr_airflow_sync; ecr_airflow_sync.main()"
)
LOOKED = "boto3 looked at the environment, ~/.aws and instance metadata; HOME is {home}"


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("fault", "error", "calls"),
    [
        pytest.param(
            Fault(code="AccessDeniedException", message=DENIED),
            f"ECR in us-east-1: AccessDeniedException: {DENIED}; "
            "allow this identity ecr:GetAuthorizationToken on resource *",
            1,
            id="denied",
        ),
        pytest.param(
            Fault(
                code="ExpiredTokenException", message="The security token is expired"
            ),
            "ECR in us-east-1: ExpiredTokenException: The security token is expired; "
            + RENEW,
            1,
            id="expired credentials",
        ),
        pytest.param(
            Fault(code="ThrottlingException", message="Rate exceeded"),
            f"ECR in us-east-1: ThrottlingException: Rate exceeded; {LATER}; spread the hosts over the half hour",
            5,
            id="throttled",
        ),
        pytest.param(
            Fault(status=503, body=b""),
            f"ECR in us-east-1: 503: Service Unavailable; {LATER}",
            5,
            id="503",
        ),
        pytest.param(
            Fault(status=500, code="ServerException", message="no luck"),
            f"ECR in us-east-1: ServerException: no luck; {LATER}",
            5,
            id="500",
        ),
        pytest.param(
            Fault(drop=True),
            "ECR in us-east-1: Connection was closed before we received a valid response from "
            f'endpoint URL: "{{url}}/"; {LATER}',
            5,
            id="dropped",
        ),
        pytest.param(
            Fault(status=200, body=b'{"authorizationData": ['),
            "ECR in us-east-1 gave no token for the caller's own registry; that is no answer of "
            "ECR's; check AWS_ENDPOINT_URL, and the proxy",
            1,
            id="half an answer",
        ),
        *(
            pytest.param(
                Fault(change={key: None}),
                f"ECR's answer for {host} has no {key}; {LATER}",
                1,
                id=f"no {key}",
            )
            for key, host in (
                ("authorizationToken", HOST),
                ("expiresAt", HOST),
                ("proxyEndpoint", "a registry"),
            )
        ),
        pytest.param(
            Fault(change={"authorizationToken": "!not base64!"}),
            f"ECR's token for {HOST} is not base64 of plain text; {LATER}",
            1,
            id="not base64",
        ),
        pytest.param(
            Fault(change={"authorizationToken": encoded(b"AWS:\xff\xfe")}),
            f"ECR's token for {HOST} is not base64 of plain text; {LATER}",
            1,
            id="not text",
        ),
        *(
            pytest.param(
                Fault(change={"authorizationToken": encoded(text)}),
                f"ECR's token for {HOST} is not login, colon, password; {LATER}",
                1,
                id=f"token {text.decode()!r}",
            )
            for text in (b"nocolon", b"AWS:", b":password")
        ),
    ],
)
def test_faults(
    command: Command, fake: Place, ecr: EcrStandIn, fault: Fault, error: str, calls: int
) -> None:
    airflow = fake()
    assert command("-r", "us-east-1").status == 0
    before = airflow.connections()
    ecr.faults["us-east-1"] = fault
    ran = command("-r", "us-east-1", "--quiet")
    expected = re.escape(error.replace("{url}", ecr.url))
    held = r"the token written there at \d\d:\d\d UTC is valid for 12 h more"
    assert re.fullmatch(f"docker_default: {expected}; {held}\n", ran.stderr)
    assert (ran.status, ran.stdout, len(ecr.calls) - 1) == (1, "", calls)
    assert airflow.connections() == before


def test_a_time_that_is_none(command: Command, fake: Place, ecr: EcrStandIn) -> None:
    airflow = fake()
    ecr.faults["us-east-1"] = Fault(change={"expiresAt": "soon"})
    ran = command("-r", "us-east-1", "-q")
    assert ran.stderr.startswith(
        'docker_default: ECR in us-east-1: Invalid timestamp "soon"'
    )
    assert (ran.status, airflow.connections()) == (1, {})


def test_no_certificates(command: Command, fake: Place, ecr: EcrStandIn) -> None:
    fake()
    url = ecr.url.replace("http:", "https:")
    ran = command(
        "-r", "us-east-1", AWS_ENDPOINT_URL_ECR=url, AWS_CA_BUNDLE="/nowhere/ca.pem"
    )
    assert ran.status == 1
    assert ran.stderr.startswith("docker_default: ECR in us-east-1: ")
    assert ran.stderr.count("\n") == 1
    assert "; check AWS_CA_BUNDLE, a CA bundle that must know" in ran.stderr


def test_a_proxy_whose_certificate_is_not_trusted(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    """As companies have them. Then the same proxy, trusted."""
    airflow = fake()
    del command.env["AWS_ENDPOINT_URL_ECR"]
    host = "api.ecr.us-east-1.amazonaws.com"
    with RegistryStandIn(ecr, hosts=(host,)) as proxy:
        command.env.update(proxy.environment())
        ran = command("-r", "us-east-1", "-q")
        assert (ran.status, airflow.connections()) == (1, {})
        assert "CERTIFICATE_VERIFY_FAILED" in ran.stderr
        assert ran.stderr.endswith(
            "; check AWS_CA_BUNDLE, a CA bundle that must know this network's proxy, "
            "and this host's clock\n"
        )
        ran = command(
            "-r", "us-east-1", "-q", AWS_CA_BUNDLE=command.env["SSL_CERT_FILE"]
        )
        assert "CERTIFICATE" not in ran.stderr


def test_a_throttled_call_is_tried_again(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    ecr.faults["us-east-1"] = Fault(
        code="ThrottlingException", message="Rate exceeded", times=2
    )
    assert command("-r", "us-east-1").status == 0
    assert len(ecr.calls) == 3


def test_a_slow_answer_is_waited_for_ten_seconds(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    ecr.faults["us-east-1"] = Fault(delay=11, times=1)
    assert command("-r", "us-east-1").status == 0
    assert len(ecr.calls) == 2


def test_one_region_fails_the_other_is_written(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake()
    ecr.faults["eu-west-1"] = Fault(code="AccessDeniedException", message=DENIED)
    ran = command("-r", "eu-west-1", "-r", "us-east-1", "--conn-id", "e_{region}")
    assert ran.status == 1
    assert "e_eu-west-1  failed" in ran.stdout
    assert "e_us-east-1  written" in ran.stdout
    assert list(airflow.connections()) == ["e_us-east-1"]


def test_no_data_for_one_registry(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    airflow = fake()
    ecr.faults["us-east-1"] = Fault(without=(A,))
    ran = command(
        "-r", "us-east-1", "--registry", A, "--registry", B, "--conn-id", "e_{registry}"
    )
    assert ran.status == 1
    assert ran.stderr == (
        f"e_{A}: ECR in us-east-1 gave no token for registry {A}; check the id, and that this identity may read it\n"
    )
    assert list(airflow.connections()) == [f"e_{B}"]


def test_ten_connections_with_one_trouble_are_told_in_one_line(
    command: Command, fake: Place, ecr: EcrStandIn
) -> None:
    fake()
    ecr.faults["us-east-1"] = Fault(code="AccessDeniedException", message=DENIED)
    registries = [f"{number:012}" for number in range(10)]
    options = [option for registry in registries for option in ("--registry", registry)]
    ran = command("-r", "us-east-1", *options, "--conn-id", "e{registry}", "--quiet")
    assert ran.stderr.startswith(
        ", ".join(f"e{registry}" for registry in registries) + ": ECR in"
    )
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("region", ["us-esat-1", "us_east_1", "US-EAST-1"])
def test_a_region_that_does_not_exist(
    command: Command, fake: Place, region: str
) -> None:
    fake()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        ran = command("-r", region, "-q", AWS_ENDPOINT_URL_ECR=url)
    assert ran.status == 1
    assert ran.stderr.startswith(f"docker_default: ECR in {region}: ")
    assert ran.stderr.endswith("; did you mean us-east-1?\n")


def test_no_network_and_a_profile_that_is_gone(
    command: Command, fake: Place, tmp_path: Path
) -> None:
    """What helps to explain an error must not meet one."""
    fake()
    (tmp_path / "config").write_text(
        "[profile good]\nregion = us-east-1\naws_access_key_id = A\naws_secret_access_key = B\n"
    )
    gone = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "gone"}
    ran = command(
        "--profile", "good", "-q", AWS_ENDPOINT_URL_ECR="http://127.0.0.1:9", **gone
    )
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.startswith(
        "docker_default: ECR in us-east-1: Could not connect to the endpoint URL"
    )


def test_keys_with_a_line_break(command: Command, fake: Place) -> None:
    """As `echo TOKEN | base64` leaves it. http.client quotes what it refuses."""
    fake()
    token = "IQoJb3/JpZ2luX2VjE/" * 20
    ran = command("-r", "us-east-1", "-q", AWS_SESSION_TOKEN=f"{token}\n")
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert "Invalid header value" in ran.stderr
    assert token[:19] not in ran.stderr


@pytest.mark.parametrize("check", [False, True])
def test_an_answer_that_never_ends(
    command: Command,
    fake: Place,
    ecr: EcrStandIn,
    registry: RegistryStandIn,
    check: bool,
) -> None:
    """With less patience than the command has."""
    fake()
    assert command("-r", "us-east-1", "-q").status == 0
    ecr.faults["us-east-1"] = Fault(delay=40)
    registry.troubles[HOST] = Trouble(delay=40)
    options = [*command.options, "-r", "us-east-1", "-q", *["--check"] * check]
    began = time.monotonic()
    ran = command.end(
        command.launch(
            [sys.executable, "-c", IMPATIENT, *options], command.env, MODULE.parent
        )
    )
    assert time.monotonic() - began < 30
    assert (ran.status, ran.stderr.count("\n")) == (1, 1)
    assert " gave no whole answer; " in ran.stderr


@pytest.fixture
def waiting(command: Command, tmp_path: Path) -> str:
    """A profile's credential_process that never ends, and what starts another one."""
    mark = f"600.{time.time_ns()}"
    (tmp_path / "config").write_text(
        "[profile staff]\nregion = us-east-1\n"
        "role_arn = arn:aws:iam::555555555555:role/puller\nsource_profile = vault\n"
        f'[profile vault]\ncredential_process = sh -c "sleep {mark}; true"\n'
    )
    command.env["AWS_CONFIG_FILE"] = str(tmp_path / "config")
    del command.env["AWS_ACCESS_KEY_ID"]
    del command.env["AWS_SECRET_ACCESS_KEY"]
    return mark


def count_processes(mark: str) -> int:
    return sum(mark in arguments for _, arguments in processes())


@pytest.mark.parametrize("profile", ["vault", "staff"])
def test_credentials_that_never_come(
    command: Command, fake: Place, waiting: str, profile: str
) -> None:
    fake()
    options = [*command.options, "-r", "us-east-1", "-q", "--profile", profile]
    arguments = [sys.executable, "-c", IMPATIENT, *options]
    ran = command.end(command.launch(arguments, command.env, MODULE.parent))
    assert (ran.status, ran.stderr) == (
        1,
        "docker_default: no AWS credentials came: the credential_process of the profile "
        "vault gave none in 4 s; run it by hand, as this user\n",
    )
    assert count_processes(waiting) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_no_credential_process(
    command: Command, fake: Place, waiting: str, number: int
) -> None:
    fake()
    process = command.start("-q", "--profile", "vault")
    deadline = time.monotonic() + 30
    while count_processes(waiting) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert command.end(process).status in (1, 143)
    assert count_processes(waiting) == 0


def test_nobody_listens(command: Command, fake: Place) -> None:
    fake()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        ran = command("-r", "us-east-1", "-q", AWS_ENDPOINT_URL_ECR=url)
    assert ran.status == 1
    assert ran.stderr == (
        f'docker_default: ECR in us-east-1: Could not connect to the endpoint URL: "{url}/"; '
        "check the region, and this host's DNS, proxy and network\n"
    )


@pytest.mark.parametrize(
    ("env", "error"),
    [
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "ECR in us-east-1: Unable to locate credentials; " + LOOKED,
            id="none",
        ),
        pytest.param(
            {"AWS_SECRET_ACCESS_KEY": ""},
            "ECR in us-east-1: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY; "
            + LOOKED,
            id="half",
        ),
        pytest.param(
            {"AWS_PROFILE": "gone"},
            "ECR in us-east-1: The config profile (gone) could not be found; " + LOOKED,
            id="unknown profile",
        ),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7UNKNOWN"},
            "ECR in us-east-1: UnrecognizedClientException: The security token included in the "
            "request is invalid; check the access key, and that it belongs to this partition",
            id="unknown key",
        ),
        pytest.param(
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            "ECR in us-east-1: InvalidSignatureException: The request signature we calculated "
            "does not match the signature you provided; check the secret key, and this host's "
            "clock",
            id="wrong secret",
        ),
        pytest.param(
            {"AWS_ENDPOINT_URL_ECR": "nowhere"},
            "ECR in us-east-1: Invalid endpoint: nowhere",
            id="bad endpoint",
        ),
    ],
)
def test_credentials(
    command: Command, fake: Place, tmp_path: Path, env: dict[str, str], error: str
) -> None:
    airflow = fake()
    kept = {name: value for name, value in {**command.env, **env}.items() if value}
    command.env.clear()
    command.env.update(kept)
    ran = command("-r", "us-east-1", "--quiet")
    assert ran.stderr == f"docker_default: {error.replace('{home}', str(tmp_path))}\n"
    assert ran.status == 1
    assert airflow.connections() == {}


def test_hosts_of_other_partitions(command: Command, fake: Place) -> None:
    airflow = fake()
    assert command("-r", "cn-north-1").status == 0
    host = airflow.connections()["docker_default"]["host"]
    assert host == f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn"


def test_the_host_is_bare(command: Command, fake: Place, ecr: EcrStandIn) -> None:
    airflow = fake()
    ecr.faults["us-east-1"] = Fault(change={"proxyEndpoint": f"https://{HOST}:8443/"})
    assert command("-r", "us-east-1").status == 0
    assert airflow.connections()["docker_default"]["host"] == HOST


def test_a_password_with_colons(command: Command, fake: Place, ecr: EcrStandIn) -> None:
    airflow = fake()
    token = encoded(b"AWS:pass:word==")
    ecr.faults["us-east-1"] = Fault(change={"authorizationToken": token})
    assert command("-r", "us-east-1").status == 0
    stored = airflow.connections()["docker_default"]
    assert (stored["login"], stored["password"]) == ("AWS", "pass:word==")


def test_moto_as_a_second_ecr(command: Command, fake: Place) -> None:
    moto_server: Any = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        airflow = fake()
        ran = command(
            *(
                "-r",
                "us-east-1",
                "--registry",
                A,
                "--registry",
                B,
                "--conn-id",
                "e_{registry}",
            ),
            AWS_ENDPOINT_URL_ECR=f"http://{host}:{port}",
        )
    finally:
        server.stop()
    assert ran.status == 0, ran.stderr
    # moto's tokens expired in 2015: they are written all the same, and the report says so.
    assert ".amazonaws.com, expired at 2015-" in ran.stdout
    stored = airflow.connections()[f"e_{A}"]
    assert stored["host"] == f"{A}.dkr.ecr.us-east-1.amazonaws.com"
    assert (stored["login"], stored["password"]) == ("AWS", f"{A}-auth-token")

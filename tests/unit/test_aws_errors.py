"""What AWS and boto3 say, in one line: boto3's own exceptions, explained."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions as boto

from _ecr_airflow_sync.aws_errors import explain_aws_error

from .conftest import NETWORK, NOT_ECR, TRY_AGAIN

US = "us-east-1"
RENEW = "renew the AWS credentials (aws sso login, a new role session, new keys)"
POLICY = (
    "the role's trust policy (its external id?) and this identity's own must allow it"
)
NO_KEYS = "set AWS_PROFILE or HOME (it is /home/a), or attach an instance profile"
NO_PROFILE = (
    "check --profile or AWS_PROFILE, AWS_CONFIG_FILE, and HOME, which is /home/a"
)
SECRET_KEY = "check the secret key, and this host's clock"
CHECK_CA = (
    "check AWS_CA_BUNDLE, a CA bundle that must know this network's proxy, and this "
    "host's clock"
)


def answered(
    code: Any, message: Any, operation: str = "GetAuthorizationToken"
) -> boto.ClientError:
    """What boto3 raises for an answer that is an error."""
    response: Any = {"Error": {"Code": code, "Message": message}}
    return boto.ClientError(response, operation)


TOLD: dict[str, tuple[Exception, str]] = {
    "denied": (
        answered("AccessDeniedException", "User: a is not authorized."),
        "AccessDeniedException: User: a is not authorized; allow this identity "
        "ecr:GetAuthorizationToken on resource *",
    ),
    "the signed request is not quoted": (
        answered("InvalidSignatureException", "does not match.\n\nThe Canonical ..."),
        f"InvalidSignatureException: does not match; {SECRET_KEY}",
    ),
    "an HTTP status without words": (answered(503, None), f"503; {TRY_AGAIN}"),
    "a code that nobody knows, and a secret": (
        answered("Novel", f"cannot read {'Ab1+_=-9' * 8}"),
        "Novel: cannot read ***",
    ),
    "no proxy": (
        boto.ProxyConnectionError(proxy_url="http://me:s3cret@proxy:3128"),
        f'Failed to connect to proxy URL: "http://me:***@proxy:3128"; {NETWORK}',
    ),
    "an answer without a key": (KeyError("Credentials"), f"'Credentials'; {NOT_ECR}"),
    "an exception without words": (ValueError(), "ValueError"),
    "several lines": (OSError("first:\nsecond\nthird"), "first: second"),
}


@pytest.mark.parametrize(("error", "told"), TOLD.values(), ids=TOLD)
def test_what_is_told(error: Exception, told: str) -> None:
    assert explain_aws_error(error, US) == f"ECR in {US}: {told}"


ADVISED = {
    answered("RequestExpired", "no"): SECRET_KEY,
    boto.EndpointConnectionError(endpoint_url="x"): NETWORK,
    boto.ConnectTimeoutError(endpoint_url="x"): NETWORK,
    boto.ConnectionClosedError(endpoint_url="x"): TRY_AGAIN,
    boto.ReadTimeoutError(endpoint_url="x"): TRY_AGAIN,
    boto.NoCredentialsError(): NO_KEYS,
    boto.ProfileNotFound(profile="a"): NO_PROFILE,
    boto.UnauthorizedSSOTokenError(): RENEW,
    boto.CredentialRetrievalError(provider="a", error_msg="b"): RENEW,
    boto.SSLError(endpoint_url="x", error=OSError("no")): CHECK_CA,
}


@pytest.mark.parametrize("error", ADVISED, ids=lambda error: type(error).__name__)
def test_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    said = str(error).rstrip(".") if isinstance(error, boto.BotoCoreError) else ": no"
    assert explain_aws_error(error, US).endswith(f"{said}; {ADVISED[error]}")


def test_who_gives_a_role_is_sts() -> None:
    key = "check the access key, and that it belongs to this partition"
    for code, advice in {"AccessDenied": POLICY, "InvalidClientTokenId": key}.items():
        told = explain_aws_error(answered(code, "no", "AssumeRole"), US)
        assert told == f"STS in {US}: {code}: no; {advice}"


def test_no_region_and_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert explain_aws_error(boto.NoRegionError(), "") == (
        "ECR: You must specify a region; give --region, or set AWS_REGION, "
        "AWS_DEFAULT_REGION or the profile's"
    )
    told = explain_aws_error(boto.NoCredentialsError(), "")
    assert "; set AWS_PROFILE or HOME (it is not set), or " in told


def test_a_region_that_was_meant(own_environment: None) -> None:
    error = boto.EndpointConnectionError(endpoint_url="x")
    meant = {
        "us-esat-1": "us-east-1",
        "EU_WEST_1": "eu-west-1",
        "us-gov-wset-1": "us-gov-west-1",
    }
    for region, close in meant.items():
        told = explain_aws_error(error, region)
        assert told.endswith(f"{NETWORK}; did you mean {close}?")
    for region in ("us-east-1", "cn-north-1", "moon"):
        assert explain_aws_error(error, region).endswith(NETWORK)
    not_its_trouble = boto.ReadTimeoutError(endpoint_url="x")
    assert explain_aws_error(not_its_trouble, "us-esat-1").endswith(TRY_AGAIN)


def test_a_profile_that_is_gone_hides_no_error(
    own_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "gone")
    told = explain_aws_error(boto.InvalidRegionError(region_name="a c"), "a c")
    assert told == (
        "ECR in a c: Provided region_name 'a c' doesn't match a supported format"
    )

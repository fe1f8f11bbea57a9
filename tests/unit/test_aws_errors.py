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
LOOKED = (
    "boto3 looked at the environment, ~/.aws and instance metadata; HOME is /home/a"
)
SECRET_KEY = "check the secret key, and this host's clock"
LONG = "Ab1+_=-9" * 8


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
    "a clock that is late": (
        answered("RequestExpired", "no"),
        f"RequestExpired: no; {SECRET_KEY}",
    ),
    "the signed request is not quoted": (
        answered("InvalidSignatureException", "does not match.\n\nThe Canonical ..."),
        f"InvalidSignatureException: does not match; {SECRET_KEY}",
    ),
    "a code without words": (
        answered("InternalFailure", None),
        f"InternalFailure; {TRY_AGAIN}",
    ),
    "an HTTP status": (
        answered(503, "Service Unavailable"),
        f"503: Service Unavailable; {TRY_AGAIN}",
    ),
    "a code that nobody knows, and a secret": (
        answered("Novel", f"cannot read {LONG}"),
        "Novel: cannot read ***",
    ),
    "nobody there": (
        boto.EndpointConnectionError(endpoint_url="https://x/"),
        f'Could not connect to the endpoint URL: "https://x/"; {NETWORK}',
    ),
    "nobody answers": (
        boto.ConnectTimeoutError(endpoint_url="https://x/"),
        f'Connect timeout on endpoint URL: "https://x/"; {NETWORK}',
    ),
    "nobody there any more": (
        boto.ConnectionClosedError(endpoint_url="https://x/"),
        "Connection was closed before we received a valid response from endpoint URL: "
        f'"https://x/"; {TRY_AGAIN}',
    ),
    "throttled": (
        answered("ThrottlingException", "Rate exceeded"),
        f"ThrottlingException: Rate exceeded; {TRY_AGAIN}; spread the hosts over the "
        "half hour",
    ),
    "no proxy": (
        boto.ProxyConnectionError(proxy_url="http://me:s3cret@proxy:3128"),
        f'Failed to connect to proxy URL: "http://me:***@proxy:3128"; {NETWORK}',
    ),
    "a slow answer": (
        boto.ReadTimeoutError(endpoint_url="https://x/"),
        f'Read timeout on endpoint URL: "https://x/"; {TRY_AGAIN}',
    ),
    "no credentials": (
        boto.NoCredentialsError(),
        f"Unable to locate credentials; {LOOKED}",
    ),
    "no such profile": (
        boto.ProfileNotFound(profile="a"),
        f"The config profile (a) could not be found; {LOOKED}",
    ),
    "an SSO session that is over": (
        boto.UnauthorizedSSOTokenError(),
        "The SSO session associated with this profile has expired or is otherwise "
        "invalid. To refresh this SSO session run aws sso login with the corresponding "
        f"profile; {RENEW}",
    ),
    "a program that gives no credentials": (
        boto.CredentialRetrievalError(provider="custom-process", error_msg="exit 1"),
        f"Error when retrieving credentials from custom-process: exit 1; {RENEW}",
    ),
    "a certificate": (
        boto.SSLError(endpoint_url="https://x/", error=OSError("verify failed")),
        "SSL validation failed for https://x/ verify failed; check AWS_CA_BUNDLE, a CA "
        "bundle that must know this network's proxy, and this host's clock",
    ),
    "an answer without a key": (KeyError("Credentials"), f"'Credentials'; {NOT_ECR}"),
    "an exception without words": (ValueError(), "ValueError"),
    "several lines": (OSError("first:\nsecond\nthird"), "first: second"),
}


@pytest.mark.parametrize(("error", "told"), TOLD.values(), ids=TOLD)
def test_what_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    assert explain_aws_error(error, US) == f"ECR in {US}: {told}"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", POLICY),
        (
            "InvalidClientTokenId",
            "check the access key, and that it belongs to this partition",
        ),
    ],
)
def test_who_gives_a_role_is_sts(code: str, advice: str) -> None:
    told = explain_aws_error(answered(code, "no", "AssumeRole"), US)
    assert told == f"STS in {US}: {code}: no; {advice}"


def test_no_region_and_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert explain_aws_error(boto.NoRegionError(), "") == (
        "ECR: You must specify a region; give --region, or set AWS_REGION, "
        "AWS_DEFAULT_REGION or the profile's"
    )
    told = explain_aws_error(boto.NoCredentialsError(), "")
    assert told.endswith("; HOME is not set")


@pytest.mark.parametrize(
    ("region", "suggestion"),
    [
        ("us-east-1", ""),
        ("cn-north-1", ""),
        ("us-esat-1", "; did you mean us-east-1?"),
        ("EU_WEST_1", "; did you mean eu-west-1?"),
        ("us-gov-wset-1", "; did you mean us-gov-west-1?"),
        ("moon", ""),
    ],
)
def test_a_region_that_was_meant(
    own_environment: None, region: str, suggestion: str
) -> None:
    error = boto.EndpointConnectionError(endpoint_url="x")
    assert explain_aws_error(error, region).endswith(f"{NETWORK}{suggestion}")


def test_no_suggestion_where_the_region_was_not_the_trouble() -> None:
    told = explain_aws_error(boto.ReadTimeoutError(endpoint_url="x"), "us-esat-1")
    assert "did you mean" not in told


def test_a_profile_that_is_gone_hides_no_error(
    own_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "gone")
    told = explain_aws_error(boto.InvalidRegionError(region_name="a c"), "a c")
    assert told == (
        "ECR in a c: Provided region_name 'a c' doesn't match a supported format"
    )

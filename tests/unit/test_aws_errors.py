"""What AWS and boto3 say, in one line: boto3's own exceptions, explained."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions as boto

from _ecr_airflow_sync.aws_errors import explain_aws_error

US = "us-east-1"
TRY_AGAIN = "the next run tries again"
NETWORK = "check the region, and this host's DNS, proxy and network"
RENEW = "renew the AWS credentials (aws sso login, a new role session, new keys)"
POLICY = (
    "the role's trust policy (its external id?) and this identity's own must allow it"
)
LOOKED = (
    "boto3 looked at the environment, ~/.aws and instance metadata; HOME is /home/a"
)
NOT_ECR = "that is no answer of ECR's; check AWS_ENDPOINT_URL, and the proxy"
LONG = "Ab1+_=-9" * 8


def answered(
    code: Any, message: Any, operation: str = "GetAuthorizationToken"
) -> boto.ClientError:
    """What boto3 raises for an answer that is an error."""
    response: Any = {"Error": {"Code": code, "Message": message}}
    return boto.ClientError(response, operation)


TOLD = {
    "denied": (
        answered("AccessDeniedException", "User: a is not authorized."),
        f"ECR in {US}: AccessDeniedException: User: a is not authorized; allow this "
        "identity ecr:GetAuthorizationToken on resource *",
    ),
    "a role denied": (
        answered("AccessDenied", "no", "AssumeRole"),
        f"STS in {US}: AccessDenied: no; {POLICY}",
    ),
    "a key that STS does not know": (
        answered("InvalidClientTokenId", "no", "AssumeRole"),
        f"STS in {US}: InvalidClientTokenId: no; check the access key, and that it "
        "belongs to this partition",
    ),
    "a clock that is late": (
        answered("RequestExpired", "no"),
        f"ECR in {US}: RequestExpired: no; check the secret key, and this host's clock",
    ),
    "the signed request is not quoted": (
        answered("InvalidSignatureException", "does not match.\n\nThe Canonical ..."),
        f"ECR in {US}: InvalidSignatureException: does not match; check the secret "
        "key, and this host's clock",
    ),
    "a code without words": (
        answered("InternalFailure", None),
        f"ECR in {US}: InternalFailure; {TRY_AGAIN}",
    ),
    "an HTTP status": (
        answered(503, "Service Unavailable"),
        f"ECR in {US}: 503: Service Unavailable; {TRY_AGAIN}",
    ),
    "a code that nobody knows, and a secret": (
        answered("Novel", f"cannot read {LONG}"),
        f"ECR in {US}: Novel: cannot read ***",
    ),
    "nobody there": (
        boto.EndpointConnectionError(endpoint_url="https://x/"),
        f'ECR in {US}: Could not connect to the endpoint URL: "https://x/"; {NETWORK}',
    ),
    "nobody answers": (
        boto.ConnectTimeoutError(endpoint_url="https://x/"),
        f'ECR in {US}: Connect timeout on endpoint URL: "https://x/"; {NETWORK}',
    ),
    "nobody there any more": (
        boto.ConnectionClosedError(endpoint_url="https://x/"),
        f"ECR in {US}: Connection was closed before we received a valid response from "
        f'endpoint URL: "https://x/"; {TRY_AGAIN}',
    ),
    "throttled": (
        answered("ThrottlingException", "Rate exceeded"),
        f"ECR in {US}: ThrottlingException: Rate exceeded; {TRY_AGAIN}; spread the "
        "hosts over the half hour",
    ),
    "no proxy": (
        boto.ProxyConnectionError(proxy_url="http://me:s3cret@proxy:3128"),
        f"ECR in {US}: Failed to connect to proxy URL: "
        f'"http://me:***@proxy:3128"; {NETWORK}',
    ),
    "a slow answer": (
        boto.ReadTimeoutError(endpoint_url="https://x/"),
        f'ECR in {US}: Read timeout on endpoint URL: "https://x/"; {TRY_AGAIN}',
    ),
    "no credentials": (
        boto.NoCredentialsError(),
        f"ECR in {US}: Unable to locate credentials; {LOOKED}",
    ),
    "no such profile": (
        boto.ProfileNotFound(profile="a"),
        f"ECR in {US}: The config profile (a) could not be found; {LOOKED}",
    ),
    "an SSO session that is over": (
        boto.UnauthorizedSSOTokenError(),
        f"ECR in {US}: The SSO session associated with this profile has expired or is "
        "otherwise invalid. To refresh this SSO session run aws sso login with the "
        f"corresponding profile; {RENEW}",
    ),
    "a program that gives no credentials": (
        boto.CredentialRetrievalError(provider="custom-process", error_msg="exit 1"),
        f"ECR in {US}: Error when retrieving credentials from custom-process: exit 1; "
        f"{RENEW}",
    ),
    "a certificate": (
        boto.SSLError(
            endpoint_url="https://x/", error=OSError("certificate verify failed")
        ),
        f"ECR in {US}: SSL validation failed for https://x/ certificate verify failed; "
        "check AWS_CA_BUNDLE, a CA bundle that must know this network's proxy, and "
        "this host's clock",
    ),
    "an answer without a key": (
        KeyError("Credentials"),
        f"ECR in {US}: 'Credentials'; {NOT_ECR}",
    ),
    "an exception without words": (ValueError(), f"ECR in {US}: ValueError"),
    "several lines": (
        OSError("first:\nsecond\nthird"),
        f"ECR in {US}: first: second",
    ),
}


@pytest.mark.parametrize(("error", "told"), TOLD.values(), ids=TOLD)
def test_what_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    assert explain_aws_error(error, US) == told


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

"""What AWS and boto3 say when they fail, in one line with what to do next."""

from __future__ import annotations

import difflib
import os
from typing import Any

from .errors import CHECK_NETWORK, TRY_AGAIN, Advice, advise
from .masking import mask

NOT_ECR = "that is no answer of ECR's; check AWS_ENDPOINT_URL, and the proxy"

# By what _name_error makes of an error: AWS's code, or the exception's name, then the
# operation where there is one. {home} is where boto3 looks for ~/.aws.
ADVICE = (
    Advice(
        r"AccessDenied.* GetAuth",
        "allow this identity ecr:GetAuthorizationToken on resource *",
        sample="AccessDeniedException GetAuthorizationToken",
    ),
    Advice(
        r"AccessDenied.* AssumeRole",
        "the role's trust policy (its external id?) and this identity's own must "
        "allow it",
        sample="AccessDenied AssumeRole",
    ),
    Advice(
        r"ConnectTimeout|(Endpoint|Proxy)Connection",
        CHECK_NETWORK,
        sample="EndpointConnectionError",
    ),
    Advice(
        r"ConnectionClosed|ReadTimeout|Internal|Server|Unavailable|^5",
        TRY_AGAIN,
        sample="503 GetAuthorizationToken",
    ),
    Advice(
        r"ExpiredToken|HTTPClient|SSO|Retrieval",
        "renew the AWS credentials (aws sso login, a new role session, new keys)",
        sample="ExpiredTokenException GetAuthorizationToken",
    ),
    Advice(
        r"InvalidParameter",
        "check the registry ids",
        sample="InvalidParameterException GetAuthorizationToken",
    ),
    Advice(
        r"InvalidSignature|SignatureDoesNotMatch|RequestExpired",
        "check the secret key, and this host's clock",
        sample="InvalidSignatureException GetAuthorizationToken",
    ),
    Advice(
        r"NoCred",
        "set AWS_PROFILE or HOME (it is {home}), or attach an instance profile",
        sample="NoCredentialsError",
    ),
    Advice(
        r"PartialCred",
        "set what is missing, or remove the other half",
        sample="PartialCredentialsError",
    ),
    Advice(
        r"ProfileNot",
        "check --profile or AWS_PROFILE, AWS_CONFIG_FILE, and HOME, which is {home}",
        sample="ProfileNotFound",
    ),
    Advice(
        r"NoRegion",
        "give --region, or set AWS_REGION, AWS_DEFAULT_REGION or the profile's",
        sample="NoRegionError",
    ),
    Advice(
        r"SSLError",
        "check AWS_CA_BUNDLE, a CA bundle that must know this network's proxy, and "
        "this host's clock",
        sample="SSLError",
    ),
    Advice(
        r"Throttling",
        f"{TRY_AGAIN}; spread the hosts over the half hour",
        sample="ThrottlingException GetAuthorizationToken",
    ),
    Advice(
        r"UnrecognizedClient|InvalidClientToken",
        "check the access key, and that it belongs to this partition",
        sample="UnrecognizedClientException GetAuthorizationToken",
    ),
    Advice(
        r"AttributeError|KeyError|ResponseParser|TypeError|UnicodeDecode",
        NOT_ECR,
        sample="ResponseParserError",
    ),
)


def explain_aws_error(error: Exception, region: str) -> str:
    """One line: the service and region, what was said, and what to do next.

    Of botocore's ClientError only AWS's own words are taken: the rest quotes the signed
    request.
    """
    service = "STS" if _get_operation(error).startswith("AssumeRole") else "ECR"
    where = f"{service} in {region}" if region else service
    next_step = advise(_name_error(error), ADVICE)
    told = "; ".join(filter(None, [_quote(error), next_step]))
    told = told.replace("{home}", os.environ.get("HOME", "not set"))
    return f"{where}: {mask(told)}{_suggest_region(error, region)}"


def _get_response(error: Exception) -> dict[str, Any]:
    """AWS's own Code and Message, where it answered at all."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    answered: dict[str, Any] = response.get("Error", {})
    return answered


def _get_operation(error: Exception) -> str:
    return getattr(error, "operation_name", "")


def _name_error(error: Exception) -> str:
    code = _get_response(error).get("Code") or type(error).__name__
    return f"{code} {_get_operation(error)}"


def _quote(error: Exception) -> str:
    """The first line of what was said, with AWS's code before it."""
    answered = _get_response(error)
    name = str(answered.get("Code") or type(error).__name__)
    message = str(answered.get("Message") or "") if answered else str(error)
    if not message.strip():
        return name
    line = message.strip().replace(":\n", ": ").splitlines()[0].rstrip(".")
    return f"{name}: {line}" if answered else line


def _suggest_region(error: Exception, region: str) -> str:
    """botocore takes any region's name, and then finds no such host."""
    if type(error).__name__ not in ("EndpointConnectionError", "InvalidRegionError"):
        return ""
    known = _list_regions()
    if region in known:
        return ""
    meant = region.lower().replace("_", "-")
    close = difflib.get_close_matches(meant, known)
    # Letters in another order are the likeliest slip.
    close.sort(key=lambda name: sorted(name) != sorted(meant))
    return f"; did you mean {close[0]}?" if close else ""


def _list_regions() -> list[str]:
    import boto3

    try:
        session = boto3.Session()
    except Exception:  # noqa: BLE001 - AWS_PROFILE may name a profile that is gone
        return []
    regions: list[str] = []
    for partition in session.get_available_partitions():
        regions += session.get_available_regions("ecr", partition)
    return regions

"""A stand-in for Amazon ECR, ECR Public and STS on loopback: three calls, three services.

Strict about what it accepts: GetAuthorizationToken of either ECR in AWS JSON 1.1, and
AssumeRole in STS's Query protocol, signed (Signature Version 4) with a key it knows,
for the service and the region it names, and temporary keys only with their session
token. Its tokens have the form and the length of real ones, and expire after twelve hours.

    python -m tests.support.ecr_stand_in --port 4510
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import secrets
import socketserver
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator, TypeVar
from urllib.parse import parse_qsl
from xml.etree import ElementTree

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCOUNT = "123456789012"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TARGETS = {
    "ecr": "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
    "ecr-public": "SpencerFrontendService.GetAuthorizationToken",
}
TWELVE_HOURS = 12 * 60 * 60

PUBLIC = "public"  # stands for a registry, and for a region with faults
PUBLIC_HOST = "public.ecr.aws"
PUBLIC_REGION = "us-east-1"

# By the name of a region without its last two parts.
SUFFIXES = {
    "cn": "amazonaws.com.cn",
    "eusc-de": "amazonaws.eu",
    "us-iso": "c2s.ic.gov",
    "us-isob": "sc2s.sgov.gov",
    "eu-isoe": "cloud.adc-e.uk",
    "us-isof": "csp.hci.ic.gov",
}
HOST = re.compile(r"\d{12}\.dkr([.-])ecr(?:-fips)?\.([a-z0-9-]+)\.(.+)", re.ASCII)

STS_VERSION = "2011-06-15"
STS_NAMESPACE = f"https://sts.amazonaws.com/doc/{STS_VERSION}/"
STS_FAULTS = "sts"  # stands for a region with faults
ONE_HOUR = 60 * 60
# STS has names of its own for what is wrong with a signature, and 403 for 400.
STS_CODES = {
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "ExpiredTokenException": "ExpiredToken",
    "MissingAuthenticationToken": "MissingAuthenticationToken",
}
AnyServer = TypeVar("AnyServer", bound=socketserver.BaseServer)


@dataclass(frozen=True)
class Identity:
    """Who may sign. Only temporary keys have a session token and an end."""

    access_key: str
    secret_key: str
    account: str
    arn: str
    session_token: str = ""
    expires_at: float = float("inf")


WORKER = Identity(
    ACCESS_KEY, SECRET_KEY, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/worker"
)
BUILDER = Identity(
    "AKIAI44QH8DHBEXAMPLE",
    "je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY",
    "210987654321",
    "arn:aws:iam::210987654321:user/builder",
)
PARTNER = Identity(
    "AKIAJ55RI9EICEXAMPLE",
    "kf8NuHcDmxCG/3Aq0Vul/i4zDp9owcEXAMPLEKEY",
    "345678901234",
    "arn:aws:iam::345678901234:user/partner",
)


@dataclass(frozen=True)
class Role:
    """A role that the accounts in ``allowed`` may assume, with its external id if it has one."""

    account: str
    external_id: str | None = None
    allowed: tuple[str, ...] = (ACCOUNT,)


@dataclass(frozen=True)
class Call:
    """A request for tokens that was accepted, and when. ``account`` is the caller's."""

    region: str
    registries: tuple[str, ...]
    account: str = ACCOUNT
    public: bool = False
    at: float = field(default_factory=time.monotonic, compare=False, repr=False)


@dataclass(frozen=True)
class Assumption:
    """A well-formed request for a role, granted or not. ``account`` is the caller's."""

    role: str
    session: str
    external_id: str | None = None
    duration: int = ONE_HOUR
    account: str = ACCOUNT
    granted: bool = True


@dataclass(frozen=True)
class Issued:
    """Where a token is good, and until when. A public one is of no region."""

    region: str
    account: str
    expires_at: float


@dataclass
class Fault:
    """What goes wrong in a region. Whatever is set happens, ``times`` times."""

    status: int = 400
    code: str = ""
    message: str = ""
    body: bytes | None = None
    drop: bool = False
    delay: float = 0
    times: int = 1000
    change: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


class Refusal(Exception):
    """What AWS says no to: its code, its words and its HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.status = status


def suffix(region: str) -> str:
    """What the names of a region's hosts end in."""
    return SUFFIXES.get(region.rsplit("-", 2)[0], "amazonaws.com")


def dual_stack_suffix(region: str) -> str:
    """What the names of its dual-stack hosts end in."""
    return "on.amazonwebservices.com.cn" if region.startswith("cn-") else "on.aws"


def region_of(host: str) -> str | None:
    """The region of a registry's host, ``public``, or nothing if it is no host of ECR's."""
    if host == PUBLIC_HOST:
        return PUBLIC
    match = HOST.fullmatch(host)
    if match is None:
        return None
    separator, region, end = match.groups()
    expected = suffix(region) if separator == "." else dual_stack_suffix(region)
    return region if end == expected else None


def new_token(expires_at: float) -> str:
    """The password of a real token: base64 of a JSON object, some 2,500 characters."""
    payload = {
        "payload": base64.b64encode(secrets.token_bytes(1150)).decode(),
        "datakey": base64.b64encode(secrets.token_bytes(184)).decode(),
        "version": "2",
        "type": "DATA_KEY",
        "expiration": int(expires_at),
    }
    return base64.b64encode(json.dumps(payload).encode()).decode()


class EcrStandIn(ThreadingHTTPServer):
    """``calls`` is what was asked, ``tokens`` what was given."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), EcrHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.identities = {
            known.access_key: known for known in (WORKER, BUILDER, PARTNER)
        }
        self.roles: dict[str, Role] = {}  # by ARN
        self.calls: list[Call] = []
        self.assumed: list[Assumption] = []
        self.tokens: dict[tuple[str, str], list[str]] = {}  # by region and registry
        self.issued: dict[str, Issued] = {}  # by token
        self.faults: dict[str, Fault] = {}  # by region, "public" or "sts"
        self.lifetime = float(TWELVE_HOURS)
        self.ahead = 0.0  # seconds: lets tokens and temporary keys expire at once
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours."""

    def now(self) -> float:
        return time.time() + self.ahead

    def accepts(self, host: str, login: str, password: str) -> bool:
        """Whether a registry would let these in: any of the token's region, and no other."""
        issued = self.issued.get(password)
        return (
            issued is not None
            and login == "AWS"
            and issued.region == region_of(host)
            and not self.is_expired(password)
        )

    def is_expired(self, password: str) -> bool:
        """Whether this is a token that was good once."""
        return (
            password in self.issued and self.issued[password].expires_at <= self.now()
        )

    def authorization_data(
        self, region: str, registries: tuple[str, ...], account: str
    ) -> list[dict[str, Any]]:
        entries = []
        for registry in registries or (account,):
            entry = self._issue(region, registry, Issued(region, account, self._end()))
            endpoint = f"https://{registry}.dkr.ecr.{region}.{suffix(region)}"
            entries.append({**entry, "proxyEndpoint": endpoint})
        return entries

    def public_data(self, account: str) -> dict[str, Any]:
        return self._issue(PUBLIC_REGION, PUBLIC, Issued(PUBLIC, account, self._end()))

    def _end(self) -> float:
        return self.now() + self.lifetime

    def _issue(self, region: str, registry: str, issued: Issued) -> dict[str, Any]:
        token = new_token(issued.expires_at)
        self.tokens.setdefault((region, registry), []).append(token)
        self.issued[token] = issued
        return {
            "authorizationToken": base64.b64encode(f"AWS:{token}".encode()).decode(),
            "expiresAt": issued.expires_at,
        }

    def permits(self, caller: Identity, arn: str, external_id: str | None) -> bool:
        """Whether the role exists, and trusts this caller and this external id."""
        role = self.roles.get(arn)
        return (
            role is not None
            and caller.account in role.allowed
            and role.external_id in (None, external_id)
        )

    def temporary(self, arn: str, session: str, duration: int) -> Identity:
        """Fresh keys for a role."""
        account, name = self.roles[arn].account, arn.rpartition("/")[2]
        partition = arn.partition(":iam:")[0]
        identity = Identity(
            "ASIA" + base64.b32encode(secrets.token_bytes(10)).decode(),
            base64.b64encode(secrets.token_bytes(30)).decode(),
            account,
            f"{partition}:sts::{account}:assumed-role/{name}/{session}",
            base64.b64encode(secrets.token_bytes(360)).decode(),
            float(int(self.now()) + duration),
        )
        self.identities[identity.access_key] = identity
        return identity

    def fault(self, place: str) -> Fault | None:
        """What goes wrong there this time."""
        fault = self.faults.get(place)
        if fault is None or fault.times <= 0:
            return None
        fault.times -= 1
        return fault


class QuietHandler(BaseHTTPRequestHandler):
    """Says nothing: credentials, and what is asked and answered, must not end in a log."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for its headers

    def log_message(self, format: str, *args: Any) -> None:
        pass


class EcrHandler(QuietHandler):
    """One connection, whichever way it came: in clear, or through a tunnel."""

    server: EcrStandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            self._serve(body)
        except Refusal as refusal:
            self._refuse(refusal)

    def _serve(self, body: bytes) -> None:
        signed = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/(ecr|ecr-public|sts)/"
            r"aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            self.headers.get("Authorization", ""),
        )
        if not signed:
            raise Refusal("MissingAuthenticationToken", "Missing Authentication Token")
        key, _, region, service, names, signature = signed.groups()
        caller = self._identity(key)
        if signature != self._signature(
            caller, service, region, names.split(";"), body
        ):
            raise Refusal(
                "InvalidSignatureException",
                "The request signature we calculated does not match the signature you provided.\n"
                "The Canonical String for this request should have been\nPOST\n/\n...",
            )
        if service == "sts":
            self._assume_role(caller, body)
        elif self.headers.get("X-Amz-Target") != TARGETS[service]:
            raise Refusal("UnknownOperationException", "")
        elif service == "ecr":
            self._private(caller, region, json.loads(body))
        else:
            self._public(caller, region, json.loads(body))

    def _identity(self, key: str) -> Identity:
        identity = self.server.identities.get(key)
        token = self.headers.get("X-Amz-Security-Token", "")
        if identity is None or token != identity.session_token:
            raise Refusal(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        if identity.expires_at <= self.server.now():
            raise Refusal(
                "ExpiredTokenException",
                "The security token included in the request is expired",
            )
        return identity

    def _signature(
        self, caller: Identity, service: str, region: str, names: list[str], body: bytes
    ) -> str:
        headers = {name: self.headers[name] for name in names}
        request = AWSRequest(
            "POST", self.server.url + self.path, headers=headers, data=body
        )
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        auth = SigV4Auth(
            Credentials(caller.access_key, caller.secret_key), service, region
        )
        to_sign = auth.string_to_sign(request, auth.canonical_request(request))
        return str(auth.signature(to_sign, request))

    def _private(self, caller: Identity, region: str, request: dict[str, Any]) -> None:
        registries = tuple(request.pop("registryIds", ()))
        if request or len(registries) > 10 or not all(len(r) == 12 for r in registries):
            raise Refusal(
                "InvalidParameterException", "Invalid parameter at 'registryIds'"
            )
        with self.server.lock:
            self.server.calls.append(Call(region, registries, caller.account))
            entries = self.server.authorization_data(region, registries, caller.account)
            fault = self.server.fault(region)
        if fault and self._goes_wrong(fault):
            return
        if fault:
            entries = [
                _changed(entry, fault)
                for entry in entries
                if not entry["proxyEndpoint"][len("https://") :].startswith(
                    fault.without or "none"
                )
            ]
        self._send(200, json.dumps({"authorizationData": entries}).encode())

    def _public(self, caller: Identity, region: str, request: dict[str, Any]) -> None:
        if region != PUBLIC_REGION:
            raise Refusal(
                "InvalidSignatureException",
                "Credential should be scoped to a valid region.",
            )
        if request:
            raise Refusal("InvalidParameterException", "Invalid parameter")
        with self.server.lock:
            self.server.calls.append(Call(region, (), caller.account, public=True))
            entry = self.server.public_data(caller.account)
            fault = self.server.fault(PUBLIC)
        if fault and self._goes_wrong(fault):
            return
        if fault:
            entry = _changed(entry, fault)
        self._send(200, json.dumps({"authorizationData": entry}).encode())

    def _assume_role(self, caller: Identity, body: bytes) -> None:
        wanted = _assumption(self._form(body), caller)
        with self.server.lock:
            granted = self.server.permits(caller, wanted.role, wanted.external_id)
            self.server.assumed.append(replace(wanted, granted=granted))
            fault = self.server.fault(STS_FAULTS)
        if fault and self._goes_wrong(fault):
            return
        if not granted:
            raise Refusal(
                "AccessDenied",
                f"User: {caller.arn} is not authorized to perform: sts:AssumeRole on resource: {wanted.role}",
                403,
            )
        with self.server.lock:
            keys = self.server.temporary(wanted.role, wanted.session, wanted.duration)
        self._send(200, _assume_role_response(keys))

    def _form(self, body: bytes) -> dict[str, str]:
        """The parameters of AssumeRole, each of them once."""
        pairs = parse_qsl(body.decode(), keep_blank_values=True)
        form = dict(pairs)
        asked = (form.pop("Action", ""), form.pop("Version", ""))
        if asked != ("AssumeRole", STS_VERSION) or self.path != "/":
            raise Refusal(
                "InvalidAction",
                f"Could not find operation {asked[0]} for version {asked[1]}",
            )
        known = {"RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId"}
        if len(form) + 2 != len(pairs) or not form.keys() <= known:
            raise Refusal(
                "ValidationError", "1 validation error detected: unknown parameters"
            )
        return form

    def _goes_wrong(self, fault: Fault) -> bool:
        """Whether the fault is the whole answer."""
        time.sleep(fault.delay)
        if fault.drop:
            self.close_connection = True
        elif fault.code:
            self._refuse(Refusal(fault.code, fault.message, fault.status))
        elif fault.body is not None:
            self._send(fault.status, fault.body)
        else:
            return False
        return True

    def _is_query(self) -> bool:
        return self.headers.get_content_type() == "application/x-www-form-urlencoded"

    def _refuse(self, refusal: Refusal) -> None:
        if not self._is_query():
            answer = {"__type": refusal.code, "message": refusal.message}
            self._send(refusal.status, json.dumps(answer).encode())
            return
        status = 403 if refusal.code in STS_CODES else refusal.status
        code = STS_CODES.get(refusal.code, refusal.code)
        self._send(status, _error_response(code, refusal.message))

    def _send(self, status: int, body: bytes) -> None:
        kind = "text/xml" if self._is_query() else "application/x-amz-json-1.1"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _changed(entry: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """An entry as the fault has it: a None takes its key away."""
    return {key: v for key, v in {**entry, **fault.change}.items() if v is not None}


def _assumption(form: dict[str, str], caller: Identity) -> Assumption:
    """What is asked of AssumeRole, if STS would take it."""
    role = form.get("RoleArn", "")
    session = form.get("RoleSessionName", "")
    external_id = form.get("ExternalId")
    seconds = form.get("DurationSeconds", str(ONE_HOUR))
    _check("roleArn", role, r"arn:aws(-[a-z-]+)?:iam::\d{12}:role/[\w+=,.@/-]+")
    _check("roleSessionName", session, r"[\w+=,.@-]{2,64}")
    _check("externalId", external_id or "--", r"[\w+=,.@:/-]{2,1224}")
    _check("durationSeconds", seconds, r"\d{1,9}")
    duration = int(seconds)
    if not 900 <= duration <= TWELVE_HOURS:
        bound = (
            "greater than or equal to 900"
            if duration < 900
            else "less than or equal to 43200"
        )
        raise _invalid("durationSeconds", seconds, f"Member must have value {bound}")
    return Assumption(role, session, external_id, duration, caller.account)


def _check(name: str, value: str, pattern: str) -> None:
    if not re.fullmatch(pattern, value, re.ASCII):
        constraint = f"Member must satisfy regular expression pattern: {pattern}"
        raise _invalid(name, value, constraint)


def _invalid(name: str, value: str, constraint: str) -> Refusal:
    return Refusal(
        "ValidationError",
        f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {constraint}",
    )


def _assume_role_response(keys: Identity) -> bytes:
    root = ElementTree.Element("AssumeRoleResponse", xmlns=STS_NAMESPACE)
    result = ElementTree.SubElement(root, "AssumeRoleResult")
    _elements(
        ElementTree.SubElement(result, "AssumedRoleUser"),
        AssumedRoleId=f"AROA3XFRBF535PLBIFPI4:{keys.arn.rpartition('/')[2]}",
        Arn=keys.arn,
    )
    end = datetime.fromtimestamp(keys.expires_at, timezone.utc)
    _elements(
        ElementTree.SubElement(result, "Credentials"),
        AccessKeyId=keys.access_key,
        SecretAccessKey=keys.secret_key,
        SessionToken=keys.session_token,
        Expiration=end.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    _elements(ElementTree.SubElement(root, "ResponseMetadata"), RequestId=_request_id())
    return ElementTree.tostring(root)


def _error_response(code: str, message: str) -> bytes:
    root = ElementTree.Element("ErrorResponse", xmlns=STS_NAMESPACE)
    error = ElementTree.SubElement(root, "Error")
    _elements(error, Type="Sender", Code=code, Message=message)
    _elements(root, RequestId=_request_id())
    return ElementTree.tostring(root)


def _elements(parent: ElementTree.Element, **texts: str) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = text


def _request_id() -> str:
    return str(uuid.uuid4())


def environment(url: str, identity: Identity = WORKER) -> dict[str, str]:
    """What a client needs in its environment to ask the stand-in, as this identity."""
    env = {
        "AWS_ACCESS_KEY_ID": identity.access_key,
        "AWS_SECRET_ACCESS_KEY": identity.secret_key,
        "AWS_ENDPOINT_URL_ECR": url,
        "AWS_ENDPOINT_URL_ECR_PUBLIC": url,
        "AWS_ENDPOINT_URL_STS": url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if identity.session_token:
        env["AWS_SESSION_TOKEN"] = identity.session_token
    return env


@contextmanager
def serving_here(server: AnyServer) -> Iterator[AnyServer]:
    """Have any server of socketserver serve in a thread, until the block ends."""
    # Looking that often, it does not take half a second to shut down.
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--port", type=int, default=0, help="0, the default, takes a free one"
    )
    server = EcrStandIn(parser.parse_args().port)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""A stand-in for Amazon ECR, ECR Public and STS on loopback: three calls, three services.

Strict about what it accepts: GetAuthorizationToken of either ECR in AWS JSON 1.1, and
AssumeRole in STS's Query protocol, signed (Signature Version 4) with a key it knows,
for the service and the region it names, and temporary keys only with their session
token. Its tokens have the form and the length of real ones, and expire after twelve hours.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import socketserver
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator, Mapping, Protocol, TypeVar
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCOUNT = "123456789012"
ONE_HOUR = 60 * 60
TWELVE_HOURS = 12 * ONE_HOUR

PUBLIC = "public"  # stands for a registry, and for a region with faults
PUBLIC_HOST = "public.ecr.aws"
PUBLIC_REGION = "us-east-1"
STS = "sts"  # stands for a region with faults

SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/"
    r"(?P<service>ecr|ecr-public|sts)/aws4_request, "
    r"SignedHeaders=(?P<headers>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)
TARGETS = {
    "ecr": "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
    "ecr-public": "SpencerFrontendService.GetAuthorizationToken",
}
# What STS takes, and what it assumes.
PARAMETERS = {
    "Action": "AssumeRole",
    "Version": "2011-06-15",
    "RoleArn": r"arn:aws(-[a-z-]+)?:iam::\d{12}:role/[\w+=,.@/-]+",
    "RoleSessionName": r"[\w+=,.@-]{2,64}",
    "ExternalId": r"[\w+=,.@:/-]{2,1224}",
    "DurationSeconds": r"\d{1,9}",
}
DEFAULTS = {"RoleArn": "", "RoleSessionName": "", "DurationSeconds": str(ONE_HOUR)}
# STS has names of its own for what is wrong with a signature, and 403 for 400.
STS_CODES = {
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "ExpiredTokenException": "ExpiredToken",
    "MissingAuthenticationToken": "MissingAuthenticationToken",
}
NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
REQUEST_ID = "c6104cbe-af31-11e0-8154-cbc7ccf896c7"
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
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ACCOUNT,
    f"arn:aws:iam::{ACCOUNT}:user/worker",
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


@dataclass(frozen=True)
class Issued:
    """Where a token is good, and until when: in all registries of a domain."""

    domain: str
    expires_at: float


@dataclass
class Fault:
    """What goes wrong in a region. Whatever is set happens, ``times`` times.

    ``change`` is what is else in the answer's entries. A None takes a key away.
    """

    status: int = 400
    code: str = ""
    message: str = ""
    body: bytes | None = None
    drop: bool = False
    delay: float = 0
    times: int = 1000
    change: dict[str, Any] = field(default_factory=dict)


class Refusal(Exception):
    """What is sent where nothing is granted."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


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


class Limited(Protocol):
    """Something that happens ``times`` times."""

    times: int


AnyLimited = TypeVar("AnyLimited", bound=Limited)


class LoopbackServer(ThreadingHTTPServer):
    """Listens on a free port."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours."""

    def take_one(
        self, planned: Mapping[str, AnyLimited], place: str, none: AnyLimited
    ) -> AnyLimited:
        """What happens there this time; ``none`` if nothing is planned any more."""
        with self.lock:
            found = planned.get(place)
            if found is None or found.times <= 0:
                return none
            found.times -= 1
            return found


class EcrStandIn(LoopbackServer):
    """``calls`` is what was asked, ``tokens`` what was given."""

    def __init__(self) -> None:
        super().__init__(EcrHandler)
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

    def now(self) -> float:
        return time.time() + self.ahead

    def accepts(self, host: str, login: str, password: str) -> bool:
        """Whether a registry would let these in: any of the token's domain, and no other."""
        issued = self.issued.get(password)
        return (
            issued is not None
            and login == "AWS"
            and issued.domain == host.partition(".")[2]
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
        of_china = ".cn" if region.startswith("cn-") else ""
        domain = f"dkr.ecr.{region}.amazonaws.com{of_china}"
        entries = []
        for registry in registries or (account,):
            entry = self._issue(region, registry, domain)
            entries.append({**entry, "proxyEndpoint": f"https://{registry}.{domain}"})
        return entries

    def public_data(self) -> dict[str, Any]:
        return self._issue(PUBLIC_REGION, PUBLIC, PUBLIC_HOST.partition(".")[2])

    def _issue(self, region: str, registry: str, domain: str) -> dict[str, Any]:
        expires_at = self.now() + self.lifetime
        token = new_token(expires_at)
        self.tokens.setdefault((region, registry), []).append(token)
        self.issued[token] = Issued(domain, expires_at)
        return {
            "authorizationToken": base64.b64encode(f"AWS:{token}".encode()).decode(),
            "expiresAt": expires_at,
        }

    def grants(self, wanted: Assumption) -> bool:
        """Whether the role exists, and trusts this caller and this external id."""
        role = self.roles.get(wanted.role)
        return (
            role is not None
            and wanted.account in role.allowed
            and role.external_id in (None, wanted.external_id)
        )

    def assume(self, wanted: Assumption) -> Identity:
        """Fresh keys for a role."""
        of_sts = wanted.role.replace(":iam:", ":sts:").replace(
            ":role/", ":assumed-role/"
        )
        identity = Identity(
            "ASIA" + base64.b32encode(secrets.token_bytes(10)).decode(),
            base64.b64encode(secrets.token_bytes(30)).decode(),
            self.roles[wanted.role].account,
            f"{of_sts}/{wanted.session}",
            base64.b64encode(secrets.token_bytes(360)).decode(),
            float(int(self.now()) + wanted.duration),
        )
        self.identities[identity.access_key] = identity
        return identity


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
            self._send(200, self._answer(body))
        except Refusal as refusal:
            self._send(refusal.status, refusal.body)

    def _answer(self, body: bytes) -> bytes:
        signed = SIGNATURE.fullmatch(self.headers.get("Authorization", ""))
        if not signed:
            raise self._refusal(
                "MissingAuthenticationToken", "Missing Authentication Token"
            )
        caller = self._find_caller(signed["key"])
        if signed["signature"] != self._sign(caller, signed, body):
            raise self._refusal(
                "InvalidSignatureException",
                "The request signature we calculated does not match the signature you provided.\n"
                "The Canonical String for this request should have been\nPOST\n/\n...",
            )
        if signed["service"] == "sts":
            return self._assume_role(caller, body)
        if self.headers.get("X-Amz-Target") != TARGETS[signed["service"]]:
            raise self._refusal("UnknownOperationException", "")
        grant = self._grant if signed["service"] == "ecr" else self._grant_public
        data = grant(caller, signed["region"], json.loads(body))
        return json.dumps({"authorizationData": data}).encode()

    def _find_caller(self, key: str) -> Identity:
        identity = self.server.identities.get(key)
        token = self.headers.get("X-Amz-Security-Token", "")
        if identity is None or token != identity.session_token:
            raise self._refusal(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        if identity.expires_at <= self.server.now():
            raise self._refusal(
                "ExpiredTokenException",
                "The security token included in the request is expired",
            )
        return identity

    def _sign(self, caller: Identity, signed: re.Match[str], body: bytes) -> str:
        """The signature of this request, had the caller signed it."""
        headers = {name: self.headers[name] for name in signed["headers"].split(";")}
        url = self.server.url + self.path
        request = AWSRequest("POST", url, headers=headers, data=body)
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        keys = Credentials(caller.access_key, caller.secret_key)
        auth = SigV4Auth(keys, signed["service"], signed["region"])
        to_sign = auth.string_to_sign(request, auth.canonical_request(request))
        return str(auth.signature(to_sign, request))

    def _grant(self, caller: Identity, region: str, request: dict[str, Any]) -> object:
        registries = tuple(request.pop("registryIds", ()))
        if request or len(registries) > 10 or not all(len(r) == 12 for r in registries):
            raise self._refusal(
                "InvalidParameterException", "Invalid parameter at 'registryIds'"
            )
        self.server.calls.append(Call(region, registries, caller.account))
        fault = self._suffer(region)
        entries = self.server.authorization_data(region, registries, caller.account)
        return [_change(entry, fault) for entry in entries]

    def _grant_public(
        self, caller: Identity, region: str, request: dict[str, Any]
    ) -> object:
        if region != PUBLIC_REGION:
            raise self._refusal(
                "InvalidSignatureException",
                "Credential should be scoped to a valid region.",
            )
        if request:
            raise self._refusal("InvalidParameterException", "Invalid parameter")
        self.server.calls.append(Call(region, (), caller.account, public=True))
        fault = self._suffer(PUBLIC)
        return _change(self.server.public_data(), fault)

    def _assume_role(self, caller: Identity, body: bytes) -> bytes:
        form = self._read_form(body)
        wanted = Assumption(
            form["RoleArn"],
            form["RoleSessionName"],
            form.get("ExternalId"),
            int(form["DurationSeconds"]),
            caller.account,
        )
        self.server.assumed.append(wanted)
        self._suffer(STS)
        if not self.server.grants(wanted):
            what = f"sts:AssumeRole on resource: {wanted.role}"
            told = f"User: {caller.arn} is not authorized to perform: {what}"
            raise self._refusal("AccessDenied", told, 403)
        return _describe_keys(self.server.assume(wanted))

    def _read_form(self, body: bytes) -> dict[str, str]:
        """The parameters of AssumeRole, if STS would take them."""
        given = dict(parse_qsl(body.decode(), keep_blank_values=True))
        form = {**DEFAULTS, **given}
        wrong = [
            name
            for name, value in form.items()
            if not re.fullmatch(PARAMETERS.get(name, ""), value, re.ASCII)
        ]
        if not wrong and not 900 <= int(form["DurationSeconds"]) <= TWELVE_HOURS:
            wrong = ["DurationSeconds"]
        if wrong or self.path != "/":
            told = f"1 validation error detected: Value at {wrong}"
            raise self._refusal("ValidationError", told)
        return form

    def _suffer(self, place: str) -> Fault:
        """What goes wrong there this time, unless that is the whole answer."""
        fault = self.server.take_one(self.server.faults, place, Fault())
        time.sleep(fault.delay)
        if fault.drop:
            raise ConnectionAbortedError
        if fault.code:
            raise self._refusal(fault.code, fault.message, fault.status)
        if fault.body is not None:
            raise Refusal(fault.status, fault.body)
        return fault

    def _is_query(self) -> bool:
        return self.headers.get_content_type() == "application/x-www-form-urlencoded"

    def _refusal(self, code: str, message: str, status: int = 400) -> Refusal:
        """What AWS says no with: its code, its words and its HTTP status."""
        if not self._is_query():
            answer = {"__type": code, "message": message}
            return Refusal(status, json.dumps(answer).encode())
        status = 403 if code in STS_CODES else status
        return Refusal(status, _describe_error(STS_CODES.get(code, code), message))

    def _send(self, status: int, body: bytes) -> None:
        kind = "text/xml" if self._is_query() else "application/x-amz-json-1.1"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _change(entry: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """An entry as the fault has it."""
    changed = {**entry, **fault.change}
    return {key: value for key, value in changed.items() if value is not None}


def _describe_keys(keys: Identity) -> bytes:
    end = datetime.fromtimestamp(keys.expires_at, timezone.utc)
    return f"""\
<AssumeRoleResponse xmlns="{NAMESPACE}">
  <AssumeRoleResult>
    <AssumedRoleUser>
      <AssumedRoleId>AROA3XFRBF535PLBIFPI4:{keys.arn.rpartition("/")[2]}</AssumedRoleId>
      <Arn>{keys.arn}</Arn>
    </AssumedRoleUser>
    <Credentials>
      <AccessKeyId>{keys.access_key}</AccessKeyId>
      <SecretAccessKey>{keys.secret_key}</SecretAccessKey>
      <SessionToken>{keys.session_token}</SessionToken>
      <Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration>
    </Credentials>
  </AssumeRoleResult>
  <ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata>
</AssumeRoleResponse>
""".encode()


def _describe_error(code: str, message: str) -> bytes:
    return f"""\
<ErrorResponse xmlns="{NAMESPACE}">
  <Error>
    <Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message>
  </Error>
  <RequestId>{REQUEST_ID}</RequestId>
</ErrorResponse>
""".encode()


def environment(url: str) -> dict[str, str]:
    """What a client needs in its environment to ask the stand-in, as the worker."""
    return {
        "AWS_ACCESS_KEY_ID": WORKER.access_key,
        "AWS_SECRET_ACCESS_KEY": WORKER.secret_key,
        "AWS_ENDPOINT_URL_ECR": url,
        "AWS_ENDPOINT_URL_ECR_PUBLIC": url,
        "AWS_ENDPOINT_URL_STS": url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


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

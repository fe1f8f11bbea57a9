"""A stand-in for ECR's Docker registries on loopback, under their own names and over TLS.

It is an HTTPS proxy: what is to go through it to a host of its own ends here, before a
certificate for that host from a CA of its own; what is to go elsewhere is refused. It
serves ``GET /v2/``, the question whether credentials are any good, and answers as ECR does:

- a private registry wants Basic. Without, 401 and a challenge; a token of another region,
  or none of ECR's, 400; an expired one, 403, both without a challenge.
- ECR Public wants Bearer, and answers Basic with 400. A bearer token comes from /token/,
  for Basic credentials or for none; the authorization token as ECR gives it is one as well.

Behind the hosts of ECR's API, it leads to the ECR stand-in.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import ssl
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.support.ecr_stand_in import (
    PUBLIC_HOST,
    EcrHandler,
    EcrStandIn,
    QuietHandler,
)

# An asterisk stands for one label, as in a certificate.
HOSTS = (
    "*.dkr.ecr.us-east-1.amazonaws.com",
    "*.dkr.ecr.eu-west-1.amazonaws.com",
    "*.dkr.ecr.us-gov-west-1.amazonaws.com",
    "*.dkr.ecr.cn-north-1.amazonaws.com.cn",
    "*.dkr.ecr-fips.us-east-1.amazonaws.com",
    "*.dkr-ecr.us-east-1.on.aws",
    PUBLIC_HOST,
)
# Where ECR itself is asked: plainly, by FIPS, by dual-stack. boto3's names have changed.
API_HOSTS = (
    "api.ecr.us-east-1.amazonaws.com",
    "api.ecr-fips.us-east-1.amazonaws.com",
    "ecr-fips.us-east-1.amazonaws.com",
    "api.ecr.us-east-1.api.aws",
    "ecr.us-east-1.api.aws",
)
WRONG_HOST = "registry.example.com"
INVALID = "Your Authorization Token is invalid."
EXPIRED = "Your authorization token has expired. Reauthenticate and try again."


@dataclass(frozen=True)
class Request:
    """What was asked, and whether credentials came with it.

    A CONNECT is here only if it was refused, and has no path.
    """

    host: str
    method: str
    path: str
    credentials: bool


@dataclass
class Trouble:
    """What goes wrong at a host. Whatever is set happens, ``times`` times.

    A wrong name is a certificate for ``registry.example.com``.
    """

    status: int = 0
    location: str = ""
    body: bytes = b""
    drop: bool = False
    delay: float = 0
    wrong_name: bool = False
    times: int = 1000


@dataclass(frozen=True)
class Answer:
    """What goes back to the client. The body is text if it is no JSON."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class RegistryStandIn(ThreadingHTTPServer):
    """Serves for as long as a with block lasts. ``requests`` is what was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, ecr: EcrStandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.ecr = ecr
        self.hosts = HOSTS + API_HOSTS
        self.apis: list[str] = []  # the hosts where ECR itself was asked
        self.requests: list[Request] = []
        self.troubles: dict[str, Trouble] = {}  # by host
        self.bearers: dict[str, str] = {}  # the password, or none, by token of /token/
        self.lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="registry-stand-in-")
        self.certificates = Path(self._folder.name)
        names = {"right": self.hosts, "wrong": (WRONG_HOST,)}
        # What makes them takes a while to import.
        from tests.support.certificates import make_certificates

        make_certificates(self.certificates, names)

    def __enter__(self) -> RegistryStandIn:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.shutdown()
        self.server_close()
        self._folder.cleanup()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours."""

    def serves(self, host: str) -> bool:
        return host in self.hosts or "*." + host.partition(".")[2] in self.hosts

    def told(self) -> set[str]:
        """The hosts to which credentials were sent."""
        return {request.host for request in self.requests if request.credentials}

    def trouble(self, host: str) -> Trouble:
        """What goes wrong there this time."""
        with self.lock:
            trouble = self.troubles.get(host)
            if trouble is None or trouble.times <= 0:
                return Trouble()
            trouble.times -= 1
            return trouble

    def context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            self.certificates / f"{name}.pem", self.certificates / f"{name}.key"
        )
        return context

    def environment(self) -> dict[str, str]:
        """What a client needs in its environment to come here."""
        return {
            "HTTPS_PROXY": self.url,
            "https_proxy": self.url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "SSL_CERT_FILE": str(self.certificates / "ca.pem"),
        }


class _Proxy(QuietHandler):
    """The side that clients connect to."""

    server: RegistryStandIn
    timeout = 60

    def do_CONNECT(self) -> None:
        self.close_connection = True
        host, _, port = self.path.rpartition(":")
        if port != "443" or not self.server.serves(host) or _has_credentials(self):
            _record(self, host, "")
            self.send_error(502)
            return
        trouble = self.server.trouble(host)
        self.send_response_only(200, "Connection established")
        self.end_headers()
        context = self.server.context("wrong" if trouble.wrong_name else "right")
        with context.wrap_socket(self.connection, server_side=True) as tunnel:
            if host in API_HOSTS:
                self.server.apis.append(host)
                EcrHandler(tunnel, self.client_address, self.server.ecr)
            else:
                _Registry(tunnel, self.client_address, self.server, host, trouble)

    def do_GET(self) -> None:
        """Nothing is proxied in clear."""
        _record(self, self.headers.get("Host", ""), self.path)
        self.send_error(502)

    def do_POST(self) -> None:
        self.do_GET()


class _Registry(QuietHandler):
    """What is at the other end of a tunnel: one host's registry."""

    server: RegistryStandIn

    def __init__(
        self,
        tunnel: ssl.SSLSocket,
        address: tuple[str, int],
        server: RegistryStandIn,
        host: str,
        trouble: Trouble,
    ) -> None:
        self.host = host
        self.trouble = trouble
        super().__init__(tunnel, address, server)

    def parse_request(self) -> bool:
        """Record whatever comes, methods that are not served as well."""
        parsed = super().parse_request()
        if parsed:
            _record(self, self.host, self.path)
        return parsed

    def do_GET(self) -> None:
        time.sleep(self.trouble.delay)
        if self.trouble.drop:
            self.close_connection = True
        elif self.trouble.status:
            where = (
                (("Location", self.trouble.location),) if self.trouble.location else ()
            )
            self._send(Answer(self.trouble.status, self.trouble.body, where))
        elif self.headers.get("Host") not in (self.host, f"{self.host}:443"):
            self._send(Answer(400))
        elif self.host == PUBLIC_HOST:
            self._send(self._public())
        else:
            self._send(self._private())

    def do_HEAD(self) -> None:
        self._send(Answer(405))

    def do_POST(self) -> None:
        self.close_connection = True  # the body is not read
        self._send(Answer(405))

    def _private(self) -> Answer:
        if self.path != "/v2/":
            return Answer(404)
        scheme, value = self._authorization()
        if scheme != "basic":
            challenge = (
                f'Basic realm="https://{self.host}/",service="ecr.amazonaws.com"'
            )
            return Answer(401, b"Not Authorized\n", (("WWW-Authenticate", challenge),))
        return self._judged(value)

    def _judged(self, encoded: str) -> Answer:
        """The answer to Basic credentials, or what ECR Public takes as a bearer token."""
        ecr = self.server.ecr
        login, password = login_and_password(encoded)
        if ecr.accepts(self.host, login, password):
            return Answer(200)
        if self.host != PUBLIC_HOST and ecr.is_expired(password):
            return denied(403, EXPIRED)
        return denied(400, INVALID)

    def _public(self) -> Answer:
        path = urlsplit(self.path).path
        if path == "/token/":
            return self._token()
        if path != "/v2/":
            return Answer(404)
        scheme, value = self._authorization()
        if not scheme:
            realm = f"https://{self.host}/token/"
            challenge = f'Bearer realm="{realm}",service="{self.host}",scope="aws"'
            return Answer(401, b"Not Authorized\n", (("WWW-Authenticate", challenge),))
        if scheme != "bearer":
            return denied(400, INVALID)
        if value not in self.server.bearers:
            return self._judged(value)
        encoded = self.server.bearers[value]
        return self._judged(encoded) if encoded else Answer(200)

    def _token(self) -> Answer:
        """A bearer token: of an account's for its credentials, of nobody's without."""
        scheme, value = self._authorization()
        if scheme not in ("", "basic"):
            return denied(400, INVALID)
        judged = self._judged(value) if scheme else Answer(200)
        if judged.status != 200:
            return judged
        token = base64.b64encode(secrets.token_bytes(900)).decode()
        self.server.bearers[token] = value
        return Answer(200, json.dumps({"token": token}).encode())

    def _authorization(self) -> tuple[str, str]:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower(), value.strip()

    def _send(self, answer: Answer) -> None:
        kind = (
            "application/json"
            if answer.body[:1] == b"{"
            else "text/plain; charset=utf-8"
        )
        self.send_response(answer.status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)


def _has_credentials(handler: _Proxy | _Registry) -> bool:
    return any(
        name in handler.headers for name in ("Authorization", "Proxy-Authorization")
    )


def _record(handler: _Proxy | _Registry, host: str, path: str) -> None:
    request = Request(host, handler.command, path, _has_credentials(handler))
    handler.server.requests.append(request)


def login_and_password(encoded: str) -> tuple[str, str]:
    """What is in base64, or nothing."""
    try:
        login, _, password = (
            base64.b64decode(encoded, validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return login, password


def denied(status: int, message: str) -> Answer:
    errors = [{"code": "DENIED", "message": message}]
    return Answer(status, json.dumps({"errors": errors}).encode())

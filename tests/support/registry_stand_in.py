"""A stand-in for ECR's Docker registries on loopback, under their own names and over TLS.

It is an HTTPS proxy: what is to go through it to a host of its own ends here, before a
certificate for that host; what is to go elsewhere is refused. It answers as ECR does:

- a private registry wants Basic. Without, 401 and a challenge; a token of another region,
  or none of ECR's, 400; an expired one, 403, both without a challenge.
- ECR Public gives a bearer token at /token/, for Basic credentials or for none.

Who is let in gets 200 from ``GET /v2/``, and the rest from the registry ``behind``, if
there is one. Behind the hosts of ECR's API, it leads to the ECR stand-in.
"""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping
from urllib.parse import urlsplit

from tests.support.ecr_stand_in import (
    PUBLIC_HOST,
    EcrHandler,
    EcrStandIn,
    LoopbackServer,
    QuietHandler,
)

# An asterisk stands for one label, as in a certificate.
REGISTRIES = (
    "*.dkr.ecr.us-east-1.amazonaws.com",
    "*.dkr.ecr.eu-west-1.amazonaws.com",
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
HOSTS = REGISTRIES + API_HOSTS
WRONG_HOST = "registry.example.com"
INVALID = "Your Authorization Token is invalid."
EXPIRED = "Your authorization token has expired. Reauthenticate and try again."
PASSED_ON = ("Content-Type", "Content-Length", "Docker-Content-Digest", "ETag")


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
    drop: bool = False
    delay: float = 0
    wrong_name: bool = False
    times: int = 1000


class RegistryStandIn(LoopbackServer):
    """``requests`` is what was asked, ``answers`` each path and status in return."""

    def __init__(self, ecr: EcrStandIn, behind: str = "") -> None:
        super().__init__(_Proxy)
        self.ecr = ecr
        self.behind = behind
        self.apis: list[str] = []  # the hosts where ECR itself was asked
        self.requests: list[Request] = []
        self.answers: list[tuple[str, int]] = []
        self.troubles: dict[str, Trouble] = {}  # by host
        self._folder = tempfile.TemporaryDirectory(prefix="registry-stand-in-")
        self.bundle = Path(self._folder.name, "bundle.pem")
        self.context = self._make_context("right", HOSTS)
        self.wrong_context = self._make_context("wrong", (WRONG_HOST,))

    def _make_context(self, name: str, hosts: tuple[str, ...]) -> ssl.SSLContext:
        """For a server with a new certificate, which goes into the bundle."""
        # What makes it takes a while to import.
        from tests.support.certificates import make_certificate

        path = self.bundle.with_name(f"{name}.pem")
        certificate = make_certificate(path, hosts)
        with self.bundle.open("ab") as bundle:
            bundle.write(certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def server_close(self) -> None:
        super().server_close()
        self._folder.cleanup()

    def told(self) -> set[str]:
        """The hosts to which credentials were sent."""
        return {request.host for request in self.requests if request.credentials}

    def environment(self) -> dict[str, str]:
        """What a client needs in its environment to come here."""
        return {
            "HTTPS_PROXY": self.url,
            "https_proxy": self.url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "SSL_CERT_FILE": str(self.bundle),
        }


class _Proxy(QuietHandler):
    """The side that clients connect to. It proxies nothing in clear."""

    server: RegistryStandIn
    timeout = 60

    def do_CONNECT(self) -> None:
        self.close_connection = True
        host, _, port = self.path.rpartition(":")
        is_known = host in HOSTS or "*." + host.partition(".")[2] in HOSTS
        if port != "443" or not is_known or _has_credentials(self):
            _record(self, host, "")
            self.send_error(502)
            return
        trouble = self.server.take_one(self.server.troubles, host, Trouble())
        self.send_response_only(200, "Connection established")
        self.end_headers()
        wrong, right = self.server.wrong_context, self.server.context
        context = wrong if trouble.wrong_name else right
        with context.wrap_socket(self.connection, server_side=True) as tunnel:
            if host in API_HOSTS:
                self.server.apis.append(host)
                EcrHandler(tunnel, self.client_address, self.server.ecr)
            else:
                _Registry(tunnel, self.client_address, self.server, host, trouble)


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
            self._send(self.trouble.status, b"", {"Location": self.trouble.location})
        elif self.headers.get("Host") not in (self.host, f"{self.host}:443"):
            self._send(400)
        elif self.host == PUBLIC_HOST:
            self._serve_public()
        else:
            self._serve_private()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _serve_private(self) -> None:
        scheme, value = self._read_authorization()
        if scheme != "basic":
            realm = f'Basic realm="https://{self.host}/",service="ecr.amazonaws.com"'
            self._send(401, b"Not Authorized\n", {"WWW-Authenticate": realm})
        elif not self._is_let_in(value):
            pass  # it has been told
        elif self.path == "/v2/":
            self._send(200)
        elif self.server.behind:
            self._pass_on()
        else:
            self._send(404)

    def _serve_public(self) -> None:
        scheme, value = self._read_authorization()
        if urlsplit(self.path).path != "/token/":
            self._send(404)
        elif scheme not in ("", "basic"):
            self._deny(400, INVALID)
        elif not scheme or self._is_let_in(value):
            self._send_json(200, {"token": "for the bearer"})

    def _is_let_in(self, encoded: str) -> bool:
        """Whether a login is any good. If not, ECR's words have been sent."""
        ecr = self.server.ecr
        login, password = _read_login(encoded)
        if ecr.accepts(self.host, login, password):
            return True
        if self.host != PUBLIC_HOST and ecr.is_expired(password):
            self._deny(403, EXPIRED)
        else:
            self._deny(400, INVALID)
        return False

    def _read_authorization(self) -> tuple[str, str]:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower(), value.strip()

    def _pass_on(self) -> None:
        headers = {"Accept": ", ".join(self.headers.get_all("Accept", []))}
        url = self.server.behind + self.path
        request = urllib.request.Request(url, headers=headers, method=self.command)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            answer = direct.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            told = {k: v for k, v in answer.headers.items() if k in PASSED_ON}
            self._send(answer.status, answer.read(), told)

    def _deny(self, status: int, message: str) -> None:
        errors = [{"code": "DENIED", "message": message}]
        self._send_json(status, {"errors": errors})

    def _send_json(self, status: int, answer: object) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(answer).encode(), kind)

    def _send(
        self, status: int, body: bytes = b"", more: Mapping[str, str] = {}
    ) -> None:
        self.server.answers.append((self.path, status))
        self.send_response(status)
        headers = {
            "Docker-Distribution-Api-Version": "registry/2.0",
            "Content-Length": str(len(body)),  # for HEAD, the registry tells it
            **more,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _has_credentials(handler: _Proxy | _Registry) -> bool:
    return any(
        name in handler.headers for name in ("Authorization", "Proxy-Authorization")
    )


def _record(handler: _Proxy | _Registry, host: str, path: str) -> None:
    request = Request(host, handler.command, path, _has_credentials(handler))
    handler.server.requests.append(request)


def _read_login(encoded: str) -> tuple[str, str]:
    """What is in base64, or nothing."""
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    login, _, password = decoded.partition(":")
    return login, password

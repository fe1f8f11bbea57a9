"""TLS and Amazon ECR's say before a registry that knows neither.

Listens on port 443 of loopback, so it wants a network of its own. Only who brings a token
that the ECR stand-in gave, for that region, and that has not expired, comes to the registry
behind it, and may only read there.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.certificates import make_certificates
from tests.support.ecr_stand_in import EcrStandIn, QuietHandler
from tests.support.registry_stand_in import (
    EXPIRED,
    INVALID,
    denied,
    login_and_password,
)

PASSED_ON = ("Content-Type", "Content-Length", "Docker-Content-Digest", "ETag")


class RegistryFront(ThreadingHTTPServer):
    """Serves ``host`` until ``shutdown``. ``answers`` is what became of each request."""

    daemon_threads = True

    def __init__(self, ecr: EcrStandIn, host: str, behind: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 443), _Handler)
        make_certificates(folder, {"front": (host,)})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "front.pem", folder / "front.key")
        # The handshake is for the request's own thread: it must not keep others waiting.
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.ca = folder / "ca.pem"
        self.ecr = ecr
        self.host = host
        self.behind = behind
        self.answers: list[tuple[str, int]] = []  # path and status

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours."""


class _Handler(QuietHandler):
    server: RegistryFront
    timeout = 60

    def do_GET(self) -> None:
        host, ecr = self.server.host, self.server.ecr
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        login, password = login_and_password(value)
        if self.headers.get("Host") != host:
            self._send(404, b"", {})
        elif scheme.lower() != "basic":
            realm = f'Basic realm="https://{host}/",service="ecr.amazonaws.com"'
            self._send(401, b"Not Authorized\n", {"WWW-Authenticate": realm})
        elif ecr.accepts(host, login, password):
            self._pass_on()
        else:
            refusal = (403, EXPIRED) if ecr.is_expired(password) else (400, INVALID)
            body = denied(*refusal).body
            self._send(refusal[0], body, {"Content-Type": "application/json"})

    def do_HEAD(self) -> None:
        self.do_GET()

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

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.server.answers.append((self.path, status))
        self.send_response(status)
        length = {"Content-Length": str(len(body))}  # for HEAD, the registry tells it
        api = {"Docker-Distribution-Api-Version": "registry/2.0"}
        for name, value in {**length, **api, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

"""A stand-in for Amazon ECR on loopback: the one call that ecr-airflow-sync makes.

Strict about what it accepts: the request must be GetAuthorizationToken in AWS JSON
1.1, signed (Signature Version 4) by a key it knows, for the region it names. Its
tokens have the form and the length of real ones, and expire after twelve hours.

    python tests/ecr_stand_in.py --port 4510
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCOUNT = "123456789012"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TARGET = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
TWELVE_HOURS = 12 * 60 * 60

SUFFIXES = {"cn": "amazonaws.com.cn", "eusc": "amazonaws.eu"}


@dataclass(frozen=True)
class Call:
    """A request that was accepted."""

    region: str
    registries: tuple[str, ...]


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
    """Serves until ``shutdown``. ``calls`` is what was asked, ``tokens`` what was given."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.calls: list[Call] = []
        self.tokens: dict[tuple[str, str], list[str]] = {}  # by region and registry
        self.faults: dict[str, Fault] = {}  # by region
        self.lifetime = float(TWELVE_HOURS)
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours."""

    def authorization_data(self, region: str, registries: tuple[str, ...]) -> list[dict[str, Any]]:
        expires_at = time.time() + self.lifetime
        suffix = SUFFIXES.get(region.partition("-")[0], "amazonaws.com")
        entries = []
        for registry in registries or (ACCOUNT,):
            token = new_token(expires_at)
            self.tokens.setdefault((region, registry), []).append(token)
            entries.append(
                {
                    "authorizationToken": base64.b64encode(f"AWS:{token}".encode()).decode(),
                    "expiresAt": expires_at,
                    "proxyEndpoint": f"https://{registry}.dkr.ecr.{region}.{suffix}",
                }
            )
        return entries


class _Handler(BaseHTTPRequestHandler):
    server: EcrStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is asked and answered must not end in a log."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        signed = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/ecr/aws4_request, "
            r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            self.headers.get("Authorization", ""),
        )
        if not signed:
            self._refuse("MissingAuthenticationToken", "Missing Authentication Token")
            return
        key, _, region, names, signature = signed.groups()
        if key != ACCESS_KEY:
            self._refuse(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
        elif signature != self._signature(region, names.split(";"), body):
            self._refuse(
                "InvalidSignatureException",
                "The request signature we calculated does not match the signature you provided.\n"
                "The Canonical String for this request should have been\nPOST\n/\n...",
            )
        elif self.headers.get("X-Amz-Target") != TARGET:
            self._refuse("UnknownOperationException", "")
        else:
            self._answer(region, json.loads(body))

    def _signature(self, region: str, names: list[str], body: bytes) -> str:
        headers = {name: self.headers[name] for name in names}
        request = AWSRequest("POST", self.server.url + self.path, headers=headers, data=body)
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        auth = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "ecr", region)
        to_sign = auth.string_to_sign(request, auth.canonical_request(request))
        return str(auth.signature(to_sign, request))

    def _answer(self, region: str, request: dict[str, Any]) -> None:
        registries = tuple(request.pop("registryIds", ()))
        if request or len(registries) > 10 or not all(len(r) == 12 for r in registries):
            self._refuse("InvalidParameterException", "Invalid parameter at 'registryIds'")
            return
        with self.server.lock:
            self.server.calls.append(Call(region, registries))
            entries = self.server.authorization_data(region, registries)
            fault = self.server.faults.get(region)
            if fault and fault.times > 0:
                fault.times -= 1
            else:
                fault = None
        if fault:
            time.sleep(fault.delay)
            if fault.drop:
                self.close_connection = True
                return
            if fault.code:
                self._refuse(fault.code, fault.message, fault.status)
                return
            if fault.body is not None:
                self._send(fault.status, fault.body)
                return
            entries = [
                {**entry, **fault.change}
                for entry in entries
                if not entry["proxyEndpoint"][len("https://") :].startswith(fault.without or "none")
            ]
            entries = [{k: v for k, v in e.items() if v is not None} for e in entries]
        self._send(200, json.dumps({"authorizationData": entries}).encode())

    def _refuse(self, code: str, message: str, status: int = 400) -> None:
        self._send(status, json.dumps({"__type": code, "message": message}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def environment(url: str) -> dict[str, str]:
    """What a client needs in its environment to ask the stand-in."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL_ECR": url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    server = EcrStandIn(parser.parse_args().port)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

A token dies after twelve hours, and with it the connection that DockerOperator logs in with. This command asks
ECR for new ones, and has the ``airflow`` command line write them. The file reads from top to bottom, and the data
flows one way: targets (what is asked for), tokens (ECR, through boto3), connections (Airflow), report.
"""

from __future__ import annotations

import signal
import sys

# Ctrl-C during the imports is no traceback. Where it is ignored, as by nohup, it stays so.
_ours = sys.argv[0].endswith(("ecr-airflow-sync", "ecr_airflow_sync.py"))
if _ours and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import base64
import configparser
import difflib
import hashlib
import importlib.util
import json
import logging
import os
import re
import secrets
import select
import shlex
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from threading import Thread
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence, Tuple

import click

__version__ = "0.1.0"
METHODS = ("auto", "import", "delete-add")
KEYS = ("region", "registry", "profile", "role_arn", "external_id", "aws_conn_id", "host", "extra")  # of a section
FACTS = ("conn_id", "registry", "region", "host")  # of a connection, to be told and kept
PLACEHOLDER = r"\{(registry|region)\}"  # in a template
PUBLIC, PUBLIC_REGION, PUBLIC_HOST = "public", "us-east-1", "public.ecr.aws"
GRACE, PATIENCE = 5.0, 180.0  # seconds: for a child to end before it is killed, for ECR and registries to answer
PARTITIONS = r"(amazonaws\.(com|com\.cn|eu)|s?c2s\.(ic|sgov)\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
UTC = "%Y-%m-%d %H:%M UTC"
Answer = Tuple[Any, str]  # how a command of Airflow's ended (None: it never did), and what it printed

# Run as `sh -c FIND_PYTHON <airflow script>` wherever --airflow leads: starts the interpreter that the script's first
# line names, to read DOOR from stdin. Where that path is long or has a blank, pip and uv write `'''exec' <python> "$0"
# "$@"` below it. An empty entry in sys.path would import from the folder that cron happens to be in.
FIND_PYTHON = r"""
fail() { echo "$2" >&2; exit "$1"; }
script=$(command -v -- "$0") || fail 127 "not found, with PATH $PATH; name the script, \
as in --airflow /opt/airflow/bin/airflow (cron's PATH is short)"
[ -r "$script" ] || fail 126 "$script cannot be read by $(id -un)"
{ IFS= read -r first; IFS= read -r second; } <"$script"
case $first in '#!'*python* | '#!'*pypy*) python=${first#??} ;; *) python= ;; esac
case $second in "'''exec' "*) python=${second#* } python=${python%' "$0" "$@"'} ;; esac
[ -n "$python" ] || fail 126 "$script is no Python script (a wrapper, a shim?); name the one behind it with --airflow"
door='import sys; sys.path[:] = [p for p in sys.path if p]; import json
exec(json.loads(sys.stdin.readline() or sys.exit("stdin is closed; docker exec needs -i")))'
# airflowctl breaks and paints its answers; to mask ten tokens, as we do too, takes Airflow 3 half of the run
unset FORCE_COLOR TTY_COMPATIBLE
export COLUMNS=100000 TERM=dumb AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET=1000000
exec sh -c "exec $python -u -c \"\$1\" \"\$0\"" "$script" "$door"
"""

# Run by Airflow's own interpreter (Python 2.7, 3.5 and later), below a line that sets marker and timeout. Lines that
# begin with the marker are its answers: first who is here, then one for each command.
DOOR = r"""
import json, os, runpy, shutil, signal, sys, tempfile, threading, traceback
try:
    from importlib.metadata import distribution
except ImportError:
    from pkg_resources import get_distribution as distribution
script, version, requests = sys.argv[1], None, os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
folder = os.path.join(tempfile.gettempdir(), "ecr-airflow-sync-" + marker)

def stop(*_):  # with its children: behind sudo or docker exec, nobody else can
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
    os._exit(137)  # as process 1 of a container
def answer(facts):
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, ("\n%s%s\n" % (marker, json.dumps(facts))).encode("ascii"))
    except (EnvironmentError, ValueError):
        pass  # nobody listens any more: what was begun is finished all the same
def run(argv, connections, name):
    sys.argv, said = [script] + argv, 0
    if connections:  # by a pipe with a name, for no token may be in a file
        sys.argv.append(os.path.join(tempfile.mkdtemp(dir=folder), "connections.json"))
        os.mkfifo(sys.argv[-1], 0o600)
        def feed(name=sys.argv[-1]):
            with open(name, "w") as fifo:
                json.dump(connections, fifo)
        feeder = threading.Thread(target=feed)
        feeder.daemon = True
        feeder.start()
    try:
        runpy.run_path(script, run_name=name)
    except SystemExit as end:
        said = end.code or 0
    except BaseException:
        said = traceback.format_exc()
    try:
        if not isinstance(said, int):
            sys.stderr.write("%s\n" % (said,))
            said = 1
        return said
    except EnvironmentError:  # nobody listens any more, which may be what stopped it
        for number in 1, 2:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        return run(argv, connections, name)

signal.signal(signal.SIGTERM, stop)
os.mkdir(folder, 0o700)
sys.path.insert(0, os.path.dirname(script))
home = os.path.expanduser(os.environ.get("AIRFLOW_HOME") or "~/airflow")
place, ctl = "AIRFLOW_HOME " + home, os.path.basename(script) in ("airflowctl", "apache-airflow-ctl")
if ctl:  # with a token, but without this file, it would send all to http://localhost:8080
    try:
        with open(os.path.join(home, os.environ.get("AIRFLOW_CLI_ENVIRONMENT", "production") + ".json")) as file:
            place = str(json.load(file)["api_url"])
    except Exception:
        place = ""
for name in ["apache-airflow-ctl"] if ctl else ["apache-airflow", "apache-airflow-core"]:
    try:
        version = version or distribution(name).version
    except Exception:
        pass  # not installed, in the words of either library
answer([version, script, home, place, ctl, [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]])
for line in iter(requests.readline, ""):
    commands, connections, name = json.loads(line)
    watch = threading.Timer(timeout, stop)
    watch.start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "delete" in str(commands) else stop)  # an add is to follow
    for argv in commands:
        answer(run(argv, connections, name))
    watch.cancel()
shutil.rmtree(folder, ignore_errors=True)
"""

# What to do next: by AWS's error code and operation, or by botocore's exception; then by Airflow's words.
_LATER = "the next run tries again"
_NETWORK = "check the region, and this host's DNS, proxy and network"
_NOT_ECR = "that is no answer of ECR's; check AWS_ENDPOINT_URL, and the proxy"
_NEXT_STEPS = {
    "AccessDenied.* GetAuth": "allow this identity ecr:GetAuthorizationToken on resource *",
    "AccessDenied.* AssumeRole": "the role's trust policy (its external id?) and this identity's own must allow it",
    "ConnectTimeout|EndpointConnection": _NETWORK,
    "ConnectionClosed|ReadTimeout|Internal|Server|Unavailable|^5": _LATER,
    "ExpiredToken|HTTPClient|SSO|Retrieval": "renew the AWS credentials (aws sso login, a new role session, new keys)",
    "InvalidParameter": "check the registry ids",
    "InvalidSignature|SignatureDoesNotMatch|RequestExpired": "check the secret key, and this host's clock",
    "(No|Partial)Cred|ProfileNot": "boto3 looked at the environment, ~/.aws and instance metadata; HOME is {home}",
    "NoRegion": "give --region, or set AWS_REGION, AWS_DEFAULT_REGION or the profile's",
    "SSLError": "check AWS_CA_BUNDLE, the proxy's certificate and this host's clock",
    "Throttling": f"{_LATER}; spread the hosts over the half hour",
    "UnrecognizedClient|InvalidClientToken": "check the access key, and that it belongs to this partition",
    "AttributeError|KeyError|ResponseParser|TypeError|UnicodeDecode": _NOT_ECR,
}
_LOG_IN = "airflowctl auth login --api-url https://… --skip-keyring; AIRFLOW_CLI_TOKEN is from airflowctl auth token"
_CURES = {
    "value too long|Data too long": "ECR's tokens do not fit (AIRFLOW-3014): ALTER TABLE connection ALTER COLUMN "
    "password TYPE VARCHAR(5000) (MySQL: ALTER TABLE connection MODIFY password VARCHAR(5000))",
    "Found more than one connection": "delete all of them in the UI, under Admin, Connections",
    "Connection not found": "let ecr-airflow-sync write it, or create it",
    "Keyring backend|Not authenticated|Invalid JWT|Token Expired": f"log in: {_LOG_IN}",
}

log = logging.getLogger(__name__)
UsageError = click.UsageError  # what was asked for cannot be done, whatever ECR and Airflow say


class SyncError(Exception):
    """At least one of the connections is not as it should be. ``str()`` has a line for each reason."""

    def __init__(self, connections: list[Connection]) -> None:
        errors = dict.fromkeys(c.error for c in connections if c.error)
        struck = {error: [c.conn_id for c in connections if c.error == error] for error in errors}
        super().__init__("\n".join(f"{', '.join(conn_ids)}: {error}" for error, conn_ids in struck.items()))
        self.connections = connections


class Failure(Exception):
    """Why something was not to be had: one line with the next step, and no secret."""


def _refuse(wrong: object, reason: str, kind: type[Exception] = UsageError) -> None:
    if wrong:
        raise kind(reason)


def _side_by_side(job: Callable[[Any], None], items: Iterable[Any]) -> None:
    """All at once, until the last has ended or PATIENCE has. A ThreadPoolExecutor would let Ctrl-C wait."""
    threads, deadline = [Thread(target=job, args=(item,), daemon=True) for item in items], time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class Connection:
    """A docker connection on its way: what is asked for, by whom, what ECR grants, what became of it.

    Region "" is what boto3 finds, registry None that of the caller's own account, host None ECR's plain one;
    conn_id and host may hold {region} and {registry}, ``extra`` is JSON. ``expires_at`` is UTC. ``status`` is
    written, fresh, planned or failed; after a check fine, missing, shadowed, wrong host, refused or unreachable.
    """

    conn_id: str = "docker_default"
    region: str = ""
    registry: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    aws_conn_id: str | None = None
    host: str | None = None
    extra: str | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    status: str = "failed"
    error: str | None = None

    def fill(self, template: str) -> str:
        """The template with what is known."""
        return re.sub(PLACEHOLDER, lambda found: getattr(self, found[1]) or found[0], template)


# --- targets: what is asked for -------------------------------------------------------------------
def _targets(options: Mapping[str, Any]) -> list[Connection]:
    """What the command's options ask for: every registry in every region, or the sections of a file."""
    config, conn_id, regions, registries = (options[key] for key in ("config", "conn_id", "region", "registry"))
    common = Connection(conn_id, extra=options["conn_extra"], **{key: options[key] for key in KEYS[2:-1]})
    if config:
        named = regions or registries or conn_id != Connection.conn_id
        _refuse(named, "with --config, regions, registries and connection ids stand in the file")
        return _configured(config, common)
    _refuse("" in regions and len(regions) > 1, "one of several regions is empty")
    return [replace(common, region=r, registry=i) for r in regions or ("",) for i in registries or (None,)]


def _distinct(asked: Sequence[Connection]) -> list[Connection]:
    """Targets that may be asked for, each with a connection id of its own; else UsageError."""
    targets = list(dict.fromkeys(map(_valid, asked)))  # ECR Public is one, whatever the regions
    shared = len({t.conn_id for t in targets}) < len(targets)
    _refuse(shared, f"{len(targets)} registries overwrite each other: give --conn-id 'ecr_{{registry}}_{{region}}'")
    return targets


def _valid(t: Connection) -> Connection:
    """The target with what is known filled in, if it may be asked for; else UsageError."""
    if t.registry == PUBLIC:
        t = replace(t, region=PUBLIC_REGION, host=PUBLIC_HOST)
    known = t.registry is None or re.fullmatch(rf"[0-9]{{12}}|{PUBLIC}", t.registry)
    _refuse(not known, f"registry {t.registry!r} is not an account id of twelve digits")
    conn_id, host = (re.sub(PLACEHOLDER, "x", text) for text in (t.conn_id, t.host or "x"))
    _refuse(set("{}") & set(conn_id), f"conn id {t.conn_id!r}: the placeholders are {{registry}} and {{region}}")
    takes = "Airflow takes 1 to 200 letters, digits, underscores, dashes (not in front) and dots (not two in a row)"
    good = re.fullmatch(r"[\w.][\w.-]{0,199}", conn_id) and ".." not in conn_id  # as its validate_key
    _refuse(not good, f"conn id {t.conn_id!r}: {takes}")
    bare = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)*", host)
    _refuse(not bare, f"host {t.host!r} is not a bare host, as in an image's name")
    _refuse(t.profile and t.aws_conn_id, "profile and aws_conn_id are two sources of credentials: give one")
    _refuse(t.external_id and not (t.role_arn or t.aws_conn_id), "external_id is for a role: give its role_arn")
    try:
        extra = json.loads((t.extra or "{}").encode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"extra is not JSON: {error}") from None
    _refuse(not isinstance(extra, dict), 'extra is not a JSON object, such as \'{"email": "me@example.com"}\'')
    no_login = str(extra.get("reauth", True)).lower() in ("false", "no", "0")
    _refuse(no_login, "extra has reauth false: DockerOperator would not log in to ECR")
    t = replace(t, login=None, password=None, expires_at=None, status="failed", error=None)  # after an earlier sync
    return replace(t, conn_id=t.fill(t.conn_id))


def _configured(path: str, common: Connection) -> list[Connection]:
    """The targets of a file, in which a section is a connection. Errors name file, line and section."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    try:
        with open(path, encoding="utf-8") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read()
        _refuse(mode & 0o022, f"{path}: others may write it; chmod go-w {shlex.quote(path)}")
        parser.read_string(text, path)
    except (OSError, configparser.Error, ValueError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise UsageError(f"{path}: {why}") from None
    _refuse(not parser.sections(), f"{path}: no section, such as [docker_default]")
    return [_section(path, text, parser[name], common) for name in parser.sections()]


def _section(path: str, text: str, section: configparser.SectionProxy, common: Connection) -> Connection:
    key = ""
    try:
        for key, value in section.items():
            _refuse(not value, f"{key} has no value")
            _refuse("\n" in value and key != "extra", f"{key} has two lines")
            _refuse(key not in KEYS, f"unknown key {key}; there are {', '.join(KEYS)}")
        key = ""
        _refuse("{" in section.name, "a section is a connection id, without placeholders")
        asked: dict[str, Any] = {"conn_id": section.name, **section}
        return _valid(replace(common, **asked))
    except UsageError as error:
        inside = rf"(?:(?!^\[).)*?^{re.escape(key)}[ \t]*=" if key else ""
        starts = [rf"^[ \t]*\[{re.escape(name)}\]" for name in (section.name, "DEFAULT")]
        places = [re.search(start + inside, text, re.M | re.S | re.I) for start in starts]
        line = next((text.count("\n", 0, place.end()) + 1 for place in places if place), 0)
        raise UsageError(f"{path}, line {line}, [{section.name}]: {error}") from None


# --- tokens: what ECR grants ----------------------------------------------------------------------
def _authorize(targets: Sequence[Connection], held: Mapping[str, Any]) -> list[Connection]:
    """Ask for every token, in one call for each identity and region. ``held`` is what their aws_conn_ids hold."""
    log.info("Asking ECR for %d token(s) ...", len(targets))
    granted = {t.conn_id: replace(t, error=f"ECR gave no whole answer; {_LATER}") for t in targets}
    calls: dict[Any, list[Connection]] = {}
    for t in targets:
        kind = t.registry if t.registry in (None, PUBLIC) else "named"
        calls.setdefault((t.profile, t.role_arn, t.external_id, t.aws_conn_id, t.region, kind), []).append(t)
    batches = [asked[i : i + 10] for asked in calls.values() for i in range(0, len(asked), 10)]  # ECR's limit
    _side_by_side(partial(_ask, held, granted), batches)
    return [granted[t.conn_id] for t in targets]


def _ask(held: Mapping[str, Any], granted: dict[str, Connection], targets: Sequence[Connection]) -> None:
    who, region, registries = targets[0], targets[0].region, list(dict.fromkeys(t.registry for t in targets))
    public, named = registries == [PUBLIC], {"registryIds": registries}
    try:
        keys = held.get(who.aws_conn_id or "", {})
        _refuse(isinstance(keys, str), f"aws_conn_id {who.aws_conn_id}: {keys}", Failure)
        client = _client(who, keys, "ecr-public" if public else "ecr")
        region = client.meta.region_name
        answer = client.get_authorization_token(**({} if public or registries == [None] else named))
        data: Any = answer.get("authorizationData") or []
        entries = [{**data, "proxyEndpoint": PUBLIC_HOST}] if public else data
        granted.update({t.conn_id: _pick(replace(t, region=region), entries) for t in targets})
    except Exception as error:  # noqa: BLE001 - an answer that is not ECR's can raise anything
        why = str(error) if isinstance(error, Failure) else _explain(error, region)
        granted.update({t.conn_id: replace(t, error=why) for t in targets})


def _client(who: Connection, held: Mapping[str, Any], service: Any) -> Any:
    """A client of that identity. Its session is its own, because sessions are not thread-safe."""
    import boto3  # here and not above: --help and usage errors need not wait for it
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=5, read_timeout=10)
    extra = held.get("extra_dejson") or {}
    region = who.region or extra.get("region_name") or os.environ.get("AWS_REGION") or None  # not read by boto3
    names = ("login", "aws_access_key_id"), ("password", "aws_secret_access_key"), ("", "aws_session_token")
    key, secret_key, token = (held.get(name) or extra.get(or_name) for name, or_name in names)
    session = boto3.Session(key, secret_key, token, region, profile_name=who.profile or extra.get("profile_name"))
    role_arn, external_id = (getattr(who, key) or extra.get(key) for key in ("role_arn", "external_id"))
    how, kwargs = extra.get("assume_role_method", "assume_role"), extra.get("assume_role_kwargs") or {}
    odd = how != "assume_role" or not isinstance(kwargs, dict) or {"session_kwargs", "aws_iam_role"} & set(extra)
    _refuse(odd, f"aws_conn_id {who.aws_conn_id}: its extra has a role or session of another kind; use keys", Failure)
    if role_arn:
        role = {"RoleSessionName": "ecr-airflow-sync", **kwargs, **({"ExternalId": external_id} if external_id else {})}
        role = {name: int(value) if name == "DurationSeconds" else value for name, value in role.items()}  # from text
        got = session.client("sts", config=config).assume_role(RoleArn=role_arn, **role)["Credentials"]
        session = boto3.Session(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"], session.region_name)
    return session.client(service, config=config, endpoint_url=extra.get("endpoint_url"))  # not for STS


def _pick(target: Connection, entries: Iterable[Mapping[str, Any]]) -> Connection:
    """The target, with what ECR's answer holds for its registry. What is wrong with it is told, never shown."""
    for entry in entries:
        found = re.fullmatch(r"(?:https?://)?(([\w-]+)[\w.-]*)(?::\d+)?/?", entry.get("proxyEndpoint") or "")
        host, registry = found.groups() if found else ("", "")
        if target.registry in (None, registry):
            break
    else:
        whose = f"registry {target.registry}; check the id, and that this identity may read it"
        whose = whose if target.registry else f"the caller's own registry; {_NOT_ECR}"
        return replace(target, error=f"ECR in {target.region} gave no token for {whose}")
    whose, token = host or "a registry", ""
    with suppress(ValueError):
        token = base64.b64decode(entry.get("authorizationToken") or "", validate=True).decode("ascii")
    login, _, password = token.partition(":")
    needed = {"proxyEndpoint": host, **{key: entry.get(key) for key in ("authorizationToken", "expiresAt")}}
    wrong = [f"answer for {whose} has no {key}" for key, value in needed.items() if not value]
    if not wrong and not (login and password):
        wrong = [f"token for {whose} is not {'login, colon, password' if token else 'base64 of plain text'}"]
    if wrong:
        return replace(target, error=f"ECR's {wrong[0]}; {_LATER}")
    target = replace(target, registry=registry, login=login, password=password, status="planned")
    conn_id, host = target.fill(target.conn_id), target.fill(target.host or host)
    return replace(target, conn_id=conn_id, host=host, expires_at=entry["expiresAt"].astimezone(timezone.utc))


def _explain(error: Exception, region: str) -> str:
    """AWS's or botocore's own words in one line (the others quote the signed request), and what to do next."""
    told, operation = (getattr(error, "response", None) or {}).get("Error", {}), getattr(error, "operation_name", "")
    code = str(told.get("Code") or type(error).__name__)
    line = (str(told.get("Message") or error).strip() or code).replace(":\n", ": ").splitlines()[0].rstrip(".")
    steps = [step for pattern, step in _NEXT_STEPS.items() if re.search(pattern, f"{code} {operation}")]
    line = "; ".join([f"{code}: {line}" if told else line, *steps[:1]])
    where = ("STS" if operation == "AssumeRole" else "ECR") + (f" in {region}" if region else "")
    line = _mask(line.replace("{home}", os.environ.get("HOME", "not set")))
    if code in ("EndpointConnectionError", "InvalidRegionError"):
        no_profile, meant = {"profile": (None, None, None, None)}, region.lower().replace("_", "-")
        session = importlib.import_module("botocore.session").Session(no_profile)
        known = [r for p in session.get_available_partitions() for r in session.get_available_regions("ecr", p)]
        close = sorted(difflib.get_close_matches(meant, known), key=lambda name: sorted(name) != sorted(meant))
        line += f"; did you mean {close[0]}?" if close and region not in known else ""
    return f"{where}: {line}"


# --- connections: what Airflow holds, and is to hold -----------------------------------------------
class Airflow:
    """The Airflow that a command line leads to. ``place`` is its AIRFLOW_HOME, or the URL of its API."""

    def __init__(self, command: str = "airflow", timeout: float = 120, version: str = "", method: str = "auto") -> None:
        try:
            *self.prefix, self.script = shlex.split(command) or [""]
        except ValueError as error:
            raise UsageError(f"airflow command {command!r}: {error}") from None
        _refuse(method not in METHODS, f"method {method!r} is none of {', '.join(METHODS)}")
        _refuse(not 0 < timeout < 1e6, f"timeout {timeout:g} is not a positive number of seconds")  # 12 days
        self.command, self.version, self.method, self._timeout = command, version, method, timeout
        self._argv = [*self.prefix, "sh", "-c", FIND_PYTHON, self.script]
        self.executable, self._marker = "", secrets.token_hex(16)  # met by nobody yet

    @contextmanager
    def started(self, ahead: bool) -> Iterator[None]:
        """One process of its interpreter, which imports Airflow at the first command, or ``ahead`` of it."""
        self._unread, self._end, self._imported = b"", "", (0, "")
        try:  # a session of its own, so that it and its children can be ended as one group
            self._process: Any = Popen(self._argv, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True)
        except OSError as error:
            raise Failure(f"cannot run {self._argv[0]}: {error.strerror}; check --airflow, PATH") from None
        patience = 0.0  # after Ctrl-C, and SIGTERM as main takes it
        try:
            self._meet()
            self._importing = self._send([[["version"]], None, "imported"]) if ahead else 0.0
            yield
            patience = 0 if self._end or self._importing else GRACE
        finally:
            for pipe in filter(None, (self._process.stdin, self._process.stdout)):
                pipe.close()
            to_add = GRACE if self.method == "import" else 4 * GRACE  # what it has just deleted
            for number, seconds in ((0, patience), (signal.SIGTERM, to_add), (signal.SIGKILL, GRACE)):
                with suppress(OSError):  # gone, or another user's
                    os.killpg(self._process.pid, number)
                with suppress(TimeoutExpired):
                    self._process.wait(seconds)
                    break

    def _meet(self) -> None:
        ((here, _),) = self._receive(1, self._send(f"marker, timeout = {self._marker!r}, {self._timeout!r}{DOOR}"))
        _refuse(self._end, self._end, Failure)
        version, name, home, self.place, self._ctl, self.shadows = here
        self.version = self.version or version
        why = "runs in a Python without the package apache-airflow: name another script with --airflow, or say"
        _refuse(not self.version, f"{name} {why} --airflow-version", Failure)
        _refuse(not self.place, f"{name} has no login in AIRFLOW_HOME {home}: run there {_LOG_IN}", Failure)
        self._age = (9,) if self._ctl else parse_version(self.version)
        _refuse(self._age < (1, 10), f"Airflow {self.version} at {name} is older than 1.10: upgrade it", Failure)
        old = self._age < (2, 6)
        self.method = {"auto": "delete-add" if old else "import"}.get(self.method, self.method)
        _refuse(self.method == "import" and old, f"method import needs Airflow 2.6 or later; {name} is {self.version}")
        _refuse(self._ctl and self.method != "import", "airflowctl has the method import only")
        self.executable = name

    def write(self, connections: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Write all, given as in an import file, in one Airflow start; returns why, for each that was not written."""
        log.info("Airflow %s is writing %d connection(s) ...", self.version, len(connections))
        failed: dict[str, Answer] = {}
        singly = [{conn_id: fields} for conn_id, fields in connections.items()]
        hidden = [fields["password"] for fields in connections.values()]
        batches = [connections] if self.method == "import" else singly
        for _ in range(2):  # then, by itself, what an error stopped: imports may collide, one may stop the others
            for batch in batches:
                commands, successes = zip(*self._commands(batch))
                answers = self._run(commands, batch if self.method == "import" else None)
                for _, output in answers if log.isEnabledFor(logging.DEBUG) else ():
                    log.debug("%s", _mask(output, hidden).strip())
                for conn_id in batch:
                    earlier = failed.pop(conn_id, None)
                    for (status, output), success in zip(answers, successes):
                        pattern = success.replace("NAME", re.escape(conn_id))
                        if not re.search(pattern, f"{output}\nexit {status}", re.MULTILINE):
                            failed.setdefault(conn_id, earlier or (status, output))
            batches = [batch for batch in singly for conn_id in batch if conn_id in failed and failed[conn_id][0]]
        return {i: self._reason(i, *answer, hidden) for i, answer in failed.items()}

    def read(self, conn_ids: Iterable[str | None]) -> dict[str, Any]:
        """The fields of each connection as a task finds them; why not, as text, of the others."""
        ids, found = list(dict.fromkeys(filter(None, conn_ids))), {}
        what = "does not show connections as tasks find them: that takes the airflow script of 2.0 or later"
        other = "(AWS credentials can also come from --profile, --role-arn or AWS_ACCESS_KEY_ID)"
        _refuse(ids and (self._ctl or self._age < (2, 0)), f"{self.executable} ({self.version}) {what} {other}")
        commands = [["connections", "get", conn_id, "--output", "json"] for conn_id in ids]
        answers = self._run(commands) if ids else []  # which would wait for the import
        for conn_id, (status, output) in zip(ids, answers):
            printed = re.findall(r"^\[(\{.*\})\]\s*$", output, re.MULTILINE)
            found[conn_id] = self._reason(conn_id, status, output if status != 0 else "", ())  # it may hold secrets
            with suppress(ValueError, IndexError):
                found[conn_id] = json.loads(printed[-1])
        return found

    def _commands(self, batch: Mapping[str, Mapping[str, str]]) -> list[tuple[list[str], str]]:
        """What is to be said to an Airflow of that age, and what it says then. A new syntax goes here."""
        if self.method == "import":  # of a file that DOOR adds
            overwrite = ["-a", "overwrite"] if self._ctl else ["--overwrite"]
            success = r"Imported connection NAME\s*$|Successfully imported \[.*'NAME'.*\] conn"
            return [(["connections", "import", *overwrite], success)]
        ((conn_id, fields),) = batch.items()
        delete, add, name, prefix = "delete", "add", conn_id, "--conn-"
        if self._age < (1, 10, 14):  # later ones mask --conn-password in the audit log
            delete, add, name, prefix = "--delete", "--add", f"--conn_id={conn_id}", "--conn_"
        known = {k: v for k, v in fields.items() if k != "description" or self._age >= (2, 0)}
        options = [f"{prefix}{key.replace('conn_', '')}={value}" for key, value in known.items()]
        # It may say so and then fail. Where another host was quicker, what that wrote is as fresh.
        gone = r"(Successfully deleted(?=[\s\S]*^exit 0\Z)|Did not find a)( connection with)? `conn_id`=NAME\s*$"
        added = r"Successfully added `conn_id`=NAME\s([\s\S]*\n)?exit 0\Z|with `conn_id`=NAME already exists"
        return [(["connections", delete, name], gone), (["connections", add, name, *options], added)]

    def _reason(self, conn_id: str, status: Any, output: str, hidden: Iterable[str]) -> str:
        """The one line of the output that says most, and what to do where that is known."""
        if status is None:
            return _mask(self._end, hidden)
        cause = output.rpartition("\nDuring handling of the above")[2].partition("\nThe above exception was")[0]
        said = [line.strip() for line in cause.splitlines() if line.strip()] or ["it said nothing"]
        told = [line for line in said if re.match("Failed to import|command failed due to", line)]
        told = told or (re.findall(r"^[\w.]*[a-z][\w.]*: .+", cause, re.M) if "Traceback (" in cause else [])
        told = told or [line for line in said if conn_id in line and not status]
        line = _mask((told or said)[-1].strip(), hidden)[:500]
        steps = [step for pattern, step in _CURES.items() if re.search(pattern, line)]
        return "; ".join([f"Airflow ({self.place}, exit status {status}): {line}", *steps[:1]])

    def _run(self, commands: Sequence[Sequence[str]], connections: object = None) -> list[Answer]:
        """How commands of the script's end; ``connections`` are for a file that the last word names."""
        if self._importing:
            (self._imported,), self._importing = self._receive(1, self._importing), 0.0
        if self._imported[0] != 0:  # and so would they
            return [self._imported] * len(commands)
        return self._receive(len(commands), self._send([commands, connections, "__main__"]))

    def _send(self, request: object) -> float:
        """Send a line. Returns when its answers are late."""
        line, poll, deadline = f"{json.dumps(request)}\n".encode(), select.poll(), time.monotonic() + self._timeout
        with suppress(OSError, ValueError):  # it has ended, as the answers will tell
            poll.register(self._process.stdin, select.POLLOUT)
            while line and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):  # a whole line may never fit
                line = line[os.write(self._process.stdin.fileno(), line[: select.PIPE_BUF]) :]
        return deadline

    def _receive(self, answers: int, deadline: float) -> list[Answer]:
        """Answers, each with what was printed before it. Exit None: it never came."""
        told: list[Answer] = []
        stdout, poll = self._process.stdout, select.poll()
        while len(told) < answers and not self._end:
            printed, _, rest = self._unread.partition(b"\n" + self._marker.encode())
            facts, whole, rest = rest.partition(b"\n")
            if whole:
                self._unread = rest
                told.append((json.loads(facts), printed.decode("utf-8", "replace")))
                continue
            poll.register(stdout, select.POLLIN)
            left = max(0.0, deadline - time.monotonic())
            chunk = os.read(stdout.fileno(), 65536) if poll.poll(left * 1000) else b""
            self._unread += chunk
            if not chunk:
                late = time.monotonic() >= deadline  # also where DOOR's own watch was quicker
                with suppress(TimeoutExpired):
                    self._process.wait(0 if late else GRACE)
                text = self._unread.decode("utf-8", "replace")
                said = re.findall(r"^(?!\[\{).*\S", text, re.MULTILINE) or ["it said nothing"]  # or a connection
                end = f"{said[-1]} (exit status {self._process.returncode})"
                end = f"killed after {self._timeout:g} s without an end; see --timeout" if late else end
                self._end = _mask(f"{self.command}: {end}")[:500]
        return told + [(None, self._unread.decode("utf-8", "replace"))] * (answers - len(told))


def parse_version(text: str) -> tuple[int, ...]:
    """The leading number of a version, also of 2.9.3+astro.1 and 3.0.0rc1."""
    numbers = re.findall(r"^(\d{1,6})\.(\d{1,6})(?:\.(\d{1,9}))?", text)
    _refuse(not numbers, f"Airflow version {text!r} is not of the form X.Y.Z")
    return tuple(int(part or 0) for part in numbers[0])


def _mask(text: str, hidden: Iterable[str] = ()) -> str:
    """Hide what is named, passwords in URLs, and what may be a token or part of one."""
    text = re.sub("|".join(map(re.escape, hidden)) or "(?!)", "***", text)
    text = re.sub(r"(://[^\s:@/]{0,99}):\S{1,99}@|:[^\s:@/]+@", r"\1:***@", text)
    return re.sub(r"[\w+=-]{60,}|\bb'[^']*|(?<=value as ')[^']*", "***", text)  # no slash: for paths and ARNs


# --- the check: would DockerOperator succeed now? ---------------------------------------------------
def _check(airflow: Airflow, targets: Sequence[Connection]) -> list[Connection]:
    _refuse(any("{" in t.conn_id for t in targets), "--check never asks AWS: give the conn id's regions and registries")
    found = airflow.read(t.conn_id for t in targets)
    judged = {t.conn_id: _judge(t, found[t.conn_id], airflow.shadows) for t in targets}
    to_ask = [t for t in judged.values() if t.status == "unreachable"]
    _side_by_side(lambda t: judged.update({t.conn_id: _log_in(t)}), to_ask)
    return [judged[t.conn_id] for t in targets]


def _judge(target: Connection, found: Any, shadows: Sequence[str]) -> Connection:
    """What is wrong with a connection as tasks find it, as far as it alone tells."""
    if isinstance(found, str):
        return replace(target, status="missing" if "not found" in found else "failed", error=found)
    wanted = target.fill(target.host or "{registry}.dkr.ecr.{region}.*")
    target = replace(target, host=found["host"] or "", login=found["login"] or "", password=found["password"] or "")
    if not found["id"]:  # only the database has ids
        variable = f"AIRFLOW_CONN_{target.conn_id.upper()}"
        why = "answers instead of the database, so what is synced is never read"
        source = variable if variable in shadows else "a secrets backend"
        return replace(target, status="shadowed", error=f"{source} {why}")
    pattern = re.sub(r"\\\{\w+\\\}", r"[\\w-]+", re.escape(wanted)).replace(r"\*", PARTITIONS)
    if re.fullmatch(pattern, target.host or "") and not found["port"]:
        return replace(target, status="unreachable", error=f"{target.host} gave no whole answer; {_NETWORK}")
    shown = f"{target.host or 'empty'}:{found['port'] or ''}".rstrip(":")
    return replace(target, status="wrong host", error=f"its host is {shown}, where images are at {wanted}")


def _log_in(target: Connection) -> Connection:
    """Log in as Docker does, over TLS. No redirect is followed: it would get the token."""
    from http.client import HTTPException
    from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request

    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    path = f"token/?service={PUBLIC_HOST}" if target.registry == PUBLIC else "v2/"
    login = base64.b64encode(f"{target.login}:{target.password}".encode()).decode()
    request = Request(f"https://{target.host}/{path}", headers={"Authorization": f"Basic {login}"})
    try:
        answer: Any = opener.open(request, timeout=10)
    except (OSError, HTTPException, ValueError) as error:
        why = f"{target.host} cannot be reached: {getattr(error, 'reason', error)}; {_NETWORK}"
        return replace(target, error=_mask(why))
    with suppress(Exception):  # ECR's tokens are base64 of JSON; another tells nothing
        expiration = json.loads(base64.b64decode(str(target.password)))["expiration"]
        target = replace(target, expires_at=datetime.fromtimestamp(expiration, timezone.utc))
    if answer.status == 200:
        return replace(target, status="fine", error=None)
    until = f"; its token is valid until {target.expires_at:{UTC}}" if target.expires_at else ""
    refused = answer.status in (400, 401, 403)  # as ECR refuses a wrong or expired token
    step = "sync again, and see whether the timer runs" if refused else _LATER
    why = f"{target.host} answered {answer.status} {answer.reason}{until}; {step}"
    return replace(target, status="refused" if refused else "unreachable", error=why)


# --- the whole ----------------------------------------------------------------------------------------
def sync(
    targets: list[Connection], airflow: Airflow, *, check: bool = False, dry_run: bool = False, renew_before: float = 0
) -> list[Connection]:
    """Fetch a token for each target, have Airflow hold them, and return what became of each.

    What this host wrote, and has ``renew_before`` seconds to live, is left alone. Raises UsageError for what cannot
    be done as asked; SyncError at the end, with all the connections, if one is not as it should be.
    """
    state = _state()[1] if renew_before and not check else {}
    known = {k: _fresh(t, state.get(k), renew_before) for t in _distinct(targets) for k in [_state_key(t, airflow)]}
    due = [key for key, t in known.items() if t.status != "fresh"]
    told = [known[key] for key in due]
    try:
        if due:
            ThreadPoolExecutor(1).submit(importlib.import_module, "boto3")  # while Airflow's interpreter starts
            with airflow.started(ahead=not (check or dry_run)):
                told = _check(airflow, told) if check else _authorize(told, airflow.read(t.aws_conn_id for t in told))
                told = told if check or dry_run else _written(airflow, told)
    except (Failure, RuntimeError) as error:
        told = [replace(t, error=f"{error}{'' if isinstance(error, Failure) else '; see ulimit -u'}") for t in told]
    finally:  # also after Ctrl-C: what was under way is not fresh
        known.update(zip(due, told))
        if due and (renew_before or os.path.exists(_state()[0])) and not (check or dry_run):
            _remember(known)
    connections = [replace(t, password=None) for t in known.values()]
    if any(t.error for t in connections):
        raise SyncError(connections)
    return connections


def _written(airflow: Airflow, targets: Sequence[Connection]) -> list[Connection]:
    fields: dict[str, dict[str, str]] = {}
    for t in (t for t in targets if not t.error):
        until, variable = f"{t.expires_at:{UTC}}", f"AIRFLOW_CONN_{t.conn_id.upper()}"
        about = f"ECR token valid until {until}, written by ecr-airflow-sync"
        entry = {"conn_type": "docker", "host": t.host, "login": t.login, "password": t.password, "extra": t.extra}
        fields[t.conn_id] = {key: str(value) for key, value in {**entry, "description": about}.items() if value}
        if t.expires_at and t.expires_at.timestamp() - time.time() < 3600:
            log.warning("%s: its token is valid until %s only; is this host's clock right?", t.conn_id, until)
        if variable in airflow.shadows:
            log.warning("%s: tasks read the variable %s instead; unset it", t.conn_id, variable)
    errors = airflow.write(fields) if fields else {}
    told = [replace(t, error=errors.get(t.conn_id, t.error)) for t in targets]
    return [replace(t, expires_at=None, status="failed") if t.error else replace(t, status="written") for t in told]


# --- the state: what this host last wrote, for --renew-before --------------------------------------------
def _state_key(t: Connection, airflow: Airflow) -> str:
    """Which connection in which Airflow, a dash, what is asked for by whom: digests of what either depends on."""
    led = r"AIRFLOW_(HOME|CONFIG|CLI_ENVIRONMENT)|HOME|DOCKER_\w+|KUBECONFIG|.*__(SQL_ALCHEMY_CONN|FERNET_KEY)(_\w+)?"
    asked = r"AWS_(ACCESS_KEY_ID|ROLE_ARN|(DEFAULT_)?(PROFILE|REGION)|\w+_FILE)"
    there, by = (sorted(e for e in os.environ.items() if re.fullmatch(names, e[0])) for names in (led, asked))
    parts = [t.conn_id, airflow.prefix, shutil.which(airflow.script) or airflow.script, there], [asdict(t), by]
    return "-".join(hashlib.sha256(json.dumps(part).encode()).hexdigest() for part in parts)


def _state() -> tuple[str, dict[str, Any]]:
    """The file of what was written, and what it holds, by key. What is not as _remember left it is as nothing."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or os.path.join(home, "ecr-airflow-sync")
    path = os.path.join(folder, "written.json")  # a unit may have several of the first
    with suppress(OSError, ValueError, TypeError, RecursionError), open(path, encoding="ascii") as file:
        return path, dict(json.load(file))
    return path, {}


def _fresh(target: Connection, entry: Any, renew_before: float) -> Connection:
    """The target as it was written, if it has so long to live. A clock set back ends all trust."""
    with suppress(OSError, ValueError, TypeError, OverflowError):  # it is not as _remember left it
        written_at, expires_at, *facts = entry
        if len(facts) == len(FACTS) and written_at <= time.time() <= expires_at - renew_before:
            known: dict[str, Any] = {**dict(zip(FACTS, map(str, facts))), "status": "fresh"}
            return replace(target, **known, expires_at=datetime.fromtimestamp(expires_at, timezone.utc))
    return target


def _remember(written: Mapping[str, Connection]) -> None:
    """Replace the state in one step. It holds no secret."""
    path, state = _state()
    for key, c in written.items():
        if c.status != "fresh":  # then what was written earlier is no more, whoever asked
            state = {k: entry for k, entry in state.items() if k.partition("-")[0] != key.partition("-")[0]}
        if c.status == "written" and c.expires_at:
            state[key] = [time.time(), c.expires_at.timestamp(), *(getattr(c, fact) for fact in FACTS)]
    try:
        if path.startswith("~"):
            raise FileNotFoundError(2, "HOME is not set")
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as aside:
            with open(os.path.join(aside, "new"), "w", opener=partial(os.open, mode=0o600)) as file:
                json.dump(state, file)
            os.replace(file.name, path)
    except OSError as error:
        log.error("state %s: %s; until it can be kept, each run writes", path, error.strerror)


# --- the metrics: what Prometheus is told -----------------------------------------------------------------
def _write_metrics(path: str, connections: Sequence[Connection], seconds: float) -> None:
    """Replace a file for node_exporter's textfile collector. Times are Unix, in seconds."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry, now = CollectorRegistry(), time.time()
    gauge = partial(Gauge, namespace="ecr_airflow_sync", registry=registry)
    gauge("build_info", "What ran.", ["version"]).labels(__version__).set(1)
    gauge("duration_seconds", "How long the last run took.").set(seconds)
    about = {
        "success": "Whether the connection was fresh after the last run.",
        "last_run_timestamp_seconds": "When the last run ended.",
        "last_success_timestamp_seconds": "When the connection was last found or made fresh.",
        "token_expiry_timestamp_seconds": "Until when the connection's token is valid.",
    }
    gauges = {name: gauge(name, text, ["conn_id"]) for name, text in about.items()}
    held: dict[str, dict[str, float]] = {}  # by the last run, since a failed one has no news of the last success
    line = rf'^ecr_airflow_sync_({"|".join(about)})\{{conn_id="([\w.-]+)"\}} ([0-9.e+]+)$'
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        for name, conn_id, value in re.findall(line, file.read(), re.MULTILINE):
            held.setdefault(conn_id, {})[name] = float(value)
    for c in connections:
        news = {"success": float(not c.error), "last_run_timestamp_seconds": now}
        if c.expires_at:  # it is written, or fresh
            news.update(last_success_timestamp_seconds=now, token_expiry_timestamp_seconds=c.expires_at.timestamp())
        # Where ECR failed, {registry} is not filled in: those meant are those of earlier runs.
        meant = re.sub(r"\\\{\w+\\\}", ".+", re.escape(c.conn_id))
        for conn_id in [i for i in held if re.fullmatch(meant, i)] or [c.conn_id]:
            for name, value in {**held.get(conn_id, {}), **news}.items():
                gauges[name].labels(conn_id).set(value)
    os.umask(0o022)  # node_exporter runs as another user; nothing is written after this
    try:
        write_to_textfile(path, registry)
    except OSError as error:
        log.error("metrics file %s: %s", path, error.strerror)


# --- the report: what the user is told ----------------------------------------------------------------------
def _text(airflow: Airflow, told: Sequence[Connection]) -> str:
    lines, width = [], max(len(c.conn_id) for c in told)
    if airflow.executable:
        lines.append(f"Airflow {airflow.version}, {airflow.executable}, {airflow.place}, {airflow.method}")
    elif all(c.status == "fresh" for c in told):
        lines.append("Nothing is due, so Airflow was left alone.")
    for c in told:
        where = "" if c.error else f"  {c.host}"
        if c.expires_at and not c.error:
            minutes = round((c.expires_at.timestamp() - time.time()) / 60)
            left = f"{minutes // 60} h {minutes % 60} min" if minutes > 0 else "no more"
            where += f", valid for {left}, until {c.expires_at:{UTC}}"
        lines.append(f"{c.conn_id:{width}}  {c.status:7}{where}".rstrip())
    return "\n".join(lines)


def _json(airflow: Airflow, told: Sequence[Connection]) -> str:
    met = {key: getattr(airflow, key) if airflow.executable else None for key in ("executable", "version", "method")}
    keys = (*FACTS, "expires_at", "status", "error")
    document = {"airflow": met, "connections": [{key: getattr(c, key) for key in keys} for c in told]}
    return json.dumps(document, indent=2, default="{:%Y-%m-%dT%H:%M:%SZ}".format)


# --- the command --------------------------------------------------------------------------------------------
_CONTEXT = {"auto_envvar_prefix": "ECR_AIRFLOW_SYNC", "help_option_names": ["--help", "-h"], "show_default": True}
_option, _flag = click.option, partial(click.option, is_flag=True)


def _seconds(_context: object, _parameter: object, text: str | None) -> float:
    parts = re.fullmatch(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,7})s)?", text or "")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups()) if parts else (0.0, 0.0, 0.0)
    if text and not hours + minutes + seconds:
        raise click.BadParameter(f"{text!r} is not a duration such as 6h, 90m or 1h30m")
    return 3600 * hours + 60 * minutes + seconds


def _tell(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a path may fit neither
    try:
        click.echo(text.encode(encoding, "replace").decode(encoding))
    except BrokenPipeError:
        raise  # Click ends the program then
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or its end fails too
        raise click.ClickException(f"the report could not be printed: {error.strerror}") from None


@click.command(context_settings=_CONTEXT)
@_option("-r", "--region", metavar="REGION", multiple=True, help="AWS region; repeatable.  [AWS_REGION, or boto3's]")
@_option("--registry", metavar="ID", multiple=True, help="Account id, or public; repeatable.  [your own]")
@_option("--conn-id", metavar="TEMPLATE", default=Connection.conn_id, help="May hold {registry} and {region}.")
@_option("--config", metavar="FILE", help="A section for each connection, where they differ.")
@_option("--profile", metavar="NAME", help="AWS profile.  [boto3's]")
@_option("--role-arn", metavar="ARN", help="A role to assume.")
@_option("--external-id", metavar="ID", help="What the role's trust policy may ask for.")
@_option("--aws-conn-id", metavar="ID", help="An Airflow connection that holds AWS credentials.")
@_option("--host", metavar="TEMPLATE", help="The host in image names, where it is not ECR's plain one.")
@_option("--conn-extra", metavar="JSON", help="The connection's extra.")
@_option("--airflow", metavar="COMMAND", default="airflow", help="The script, or a command line that ends in it.")
@_option("--airflow-version", metavar="X.Y.Z", help="Skips detection.")
@_option("--method", type=click.Choice(METHODS), default="auto", help="How to write.")
@_option("--timeout", metavar="SECONDS", default=120.0, help="For Airflow to answer.")
@_option("--splay", metavar="SECONDS", type=click.IntRange(0, 86400), default=0, help="Wait for a random part of it.")
@_option("--renew-before", metavar="DURATION", callback=_seconds, help="Write only what has less to live: 6h, 90m.")
@_flag("--force", help="Write all, whatever --renew-before says.")
@_option("--metrics-file", metavar="PATH", help="For node_exporter's textfile collector; needs the extra [metrics].")
@_flag("--check", help="Say whether DockerOperator could log in now; write nothing.")
@_flag("--dry-run", help="Say what would be written; write nothing.")
@_flag("--json", help="The report as one JSON document on stdout.")
@_flag("-q", "--quiet", help="Errors only, for cron.")
@_flag("-v", "--verbose", help="Also what Airflow prints, secrets masked.")
@click.version_option(__version__, message="%(prog)s %(version)s", allow_from_autoenv=False)
def main(metrics_file: str, quiet: bool, check: bool, dry_run: bool, **options: Any) -> None:
    """Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

    Each option is an environment variable too, ECR_AIRFLOW_SYNC_<OPTION>; blanks separate several regions or
    registries there. Exit status: 0 all connections written, 1 at least one not, 2 bad usage.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    missing = metrics_file and not importlib.util.find_spec("prometheus_client")
    _refuse(missing, "--metrics-file needs the extra [metrics]: pip install prometheus_client")
    level = logging.INFO if sys.stderr and sys.stderr.isatty() else logging.WARNING  # None where it was closed
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if options["verbose"] else level)
    log.addHandler(logging.StreamHandler())
    targets = _targets(options)
    airflow = Airflow(options["airflow"], options["timeout"], options["airflow_version"] or "", options["method"])
    renew_before = float("inf") if options["force"] and options["renew_before"] else options["renew_before"]
    if options["splay"] and not any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        time.sleep(secrets.randbelow(options["splay"] * 1000) / 1000)  # since a fleet's crons fire at once
    began, problems = time.monotonic(), ""
    try:
        told = sync(targets, airflow, check=check, dry_run=dry_run, renew_before=renew_before)
    except SyncError as error:
        told, problems = error.connections, str(error)
    if metrics_file and not (dry_run or check):
        _write_metrics(metrics_file, told, time.monotonic() - began)
    if problems:  # first, because stdout may be gone, as in `| head -1`
        click.echo(problems, err=True)
    if options["json"] or not quiet:
        _tell((_json if options["json"] else _text)(airflow, told))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main(prog_name="ecr-airflow-sync")

"""Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

A token dies after twelve hours, and with it the connection that DockerOperator logs in with. This command asks
ECR for new ones, and has the ``airflow`` command line write them. The file reads from top to bottom, and the data
flows one way: targets (what is asked for), tokens (ECR, through boto3), connections (Airflow), report.
"""

from __future__ import annotations

import signal
import sys

# Ctrl-C during the imports is no traceback. Where it is ignored, as by nohup, it stays so.
if (
    sys.argv[0].endswith(("ecr-airflow-sync", "ecr_airflow_sync.py"))
    and signal.getsignal(signal.SIGINT) == signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import base64
import configparser
import difflib
import errno
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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import click

__version__ = "0.1.0"

METHODS = ("auto", "import", "delete-add")
KEYS = ("region", "registry", "profile", "role_arn", "external_id", "aws_conn_id", "host", "extra")  # of a section
PUBLIC, PUBLIC_REGION, PUBLIC_HOST = "public", "us-east-1", "public.ecr.aws"
GRACE = 5.0  # seconds that a child has to end by itself before it is killed
PARTITIONS = r"(amazonaws\.(com|com\.cn|eu)|s?c2s\.(ic|sgov)\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
Fields = Mapping[str, Mapping[str, str]]  # of connections by id, as in Airflow's import file
UTC = "%Y-%m-%d %H:%M UTC"

# Run as `sh -c FIND_PYTHON <airflow script>` wherever --airflow leads: starts the interpreter that the script's first
# line names, to read DOOR from stdin. Where that path is long or has a blank, pip and uv write `'''exec' <python> "$0"
# "$@"` below it. An empty entry in sys.path would import from the folder that cron happens to be in.
FIND_PYTHON = r"""
fail() { echo "$2" >&2; exit "$1"; }
script=$(command -v -- "$0") || fail 127 "not found, with PATH $PATH; name the script, \
as in --airflow /opt/airflow/bin/airflow (cron's PATH is short)"
[ -r "$script" ] || fail 126 "$script cannot be read by $(id -un)"
{ IFS= read -r first; IFS= read -r second; } <"$script"
python=
case $first in '#!'*)
  for word in ${first#??}; do
    case ${word##*/} in python | python[0-9]* | pypy*) python=${first#??} ;; esac
  done ;;
esac
case $second in "'''exec' "*) python=${second#* } python=${python%' "$0" "$@"'} ;; esac
[ -n "$python" ] ||
  fail 126 "$script is no Python script (a shell wrapper, a shim?); name the airflow script behind it with --airflow"
door='import sys; sys.path[:] = [p for p in sys.path if p]; import json
exec(json.loads(sys.stdin.readline() or sys.exit("stdin is closed; docker exec needs -i")))'
unset FORCE_COLOR TTY_COMPATIBLE # airflowctl breaks and paints its answers
exec env COLUMNS=100000 TERM=dumb sh -c "exec $python -u -c \"\$1\" \"\$0\"" "$script" "$door"
"""

# Run by Airflow's own interpreter, whatever its age (Python 2.7, 3.5 and later). Lines that begin with a
# marker tell its answers from all else that Airflow prints: first who is here, then one for each command.
DOOR = r"""
import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import traceback

try:
    from importlib.metadata import distribution
except ImportError:
    from pkg_resources import get_distribution as distribution

script, marker, version = sys.argv[1], sys.stdin.readline().strip(), None
requests = os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
folder = os.path.join(tempfile.gettempdir(), "ecr-airflow-sync-" + marker)


def stop(*_):  # with its children: behind sudo or docker exec, nobody else can
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
    os._exit(137)  # as process 1 of a container


signal.signal(signal.SIGTERM, stop)
os.mkdir(folder, 0o700)


def answer(facts):
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, ("\n%s%s\n" % (marker, json.dumps(facts))).encode("ascii"))
    except (EnvironmentError, ValueError):
        pass  # nobody listens any more: what was begun is finished all the same


def feed(name, connections):
    with open(name, "w") as fifo:
        json.dump(connections, fifo)


def run(argv, connections, name):
    sys.argv = [script] + argv
    if connections:  # by a pipe with a name, for no token may be in a file
        sys.argv.append(os.path.join(tempfile.mkdtemp(dir=folder), "connections.json"))
        os.mkfifo(sys.argv[-1], 0o600)
        feeder = threading.Thread(target=feed, args=(sys.argv[-1], connections))
        feeder.daemon = True
        feeder.start()
    try:
        runpy.run_path(script, run_name=name)
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        said = "%s\n" % (end.code,)
    except BaseException:
        said = traceback.format_exc()
    try:
        sys.stderr.write(said)
        return 1
    except EnvironmentError:  # nobody listens any more, which may be what stopped it
        for number in 1, 2:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        return run(argv, connections, name)


# Airflow 3 compiles all secrets that it has seen into one expression, anew for each: with ten
# tokens, half of the run. What it prints goes to our own mask in any case.
os.environ.setdefault("AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET", "1000000")
sys.path.insert(0, os.path.dirname(script))
home = os.path.expanduser(os.environ.get("AIRFLOW_HOME") or "~/airflow")
place = "AIRFLOW_HOME " + home
ctl = os.path.basename(script) in ("airflowctl", "apache-airflow-ctl")
if ctl:  # with a token, but without this file, it would send all to http://localhost:8080
    name = os.environ.get("AIRFLOW_CLI_ENVIRONMENT", "production") + ".json"
    try:
        with open(os.path.join(home, name)) as file:
            place = str(json.load(file)["api_url"])
    except Exception:
        place = ""
for name in ["apache-airflow-ctl"] if ctl else ["apache-airflow", "apache-airflow-core"]:
    try:
        version = version or distribution(name).version
    except Exception:
        pass  # not installed, in the words of either library
shadows = [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]
answer([version, script, home, place, ctl, shadows])
for line in iter(requests.readline, ""):
    request = json.loads(line)
    watch = threading.Timer(request["timeout"], stop)
    watch.start()
    for argv in request["commands"]:
        answer(run(argv, request["connections"], request["name"]))
    watch.cancel()
shutil.rmtree(folder, ignore_errors=True)
"""

log = logging.getLogger(__name__)


class UsageError(click.UsageError):
    """What was asked for cannot be done, whatever ECR and Airflow say. One line."""


class SyncError(Exception):
    """At least one connection is not as it should be. ``str()`` has a line for each reason."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class Failure(Exception):
    """Why something was not to be had: one line with the next step, and no secret."""


def _refuse(wrong: object, reason: str, kind: type[Exception] = UsageError) -> None:
    if wrong:
        raise kind(reason)


@dataclass(frozen=True)
class Connection:
    """A docker connection on its way: what is asked for, by whom, what ECR grants, what became of it.

    Region "" is what boto3 finds, registry None that of the caller's own account; conn_id and host_template
    may hold {region} and {registry} until they are known. ``extra`` is JSON, ``expires_at`` UTC, ``held`` what
    the Airflow connection ``aws_conn_id`` holds. ``status`` is written, fresh, planned or failed; after --check
    fine, missing, shadowed, wrong host, refused or unreachable.
    """

    conn_id: str
    region: str = ""
    registry: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    aws_conn_id: str | None = None
    host_template: str | None = None
    extra: str | None = None
    held: Mapping[str, Any] | None = field(default=None, repr=False)
    host: str | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    status: str = "failed"
    error: str | None = None

    def fill(self, template: str) -> str:
        """The template with what is known."""
        for key, value in (("{registry}", self.registry), ("{region}", self.region)):
            template = template.replace(key, value or key)
        return template

    @property
    def variable(self) -> str:
        return f"AIRFLOW_CONN_{self.conn_id.upper()}"


class Answer(NamedTuple):
    """How a command of Airflow's ended (None: it never did), and what it printed."""

    exit: Any
    output: str

    def shows(self, success: str, conn_id: str) -> object:
        pattern = success.replace("NAME", re.escape(conn_id))
        return re.search(pattern, f"{self.output}\nexit {self.exit}", re.MULTILINE)


class Report(NamedTuple):
    """What a run did. ``airflow`` is None where none was found, or none was needed."""

    airflow: Airflow | None
    connections: tuple[Connection, ...]


# --- targets: what is asked for -------------------------------------------------------------------
def _targets(regions: Sequence[str], registries: Sequence[str], common: Connection) -> list[Connection]:
    """Every registry in every region, each with a connection id of its own."""
    _refuse(str in (type(regions), type(registries)), "regions and registries are lists, also where there is one")
    _refuse("" in regions and len(regions) > 1, "one of several regions is empty")
    pairs = [(region, registry) for region in regions or ("",) for registry in registries or (None,)]
    targets = [_target(common, region=region, registry=registry) for region, registry in pairs]
    targets = list(dict.fromkeys(targets))  # ECR Public is one, whatever the regions
    if len({target.conn_id for target in targets}) < len(targets):
        asked = {"{registry}": registries, "{region}": regions}
        better = "_".join(
            [common.conn_id, *(k for k, v in asked.items() if len(set(v)) > 1 and k not in common.conn_id)]
        )
        what = f"{len(targets)} registries would overwrite each other in {common.conn_id!r}"
        raise UsageError(f"{what}: give each a connection of its own, as with --conn-id '{better}'")
    return targets


def _target(common: Connection, **asked: str | None) -> Connection:
    """A connection that may be asked for, else UsageError."""
    t: Connection = replace(common, **asked)  # type: ignore[arg-type]
    if t.registry == PUBLIC:
        t = replace(t, region=PUBLIC_REGION, host_template=PUBLIC_HOST)
    known = t.registry is None or re.fullmatch(rf"[0-9]{{12}}|{PUBLIC}", t.registry)
    _refuse(not known, f"registry {t.registry!r} is not an account id of twelve digits")
    conn_id, host = (re.sub(r"\{(registry|region)\}", "x", text) for text in (t.conn_id, t.host_template or "x"))
    _refuse(set("{}") & set(conn_id), f"conn id {t.conn_id!r}: the placeholders are {{registry}} and {{region}}")
    # As validate_key in airflow/utils/helpers.py wants it.
    if not re.fullmatch(r"[\w.][\w.-]{0,199}", conn_id) or ".." in conn_id:
        takes = "Airflow takes 1 to 200 letters, digits, underscores, dashes (not in front) and dots (not two in a row)"
        raise UsageError(f"conn id {t.conn_id!r}: {takes}")
    bare = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", host)
    _refuse(not bare, f"host {t.host_template!r} is not a bare host, as in an image's name")
    _refuse(t.profile and t.aws_conn_id, "profile and aws_conn_id are two sources of credentials: give one")
    _refuse(t.external_id and not (t.role_arn or t.aws_conn_id), "external_id is for a role: give its role_arn")
    try:
        extra = json.loads((t.extra or "{}").encode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"extra is not JSON: {error}") from None
    _refuse(not isinstance(extra, dict), 'extra is not a JSON object, such as \'{"email": "me@example.com"}\'')
    no_login = str(extra.get("reauth", True)).lower() in ("false", "no", "0")
    _refuse(no_login, "extra has reauth false: DockerOperator would not log in to ECR")
    return replace(t, conn_id=t.fill(t.conn_id))


def _configured(path: str, common: Connection) -> list[Connection]:
    """The targets of a file, in which a section is a connection. Errors name file, line and section."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    try:
        with open(path, encoding="utf-8") as file:
            writable = os.fstat(file.fileno()).st_mode & 0o022
            _refuse(writable, f"{path}: others may write it; chmod go-w {shlex.quote(path)}")
            text = file.read()
        parser.read_string(text, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (configparser.Error, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    _refuse(not parser.sections(), f"{path}: no section, such as [docker_default]")
    return [_section(path, text, parser[name], common) for name in parser.sections()]


def _section(path: str, text: str, section: configparser.SectionProxy, common: Connection) -> Connection:
    asked, key = {"conn_id": section.name}, ""
    try:
        for key, value in section.items():
            _refuse(not value, f"{key} has no value")
            _refuse("\n" in value and key != "extra", f"{key} has two lines")
            _refuse(key not in KEYS, f"unknown key {key}; there are {', '.join(KEYS)}")
            asked["host_template" if key == "host" else key] = value
        key = ""
        _refuse("{" in section.name, "a section is a connection id, without placeholders")
        return _target(common, **asked)
    except UsageError as error:
        line = _line(text, section.name, key) or _line(text, "DEFAULT", key)
        raise UsageError(f"{path}, line {line}, [{section.name}]: {error}") from None


def _line(text: str, section: str, key: str) -> int:
    """The line of a key in a section; without a key, that of the section; 0 where there is none."""
    inside = rf"(?:(?!^\[).)*?^{re.escape(key)}[ \t]*=" if key else ""
    found = re.search(rf"^[ \t]*\[{re.escape(section)}\]{inside}", text, re.M | re.S | re.I)
    return text.count("\n", 0, found.end()) + 1 if found else 0


# --- tokens: what ECR grants ----------------------------------------------------------------------
def _authorize(targets: Sequence[Connection]) -> list[Connection]:
    """Ask for every token, in one call for each identity and region, all side by side."""
    log.info("Asking ECR for %d token(s) ...", len(targets))
    granted = {t.conn_id: t for t in targets if t.error}
    calls: dict[Any, list[Connection]] = {}
    for t in targets:
        kind = t.registry if t.registry in (None, PUBLIC) else "named"
        if not t.error:
            calls.setdefault((t.profile, t.role_arn, t.external_id, t.aws_conn_id, t.region, kind), []).append(t)
    # Ten registries are ECR's limit, which botocore does not know.
    batches = [asked[i : i + 10] for asked in calls.values() for i in range(0, len(asked), 10)]
    # Daemons, since a ThreadPoolExecutor makes Ctrl-C wait for the slowest region.
    threads = [threading.Thread(target=_ask, args=(batch, granted), daemon=True) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [granted[t.conn_id] for t in targets]


def _ask(targets: Sequence[Connection], granted: dict[str, Connection]) -> None:
    region, registries = targets[0].region, list(dict.fromkeys(t.registry for t in targets))
    public, named = registries == [PUBLIC], {"registryIds": registries}
    try:
        client = _client(targets[0], "ecr-public" if public else "ecr")
        region = client.meta.region_name
        answer = client.get_authorization_token(**({} if public or registries == [None] else named))
        data: Any = answer.get("authorizationData") or []
        entries = [{**data, "proxyEndpoint": PUBLIC_HOST}] if public else data
        granted.update({t.conn_id: _pick(replace(t, region=region), entries) for t in targets})
    except Exception as error:  # noqa: BLE001 - an answer that is not ECR's can raise anything
        why = _explain(error, region)
        granted.update({t.conn_id: replace(t, error=why) for t in targets})


def _client(who: Connection, service: Any) -> Any:
    """A client of that identity. Its session is its own, because sessions are not thread-safe."""
    import boto3  # here and not above: --help and usage errors need not wait for it
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 5}
    config, held = Config(retries=retries, connect_timeout=5, read_timeout=10), who.held or {}
    extra = held.get("extra_dejson") or {}
    # boto3 reads AWS_DEFAULT_REGION and the profile, but not AWS_REGION.
    region = who.region or extra.get("region_name") or os.environ.get("AWS_REGION") or None
    keys = (held.get("login"), held.get("password"), extra.get("aws_session_token"))
    session = boto3.Session(*keys, region, profile_name=who.profile or extra.get("profile_name"))
    role_arn, external_id = (getattr(who, key) or extra.get(key) for key in ("role_arn", "external_id"))
    if role_arn:
        role = {"RoleSessionName": "ecr-airflow-sync", **(extra.get("assume_role_kwargs") or {})}
        role.update({"ExternalId": external_id} if external_id else {})
        if "DurationSeconds" in role:
            role["DurationSeconds"] = int(role["DurationSeconds"])  # Airflow prints numbers as text
        got = session.client("sts", config=config).assume_role(RoleArn=role_arn, **role)["Credentials"]
        keys = (got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])
        session = boto3.Session(*keys, session.region_name)
    # As in apache-airflow-providers-amazon, the connection's endpoint_url is not for STS.
    return session.client(service, config=config, endpoint_url=extra.get("endpoint_url"))


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
    expires_at = entry["expiresAt"].astimezone(timezone.utc)
    target = replace(target, registry=registry, login=login, password=password, expires_at=expires_at)
    conn_id, host = target.fill(target.conn_id), target.fill(target.host_template or host)
    return replace(target, conn_id=conn_id, host=host, status="planned")


_LATER = "the next run tries again"
_NETWORK = "check the region, and this host's DNS, proxy and network"
_NOT_ECR = "that is no answer of ECR's; check AWS_ENDPOINT_URL, and the proxy"
_NEXT_STEPS = {  # by AWS's error code and operation, or by botocore's exception
    "AccessDenied.* GetAuth": "allow this identity ecr:GetAuthorizationToken on resource *",
    "AccessDenied.* AssumeRole": "the role's trust policy, which may want another external id, and this identity's own "
    "policy must allow it",
    "ConnectTimeout|EndpointConnection": _NETWORK,
    "ConnectionClosed|ReadTimeout": _LATER,
    "ExpiredToken|SSO|TokenRetrieval|CredentialRetrieval": "renew the AWS credentials (aws sso login, a new role "
    "session, new keys)",
    "InvalidParameter": "check the registry ids",
    "InvalidSignature|SignatureDoesNotMatch": "check the secret key, and this host's clock",
    "NoCredentials": "boto3 looked at AWS_ACCESS_KEY_ID, ~/.aws/credentials, ~/.aws/config and the metadata of "
    "container and instance; HOME is {home}",
    "NoRegion": "give --region, or set AWS_REGION, AWS_DEFAULT_REGION or the profile's",
    "PartialCredentials": "boto3 looked at the environment and ~/.aws; complete them",
    "ProfileNotFound": "boto3 looked in ~/.aws/config and ~/.aws/credentials; HOME is {home}",
    "RequestExpired": "set this host's clock",
    "SSLError": "check AWS_CA_BUNDLE, the proxy's certificate and this host's clock",
    "Throttling": f"{_LATER}; spread the hosts over the half hour",
    "UnrecognizedClient|InvalidClientToken": "check the access key, and that it belongs to this partition",
    "AttributeError|KeyError|ResponseParser|TypeError|UnicodeDecode": _NOT_ECR,
}


def _explain(error: Exception, region: str) -> str:
    """AWS's or botocore's own words in one line, and what to do next."""
    response, operation = getattr(error, "response", None) or {}, getattr(error, "operation_name", "")
    told = response.get("Error", {})
    code = str(told.get("Code") or type(error).__name__)
    words = str(told.get("Message") or error).strip() or code
    line = words.replace(":\n", ": ").splitlines()[0].rstrip(".")  # the others quote the signed request
    steps = [step for pattern, step in _NEXT_STEPS.items() if re.search(pattern, f"{code} {operation}")]
    if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        steps.append(_LATER)
    line = "; ".join([f"{code}: {line}" if told else line, *steps[:1]])
    where = ("STS" if operation == "AssumeRole" else "ECR") + (f" in {region}" if region else "")
    hint = _likely_region(region) if code in ("EndpointConnectionError", "InvalidRegionError") else ""
    return f"{where}: {_mask(line.replace('{home}', os.environ.get('HOME', 'not set')))}{hint}"


def _likely_region(region: str) -> str:
    """A hint for a region that botocore has never heard of, else nothing."""
    import boto3

    session, meant = boto3.Session(), region.lower().replace("_", "-")
    known = [r for p in session.get_available_partitions() for r in session.get_available_regions("ecr", p)]
    close = difflib.get_close_matches(meant, known)
    close.sort(key=lambda name: sorted(name) != sorted(meant))  # us-esat-1 is not us-west-1
    return f"; did you mean {close[0]}?" if close and region not in known else ""


# --- connections: what Airflow holds, and is to hold -----------------------------------------------
class Airflow:
    """The Airflow that a command line leads to: one process of its interpreter, within a ``with`` block.

    The process starts Airflow at the first command that it is given. ``place`` is its AIRFLOW_HOME, or the URL
    of its API. ``with`` raises Failure where there is none, UsageError where it cannot do what is asked.
    """

    def __init__(self, command: str, timeout: float, version: str | None, method: str) -> None:
        try:
            *prefix, self.script = shlex.split(command) or [""]
        except ValueError as error:
            raise UsageError(f"airflow command {command!r}: {error}") from None
        _refuse(not self.script, "the airflow command is empty")
        old = version and parse_version(version) < (1, 10) and "ctl" not in self.script
        _refuse(old, f"Airflow {version} is older than 1.10, the oldest supported")
        _refuse(method not in METHODS, f"method {method!r} is none of {', '.join(METHODS)}")
        _refuse(not 0 < timeout < threading.TIMEOUT_MAX, f"timeout {timeout:g} is not a positive number of seconds")
        self.command, self.version, self.method, self._timeout = command, version or "", method, timeout
        self._argv = [*prefix, "sh", "-c", FIND_PYTHON, self.script]
        self._marker, self._unread, self._end = secrets.token_hex(16), b"", ""
        self._importing, self._imported = 0.0, Answer(0, "")

    def __enter__(self) -> Airflow:
        try:  # a session of its own, so that it and its children can be ended as one group
            self._process: Any = Popen(self._argv, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True)
        except OSError as error:
            raise Failure(f"cannot run {self._argv[0]}: {error.strerror}; check --airflow, PATH") from None
        try:
            self._meet()
        except BaseException:
            self._close(0)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # At once after Ctrl-C, after SIGTERM as main takes it, and where no command followed the imports.
        self._close(0 if kind or self._importing else GRACE)

    def _meet(self) -> None:
        """Send the program, and judge what it tells of itself."""
        here, _ = self._receive(self._send(f"{json.dumps(DOOR)}\n{self._marker}"))
        _refuse(self._end, self._end, Failure)
        version, name, home, self.place, self._ctl, self.shadows = here
        self.executable, self.version = name, self.version or version
        if not self.version:
            what = "runs in a Python without the package apache-airflow: name another script with --airflow, or say"
            raise Failure(f"{name} {what} --airflow-version")
        if not self.place:
            what = f"has no login in AIRFLOW_HOME {home}: run there"
            raise Failure(f"{name} {what} airflowctl auth login --api-url https://… --skip-keyring")
        self._age = (9,) if self._ctl else parse_version(self.version)
        ancient = self._age < (1, 10)
        _refuse(ancient, f"Airflow {self.version} at {name} is older than 1.10: upgrade it", Failure)
        old = self._age < (2, 6)
        self.method = {"auto": "delete-add" if old else "import"}.get(self.method, self.method)
        imports = self.method == "import"
        _refuse(imports and old, f"method import needs Airflow 2.6 or later; {name} is {self.version}")
        _refuse(self._ctl and not imports, "airflowctl has the method import only")

    def begin(self) -> None:
        """Have it import what its script imports, which is most of a start. The next command waits for that."""
        self._importing = self._request([["version"]], None, "not main")

    def write(self, connections: Fields) -> dict[str, str]:
        """Write all in one Airflow start; returns why, for each that was not written.

        What an error stopped is tried once more, each by itself: two first imports may collide, and what
        is wrong with one connection must not stop the others.
        """
        failed: dict[str, Answer] = {}
        singly = [{conn_id: fields} for conn_id, fields in connections.items()]
        hidden = [fields["password"] for fields in connections.values()]
        batches = [connections] if self.method == "import" else singly
        for _ in range(2):
            for batch in batches:
                commands, successes = zip(*self._commands(batch))
                answers = self._run(commands, batch if self.method == "import" else None)
                for answer in answers if log.isEnabledFor(logging.DEBUG) else ():
                    log.debug("%s", _mask(answer.output, hidden).strip())
                for conn_id in batch:
                    still = failed.pop(conn_id, None)
                    wrong = [a for a, success in zip(answers, successes) if not a.shows(success, conn_id)]
                    failed.update({conn_id: still or wrong[0]} if wrong else {})
            batches = [batch for batch in singly for conn_id in batch if conn_id in failed and failed[conn_id].exit]
        return {i: self._reason(i, answer, hidden) for i, answer in failed.items()}

    def read(self, conn_ids: Iterable[str]) -> dict[str, Any]:
        """The fields of each connection as a task finds them; why not, as text, of the others."""
        if self._ctl or self._age < (2, 0):
            what = "does not show connections as tasks find them: that takes the airflow script of 2.0 or later"
            other = "(AWS credentials can also come from --profile, --role-arn or AWS_ACCESS_KEY_ID)"
            raise UsageError(f"{self.executable} ({self.version}) {what} {other}")
        ids, found = list(dict.fromkeys(conn_ids)), {}
        answers = self._run([["connections", "get", conn_id, "--output", "json"] for conn_id in ids])
        for conn_id, answer in zip(ids, answers):
            printed = re.findall(r"^\[(\{.*\})\]\s*$", answer.output, re.MULTILINE)
            # What else was printed after a success may hold a secret.
            found[conn_id] = self._reason(conn_id, answer if answer.exit != 0 else Answer(0, ""), ())
            with suppress(ValueError, IndexError):
                found[conn_id] = json.loads(printed[-1])
        return found

    def _commands(self, batch: Fields) -> list[tuple[list[str], str]]:
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
        gone = r"(Successfully deleted|Did not find a)( connection with)? `conn_id`=NAME\s*$"
        # It may say so and then fail. Where another host was quicker, what that wrote is as fresh.
        added = r"Successfully added `conn_id`=NAME\s([\s\S]*\n)?exit 0\Z|with `conn_id`=NAME already exists"
        return [(["connections", delete, name], gone), (["connections", add, name, *options], added)]

    def _reason(self, conn_id: str, answer: Answer, hidden: Iterable[str]) -> str:
        """The one line of the answer that says most, and what to do where that is known."""
        if answer.exit is None:
            return _mask(self._end, hidden)
        last = answer.output.rpartition("\nDuring handling of the above exception")[2]
        cause = last.partition("\nThe above exception was the direct cause")[0]
        said = [line.strip() for line in cause.splitlines() if line.strip()] or ["it said nothing"]
        told = [line for line in said if re.match("Failed to import|command failed due to", line)]
        told = told or (re.findall(r"^[\w.]*[a-z][\w.]*: .+", cause, re.M) if "Traceback (" in cause else [])
        told = told or [line for line in said if conn_id in line and not answer.exit]
        line = _mask((told or said)[-1].strip(), hidden)[:500]
        steps = [step for pattern, step in _CURES.items() if re.search(pattern, line)]
        return "; ".join([f"Airflow ({self.place}, exit status {answer.exit}): {line}", *steps[:1]])

    def _run(self, commands: Sequence[Sequence[str]], connections: Fields | None = None) -> list[Answer]:
        """Run commands of the airflow script; ``connections`` are for a file that the last word names."""
        if self._importing:
            self._imported, self._importing = Answer(*self._receive(self._importing)), 0.0
        if self._imported.exit != 0:
            return [self._imported] * len(commands)
        deadline = self._request(commands, connections, "__main__")
        return [Answer(*self._receive(deadline)) for _ in commands]

    def _request(self, commands: Sequence[Sequence[str]], connections: Fields | None, name: str) -> float:
        request = {"commands": commands, "connections": connections, "name": name, "timeout": self._timeout}
        return self._send(json.dumps(request))

    def _send(self, line: str) -> float:
        """Returns when the answer is late."""
        with suppress(OSError, ValueError):  # it has ended, as the answers will tell
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        return time.monotonic() + self._timeout

    def _receive(self, deadline: float) -> tuple[Any, str]:
        """The next answer, and what was printed before it; None if none comes."""
        stdout, poll = self._process.stdout, select.poll()
        while not self._end:
            printed, _, rest = self._unread.partition(b"\n" + self._marker.encode())
            facts, whole, rest = rest.partition(b"\n")
            if whole:
                self._unread = rest
                return json.loads(facts), printed.decode("utf-8", "replace")
            poll.register(stdout, select.POLLIN)
            left = max(0.0, deadline - time.monotonic())
            chunk = os.read(stdout.fileno(), 65536) if poll.poll(min(left * 1000, 2**31 - 1)) else b""
            self._unread += chunk
            if not chunk:
                late = time.monotonic() >= deadline
                self._close(0 if late else GRACE)
                said = self._unread.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
                end = f"{said[-1]} (exit status {self._process.returncode})"
                end = f"killed after {self._timeout:g} s without an end; see --timeout" if late else end
                self._end = _mask(f"{self.command}: {end}")[:500]
        return None, self._unread.decode("utf-8", "replace")

    def _close(self, patience: float) -> None:
        """Let the process end by itself for some seconds, then end it and its children."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # it does not listen any more
                pipe.close()
        for number, seconds in ((0, patience), (signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
            with suppress(OSError):  # gone, or another user's
                os.killpg(self._process.pid, number)
            with suppress(TimeoutExpired):
                self._process.wait(seconds)
                return


_CURES = {
    "value too long|Data too long": "its password column is too short for ECR's tokens (AIRFLOW-3014), widen it: "
    "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(5000) (MySQL: ALTER TABLE connection MODIFY "
    "password VARCHAR(5000))",
    "Found more than one connection": "delete all of them in the UI, under Admin, Connections",
    "Connection not found": "let ecr-airflow-sync write it, or create it",
    "Keyring backend|Not authenticated|Invalid JWT|Token Expired": "log in: airflowctl auth login --api-url "
    "https://… --skip-keyring, with a new AIRFLOW_CLI_TOKEN",
}


def parse_version(text: str) -> tuple[int, ...]:
    """The leading number of a version, also of 2.9.3+astro.1 and 3.0.0rc1."""
    number = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,9}))?", text)
    if not number:
        raise UsageError(f"Airflow version {text!r} is not of the form X.Y.Z")
    return tuple(int(part or 0) for part in number.groups())


def _mask(text: str, hidden: Iterable[str] = ()) -> str:
    """Hide what is named, passwords in URLs, and what may be a token or part of one."""
    for secret in hidden:
        text = text.replace(secret, "***")
    text = re.sub(r"(://[^\s:@/]{0,99}):\S{1,99}@|:[^\s:@/]+@", r"\1:***@", text)
    return re.sub(r"[\w+=-]{60,}", "***", text)  # no slash: paths and ARNs are to be read


# --- the check: would DockerOperator succeed now? ---------------------------------------------------
def _check(airflow: Airflow, targets: Sequence[Connection]) -> list[Connection]:
    ids = [t.conn_id for t in targets]
    _refuse("{" in "".join(ids), "--check does not ask AWS: give the regions and registries of the conn id")
    found = airflow.read(ids)
    judged = [_judge(t, found[t.conn_id], airflow.shadows) for t in targets]
    with ThreadPoolExecutor(len(judged)) as pool:
        return list(pool.map(_log_in, judged))


def _judge(target: Connection, found: Any, shadows: Sequence[str]) -> Connection:
    """What is wrong with a connection as tasks find it, as far as it alone tells."""
    if isinstance(found, str):
        return replace(target, status="missing" if "not found" in found else "failed", error=found)
    host, login, password = (found[key] or "" for key in ("host", "login", "password"))
    target = replace(target, host=host, login=login, password=password)
    if not found["id"]:  # only the database has ids
        source = target.variable if target.variable in shadows else "a secrets backend"
        why = f"{source} answers instead of the database, so what is synced is never read"
        return replace(target, status="shadowed", error=why)
    wanted = target.fill(target.host_template or "{registry}.dkr.ecr.{region}.*")
    pattern = re.sub(r"\\\{\w+\\\}", r"[\\w-]+", re.escape(wanted)).replace(r"\*", PARTITIONS)
    if re.fullmatch(pattern, host) and not found["port"]:
        return target
    shown = f"{host or 'empty'}:{found['port'] or ''}".rstrip(":")
    return replace(target, status="wrong host", error=f"its host is {shown}, where images are at {wanted}")


def _log_in(target: Connection) -> Connection:
    """Log in as Docker does, over TLS. No redirect is followed: it would get the token."""
    from http.client import HTTPException
    from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request

    if target.error:
        return target
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    path = f"token/?service={PUBLIC_HOST}" if target.registry == PUBLIC else "v2/"
    login = base64.b64encode(f"{target.login}:{target.password}".encode()).decode()
    request = Request(f"https://{target.host}/{path}", headers={"Authorization": f"Basic {login}"})
    try:
        answer: Any = opener.open(request, timeout=10)
    except (OSError, HTTPException) as error:
        why = f"{target.host} cannot be reached: {getattr(error, 'reason', error)}; {_NETWORK}"
        return replace(target, status="unreachable", error=why)
    until = ""
    with suppress(Exception):  # ECR's tokens are base64 of JSON; another tells nothing
        expiration = json.loads(base64.b64decode(str(target.password)))["expiration"]
        target = replace(target, expires_at=datetime.fromtimestamp(expiration, timezone.utc))
        until = f"; its token is valid until {target.expires_at:{UTC}}"
    if answer.status == 200:
        return replace(target, status="fine")
    refused = answer.status in (400, 401, 403)  # as ECR refuses a wrong or expired token
    step = "sync again, and see whether the timer runs" if refused else _LATER
    why = f"{target.host} answered {answer.status} {answer.reason}{until}; {step}"
    return replace(target, status="refused" if refused else "unreachable", error=why)


# --- the whole ----------------------------------------------------------------------------------------
def sync(
    regions: Sequence[str] = (),
    registries: Sequence[str] = (),
    conn_id: str | None = None,
    *,
    config: str | None = None,
    profile: str | None = None,
    role_arn: str | None = None,
    external_id: str | None = None,
    aws_conn_id: str | None = None,
    host: str | None = None,
    conn_extra: Mapping[str, Any] | str | None = None,
    airflow: str = "airflow",
    airflow_version: str | None = None,
    method: str = "auto",
    timeout: float = 120,
    dry_run: bool = False,
    check: bool = False,
    renew_before: float | None = None,
    force: bool = False,
) -> Report:
    """Fetch a token for each registry in each region, and have Airflow hold them.

    The arguments are the command's options (``ecr-airflow-sync --help``), with ``timeout`` and ``renew_before``
    in seconds. Progress goes to the logger ``ecr_airflow_sync``. Raises UsageError for what cannot be done as
    asked; SyncError at the end, with the report, if a connection is not as it should be.
    """
    if config and (regions or registries or conn_id is not None):
        raise UsageError("with --config, regions, registries and connection ids stand in the file")
    extra = conn_extra if isinstance(conn_extra, str) else json.dumps(conn_extra) if conn_extra else None
    common = Connection("docker_default" if conn_id is None else conn_id, host_template=host, extra=extra)
    common = replace(common, profile=profile, role_arn=role_arn, external_id=external_id, aws_conn_id=aws_conn_id)
    targets = _configured(config, common) if config else _targets(regions, registries, common)
    asked = Airflow(airflow, timeout, airflow_version, method)
    report = _synced(targets, asked, check, dry_run, None if check else renew_before, force)
    problems = _problems(report)
    if problems:
        raise SyncError(problems, report)
    return report


def _synced(
    targets: list[Connection], airflow: Airflow, check: bool, dry_run: bool, renew_before: float | None, force: bool
) -> Report:
    """Fetch all tokens first; what could not be fetched leaves its connection as it is."""
    state = {} if renew_before is None or force else _read_state()
    known = {_state_key(t, airflow): t for t in targets}
    known = {key: _fresh(t, state.get(key), renew_before or 0) for key, t in known.items()}
    due = {key: t for key, t in known.items() if t.status != "fresh"}
    met, told = None, list(due.values())
    try:
        if due:
            # boto3 takes 0.2 s to import, in which Airflow's interpreter can answer.
            threading.Thread(target=_import_boto3).start()
            with airflow as met:
                if not check and not dry_run:
                    met.begin()
                told = _check(met, told) if check else _authorize(_identified(met, told))
                if not check and not dry_run:
                    told = _written(met, told)
    except Failure as failure:
        told = [replace(t, error=str(failure)) for t in told]
    known.update(zip(due, told))
    if due and renew_before is not None and not dry_run:
        _remember(known)
    # Neither tokens nor credentials are for the caller.
    return Report(met, tuple(replace(t, held=None, password=None) for t in known.values()))


def _import_boto3() -> None:
    with suppress(Exception):  # which _ask will meet again, and tell
        importlib.import_module("boto3")


def _identified(airflow: Airflow, targets: list[Connection]) -> list[Connection]:
    """The targets, each with what its aws_conn_id holds."""
    ids = [t.aws_conn_id for t in targets if t.aws_conn_id]
    found = airflow.read(ids) if ids else {}
    identified = []
    for t in targets:
        held = found.get(t.aws_conn_id or "")
        if isinstance(held, str):
            identified.append(replace(t, error=f"aws_conn_id {t.aws_conn_id}: {held}"))
        else:
            identified.append(replace(t, held=held))
    return identified


def _written(airflow: Airflow, targets: Sequence[Connection]) -> list[Connection]:
    fields: dict[str, dict[str, str]] = {}
    for t in (t for t in targets if not t.error):
        until = f"{t.expires_at:{UTC}}"
        about = f"ECR token valid until {until}, written by ecr-airflow-sync"
        entry = {"conn_type": "docker", "host": t.host, "login": t.login, "password": t.password, "extra": t.extra}
        fields[t.conn_id] = {key: str(value) for key, value in {**entry, "description": about}.items() if value}
        if t.expires_at and t.expires_at.timestamp() - time.time() < 3600:
            log.warning("%s: its token is valid until %s only; is this host's clock right?", t.conn_id, until)
    for t in (t for t in targets if t.variable in airflow.shadows):
        log.warning("%s: tasks read the variable %s instead; unset it", t.conn_id, t.variable)
    if fields:
        log.info("Airflow %s is writing %d connection(s) ...", airflow.version, len(fields))
    errors = airflow.write(fields) if fields else {}
    told = [replace(t, error=errors.get(t.conn_id, t.error)) for t in targets]
    return [replace(t, expires_at=None, status="failed") if t.error else replace(t, status="written") for t in told]


# --- the state: what this host last wrote, for --renew-before --------------------------------------------
def _state_file() -> str:
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = os.environ.get("STATE_DIRECTORY") or os.path.join(home, "ecr-airflow-sync")
    return os.path.join(folder.split(":")[0], "written.json")  # a unit may have several


def _state_key(target: Connection, airflow: Airflow) -> str:
    """Changes with all that the connection, or where it is written, depends on."""
    names = "AIRFLOW_HOME|HOME|AWS_PROFILE|AWS_(DEFAULT_)?REGION|.*__(SQL_ALCHEMY_CONN|FERNET_KEY)"
    environment = sorted(e for e in os.environ.items() if re.fullmatch(names, e[0]))
    depends_on = [asdict(target), airflow.command, shutil.which(airflow.script), environment]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()


def _read_state() -> dict[str, object]:
    """What was written, by key. What is not as _remember left it is as nothing."""
    with suppress(OSError, ValueError, TypeError, RecursionError), open(_state_file(), encoding="ascii") as file:
        return dict(json.load(file))
    return {}


def _fresh(target: Connection, entry: Any, renew_before: float) -> Connection:
    """The target as it was written, if it has so long to live. A clock set back ends all trust."""
    with suppress(OSError, ValueError, TypeError, OverflowError):
        written_at, expires_at, *facts = entry
        if written_at <= time.time() <= expires_at - renew_before:
            conn_id, registry, region, host = map(str, facts)
            target = replace(target, expires_at=datetime.fromtimestamp(expires_at, timezone.utc), status="fresh")
            return replace(target, conn_id=conn_id, registry=registry, region=region, host=host)
    return target


def _remember(written: Mapping[str, Connection]) -> None:
    """Replace the state in one step. It holds no secret."""
    state, path = _read_state(), _state_file()
    for key, c in written.items():
        if c.status == "written" and c.expires_at:
            state[key] = [time.time(), c.expires_at.timestamp(), c.conn_id, c.registry, c.region, c.host]
        elif c.status == "failed":
            state.pop(key, None)
    try:
        if path.startswith("~"):
            raise OSError(errno.ENOENT, "HOME is not set")
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as aside:
            with open(os.path.join(aside, "new"), "w", opener=partial(os.open, mode=0o600)) as file:
                json.dump(state, file)
            os.replace(file.name, path)
    except OSError as error:
        log.error("state %s: %s; until it can be kept, each run writes", path, error.strerror)


# --- the metrics: what Prometheus is told -----------------------------------------------------------------
_METRICS = {
    "success": "Whether the connection was fresh after the last run.",
    "last_run_timestamp_seconds": "When the last run ended.",
    "last_success_timestamp_seconds": "When the connection was last found or made fresh.",
    "token_expiry_timestamp_seconds": "Until when the connection's token is valid.",
}


def _write_metrics(path: str, report: Report, seconds: float) -> None:
    """Replace a file for node_exporter's textfile collector. Times are Unix, in seconds."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry, now, held = CollectorRegistry(), time.time(), _read_metrics(path)
    gauge = partial(Gauge, namespace="ecr_airflow_sync", registry=registry)
    gauge("build_info", "What ran.", ["version"]).labels(__version__).set(1)
    gauge("duration_seconds", "How long the last run took.").set(seconds)
    gauges = {name: gauge(name, text, ["conn_id"]) for name, text in _METRICS.items()}
    for c in report.connections:
        news = {"success": float(not c.error), "last_run_timestamp_seconds": now}
        if c.expires_at:  # it is written, or fresh
            news["last_success_timestamp_seconds"] = now
            news["token_expiry_timestamp_seconds"] = c.expires_at.timestamp()
        # Where ECR failed, {registry} is not filled in: those meant are those of earlier runs.
        meant = re.sub(r"\\\{\w+\\\}", ".+", re.escape(c.conn_id))
        for conn_id in [i for i in held if re.fullmatch(meant, i)] or [c.conn_id]:
            for name, value in {**held.get(conn_id, {}), **news}.items():
                gauges[name].labels(conn_id).set(value)
    umask = os.umask(0o022)  # node_exporter runs as another user
    try:
        write_to_textfile(path, registry)
    except OSError as error:
        log.error("metrics file %s: %s", path, error.strerror)
    finally:
        os.umask(umask)


def _read_metrics(path: str) -> dict[str, dict[str, float]]:
    """What the last run left, since a failed one has no news of the last success."""
    held: dict[str, dict[str, float]] = {}
    line = rf'^ecr_airflow_sync_({"|".join(_METRICS)})\{{conn_id="([\w.-]+)"\}} ([0-9.e+]+)$'
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        for name, conn_id, value in re.findall(line, file.read(), re.MULTILINE):
            held.setdefault(conn_id, {})[name] = float(value)
    return held


# --- the report: what the user is told ----------------------------------------------------------------------
def _problems(report: Report) -> str:
    """A line for each reason, with all the connections that it struck."""
    struck: dict[str, list[str]] = {}
    for c in report.connections:
        if c.error:
            struck.setdefault(c.error, []).append(c.conn_id)
    return "\n".join(f"{', '.join(conn_ids)}: {error}" for error, conn_ids in struck.items())


def _text(report: Report) -> str:
    a, told, lines = report.airflow, report.connections, []
    if a:
        lines.append(f"Airflow {a.version}, {a.executable}, {a.place}, {a.method}")
    elif all(c.status == "fresh" for c in told):
        lines.append("Nothing is due, so Airflow was left alone.")
    width = max(len(c.conn_id) for c in told)
    for c in told:
        where = "" if c.error else f"  {c.host}"
        if c.expires_at and not c.error:
            minutes = round((c.expires_at.timestamp() - time.time()) / 60)
            left = f"{minutes // 60} h {minutes % 60} min" if minutes > 0 else "no more"
            where += f", valid for {left}, until {c.expires_at:{UTC}}"
        lines.append(f"{c.conn_id:{width}}  {c.status:7}{where}".rstrip())
    return "\n".join(lines).encode("utf-8", "replace").decode()  # a path may be no UTF-8


def _json(report: Report) -> str:
    keys = ("conn_id", "registry", "region", "host", "expires_at", "status", "error")
    document = {
        "airflow": {key: getattr(report.airflow, key, None) for key in ("executable", "version", "method")},
        "connections": [{key: getattr(c, key) for key in keys} for c in report.connections],
    }
    return json.dumps(document, indent=2, default="{:%Y-%m-%dT%H:%M:%SZ}".format)


# --- the command --------------------------------------------------------------------------------------------
def _seconds(_context: object, _parameter: object, text: str | None) -> float | None:
    if not text:
        return None
    parts = re.fullmatch(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,7})s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    if not hours + minutes + seconds:
        raise click.BadParameter(f"{text!r} is not a duration such as 6h, 90m or 1h30m")
    return 3600.0 * hours + 60 * minutes + seconds


def _tell(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:
        raise  # Click ends the program then
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or its end fails too
        raise click.ClickException(f"the report could not be printed: {error.strerror}") from None


_CONTEXT = {"auto_envvar_prefix": "ECR_AIRFLOW_SYNC", "help_option_names": ["--help", "-h"], "show_default": True}
_option, _flag = click.option, partial(click.option, is_flag=True)


@click.command(context_settings=_CONTEXT)
@_option("-r", "--region", metavar="REGION", multiple=True, help="AWS region; repeatable.  [AWS_REGION, or boto3's]")
@_option("--registry", metavar="ID", multiple=True, help="Account id, or public; repeatable.  [your own]")
@_option("--conn-id", metavar="TEMPLATE", help="May hold {registry} and {region}.  [docker_default]")
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
def main(**options: Any) -> None:
    """Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

    Each option is an environment variable too, ECR_AIRFLOW_SYNC_<OPTION>; blanks
    separate several regions or registries there.

    Exit status: 0 all connections written, 1 at least one not, 2 bad usage.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    own = ("metrics_file", "splay", "quiet", "verbose", "json")
    metrics_file, splay, quiet, verbose, as_json = (options.pop(name) for name in own)
    if metrics_file and not importlib.util.find_spec("prometheus_client"):
        needed = "needs the extra [metrics]: pip install prometheus_client"
        raise click.BadParameter(needed, param_hint="'--metrics-file'")
    terminal = sys.stderr is not None and sys.stderr.isatty()  # None where it was closed
    level = logging.INFO if terminal else logging.WARNING
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else level)
    log.addHandler(logging.StreamHandler())
    if splay and not any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        # Keeps a fleet whose crons fire at once from asking at once.
        time.sleep(secrets.randbelow(splay * 1000) / 1000)
    began, problems = time.monotonic(), ""
    try:
        report = sync(options.pop("region"), options.pop("registry"), **options)
    except SyncError as error:
        report, problems = error.report, str(error)
    if metrics_file and not (options["dry_run"] or options["check"]):
        _write_metrics(metrics_file, report, time.monotonic() - began)
    if problems:  # first, because stdout may be gone, as in `| head -1`
        click.echo(problems, err=True)
    if as_json or not quiet:
        _tell(_json(report) if as_json else _text(report))
    if problems:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main(prog_name="ecr-airflow-sync")

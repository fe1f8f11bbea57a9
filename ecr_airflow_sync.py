"""Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

An ECR authorization token dies after twelve hours, and with it the connection that DockerOperator
logs in with. This command asks ECR for new ones, and has the ``airflow`` command line write them:

    ecr-airflow-sync --region us-east-1

The file reads from top to bottom, and the data flows one way: targets (what is asked for), tokens
(ECR, through boto3), connections (Airflow), report. From Python: ``from ecr_airflow_sync import sync``.
"""

from __future__ import annotations

import base64
import configparser
import difflib
import errno
import hashlib
import json
import logging
import os
import random
import re
import secrets
import select
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import click

__version__ = "0.1.0"

METHODS = ("auto", "import", "delete-add")
PUBLIC, PUBLIC_REGION, PUBLIC_HOST = "public", "us-east-1", "public.ecr.aws"
GRACE = 5.0  # seconds that a child has to end by itself before it is killed

# Run as `sh -c FIND_PYTHON <airflow script>` wherever --airflow leads: starts the interpreter that the
# script's first line names, which then reads DOOR from stdin. Where that path is long or has a blank, pip
# and uv write `'''exec' <python> "$0" "$@"` below it. An empty entry in sys.path would import from the
# folder that cron happens to be in.
FIND_PYTHON = r"""
script=$(command -v -- "$0") || {
  echo "not found, with PATH $PATH; name the script, as in --airflow /opt/airflow/bin/airflow" \
    "(cron's PATH is short)" >&2
  exit 127
}
[ -r "$script" ] || { echo "$script cannot be read by $(id -un)" >&2; exit 126; }
{ IFS= read -r first; IFS= read -r second; } <"$script"
python=
case $first in '#!'*)
  for word in ${first#??}; do
    case ${word##*/} in python | python[0-9]* | pypy*) python=${first#??} ;; esac
  done ;;
esac
case $second in "'''exec' "*) python=${second#* } python=${python%' "$0" "$@"'} ;; esac
[ -n "$python" ] || {
  echo "$script is no Python script (a shell wrapper, a shim?); name the airflow script behind it" \
    "with --airflow" >&2
  exit 126
}
door='import sys; sys.path[:] = [p for p in sys.path if p]; import json
exec(json.loads(sys.stdin.readline() or sys.exit("stdin is closed; docker exec needs -i")))'
exec sh -c "exec $python -u -c \"\$1\" \"\$0\"" "$script" "$door"
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

script = sys.argv[1]
marker = sys.stdin.readline().strip()
requests = os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
folder = tempfile.mkdtemp(prefix="ecr-airflow-sync-")


def stop(*_):  # with its children: behind sudo or docker exec, nobody else can
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
    os._exit(137)  # as process 1 of a container


def package_version():
    try:
        from importlib.metadata import distribution
    except ImportError:
        from pkg_resources import get_distribution as distribution

    for name in ["apache-airflow-ctl"] if ctl else ["apache-airflow", "apache-airflow-core"]:
        try:
            return distribution(name).version
        except Exception:
            pass  # not installed, in the words of either library
    return None


def answer(**facts):
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, ("\n%s%s\n" % (marker, json.dumps(facts))).encode("ascii"))
    except (EnvironmentError, ValueError):
        pass  # nobody listens any more: what was begun is finished all the same


def readable_once(connections):
    # A pipe, because no token may be in a file; a thread, because a pipe holds 64 KB;
    # a link, because Airflow takes its parser from the ending of the file's name.
    reader, writer = os.pipe()

    def feed():
        with os.fdopen(writer, "w") as pipe:
            json.dump(connections, pipe)

    feeder = threading.Thread(target=feed)
    feeder.daemon = True
    feeder.start()
    link = os.path.join(folder, "connections%d.json" % reader)
    os.symlink("/dev/fd/%d" % reader, link)
    return link


def run(argv, connections):
    sys.argv = [script] + argv + ([readable_once(connections)] if connections else [])
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write("%s\n" % (end.code,))
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


# Airflow 3 compiles all secrets that it has seen into one expression, anew for each: with ten
# tokens, half of the run. What it prints goes to our own mask in any case.
os.environ.setdefault("AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET", "1000000")
os.environ.update(COLUMNS="100000", TERM="dumb")  # airflowctl breaks and paints its answers
for name in "FORCE_COLOR", "TTY_COMPATIBLE":
    os.environ.pop(name, None)
signal.signal(signal.SIGTERM, stop)
sys.path.insert(0, os.path.dirname(script))
ctl = os.path.basename(script) in ("airflowctl", "apache-airflow-ctl")
home = os.path.expanduser(os.environ.get("AIRFLOW_HOME") or "~/airflow")
place = "AIRFLOW_HOME " + home
if ctl:  # with a token, but without this file, it would send all to http://localhost:8080
    name = os.environ.get("AIRFLOW_CLI_ENVIRONMENT", "production") + ".json"
    try:
        with open(os.path.join(home, name)) as file:
            place = str(json.load(file)["api_url"])
    except Exception:
        place = ""
shadows = [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]
answer(version=package_version(), ctl=ctl, executable=script, home=home, place=place, shadows=shadows)
for line in iter(requests.readline, ""):
    request = json.loads(line)
    watch = threading.Timer(request["timeout"], stop)
    watch.daemon = True
    watch.start()
    for argv in request["commands"]:
        answer(exit=run(argv, request["connections"]))
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


@dataclass(frozen=True)
class Identity:
    """Who asks ECR: whom boto3 finds, unless something is given.

    ``held`` is JSON: login, password and extra of the Airflow connection ``aws_conn_id``, once read.
    """

    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    aws_conn_id: str | None = None
    held: str = field(default="{}", repr=False)


@dataclass(frozen=True)
class Connection:
    """A docker connection on its way: what is asked for, what ECR grants, what became of it.

    Region "" is what boto3 finds, registry None that of the identity's own account; conn_id and
    host_template may hold {region} and {registry} until they are known. ``extra`` is JSON, ``expires_at``
    UTC. ``status`` is written, fresh, planned or failed; after --check fine, missing, shadowed, wrong
    host, refused or unreachable.
    """

    conn_id: str
    region: str = ""
    registry: str | None = None
    identity: Identity = Identity()
    host_template: str | None = None
    extra: str | None = None
    host: str | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    status: str = "failed"
    error: str | None = None


class How(NamedTuple):
    """How to write. ``airflow`` is a command line, ``timeout`` in seconds."""

    airflow: str
    version: str | None
    method: str
    timeout: float
    dry_run: bool
    check: bool


class Answer(NamedTuple):
    """How a command of Airflow's ended (None: it never did), and what it printed."""

    exit: int | None
    output: str


class Report(NamedTuple):
    """What a run did. ``airflow`` is None where none was found, or none was needed."""

    airflow: Airflow | None
    connections: tuple[Connection, ...]


Fields = Mapping[str, Mapping[str, str]]  # of connections by id, as in Airflow's import file


# --- targets: what is asked for -------------------------------------------------------------------
def _targets(regions: Sequence[str], registries: Sequence[str], common: Connection) -> list[Connection]:
    """Every registry in every region, each with a connection id of its own."""
    if isinstance(regions, str) or isinstance(registries, str):
        raise UsageError("regions and registries are lists, also where there is one")
    if "" in regions and len(regions) > 1:
        raise UsageError("one of several regions is empty")
    pairs = [(region, registry) for region in regions or ("",) for registry in registries or (None,)]
    targets = [_target(common, region=region, registry=registry) for region, registry in pairs]
    targets = list(dict.fromkeys(targets))  # ECR Public is one, whatever the regions
    if len({target.conn_id for target in targets}) < len(targets):
        asked = {"{registry}": registries, "{region}": regions}
        missing = [k for k, v in asked.items() if len(set(v)) > 1 and k not in common.conn_id]
        better = "_".join([common.conn_id, *missing])
        raise UsageError(
            f"{len(targets)} registries would overwrite each other in {common.conn_id!r}: "
            f"give each a connection of its own, as with --conn-id '{better}'"
        )
    return targets


def _target(common: Connection, **asked: Any) -> Connection:
    """A connection that may be asked for, else UsageError."""
    target, any_value = replace(common, **asked), partial(re.sub, r"\{(registry|region)\}", "x")
    if target.registry == PUBLIC:
        target = replace(target, region=PUBLIC_REGION, host_template=PUBLIC_HOST)
    elif target.registry and not re.fullmatch(r"[0-9]{12}", target.registry):
        raise UsageError(f"registry {target.registry!r} is not an account id of twelve digits")
    if re.search(r"[{}]", any_value(target.conn_id)):
        raise UsageError(f"conn id {target.conn_id!r}: the placeholders are {{registry}} and {{region}}")
    conn_id = any_value(target.conn_id)  # as validate_key in airflow/utils/helpers.py wants it
    if not re.fullmatch(r"[\w.][\w.-]{0,199}", conn_id) or ".." in conn_id:
        raise UsageError(
            f"conn id {target.conn_id!r}: Airflow takes 1 to 200 letters, digits, underscores, "
            "dashes (not in front) and dots (not two in a row)"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", any_value(target.host_template or "x")):
        raise UsageError(f"host {target.host_template!r} is not a bare host, as in an image's name")
    who = target.identity
    if who.profile and who.aws_conn_id:
        raise UsageError("profile and aws_conn_id are two sources of credentials: give one")
    if who.external_id and not (who.role_arn or who.aws_conn_id):
        raise UsageError("external_id is for a role: give its role_arn")
    _check_extra(target.extra or "{}")
    return replace(target, conn_id=_fill(target, target.conn_id))


def _fill(target: Connection, template: str) -> str:
    """The template with what is known of {registry} and {region}."""
    template = template.replace("{registry}", target.registry or "{registry}")
    return template.replace("{region}", target.region or "{region}")


def _check_extra(text: str) -> None:
    try:
        extra = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"extra is not JSON: {error}") from None
    if not isinstance(extra, dict):
        raise UsageError('extra is not a JSON object, such as \'{"email": "me@example.com"}\'')
    if str(extra.get("reauth", True)).lower() in ("false", "no", "0"):
        raise UsageError("extra has reauth false: DockerOperator would not log in to ECR")


_KEYS = ("region", "registry", "profile", "role_arn", "external_id", "aws_conn_id", "host", "extra")


def _configured(path: str, common: Connection) -> list[Connection]:
    """The targets of a file, in which a section is a connection. Errors name file, line and section."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o022:
                raise UsageError(f"{path}: others may write it; chmod go-w {shlex.quote(path)}")
            text = file.read()
        parser.read_string(text, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (configparser.Error, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    if not parser.sections():
        raise UsageError(f"{path}: no section, such as [docker_default]")
    return [_section(path, text, parser[name], common) for name in parser.sections()]


def _section(path: str, text: str, section: configparser.SectionProxy, common: Connection) -> Connection:
    """What a section does not say is as in [DEFAULT], else as the options say."""
    asked, identity, key = {"conn_id": section.name}, {}, ""
    try:
        for key, value in section.items():
            if not value or ("\n" in value and key != "extra"):
                raise UsageError(f"{key} has {'two lines' if value else 'no value'}")
            if key in _KEYS[2:6]:
                identity[key] = value
            elif key in _KEYS:
                asked["host_template" if key == "host" else key] = value
            else:
                raise UsageError(f"unknown key {key}; there are {', '.join(_KEYS)}")
        key = ""
        if "{" in section.name:
            raise UsageError("a section is a connection id, without placeholders")
        return _target(common, identity=replace(common.identity, **identity), **asked)
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
    granted = {target.conn_id: target for target in targets if target.error}
    calls: dict[Any, list[Connection]] = {}
    for target in targets:
        kind = target.registry if target.registry in (None, PUBLIC) else "named"
        if not target.error:
            calls.setdefault((target.identity, target.region, kind), []).append(target)
    # Ten registries are ECR's limit, which botocore does not know.
    batches = [asked[i : i + 10] for asked in calls.values() for i in range(0, len(asked), 10)]
    # Daemons, since a ThreadPoolExecutor makes Ctrl-C wait for the slowest region.
    threads = [threading.Thread(target=_ask, args=(batch, granted), daemon=True) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [granted[target.conn_id] for target in targets]


def _ask(targets: Sequence[Connection], granted: dict[str, Connection]) -> None:
    """One GetAuthorizationToken call, for up to ten registries of one identity and region."""
    region, registries = targets[0].region, list(dict.fromkeys(t.registry for t in targets))
    public, wanted = registries == [PUBLIC], {"registryIds": registries}
    try:
        client = _client(targets[0].identity, region, "ecr-public" if public else "ecr")
        region = client.meta.region_name
        answer = client.get_authorization_token(**({} if public or registries == [None] else wanted))
        data: Any = answer.get("authorizationData") or []
        entries = [{**data, "proxyEndpoint": PUBLIC_HOST}] if public else data
        granted.update({t.conn_id: _pick(replace(t, region=region), entries) for t in targets})
    except Exception as error:  # noqa: BLE001 - an answer that is not ECR's can raise anything
        service = "STS" if getattr(error, "operation_name", "") == "AssumeRole" else "ECR"
        unknown = type(error).__name__ in ("EndpointConnectionError", "InvalidRegionError")
        where = f" in {region}" if region else ""
        why = f"{service}{where}: {_explain(error)}{_likely_region(region) if unknown else ''}"
        granted.update({t.conn_id: replace(t, error=why) for t in targets})


def _client(who: Identity, region: str, service: Any) -> Any:
    """A client of that identity. Its session is its own, because sessions are not thread-safe."""
    import boto3  # here and not above: --help and usage errors need not wait for it
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 5}
    config, held = Config(retries=retries, connect_timeout=5, read_timeout=10), json.loads(who.held)
    key_id, secret, token = (held.get(key) for key in ("login", "password", "aws_session_token"))
    # boto3 reads AWS_DEFAULT_REGION and the profile, but not AWS_REGION.
    where = region or held.get("region_name") or os.environ.get("AWS_REGION") or None
    profile = who.profile or held.get("profile_name")
    session = boto3.Session(key_id, secret, token, where, profile_name=profile)
    role_arn = who.role_arn or held.get("role_arn")
    if role_arn:
        role = {"RoleSessionName": "ecr-airflow-sync", **(held.get("assume_role_kwargs") or {})}
        if "DurationSeconds" in role:
            role["DurationSeconds"] = int(role["DurationSeconds"])  # Airflow prints numbers as text
        external_id = who.external_id or held.get("external_id")
        role.update({"ExternalId": external_id} if external_id else {})
        got = session.client("sts", config=config).assume_role(RoleArn=role_arn, **role)["Credentials"]
        key_id, secret, token = got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"]
        session = boto3.Session(key_id, secret, token, session.region_name)
    # As in apache-airflow-providers-amazon, the connection's endpoint_url is not for STS.
    return session.client(service, config=config, endpoint_url=held.get("endpoint_url"))


def _pick(target: Connection, entries: Iterable[Mapping[str, Any]]) -> Connection:
    """The target, with what ECR's answer holds for its registry."""
    for entry in entries:
        endpoint = entry.get("proxyEndpoint") or ""
        found = re.fullmatch(r"(?:https?://)?(([\w-]+)[\w.-]*)(?::\d+)?/?", endpoint)
        host, registry = found.groups() if found else ("", "")
        if target.registry in (None, registry):
            try:
                return _decode(replace(target, registry=registry, host=host), entry)
            except Failure as failure:
                return replace(target, error=str(failure))
    step = f"the caller's own registry; {_NOT_ECR}"
    if target.registry:
        step = f"registry {target.registry}; check the id, and that this identity may read it"
    return replace(target, error=f"ECR in {target.region} gave no token for {step}")


def _decode(target: Connection, entry: Mapping[str, Any]) -> Connection:
    """Split base64 of ``login:password``. What is wrong with it is told, never shown."""
    whose = target.host or "a registry"
    for key in ("proxyEndpoint", "authorizationToken", "expiresAt"):
        if not entry.get(key):
            raise Failure(f"ECR's answer for {whose} has no {key}; {_LATER}")
    try:
        token = base64.b64decode(entry["authorizationToken"], validate=True).decode("ascii")
    except ValueError:
        raise Failure(f"ECR's token for {whose} is not base64 of plain text; {_LATER}") from None
    login, _, password = token.partition(":")
    if not login or not password:
        raise Failure(f"ECR's token for {whose} is not login, colon, password; {_LATER}")
    conn_id, host = (_fill(target, text) for text in (target.conn_id, target.host_template or whose))
    target = replace(target, conn_id=conn_id, host=host, login=login, password=password, status="planned")
    return replace(target, expires_at=entry["expiresAt"].astimezone(timezone.utc))


_LATER = "the next run tries again"
_NETWORK = "check the region, and this host's DNS, proxy and network"
_NOT_ECR = "that is no answer of ECR's; check AWS_ENDPOINT_URL, and the proxy"
_NEXT_STEPS = {  # by AWS's error code and operation, or by botocore's exception
    "AccessDenied.* GetAuth": "allow this identity ecr:GetAuthorizationToken on resource *",
    "AccessDenied.* AssumeRole": "the role's trust policy, which may want another external id, and this "
    "identity's own policy must allow it",
    "ConnectTimeout|EndpointConnection": _NETWORK,
    "ConnectionClosed|ReadTimeout": _LATER,
    "ExpiredToken|SSO|TokenRetrieval|CredentialRetrieval": "renew the AWS credentials (aws sso login, a new "
    "role session, new keys)",
    "InvalidParameter": "check the registry ids",
    "InvalidSignature|SignatureDoesNotMatch": "check the secret key, and this host's clock",
    "NoCredentials": "boto3 looked at AWS_ACCESS_KEY_ID, ~/.aws/credentials, ~/.aws/config and the metadata "
    "of container and instance; HOME is {home}",
    "NoRegion": "give --region, or set AWS_REGION, AWS_DEFAULT_REGION or the profile's",
    "PartialCredentials": "boto3 looked at the environment and ~/.aws; complete them",
    "ProfileNotFound": "boto3 looked in ~/.aws/config and ~/.aws/credentials; HOME is {home}",
    "RequestExpired": "set this host's clock",
    "SSLError": "check AWS_CA_BUNDLE, the proxy's certificate and this host's clock",
    "Throttling": f"{_LATER}; spread the hosts over the half hour",
    "UnrecognizedClient|InvalidClientToken": "check the access key, and that it belongs to this partition",
    "AttributeError|KeyError|ResponseParser|TypeError|UnicodeDecode": _NOT_ECR,
}


def _explain(error: Exception) -> str:
    """AWS's or botocore's own words in one line, and what to do next."""
    response = getattr(error, "response", None) or {}
    told = response.get("Error", {})
    code = str(told.get("Code") or type(error).__name__)
    words = str(told.get("Message") or error).strip() or code
    line = words.replace(":\n", ": ").splitlines()[0].rstrip(".")  # the others quote the signed request
    line = f"{code}: {line}" if told else line
    known = f"{code} {getattr(error, 'operation_name', '')}"
    steps = [step for pattern, step in _NEXT_STEPS.items() if re.search(pattern, known)]
    if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        steps.append(_LATER)
    return _mask("; ".join([line, *steps[:1]]).replace("{home}", os.environ.get("HOME", "not set")))


def _likely_region(region: str) -> str:
    """A hint for a region that botocore has never heard of, else nothing."""
    import boto3

    session, meant = boto3.Session(), region.lower().replace("_", "-")
    partitions = session.get_available_partitions()
    known = [name for p in partitions for name in session.get_available_regions("ecr", p)]
    close = difflib.get_close_matches(meant, known)
    close.sort(key=lambda name: sorted(name) != sorted(meant))  # us-esat-1 is not us-west-1
    return f"; did you mean {close[0]}?" if close and region not in known else ""


# --- connections: what Airflow holds, and is to hold -----------------------------------------------
class Airflow:
    """The Airflow that a command line leads to: one process of its interpreter, within a ``with`` block.

    The process starts Airflow at the first command that it is given. ``place`` is its AIRFLOW_HOME, or the
    URL of its API. Raises Failure where there is none, UsageError where it cannot do what is asked.
    """

    def __init__(self, command: str, timeout: float, version: str | None, method: str) -> None:
        *prefix, script = shlex.split(command)
        self._command, self._timeout, self._marker = command, timeout, secrets.token_hex(16)
        self._unread, self._end = b"", ""
        argv = [*prefix, "sh", "-c", FIND_PYTHON, script]
        try:  # a session of its own, so that it and its children can be ended as one group
            self._process = Popen(argv, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True)
        except OSError as error:
            raise Failure(f"cannot run {argv[0]}: {error.strerror}; check --airflow, PATH") from None
        try:
            self._meet(version, method)
        except BaseException:
            self._close(0)
            raise

    def __enter__(self) -> Airflow:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close(0 if kind else GRACE)  # at once after Ctrl-C, and SIGTERM as main takes it

    def _meet(self, version: str | None, method: str) -> None:
        """Send the program, and judge what it tells of itself."""
        self._send(f"{json.dumps(DOOR)}\n{self._marker}\n")
        _, here = self._receive(time.monotonic() + self._timeout)
        if self._end:
            raise Failure(self._end)
        self.executable, self.place, self._ctl = here["executable"], here["place"], here["ctl"]
        self.shadows, self.version = here["shadows"], version or here["version"]
        if not self.version:
            raise Failure(
                f"{self.executable} runs in a Python without the package apache-airflow: "
                "name another script with --airflow, or say --airflow-version"
            )
        if not self.place:
            raise Failure(
                f"{self.executable} has no login in AIRFLOW_HOME {here['home']}: run there "
                "airflowctl auth login --api-url https://… --skip-keyring"
            )
        if self._older_than(1, 10):
            raise Failure(f"Airflow {self.version} at {self.executable} is older than 1.10: upgrade it")
        self.method = ("delete-add" if self._older_than(2, 6) else "import") if method == "auto" else method
        if self.method == "import" and self._older_than(2, 6):
            what = f"{self.executable} is {self.version}"
            raise UsageError(f"method import needs Airflow 2.6 or later; {what}")
        if self.method == "delete-add" and self._ctl:
            raise UsageError("airflowctl has the method import only")

    def _older_than(self, *version: int) -> bool:
        return not self._ctl and parse_version(self.version) < version

    def write(self, connections: Fields) -> dict[str, str]:
        """Write all in one Airflow start; returns why, for each that was not written.

        What an error stopped is tried once more, each by itself: two first imports may collide, and what
        is wrong with one connection must not stop the others.
        """
        singly = [{conn_id: fields} for conn_id, fields in connections.items()]
        failed = self._attempt([connections] if self.method == "import" else singly)
        again = [batch for batch in singly for i in batch if i in failed and failed[i].exit]
        still = self._attempt(again)
        failed = {i: answer for i, answer in failed.items() if i in still or not answer.exit}
        hidden = [fields["password"] for fields in connections.values()]
        return {i: self._reason(i, answer, hidden) for i, answer in failed.items()}

    def read(self, conn_ids: Iterable[str]) -> dict[str, Any]:
        """The fields of each connection as a task finds them; why not, as text, of the others."""
        if self._ctl or self._older_than(2, 0):
            raise UsageError(
                f"{self.executable} ({self.version}) does not show connections as tasks find them: that "
                "takes the airflow script of 2.0 or later (AWS credentials can also come from --profile, "
                "--role-arn or AWS_ACCESS_KEY_ID)"
            )
        ids, found = list(dict.fromkeys(conn_ids)), {}
        answers = self._run([["connections", "get", conn_id, "--output", "json"] for conn_id in ids])
        for conn_id, answer in zip(ids, answers):
            printed = re.findall(r"^\[(\{.*\})\]\s*$", answer.output, re.MULTILINE)
            # What else was printed after a success may hold a secret.
            why = self._reason(conn_id, answer if answer.exit != 0 else Answer(0, ""), ())
            found[conn_id] = json.loads(printed[-1]) if printed else why
        return found

    def _attempt(self, batches: Sequence[Fields]) -> dict[str, Answer]:
        """The answer that tells why, for each connection that was not written."""
        failed = {}
        for batch in batches:
            answers = self._run(self._commands(batch), batch if self.method == "import" else None)
            for answer in answers:
                log.debug("%s", _mask(answer.output, [f["password"] for f in batch.values()]).strip())
            bad = {conn_id: self._bad(conn_id, answers) for conn_id in batch}
            failed.update({conn_id: answer for conn_id, answer in bad.items() if answer})
        return failed

    def _commands(self, connections: Fields) -> list[list[str]]:
        """What is to be said to an Airflow of that age. A new syntax goes here."""
        if self.method == "import":  # of a file that DOOR adds
            return [["connections", "import", *(["-a", "overwrite"] if self._ctl else ["--overwrite"])]]
        commands: list[list[str]] = []
        for conn_id, fields in connections.items():
            if self._older_than(1, 10, 14):  # later ones mask --conn-password in the audit log
                name = f"--conn_id={conn_id}"
                delete, add, prefix = ["--delete", name], ["--add", name], "--conn_"
            else:
                delete, add, prefix = ["delete", conn_id], ["add", conn_id], "--conn-"
            for name, value in fields.items():
                if name != "description" or not self._older_than(2, 0):
                    add.append(f"{prefix}{name.replace('conn_', '')}={value}")
            commands += [["connections", *delete], ["connections", *add]]
        return commands

    def _bad(self, conn_id: str, answers: Sequence[Answer]) -> Answer | None:
        """The answer that tells why this connection was not written, None if it was."""
        name, delete, add = re.escape(conn_id), answers[0], answers[-1]
        if self.method == "import":
            imported = rf"Imported connection {name}\s*$|Successfully imported \[.*'{name}'.*\] conn"
            return None if re.search(imported, add.output, re.MULTILINE) else add
        gone = rf"(Successfully deleted|Did not find a)( connection with)? `conn_id`={name}\s*$"
        if not re.search(gone, delete.output, re.MULTILINE):
            return delete
        if add.exit == 0 and re.search(rf"Successfully added `conn_id`={name}(\s|$)", add.output):
            return None
        # Another host was quicker, and what it wrote is as fresh.
        overtaken = re.search(rf"with `conn_id`={name} already exists", add.output)
        return None if overtaken else add

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
        deadline = time.monotonic() + self._timeout
        request = {"commands": commands, "connections": connections, "timeout": self._timeout}
        self._send(json.dumps(request) + "\n")
        told = [self._receive(deadline) for _ in commands]
        return [Answer(facts.get("exit"), output) for output, facts in told]

    def _send(self, text: str) -> None:
        stdin: Any = self._process.stdin
        try:
            stdin.write(text.encode())
            stdin.flush()
        except (OSError, ValueError):
            pass  # it has ended, as the answer will tell

    def _receive(self, deadline: float) -> tuple[str, dict[str, Any]]:
        """What was printed before the next answer, and that answer; it is empty if none comes."""
        stdout: Any = self._process.stdout
        poll = select.poll()
        while not self._end:
            printed, _, rest = self._unread.partition(b"\n" + self._marker.encode())
            facts, whole, rest = rest.partition(b"\n")
            if whole:
                self._unread = rest
                return printed.decode("utf-8", "replace"), json.loads(facts)
            poll.register(stdout, select.POLLIN)
            left = max(0.0, deadline - time.monotonic())
            chunk = os.read(stdout.fileno(), 65536) if poll.poll(left * 1000) else b""
            self._unread += chunk
            if not chunk:
                self._tell_end(time.monotonic() >= deadline)
        return self._unread.decode("utf-8", "replace"), {}

    def _tell_end(self, timed_out: bool) -> None:
        self._close(0 if timed_out else GRACE)
        said = self._unread.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        end = f"{said[-1]} (exit status {self._process.returncode})"
        if timed_out:
            end = f"killed after {self._timeout:g} s without an end; see --timeout"
        self._end = _mask(f"{self._command}: {end}")[:500]

    def _close(self, patience: float) -> None:
        """Let the process end by itself for some seconds, then end it and its children."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe and pipe.close()
            except OSError:
                pass  # it does not listen any more
        for number, seconds in ((0, patience), (signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
            try:
                os.killpg(self._process.pid, number)
            except OSError:
                pass  # gone, or another user's
            try:
                self._process.wait(seconds)
                return
            except TimeoutExpired:
                pass


_CURES = {
    "value too long|Data too long": "its password column is too short for ECR's tokens (AIRFLOW-3014), widen "
    "it: ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(5000) (MySQL: ALTER TABLE connection "
    "MODIFY password VARCHAR(5000))",
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
    """Read each connection as a task would, and log in to its registry with what it holds."""
    if any("{" in target.conn_id for target in targets):
        raise UsageError("--check does not ask AWS: give the regions and registries of the conn id")
    found = airflow.read([target.conn_id for target in targets])
    judged = [_judge(target, found[target.conn_id], airflow.shadows) for target in targets]
    with ThreadPoolExecutor(len(judged)) as pool:
        return list(pool.map(_log_in, judged))


def _judge(target: Connection, found: Any, shadows: Sequence[str]) -> Connection:
    """What is wrong with a connection as tasks find it, as far as it alone tells."""
    if isinstance(found, str):
        return replace(target, status="missing" if "not found" in found else "failed", error=found)
    host, login, password = (found[key] or "" for key in ("host", "login", "password"))
    target = replace(target, host=host, login=login, password=password)
    if not found["id"]:  # only the database has ids
        source = _variable(target) if _variable(target) in shadows else "a secrets backend"
        why = f"{source} answers instead of the database, so what is synced is never read"
        return replace(target, status="shadowed", error=why)
    wanted = _fill(target, target.host_template or "{registry}.dkr.ecr.{region}.*")
    pattern = re.sub(r"\\\{\w+\\\}", r"[\\w-]+", re.escape(wanted)).replace(r"\*", _PARTITIONS)
    if not re.fullmatch(pattern, host) or found["port"]:
        port = f":{found['port']}" if found["port"] else ""
        why = f"its host is {host or 'empty'}{port}, where images are at {wanted}"
        return replace(target, status="wrong host", error=why)
    return target


_PARTITIONS = r"(amazonaws\.(com|com\.cn|eu)|s?c2s\.(ic|sgov)\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"


def _variable(target: Connection) -> str:
    return f"AIRFLOW_CONN_{target.conn_id.upper()}"


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
    target = replace(target, expires_at=_expiry(str(target.password)))
    if answer.status == 200:
        return replace(target, status="fine")
    until = f"; its token is valid until {target.expires_at:{_UTC}}" if target.expires_at else ""
    refused = answer.status in (400, 401, 403)  # as ECR refuses a wrong or expired token
    step = "sync again, and see whether the timer runs" if refused else _LATER
    why = f"{target.host} answered {answer.status} {answer.reason}{until}; {step}"
    return replace(target, status="refused" if refused else "unreachable", error=why)


def _expiry(password: str) -> datetime | None:
    """Until when a token is valid, where it tells: ECR's are base64 of JSON."""
    try:
        expiration = json.loads(base64.b64decode(password))["expiration"]
        return datetime.fromtimestamp(expiration, timezone.utc)
    except Exception:  # noqa: BLE001 - it is no token of ECR's
        return None


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
    identity = Identity(profile, role_arn, external_id, aws_conn_id)
    conn_id_asked = "docker_default" if conn_id is None else conn_id
    common = Connection(conn_id_asked, identity=identity, host_template=host, extra=extra)
    targets = _configured(config, common) if config else _targets(regions, registries, common)
    how = _how(How(airflow, airflow_version, method, timeout, dry_run, check))
    report = _report(targets, how, None if check else renew_before, force)
    if _problems(report):
        raise SyncError("\n".join(_problems(report)), report)
    return report


def _how(how: How) -> How:
    """Refuse what cannot be meant, before anything is asked of anybody."""
    try:
        words = shlex.split(how.airflow)
    except ValueError as error:
        raise UsageError(f"airflow command {how.airflow!r}: {error}") from None
    if not words:
        raise UsageError("the airflow command is empty")
    if how.version and parse_version(how.version) < (1, 10) and "ctl" not in words[-1]:
        raise UsageError(f"Airflow {how.version} is older than 1.10, the oldest supported")
    if how.method not in METHODS:
        raise UsageError(f"method {how.method!r} is none of {', '.join(METHODS)}")
    if not 0 < how.timeout < threading.TIMEOUT_MAX:
        raise UsageError(f"timeout {how.timeout:g} is not a positive number of seconds")
    return how


def _report(targets: Sequence[Connection], how: How, renew_before: float | None, force: bool) -> Report:
    state = {} if renew_before is None or force else _read_state()
    keys = [_state_key(target, how.airflow) for target in targets]
    known = [_fresh(t, state.get(key), renew_before or 0) for t, key in zip(targets, keys)]
    due = [target for target in known if target.status != "fresh"]
    airflow, renewed = _renew(due, how) if due else (None, [])
    told = [t if t.status == "fresh" else renewed.pop(0) for t in known]
    if due and renew_before is not None and not how.dry_run:
        _remember(dict(zip(keys, told)))
    # Neither tokens nor credentials are for the caller.
    told = [replace(t, identity=asked.identity, password=None) for t, asked in zip(told, targets)]
    return Report(airflow, tuple(told))


def _renew(targets: list[Connection], how: How) -> tuple[Airflow | None, list[Connection]]:
    """Fetch all tokens first; what could not be fetched leaves its connection as it is."""
    airflow = None
    # boto3 takes 0.2 s to import, in which Airflow's interpreter can answer.
    threading.Thread(target=import_module, args=("boto3",), daemon=True).start()
    try:
        with Airflow(how.airflow, how.timeout, how.version, how.method) as airflow:
            if how.check:
                return airflow, _check(airflow, targets)
            targets = _identified(airflow, targets)
            log.info("Asking ECR for %d token(s) ...", len(targets))
            targets = _authorize(targets)
            return airflow, targets if how.dry_run else _written(airflow, targets)
    except Failure as failure:
        return airflow, [replace(target, error=str(failure)) for target in targets]


def _identified(airflow: Airflow, targets: list[Connection]) -> list[Connection]:
    """The targets, each identity with what its aws_conn_id holds."""
    ids = [target.identity.aws_conn_id for target in targets]
    found = airflow.read(filter(None, ids)) if any(ids) else {}
    identified = []
    for target in targets:
        who, held = target.identity, found.get(str(target.identity.aws_conn_id), {})
        if isinstance(held, str):
            identified.append(replace(target, error=f"aws_conn_id {who.aws_conn_id}: {held}"))
        else:
            keys = {key: held.get(key) for key in ("login", "password")}
            who = replace(who, held=json.dumps({**(held.get("extra_dejson") or {}), **keys}))
            identified.append(replace(target, identity=who))
    return identified


def _written(airflow: Airflow, targets: Sequence[Connection]) -> list[Connection]:
    fields = {target.conn_id: _fields(target) for target in targets if not target.error}
    if fields:
        log.info("Airflow %s is writing %d connection(s) ...", airflow.version, len(fields))
    errors = airflow.write(fields) if fields else {}
    for target in targets:
        if target.expires_at and target.expires_at.timestamp() - time.time() < 3600:
            warning = "%s: its token is valid until %s only; is this host's clock right?"
            log.warning(warning, target.conn_id, f"{target.expires_at:{_UTC}}")
        if _variable(target) in airflow.shadows:
            log.warning("%s: tasks read the variable %s instead; unset it", target.conn_id, _variable(target))
    told = [replace(target, error=errors.get(target.conn_id, target.error)) for target in targets]
    return [replace(t, expires_at=None, status="failed") if t.error else replace(t, status="written") for t in told]


def _fields(target: Connection) -> dict[str, str]:
    """A connection of type docker, by the keys of Airflow's import file."""
    until = f"{target.expires_at:{_UTC}}"
    fields = {"conn_type": "docker", "host": target.host, "login": target.login, "password": target.password}
    fields["description"] = f"ECR token valid until {until}, written by ecr-airflow-sync"
    return {key: str(value) for key, value in {**fields, "extra": target.extra}.items() if value}


# --- the state: what this host last wrote, for --renew-before --------------------------------------------
def _state_file() -> str:
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = os.environ.get("STATE_DIRECTORY") or os.path.join(home, "ecr-airflow-sync")
    return os.path.join(folder.split(":")[0], "written.json")  # a unit may have several


def _state_key(target: Connection, airflow: str) -> str:
    """Changes with all that the connection, or where it is written, depends on."""
    names = "AIRFLOW_HOME|HOME|AWS_PROFILE|AWS_(DEFAULT_)?REGION|.*__(SQL_ALCHEMY_CONN|FERNET_KEY)"
    environment = sorted(e for e in os.environ.items() if re.fullmatch(names, e[0]))
    depends_on = [asdict(target), airflow, shutil.which(shlex.split(airflow)[-1]), environment]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()


def _read_state() -> dict[str, object]:
    """What was written, by key. What is not as _remember left it is as nothing."""
    try:
        with open(_state_file(), encoding="ascii") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _fresh(target: Connection, entry: Any, renew_before: float) -> Connection:
    """The target as it was written, if it has so long to live. A clock set back ends all trust."""
    try:
        written_at, expires_at, *facts = entry
        if written_at <= time.time() <= expires_at - renew_before:
            expiry = datetime.fromtimestamp(expires_at, timezone.utc)
            conn_id, registry, region, host = map(str, facts)
            known = replace(target, conn_id=conn_id, registry=registry, region=region, host=host)
            return replace(known, expires_at=expiry, status="fresh")
    except (OSError, ValueError, TypeError, OverflowError):
        pass
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
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as aside:
            handle, new = tempfile.mkstemp(dir=aside)
            with open(handle, "w", encoding="ascii") as file:
                json.dump(state, file)
            os.replace(new, path)
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

    registry, now, values = CollectorRegistry(), time.time(), _read_metrics(path)
    gauge = partial(Gauge, namespace="ecr_airflow_sync", registry=registry)
    gauge("build_info", "What ran.", ["version"]).labels(__version__).set(1)
    gauge("duration_seconds", "How long the last run took.").set(seconds)
    gauges = {name: gauge(name, text, ["conn_id"]) for name, text in _METRICS.items()}
    for told in report.connections:
        # Where ECR failed, {registry} is not filled in: those meant are those of earlier runs.
        meant = re.sub(r"\\\{\w+\\\}", ".+", re.escape(told.conn_id))
        for conn_id in {c for _, c in values if re.fullmatch(meant, c)} or {told.conn_id}:
            news = {"success": float(not told.error), "last_run_timestamp_seconds": now}
            if told.expires_at:  # it is written, or fresh
                news["last_success_timestamp_seconds"] = now
                news["token_expiry_timestamp_seconds"] = told.expires_at.timestamp()
            for name, of_connection in gauges.items():
                if name in news or (name, conn_id) in values:
                    of_connection.labels(conn_id).set(news.get(name, values.get((name, conn_id), 0)))
    umask = os.umask(0o022)  # node_exporter runs as another user
    try:
        write_to_textfile(path, registry)
    except OSError as error:
        log.error("metrics file %s: %s", path, error.strerror)
    finally:
        os.umask(umask)


def _read_metrics(path: str) -> dict[tuple[str, str], float]:
    """What the last run left, since a failed one has no news of the last success."""
    line = r'^ecr_airflow_sync_(\w+)\{conn_id="([\w.-]+)"\} ([0-9.e+]+)$'
    try:
        with open(path, encoding="utf-8") as file:
            return {(name, i): float(value) for name, i, value in re.findall(line, file.read(), re.MULTILINE)}
    except (OSError, ValueError):
        return {}


# --- the report: what the user is told ----------------------------------------------------------------------
_UTC = "%Y-%m-%d %H:%M UTC"


def _problems(report: Report) -> list[str]:
    """A line for each reason, with all the connections that it struck."""
    struck: dict[str, list[str]] = {}
    for c in report.connections:
        if c.error:
            struck.setdefault(c.error, []).append(c.conn_id)
    return [f"{', '.join(conn_ids)}: {error}" for error, conn_ids in struck.items()]


def _text(report: Report) -> str:
    a, told, lines = report.airflow, report.connections, []
    if a:
        lines.append(f"Airflow {a.version}, {a.executable}, {a.place}, {a.method}")
    elif all(c.status == "fresh" for c in told):
        lines.append("Nothing is due, so Airflow was left alone.")
    width = max(len(c.conn_id) for c in told)
    for c in told:
        where = f"  {c.host}{_left(c.expires_at)}" if not c.error else ""
        lines.append(f"{c.conn_id:{width}}  {c.status:7}{where}".rstrip())
    return "\n".join(lines).encode("utf-8", "replace").decode()  # a path may be no UTF-8


def _left(expires_at: datetime | None) -> str:
    if not expires_at:
        return ""
    minutes = round((expires_at - datetime.now(timezone.utc)).total_seconds() / 60)
    left = f"{minutes // 60} h {minutes % 60} min" if minutes > 0 else "no more"
    return f", valid for {left}, until {expires_at:{_UTC}}"


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
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # Click ends the program then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or its end fails too
        raise click.ClickException(f"the report could not be printed: {error.strerror}") from None


def _log_to_stderr(quiet: bool, verbose: bool) -> None:
    log.addHandler(logging.StreamHandler())
    log.propagate = False
    terminal = sys.stderr is not None and sys.stderr.isatty()  # None where it was closed
    progress = logging.INFO if terminal else logging.WARNING
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else progress)


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
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    metrics_file, quiet, as_json = (options.pop(name) for name in ("metrics_file", "quiet", "json"))
    if metrics_file and not find_spec("prometheus_client"):
        needed = "needs the extra [metrics]: pip install prometheus_client"
        raise click.BadParameter(needed, param_hint="'--metrics-file'")
    _log_to_stderr(quiet, options.pop("verbose"))
    splay = options.pop("splay")  # keeps a fleet whose crons fire at once from asking at once
    if splay and not any(stream and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        time.sleep(random.uniform(0, splay))  # noqa: S311 - no secret
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

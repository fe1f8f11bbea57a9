"""Keep Airflow's docker connections filled with fresh Amazon ECR tokens.

An ECR authorization token dies after twelve hours, and with it the connection
that DockerOperator logs in with. This command asks ECR for new ones, and has
the ``airflow`` command line write them:

    ecr-airflow-sync --region us-east-1

The file reads from top to bottom, and the data flows one way:

    targets  ->  authorizations  ->  connections  ->  report
    (asked)      (ECR, boto3)        (Airflow)        (told)

From Python, in a DAG for instance: ``from ecr_airflow_sync import sync``.
"""

from __future__ import annotations

import base64
import difflib
import errno
import hashlib
import json
import logging
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from subprocess import PIPE, Popen, TimeoutExpired
from typing import TYPE_CHECKING, Any, Dict, Iterable, Mapping, Optional, Sequence, Union

import click

if TYPE_CHECKING:
    import boto3

__version__ = "0.1.0"

METHODS = ("auto", "import", "delete-add")
REGISTRIES_PER_CALL = 10  # GetAuthorizationToken's limit, which botocore does not know
GRACE = 5.0  # seconds that a child has to end by itself before it is killed

# Run as `sh -c FIND_PYTHON <airflow script> <python code>` wherever --airflow leads:
# hands the code to the interpreter named in the script's first line. Where that path
# is long or has a blank, pip and uv write `'''exec' <python> "$0" "$@"` below it.
FIND_PYTHON = r"""
script=$(command -v -- "$0") || {
  echo "not found, with PATH $PATH; name the script, as in" \
    "--airflow /opt/airflow/bin/airflow (cron's PATH is short)" >&2
  exit 127
}
[ -r "$script" ] || {
  echo "$script cannot be read by $(id -un)" >&2
  exit 126
}
{ IFS= read -r first; IFS= read -r second; } <"$script"
python=
case $first in '#!'*)
  for word in ${first#??}; do
    case ${word##*/} in python | python[0-9]* | pypy*) python=${first#??} ;; esac
  done ;;
esac
case $second in "'''exec' "*) python=${second#* } python=${python%' "$0" "$@"'} ;; esac
[ -n "$python" ] || {
  echo "$script is no Python script (a shell wrapper, a shim?);" \
    "name the airflow script behind it with --airflow" >&2
  exit 126
}
exec sh -c "exec $python -c \"\$1\" \"\$0\"" "$script" "$1"
"""

# An empty entry in sys.path would import from the folder that cron happens to be in.
BOOTSTRAP = """\
import sys
sys.path[:] = [folder for folder in sys.path if folder]
import json
exec(json.loads(sys.stdin.readline()))
"""

# Run by Airflow's own interpreter, whatever its age (Python 2.7, 3.5 and later). A
# marker line, on both streams, tells its answers from all else that Airflow prints:
# first who is here, then one for each command.
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
request = json.loads(sys.stdin.readline())
folder = tempfile.mkdtemp(prefix="ecr-airflow-sync-")


def stop(number, _frame):
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + number)


def package_version():
    try:
        from importlib.metadata import distribution
    except ImportError:
        from pkg_resources import get_distribution as distribution

    for name in ("apache-airflow", "apache-airflow-core"):
        try:
            return distribution(name).version
        except Exception:
            pass  # not installed, in the words of either library
    return None


def answer(**facts):
    for stream, number in (sys.stdout, 1), (sys.stderr, 2):
        line = "\n%s%d%s\n" % (request["marker"], number, json.dumps(facts))
        try:
            stream.flush()
            os.write(number, line.encode("ascii"))
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


def run(argv, connections=None):
    try:
        sys.argv = [script] + argv
        if connections:
            sys.argv.append(readable_once(connections))
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return {"exit": end.code or 0, "error": ""}
        sys.stderr.write("%s\n" % (end.code,))
        return {"exit": 1, "error": str(end.code)[:1000]}
    except BaseException as error:
        traceback.print_exc()
        for _ in range(9):  # to "Read-only file system" from "Unable to configure handler"
            error = getattr(error, "__cause__", None) or error
        lines = traceback.format_exception_only(type(error), error)
        return {"exit": 1, "error": lines[-1][:1000]}
    return {"exit": 0, "error": ""}


# Airflow 3 compiles all secrets that it has seen into one expression, anew for each: with ten
# tokens, half of the run. What it prints goes to our own mask in any case.
os.environ.setdefault("AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET", "1000000")
signal.signal(signal.SIGTERM, stop)
sys.path.insert(0, os.path.dirname(script))
home = os.path.expanduser(os.environ.get("AIRFLOW_HOME") or "~/airflow")
answer(version=package_version(), executable=script, home=home)
try:
    for command in request["commands"]:
        answer(**run(**command))
finally:
    shutil.rmtree(folder, ignore_errors=True)
"""

log = logging.getLogger(__name__)


class UsageError(ValueError):
    """What was asked for cannot be done, whatever ECR and Airflow say. One line."""


class SyncError(Exception):
    """At least one connection was not written. ``str()`` has a line for each reason."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class Failure(Exception):
    """Why something was not to be had: one line with the next step, and no secret."""


@dataclass(frozen=True)
class Target:
    """A registry in a region, and the connection that is to hold its token.

    Region "" is what boto3 finds, registry None that of the caller's own account; conn_id
    may hold {region} and {registry} until they are known.
    """

    region: str
    registry: str | None
    conn_id: str


@dataclass(frozen=True)
class Authorization:
    """What ECR grants for one registry: where to log in, as whom, until when (UTC)."""

    registry: str
    host: str
    login: str
    password: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True)
class Airflow:
    """The Airflow to write to. ``command`` is --airflow, ``timeout`` is in seconds."""

    command: str
    timeout: float
    executable: str
    version: str
    home: str
    method: str


@dataclass(frozen=True)
class Answer:
    """What Airflow said to one command. ``exit`` is None if it never got that far."""

    exit: int | None
    error: str
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)


@dataclass(frozen=True)
class Outcome:
    """What became of one connection: ``status`` is written, fresh, failed or planned."""

    conn_id: str
    registry: str | None
    region: str
    host: str | None = None
    expires_at: datetime | None = None
    status: str = "failed"
    error: str | None = None


@dataclass(frozen=True)
class Report:
    """What a run did. ``airflow`` is None where none was found, or none was needed."""

    airflow: Airflow | None
    connections: tuple[Outcome, ...]


Connections = Mapping[str, Mapping[str, str]]  # by id, each by the keys of Airflow's import file
Extra = Optional[Mapping[str, Any]]
Granted = Dict[Target, Union[Authorization, Failure]]


# --- targets: what is asked for -------------------------------------------------------


def _targets(regions: Sequence[str], registries: Sequence[str], template: str) -> list[Target]:
    """Every registry in every region, each with a connection id of its own."""
    if isinstance(regions, str) or isinstance(registries, str):
        raise UsageError("regions and registries are lists, also where there is one")
    if "" in regions and len(regions) > 1:
        raise UsageError("one of several regions is empty")
    for registry in registries:
        if not re.fullmatch(r"[0-9]{12}", registry):
            raise UsageError(f"registry {registry!r} is not an account id of twelve digits")
    targets = [
        Target(region, registry, _fill(template, registry or "{registry}", region or "{region}"))
        for region in dict.fromkeys(regions)
        for registry in dict.fromkeys(registries or (None,))
    ]
    for target in targets:
        _check_conn_id(_fill(target.conn_id, "0" * 12, "region"))
    if len({target.conn_id for target in targets}) < len(targets):
        asked = {"{registry}": registries, "{region}": regions}
        missing = [k for k, v in asked.items() if len(set(v)) > 1 and k not in template]
        better = "_".join([template, *missing])
        raise UsageError(
            f"{len(targets)} registries would overwrite each other in {template!r}: "
            f"give each a connection of its own, as with --conn-id '{better}'"
        )
    return targets


def _fill(template: str, registry: str, region: str) -> str:
    return template.replace("{registry}", registry).replace("{region}", region)


def _check_conn_id(conn_id: str) -> None:
    """Refuse what Airflow would (validate_key in airflow/utils/helpers.py)."""
    if re.search(r"[{}]", conn_id):
        raise UsageError(f"conn id {conn_id!r}: the placeholders are {{registry}} and {{region}}")
    if not re.fullmatch(r"[\w.][\w.-]{0,199}", conn_id) or ".." in conn_id:
        raise UsageError(
            f"conn id {conn_id!r}: Airflow takes 1 to 200 letters, digits, underscores, "
            "dashes (not in front) and dots (not two in a row)"
        )


# --- authorizations: what ECR grants --------------------------------------------------


def _session(profile: str | None) -> boto3.Session:
    import boto3  # here and not above: --help and usage errors need not wait for it

    try:
        return boto3.Session(profile_name=profile)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the files in ~/.aws
        raise Failure(_explain(error)) from None


def _with_region(session: boto3.Session, targets: Sequence[Target]) -> Sequence[Target]:
    """Where no region was asked for, the one that the user's other AWS tools take."""
    if targets[0].region:
        return targets
    # boto3 reads AWS_DEFAULT_REGION and the profile, but not AWS_REGION.
    region = os.environ.get("AWS_REGION") or session.region_name
    if not region:
        raise UsageError(
            "no region: give --region, or set AWS_REGION, AWS_DEFAULT_REGION or the profile's"
        )
    conn_ids = [_fill(target.conn_id, "{registry}", region) for target in targets]
    return [Target(region, t.registry, conn_id) for t, conn_id in zip(targets, conn_ids)]


def _authorize(session: boto3.Session, targets: Sequence[Target]) -> Granted:
    """Ask for every token, in one call for each region, all regions side by side."""
    granted: Granted = {}
    lock, threads = threading.Lock(), []
    for region in dict.fromkeys(target.region for target in targets):
        there = [target for target in targets if target.region == region]
        for start in range(0, len(there), REGISTRIES_PER_CALL):
            asked = (session, lock, there[start : start + REGISTRIES_PER_CALL], granted)
            # Daemons, since a ThreadPoolExecutor makes Ctrl-C wait for the slowest region.
            threads.append(threading.Thread(target=_ask, args=asked, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {target: granted[target] for target in targets}


def _ask(
    session: boto3.Session, lock: threading.Lock, targets: Sequence[Target], granted: Granted
) -> None:
    """One GetAuthorizationToken call, for up to ten registries of one region."""
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 5}
    config = Config(retries=retries, connect_timeout=5, read_timeout=10)
    region = targets[0].region
    registries = [target.registry for target in targets if target.registry]
    try:
        with lock:  # boto3 sessions are not thread-safe
            client = session.client("ecr", region_name=region, config=config)
        wanted = {"registryIds": registries} if registries else {}
        entries = client.get_authorization_token(**wanted).get("authorizationData") or []
        granted.update({target: _pick(target, entries) for target in targets})
    except Exception as error:  # noqa: BLE001 - an answer that is not ECR's can raise anything
        unknown = type(error).__name__ in ("EndpointConnectionError", "InvalidRegionError")
        hint = _likely_region(session, region) if unknown else ""
        failure = Failure(f"ECR in {region}: {_explain(error)}{hint}")
        granted.update(dict.fromkeys(targets, failure))


def _pick(target: Target, entries: Iterable[Mapping[str, Any]]) -> Authorization | Failure:
    """What ECR's answer holds for this target's registry."""
    for entry in entries:
        endpoint = entry.get("proxyEndpoint") or ""
        found = re.fullmatch(r"(?:https?://)?(([\w-]+)[\w.-]*)(?::\d+)?/?", endpoint)
        host, registry = found.groups() if found else ("", "")
        if target.registry in (None, registry):
            return _decode(entry, registry, host)
    if target.registry:
        step = f"registry {target.registry}; check the id, and that this identity may read it"
    else:
        step = f"the caller's own registry; {_NOT_ECR}"
    return Failure(f"ECR in {target.region} gave no token for {step}")


def _decode(entry: Mapping[str, Any], registry: str, host: str) -> Authorization | Failure:
    """Split base64 of ``login:password``. What is wrong with it is told, never shown."""
    if not host:
        return Failure(f"ECR's answer for a registry has no proxyEndpoint; {_LATER}")
    for key in ("authorizationToken", "expiresAt"):
        if not entry.get(key):
            return Failure(f"ECR's answer for {host} has no {key}; {_LATER}")
    try:
        token = base64.b64decode(entry["authorizationToken"], validate=True).decode("ascii")
    except ValueError:
        return Failure(f"ECR's token for {host} is not base64 of plain text; {_LATER}")
    login, _, password = token.partition(":")
    if not login or not password:
        return Failure(f"ECR's token for {host} is not login, colon, password; {_LATER}")
    return Authorization(
        registry, host, login, password, entry["expiresAt"].astimezone(timezone.utc)
    )


_LATER = "the next run tries again"
_NETWORK = "check the region, and this host's DNS, proxy and network"
_NOT_ECR = "that is no answer of ECR's; check AWS_ENDPOINT_URL, and the proxy"
_RENEW = "renew the AWS credentials (aws sso login, a new role session, new keys)"
_NEXT_STEPS = {  # by AWS's error code and operation, or by botocore's exception
    "AccessDenied.* GetAuth": "allow this identity ecr:GetAuthorizationToken on resource *",
    "AccessDenied.* AssumeRole": "the role's trust policy and this identity's must allow it",
    "ConnectTimeout|EndpointConnection": _NETWORK,
    "ConnectionClosed|ReadTimeout": _LATER,
    "ExpiredToken|SSO|TokenRetrieval|CredentialRetrieval": _RENEW,
    "InvalidParameter": "check the registry ids",
    "InvalidSignature": "check the secret key, and this host's clock",
    "NoCredentials": "boto3 looked at AWS_ACCESS_KEY_ID, ~/.aws/credentials, ~/.aws/config "
    "and the metadata of container and instance; HOME is {home}",
    "PartialCredentials": "boto3 looked at the environment and ~/.aws; complete them",
    "ProfileNotFound": "boto3 looked in ~/.aws/config and ~/.aws/credentials; HOME is {home}",
    "RequestExpired": "set this host's clock",
    "SSLError": "check AWS_CA_BUNDLE, the proxy's certificate and this host's clock",
    "Throttling": f"{_LATER}; spread the hosts over the half hour",
    "UnrecognizedClient": "check the access key, and that it belongs to this partition",
    "AttributeError|ResponseParser|TypeError|UnicodeDecode": _NOT_ECR,
}


def _explain(error: Exception) -> str:
    """AWS's or botocore's own words in one line, and what to do next."""
    response = getattr(error, "response", None) or {}
    told = response.get("Error", {})
    code = str(told.get("Code") or type(error).__name__)
    words = str(told.get("Message") or error).strip() or code
    line = words.splitlines()[0].rstrip(".")  # the others quote the signed request
    line = f"{code}: {line}" if told else line
    known = f"{code} {getattr(error, 'operation_name', '')}"
    steps = [step for pattern, step in _NEXT_STEPS.items() if re.search(pattern, known)]
    if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        steps.append(_LATER)
    home = os.environ.get("HOME", "not set")
    return _mask("; ".join([line, *steps[:1]]).replace("{home}", home))


def _likely_region(session: boto3.Session, region: str) -> str:
    """A hint for a region that botocore has never heard of, else nothing."""
    partitions = session.get_available_partitions()
    known = [name for p in partitions for name in session.get_available_regions("ecr", p)]
    meant = region.lower().replace("_", "-")
    close = difflib.get_close_matches(meant, known)
    close.sort(key=lambda name: sorted(name) != sorted(meant))  # us-esat-1 is not us-west-1
    return f"; did you mean {close[0]}?" if close and region not in known else ""


# --- connections: what Airflow is to hold ---------------------------------------------


def _find_airflow(command: str, version: str | None, method: str, timeout: float) -> Airflow:
    """Ask the interpreter behind ``command`` which Airflow it has, without starting it."""
    here, _ = _converse(command, [], timeout)
    executable, version = here["executable"], version or here["version"]
    if not version:
        raise Failure(
            f"{executable} runs in a Python without the package apache-airflow: "
            "name another script with --airflow, or say --airflow-version"
        )
    if _version(version) < (1, 10):
        raise Failure(f"Airflow {version} at {executable} is older than 1.10: upgrade it")
    best = "import" if _version(version) >= (2, 6) else "delete-add"
    if (method, best) == ("import", "delete-add"):
        raise UsageError(f"method import needs Airflow 2.6 or later; {executable} is {version}")
    method = best if method == "auto" else method
    return Airflow(command, timeout, executable, version, here["home"], method)


def _version(text: str) -> tuple[int, ...]:
    """The leading number of a version, also of 2.9.3+astro.1 and 3.0.0rc1."""
    number = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,9}))?", text)
    if not number:
        raise UsageError(f"Airflow version {text!r} is not of the form X.Y.Z")
    return tuple(int(part or 0) for part in number.groups())


def _write(airflow: Airflow, connections: Connections) -> dict[str, str]:
    """Write all in one Airflow start; returns why, for each that was not written.

    What an error stopped is tried once more, each by itself: two first imports may
    collide, and what is wrong with one connection must not stop the others.
    """
    singly = [{conn_id: fields} for conn_id, fields in connections.items()]
    failed = _attempt(airflow, [connections] if airflow.method == "import" else singly)
    again = [conn_id for conn_id, answer in failed.items() if answer.exit]
    if again:
        kept = {conn_id: answer for conn_id, answer in failed.items() if not answer.exit}
        failed = {**kept, **_attempt(airflow, [{i: connections[i]} for i in again])}
    hidden = [fields["password"] for fields in connections.values()]
    return {i: _reason(i, answer, airflow.home, hidden) for i, answer in failed.items()}


def _attempt(airflow: Airflow, batches: Sequence[Connections]) -> dict[str, Answer]:
    """The answer that tells why, for each connection that was not written."""
    commands = [_commands(airflow, batch) for batch in batches]
    flat = [command for several in commands for command in several]
    try:
        _, answers = _converse(airflow.command, flat, airflow.timeout)
    except Failure as failure:
        answers = [Answer(None, str(failure))] * len(flat)
    if log.isEnabledFor(logging.DEBUG):
        hidden = [fields["password"] for batch in batches for fields in batch.values()]
        for answer in answers:
            log.debug("%s", _mask(answer.stdout + answer.stderr, hidden).strip())
    failed, rest = {}, iter(answers)
    for batch, several in zip(batches, commands):
        told = [next(rest) for _ in several]
        bad = {conn_id: _bad_answer(conn_id, told) for conn_id in batch}
        failed.update({conn_id: answer for conn_id, answer in bad.items() if answer})
    return failed


def _commands(airflow: Airflow, connections: Connections) -> list[dict[str, Any]]:
    """What is to be said to an Airflow of that age. A new syntax goes here."""
    if airflow.method == "import":
        argv = ["connections", "import", "--overwrite"]
        return [{"argv": argv, "connections": connections}]
    version, commands = _version(airflow.version), []
    for conn_id, fields in connections.items():
        if version >= (1, 10, 14):  # from here on the audit log masks --conn-password
            delete, add, prefix = ["delete", conn_id], ["add", conn_id], "--conn-"
        else:
            name = f"--conn_id={conn_id}"
            delete, add, prefix = ["--delete", name], ["--add", name], "--conn_"
        for name, value in fields.items():
            if name != "description" or version >= (2, 0):
                add.append(f"{prefix}{name.replace('conn_', '')}={value}")
        commands += [{"argv": ["connections", *delete]}, {"argv": ["connections", *add]}]
    return commands


# --- answers: what Airflow says -------------------------------------------------------


def _bad_answer(conn_id: str, answers: Sequence[Answer]) -> Answer | None:
    """The answer that tells why this connection was not written, None if it was."""
    name = re.escape(conn_id)
    delete, add = answers[0], answers[-1]
    if len(answers) == 1:
        imported = re.search(rf"Imported connection {name}\s*$", add.stdout, re.MULTILINE)
        return None if imported else add
    gone = rf"(Successfully deleted|Did not find a)( connection with)? `conn_id`={name}\s*$"
    if not re.search(gone, delete.stdout + delete.stderr, re.MULTILINE):
        return delete
    if add.exit == 0 and re.search(rf"Successfully added `conn_id`={name}(\s|$)", add.stdout):
        return None
    # Another host was quicker, and what it wrote is as fresh.
    overtaken = re.search(rf"with `conn_id`={name} already exists", add.stdout + add.stderr)
    return None if overtaken else add


def _reason(conn_id: str, answer: Answer, home: str, hidden: Iterable[str]) -> str:
    """The one line of the answer that says most, and what to do where that is known."""
    said = [line for line in (answer.stdout + answer.stderr).splitlines() if line.strip()]
    about = [line for line in said if conn_id in line]
    lines = answer.error.strip().splitlines()[:1] or about[-1:] or said[-1:] or ["it said nothing"]
    line = _mask(lines[0].strip(), hidden)[:500]
    if answer.exit is not None:
        line = f"Airflow (AIRFLOW_HOME {home}, exit status {answer.exit}): {line}"
    if re.search("value too long|Data too long", line):
        line += (
            "; its password column is too short for ECR's tokens (AIRFLOW-3014), widen it: "
            "ALTER TABLE connection ALTER COLUMN password TYPE VARCHAR(5000) "
            "(MySQL: ALTER TABLE connection MODIFY password VARCHAR(5000))"
        )
    if "Found more than one connection" in line:
        line += "; delete all of them in the UI, under Admin, Connections"
    return line


def _mask(text: str, hidden: Iterable[str] = ()) -> str:
    """Hide what is named, passwords in URLs, and what may be a token or part of one."""
    for secret in hidden:
        text = text.replace(secret, "***")
    text = re.sub(r"(://[^\s:@/]{0,99}):\S{1,99}@|:[^\s:@/]+@", r"\1:***@", text)
    return re.sub(r"[\w+=-]{60,}", "***", text)  # no slash: paths and ARNs are to be read


# --- the door: the only way to Airflow ------------------------------------------------


def _converse(
    command: str, commands: Sequence[Mapping[str, Any]], timeout: float
) -> tuple[dict[str, Any], list[Answer]]:
    """Start the interpreter behind the airflow script once, and run ``commands`` in it.

    Returns what DOOR tells of itself, and an answer to each command.
    Raises Failure where no interpreter answers.
    """
    *prefix, script = shlex.split(command)
    marker = secrets.token_hex(16)
    request = {"marker": marker, "commands": commands}
    status, stdout, stderr = _run(
        [*prefix, "sh", "-c", FIND_PYTHON, script, BOOTSTRAP],
        "".join(json.dumps(line) + "\n" for line in (DOOR, request)),
        timeout,
    )
    out = [piece.partition("\n") for piece in stdout.split(marker + "1")[1:]]
    err = [piece.partition("\n") for piece in stderr.split(marker + "2")[1:]]
    last = (err[-1][2] if err else stderr).strip().splitlines()[-1:] or ["it said nothing"]
    end = f"{command}: {last[0]} (exit status {status})"
    if status is None:
        end = f"{command}: killed after {timeout:g} s without an end; see --timeout"
    if not out:
        raise Failure(_mask(end))
    err += [("", "", "")] * (len(out) - len(err))  # a prefix may merge the streams, or drop one
    answers = [
        Answer(**json.loads(facts), stdout=stdout, stderr=stderr)
        for (facts, _, _), (_, _, stdout), (_, _, stderr) in zip(out[1:], out, err)
    ]
    return json.loads(out[0][0]), answers + [Answer(None, end)] * (len(commands) - len(answers))


def _run(argv: Sequence[str], stdin: str, timeout: float) -> tuple[int | None, str, str]:
    """Exit status (None if it had to be killed), stdout and stderr of a process."""
    try:
        # A session of its own, so that it and its children can be ended as one group.
        process = Popen(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True)
    except OSError as error:
        raise Failure(f"cannot run {argv[0]}: {error.strerror}; check --airflow, PATH") from None
    status = None
    try:
        stdout, stderr = process.communicate(stdin.encode(), timeout)
        status = process.returncode
    except TimeoutExpired:
        stdout, stderr = _end(process)
    except BaseException:  # Ctrl-C, and SIGTERM as main takes it
        _end(process)
        raise
    return status, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")


def _end(process: Popen[bytes]) -> tuple[bytes, bytes]:
    """End a process with all its children, and return what they had said."""
    said = (b"", b"")
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except OSError:
            pass  # gone, or another user's
        try:
            return process.communicate(timeout=GRACE)
        except TimeoutExpired as expired:
            said = (expired.stdout or b"", expired.stderr or b"")
    return said


# --- the whole ------------------------------------------------------------------------


def sync(
    regions: Sequence[str] = (),
    registries: Sequence[str] = (),
    conn_id: str = "docker_default",
    *,
    profile: str | None = None,
    conn_extra: Extra = None,
    airflow: str = "airflow",
    airflow_version: str | None = None,
    method: str = "auto",
    timeout: float = 120,
    dry_run: bool = False,
    renew_before: float | None = None,
    force: bool = False,
) -> Report:
    """Fetch a token for each registry in each region, and have Airflow hold them.

    The arguments are the command's options (``ecr-airflow-sync --help``), with ``timeout``
    and ``renew_before`` in seconds. Progress goes to the logger ``ecr_airflow_sync``.

    Raises UsageError for what cannot be done as asked, before any call to AWS;
    SyncError at the end, with the report, if a connection could not be written.
    """
    _check(airflow, airflow_version, method, conn_extra, timeout)
    targets = _targets(regions or ("",), registries, conn_id)
    keys = [_state_key(target, airflow, profile, conn_extra) for target in targets]
    state = {} if renew_before is None or force else _read_state()
    fresh = [_fresh(state.get(key), renew_before or 0) for key in keys]
    due = [target for target, outcome in zip(targets, fresh) if not outcome]
    find = partial(_find_airflow, airflow, airflow_version, method, timeout)
    found, renewed = _renew(due, profile, find, conn_extra, dry_run) if due else (None, [])
    report = Report(found, tuple(outcome or renewed.pop(0) for outcome in fresh))
    if due and renew_before is not None and not dry_run:
        _remember(dict(zip(keys, report.connections)))
    problems = _problems(report)
    if problems:
        raise SyncError("\n".join(problems), report)
    return report


def _renew(
    targets: Sequence[Target], profile: str | None, find: partial[Airflow], extra: Extra, dry: bool
) -> tuple[Airflow | None, list[Outcome]]:
    """Fetch all tokens first; what could not be fetched leaves its connection as it is."""
    found = None
    # boto3 takes 0.2 s to import, in which Airflow's interpreter can answer.
    threading.Thread(target=import_module, args=("boto3",), daemon=True).start()
    try:
        found = find()
        session = _session(profile)
        targets = _with_region(session, targets)
        log.info("Asking ECR for %d token(s) ...", len(targets))
        granted = _authorize(session, targets)
    except Failure as failure:
        granted = dict.fromkeys(targets, failure)
    outcomes = [_outcome(target, grant) for target, grant in granted.items()]
    connections = {
        outcome.conn_id: _fields(grant, extra)
        for outcome, grant in zip(outcomes, granted.values())
        if isinstance(grant, Authorization)
    }
    if found and connections and not dry:
        log.info("Airflow %s is writing %d connection(s) ...", found.version, len(connections))
        errors = _write(found, connections)
        outcomes = [_done(outcome, errors) for outcome in outcomes]
    return found, outcomes


def _check(airflow: str, version: str | None, method: str, extra: Extra, timeout: float) -> None:
    """Refuse what cannot be meant, before anything is asked of anybody."""
    try:
        words = shlex.split(airflow)
    except ValueError as error:
        raise UsageError(f"airflow command {airflow!r}: {error}") from None
    if not words:
        raise UsageError("the airflow command is empty")
    if version and _version(version) < (1, 10):
        raise UsageError(f"Airflow {version} is older than 1.10, the oldest supported")
    if method not in METHODS:
        raise UsageError(f"method {method!r} is none of {', '.join(METHODS)}")
    if str((extra or {}).get("reauth", True)).lower() in ("false", "no", "0"):
        raise UsageError("conn extra has reauth false: DockerOperator would not log in to ECR")
    if not 0 < timeout < threading.TIMEOUT_MAX:
        raise UsageError(f"timeout {timeout:g} is not a positive number of seconds")


def _outcome(target: Target, granted: Authorization | Failure) -> Outcome:
    """What is to become of a connection, as far as ECR is concerned."""
    if isinstance(granted, Failure):
        return Outcome(target.conn_id, target.registry, target.region, error=str(granted))
    conn_id, expires_at = _fill(target.conn_id, granted.registry, target.region), granted.expires_at
    if expires_at.timestamp() - time.time() < 3600:
        until = f"{expires_at:{_UTC}}"
        log.warning(
            "%s: its token is valid until %s only; is this host's clock right?", conn_id, until
        )
    return Outcome(conn_id, granted.registry, target.region, granted.host, expires_at, "planned")


def _done(outcome: Outcome, errors: Mapping[str, str]) -> Outcome:
    error = errors.get(outcome.conn_id)
    if error:
        return replace(outcome, expires_at=None, status="failed", error=error)
    return outcome if outcome.error else replace(outcome, status="written")


def _fields(granted: Authorization, extra: Extra) -> dict[str, str]:
    """A connection of type docker, by the keys of Airflow's import file."""
    until = f"{granted.expires_at:{_UTC}}"
    fields = {
        "conn_type": "docker",
        "host": granted.host,
        "login": granted.login,
        "password": granted.password,
        "description": f"ECR token valid until {until}, written by ecr-airflow-sync",
    }
    return {**fields, "extra": json.dumps(extra)} if extra else fields


# --- the state: what this host last wrote, for --renew-before ---------------------------


def _state_file() -> str:
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = os.environ.get("STATE_DIRECTORY") or os.path.join(home, "ecr-airflow-sync")
    return os.path.join(folder.split(":")[0], "written.json")  # a unit may have several


def _state_key(target: Target, airflow: str, profile: str | None, extra: Extra) -> str:
    """Changes with all that the connection, or where it is written, depends on."""
    names = "AIRFLOW_HOME|HOME|AWS_PROFILE|AWS_(DEFAULT_)?REGION|.*__(SQL_ALCHEMY_CONN|FERNET_KEY)"
    environment = sorted(e for e in os.environ.items() if re.fullmatch(names, e[0]))
    executable = shutil.which(shlex.split(airflow)[-1])
    depends_on = [astuple(target), airflow, executable, profile, extra or None, environment]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()


def _read_state() -> dict[str, object]:
    """What was written, by key. What is not as _remember left it is as nothing."""
    try:
        with open(_state_file(), encoding="ascii") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _fresh(entry: Any, renew_before: float) -> Outcome | None:
    """What was written, if it has so long to live. A clock set back ends all trust."""
    try:
        written_at, expires_at, *facts = entry
        if written_at <= time.time() <= expires_at - renew_before:
            conn_id, registry, region, host = map(str, facts)
            expiry = datetime.fromtimestamp(expires_at, timezone.utc)
            return Outcome(conn_id, registry, region, host, expiry, "fresh")
    except (OSError, ValueError, TypeError, OverflowError):
        pass
    return None


def _remember(outcomes: Mapping[str, Outcome]) -> None:
    """Replace the state in one step. It holds no secret."""
    state = {key: entry for key, entry in _read_state().items() if _fresh(entry, 0)}
    for key, o in outcomes.items():
        if o.status == "written" and o.expires_at:
            times = [time.time(), o.expires_at.timestamp()]
            state[key] = [*times, o.conn_id, o.registry, o.region, o.host]
        elif o.status == "failed":
            state.pop(key, None)
    path = _state_file()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as aside:
            handle, new = tempfile.mkstemp(dir=aside)
            with open(handle, "w", encoding="ascii") as file:
                json.dump(state, file)
            os.replace(new, path)
    except OSError as error:
        log.error("state %s: %s; until it can be kept, each run writes", path, error.strerror)


# --- the metrics: what Prometheus is told ---------------------------------------------


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
    for outcome in report.connections:
        # Where ECR failed, {registry} is not filled in: those meant are those of earlier runs.
        meant = re.sub(r"\\\{\w+\\\}", ".+", re.escape(outcome.conn_id))
        known = {conn_id for _, conn_id in values if re.fullmatch(meant, conn_id)}
        for conn_id in known or {outcome.conn_id}:
            values["success", conn_id] = float(not outcome.error)
            values["last_run_timestamp_seconds", conn_id] = now
            if outcome.expires_at:  # it is written, or fresh
                values["last_success_timestamp_seconds", conn_id] = now
                values["token_expiry_timestamp_seconds", conn_id] = outcome.expires_at.timestamp()
            for name, of_connection in gauges.items():
                if (name, conn_id) in values:
                    of_connection.labels(conn_id).set(values[name, conn_id])
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
            found = re.findall(line, file.read(), re.MULTILINE)
            return {(name, conn_id): float(value) for name, conn_id, value in found}
    except (OSError, ValueError):
        return {}


# --- the report: what the user is told ------------------------------------------------

_UTC = "%Y-%m-%d %H:%M UTC"


def _problems(report: Report) -> list[str]:
    """A line for each reason, with all the connections that it struck."""
    struck: dict[str, list[str]] = {}
    for outcome in report.connections:
        if outcome.error:
            struck.setdefault(outcome.error, []).append(outcome.conn_id)
    return [f"{', '.join(conn_ids)}: {error}" for error, conn_ids in struck.items()]


def _text(report: Report) -> str:
    lines = []
    if report.airflow:
        a = report.airflow
        lines.append(f"Airflow {a.version}, {a.executable}, AIRFLOW_HOME {a.home}, {a.method}")
    elif all(outcome.status == "fresh" for outcome in report.connections):
        lines.append("Nothing is due, so Airflow was left alone.")
    width = max(len(outcome.conn_id) for outcome in report.connections)
    for outcome in report.connections:
        line = f"{outcome.conn_id:{width}}  {outcome.status:7}"
        if outcome.expires_at:
            seconds = (outcome.expires_at - datetime.now(timezone.utc)).total_seconds()
            minutes = round(seconds / 60)
            left = f"{minutes // 60} h {minutes % 60} min" if minutes > 0 else "no more"
            line += f"  {outcome.host}, valid for {left}, until {outcome.expires_at:{_UTC}}"
        lines.append(line.rstrip())
    return "\n".join(lines).encode("utf-8", "replace").decode()  # a path may be no UTF-8


def _json(report: Report) -> str:
    keys = ("executable", "version", "method")
    airflow = {key: getattr(report.airflow, key, None) for key in keys}
    document = {"airflow": airflow, "connections": [asdict(o) for o in report.connections]}
    return json.dumps(document, indent=2, default="{:%Y-%m-%dT%H:%M:%SZ}".format)


# --- the command ----------------------------------------------------------------------


def _json_object(_context: object, _parameter: object, text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.BadParameter('not a JSON object, such as \'{"email": "me@example.com"}\'')
    return value


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


@click.command(
    context_settings={
        "auto_envvar_prefix": "ECR_AIRFLOW_SYNC",
        "help_option_names": ["--help", "-h"],
        "show_default": True,
    }
)
@click.option(
    "-r",
    "--region",
    multiple=True,
    metavar="REGION",
    help="AWS region; repeatable.  [AWS_REGION, or boto3's]",
)
@click.option(
    "--registry", multiple=True, metavar="ACCOUNT_ID", help="Registry id; repeatable.  [your own]"
)
@click.option(
    "--conn-id",
    metavar="TEMPLATE",
    default="docker_default",
    help="Connection id; may hold {registry} and {region}.",
)
@click.option("--profile", metavar="NAME", help="AWS profile.  [boto3's]")
@click.option("--conn-extra", metavar="JSON", callback=_json_object, help="The connection's extra.")
@click.option(
    "--airflow",
    metavar="COMMAND",
    default="airflow",
    help="The airflow script, or a command line that ends in it.",
)
@click.option("--airflow-version", metavar="X.Y.Z", help="Skips detection.")
@click.option("--method", type=click.Choice(METHODS), default="auto", help="How to write.")
@click.option("--timeout", metavar="SECONDS", default=120.0, help="For one Airflow process.")
@click.option(
    "--splay",
    metavar="SECONDS",
    type=click.IntRange(0, 86400),
    default=0,
    help="Wait a random time of at most that; not in a terminal.",
)
@click.option(
    "--renew-before",
    metavar="DURATION",
    callback=_seconds,
    help="Write only what has less than that to live: 6h, 90m.",
)
@click.option("--force", is_flag=True, help="Write all, whatever --renew-before says.")
@click.option(
    "--metrics-file",
    metavar="PATH",
    help="For node_exporter's textfile collector; needs the extra [metrics].",
)
@click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@click.option("--json", is_flag=True, help="The report as one JSON document on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only, for cron.")
@click.option("-v", "--verbose", is_flag=True, help="Also what Airflow prints, secrets masked.")
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
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    except SyncError as error:
        report, problems = error.report, str(error)
    if metrics_file and not options["dry_run"]:
        _write_metrics(metrics_file, report, time.monotonic() - began)
    if problems:  # first, because stdout may be gone, as in `| head -1`
        click.echo(problems, err=True)
    if as_json or not quiet:
        _tell(_json(report) if as_json else _text(report))
    if problems:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main(prog_name="ecr-airflow-sync")

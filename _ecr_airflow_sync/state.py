"""What this host last wrote, kept in a file from run to run. It holds no secret."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any, Collection, Iterable, Mapping

from .errors import add_clause
from .model import UTC_FORMAT, Result, Target, format_left

log = logging.getLogger("ecr_airflow_sync")

# The environment decides which Airflow a command leads to, and who asks ECR.
LEADS_TO_AIRFLOW = (
    r"AIRFLOW_(HOME|CONFIG|CLI_ENVIRONMENT)|HOME|DOCKER_\w+|KUBECONFIG"
    r"|.*__(SQL_ALCHEMY_CONN|FERNET_KEY)(_\w+)?"
)
IDENTIFIES_TO_AWS = r"AWS_(ACCESS_KEY_ID|ROLE_ARN|(DEFAULT_)?(PROFILE|REGION)|\w+_FILE)"


@dataclass(frozen=True)
class Entry:
    """A connection as this host last wrote it. Times are UTC.

    ``airflow`` and ``target`` are digests of what decides where it was written, and
    what. ``failed``: the last run did not end well, so the next one writes again.
    """

    airflow: str
    target: str
    conn_id: str
    registry: str
    region: str
    host: str
    written_at: datetime
    expires_at: datetime
    last_success: datetime
    failed: bool = False


class State:
    """The entries of one Airflow, beside those of others in the same file."""

    def __init__(self, path: str, entries: list[Entry], airflow: str) -> None:
        self._path = path
        self._entries = entries
        self._airflow = airflow

    @classmethod
    def load(cls, airflow_command: str) -> State:
        """What an earlier run left. What cannot be read is as nothing."""
        path = _find_path()
        return cls(path, _read_entries(path), _digest_airflow(airflow_command))

    def find_fresh(
        self, targets: Iterable[Target], renew_before: float
    ) -> dict[Target, Result]:
        """Those whose token has so many seconds to live, as they were written."""
        fresh = {}
        for target in targets:
            entry = self._find(target)
            if entry and _is_fresh(entry, renew_before):
                fresh[target] = _tell_fresh(entry)
        return fresh

    def explain_failure(self, target: Target, result: Result) -> Result:
        """A failed result, with what the connection still holds."""
        entry = self._find(target)
        if not entry or not result.error:
            return result
        return replace(
            result,
            conn_id=entry.conn_id,
            error=add_clause(result.error, _describe_held(entry)),
            expires_at=entry.expires_at,
            last_success=entry.last_success,
        )

    def record(self, results: Mapping[Target, Result | None]) -> None:
        """Take in what became of targets. None: the run ended before that was known."""
        for target, result in results.items():
            if result and result.status == "written":
                self._put(target, result)
            elif result and result.status == "fresh":
                self._change(target, result.conn_id, last_success=result.last_success)
            else:
                conn_id = result.conn_id if result else target.conn_id
                self._change(target, conn_id, failed=True)
        self._prune({_digest_target(target) for target in results})

    def save(self, is_needed: bool) -> None:
        """Replace the file. If nobody needs it, that it cannot be kept is no error."""
        try:
            self._replace_file()
        except OSError as error:
            log.log(
                logging.ERROR if is_needed else logging.DEBUG,
                "state %s: %s; until it can be kept, each run writes",
                self._path,
                error.strerror,
            )

    def _replace_file(self) -> None:
        folder = os.path.dirname(self._path)
        if folder.startswith("~"):
            raise FileNotFoundError(2, "HOME is not set")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        document = {"connections": [asdict(entry) for entry in self._entries]}
        new = os.path.join(folder, f"written.{os.getpid()}.new")
        with open(new, "w", encoding="ascii", opener=_open_private) as file:
            json.dump(document, file, indent=1, default=datetime.isoformat)
        os.replace(new, self._path)

    def list_conn_ids(self) -> set[str]:
        """The connections of this Airflow that this host wrote."""
        entries = self._entries
        return {entry.conn_id for entry in entries if entry.airflow == self._airflow}

    def _find(self, target: Target) -> Entry | None:
        digest = _digest_target(target)
        for entry in self._entries:
            if entry.airflow == self._airflow and entry.target == digest:
                return entry
        return None

    def _is_of(self, entry: Entry, target: Target, conn_id: str) -> bool:
        """Whoever wrote it: a connection is one, whatever was asked for."""
        if entry.airflow != self._airflow:
            return False
        return entry.conn_id == conn_id or entry.target == _digest_target(target)

    def _put(self, target: Target, result: Result) -> None:
        written_at = result.last_success or _now()
        entry = Entry(
            airflow=self._airflow,
            target=_digest_target(target),
            conn_id=result.conn_id,
            registry=result.registry or "",
            region=result.region or "",
            host=result.host or "",
            written_at=written_at,
            expires_at=result.expires_at or written_at,
            last_success=written_at,
        )
        others = [e for e in self._entries if not self._is_of(e, target, entry.conn_id)]
        self._entries = [*others, entry]

    def _change(self, target: Target, conn_id: str, **fields: Any) -> None:
        self._entries = [
            replace(entry, **fields) if self._is_of(entry, target, conn_id) else entry
            for entry in self._entries
        ]

    def _prune(self, asked_for: Collection[str]) -> None:
        """Forget expired tokens, but for those that the metrics still tell of."""
        self._entries = [
            entry
            for entry in self._entries
            if entry.expires_at > _now() or entry.target in asked_for
        ]


def _is_fresh(entry: Entry, renew_before: float) -> bool:
    now = _now()
    if entry.failed or entry.written_at > now:  # a clock set back ends all trust
        return False
    return (entry.expires_at - now).total_seconds() >= renew_before


def _tell_fresh(entry: Entry) -> Result:
    return Result(
        conn_id=entry.conn_id,
        status="fresh",
        registry=entry.registry,
        region=entry.region,
        host=entry.host,
        expires_at=entry.expires_at,
        last_success=_now(),
    )


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _find_path() -> str:
    # A unit may have several state directories; the first is ours.
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if folder:
        return os.path.join(folder, "written.json")
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "ecr-airflow-sync", "written.json")


def _read_entries(path: str) -> list[Entry]:
    try:
        with open(path, encoding="ascii") as file:
            documents = json.load(file)["connections"]
        return [_parse_entry(document) for document in documents]
    except Exception:  # noqa: BLE001 - there may be anything in a file
        return []


def _parse_entry(document: dict[str, Any]) -> Entry:
    """Raises an exception of some kind if it is not one of ours."""
    times = {}
    for name in ("written_at", "expires_at", "last_success"):
        times[name] = datetime.fromisoformat(document[name]).astimezone(timezone.utc)
    entry = Entry(**{**document, **times})
    texts = (entry.airflow, entry.target, entry.conn_id, entry.registry)
    for text in (*texts, entry.region, entry.host):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
    return entry


def _digest_airflow(command: str) -> str:
    *prefix, script = shlex.split(command)
    found = shutil.which(script) or script
    environment = _list_environment(LEADS_TO_AIRFLOW)
    return _digest([prefix, found, environment, _read_airflow_cfg()])


def _read_airflow_cfg() -> str:
    """It may name the database. "" where it cannot be read, as within a container."""
    home = os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow")
    path = os.environ.get("AIRFLOW_CONFIG") or os.path.join(home, "airflow.cfg")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _digest_target(target: Target) -> str:
    return _digest([asdict(target), _list_environment(IDENTIFIES_TO_AWS)])


def _list_environment(names: str) -> list[tuple[str, str]]:
    variables = os.environ.items()
    return sorted(item for item in variables if re.fullmatch(names, item[0]))


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _describe_held(entry: Entry) -> str:
    if entry.expires_at <= _now():
        until = entry.expires_at.strftime(UTC_FORMAT)
        return f"the token written there expired at {until}"
    written = f"{entry.written_at:%H:%M} UTC"
    left = format_left(entry.expires_at)
    return f"the token written there at {written} is valid for {left} more"

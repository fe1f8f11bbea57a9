"""Puts the commands of Airflow that run in between into one database transaction.

Run by in_airflow.py in Airflow's own Python, 3.6 or later; so it imports nothing of
ours. Its argument is begin, commit or rollback.

All commands take their session from airflow.settings.Session, which has one for each
thread (airflow/utils/db.py in 1.10, then airflow/utils/session.py). In a transaction
its commit only flushes, and its close waits: so nobody sees a connection missing
between `connections delete` and `add`, and what fails leaves the old one in place.
Where Airflow would log the token that `add` is given, that is masked too.
"""

import re
import sys
from contextlib import suppress
from functools import lru_cache
from types import SimpleNamespace
from typing import Any


def main() -> None:
    from airflow import settings

    _keep_token_out_of_audit_log()
    session = settings.Session()
    if settings.Session() is not session:
        raise RuntimeError("Airflow's commands do not share a database session")
    if sys.argv[1] == "begin":
        _begin(session)
    else:
        _end(session, sys.argv[1])
        _spare_repetition()


def _keep_token_out_of_audit_log() -> None:
    """1.10.0 to 1.10.13 write all words of a command into it (airflow/utils/cli.py).

    Later ones mask --conn-password themselves.
    """
    with suppress(ImportError):
        from airflow.utils import cli

        if hasattr(cli, "_build_metrics_with_token"):
            return
        cli._build_metrics_with_token = cli._build_metrics
        cli._build_metrics = _build_metrics_without_token


def _build_metrics_without_token(*arguments: Any) -> Any:
    from airflow.utils import cli

    words = sys.argv
    sys.argv = [_hide_password(word) for word in words]
    try:
        return cli._build_metrics_with_token(*arguments)
    finally:
        sys.argv = words


def _hide_password(word: str) -> str:
    return re.sub("^(--conn_password=).*", r"\1***", word)


def _begin(session: Any) -> None:
    _wait_for_others(session)
    session.commit = session.flush
    session.close = lambda: None
    session.masked_before = set(_find_masker().patterns)


def _wait_for_others(session: Any) -> None:
    """On 1.10, whose table has no unique key: two hosts would add the same row.

    Reads go on. The lock lasts to the end of the transaction; in MySQL, which would end
    the transaction to lock a table, to the end of this process.
    """
    from airflow.models import Connection

    table = Connection.__table__
    database = session.get_bind().dialect.name
    if table.c.conn_id.unique or database not in ("postgresql", "mysql"):
        return
    lock = f"LOCK TABLE {table.fullname} IN SHARE ROW EXCLUSIVE MODE"
    if database == "mysql":
        lock = "DO GET_LOCK('ecr-airflow-sync', 60)"
    try:
        session.execute(lock)
    except Exception:
        session.rollback()
        raise


def _end(session: Any, how: str) -> None:
    del session.commit, session.close  # which uncovers its own
    # What the commands printed is masked. For each further secret, Airflow compiles all
    # of them anew: for the tokens of ten connections, that takes more than a second.
    _find_masker().patterns = session.masked_before
    try:
        getattr(session, how)()
    finally:
        session.close()


def _find_masker() -> Any:
    """What hides secrets in Airflow's logs, in 2.1 and later."""
    try:
        from airflow.utils.log.secrets_masker import _secrets_masker

        return _secrets_masker()
    except (ImportError, RuntimeError):
        return SimpleNamespace(patterns=set())


def _spare_repetition() -> None:
    """What a command has done once is most of the time of further ones, done again."""
    with suppress(ImportError):
        from airflow.utils import db

        # airflow/utils/cli.py of 2.x looks for migrations before each command.
        db.check_and_run_migrations = lambda: None
    with suppress(ImportError):
        from airflow.bin.cli import CLIFactory

        # The script of 1.10 makes the parser of its whole command line each time.
        CLIFactory.get_parser = lru_cache(maxsize=None)(CLIFactory.get_parser)


if __name__ == "__main__":
    main()

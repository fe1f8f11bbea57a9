"""--config: an INI file in which each section is a connection that is asked for."""

from __future__ import annotations

import configparser
import os
import pwd
import shlex
import stat
from dataclasses import replace
from pathlib import Path

from .errors import UsageError
from .model import Target
from .targets import validate_target

KEYS = (
    "region",
    "registry",
    "profile",
    "role_arn",
    "external_id",
    "aws_conn_id",
    "host",
    "extra",
)


def read_config(path: str, common: Target) -> list[Target]:
    """The file's targets. ``common`` has what neither a section nor [DEFAULT] says.

    Raises UsageError, which names the file and, where there is one, the section.
    """
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    try:
        parser.read_string(_read_trusted(path), path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (configparser.Error, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    if not parser.sections():
        raise UsageError(f"{path}: no section, such as [docker_default]")
    return [_read_section(path, parser[name], common) for name in parser.sections()]


def _read_trusted(path: str) -> str:
    """The text of a file that nobody else can have written, as ssh reads its own.

    Whether a group may is the site's choice.
    """
    with open(path, encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        user = os.geteuid()
        if found.st_uid not in (0, user):
            owner = _name_user(found.st_uid)
            cure = f"chown {_name_user(user)} {shlex.quote(path)}"
            raise UsageError(f"{path}: its owner is {owner}; {cure}")
        if found.st_mode & stat.S_IWOTH:
            cure = f"chmod o-w {shlex.quote(path)}"
            raise UsageError(f"{path}: everyone may write it; {cure}")
        for folder in Path(path).resolve().parents:
            _refuse_open_folder(path, folder)
        return file.read()


def _refuse_open_folder(path: str, folder: Path) -> None:
    """In a sticky one, such as /tmp, nobody can replace what is another's."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        cure = f"chmod o-w {shlex.quote(str(folder))}"
        raise UsageError(f"{path}: everyone may write its folder {folder}; {cure}")


def _name_user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _read_section(
    path: str, section: configparser.SectionProxy, common: Target
) -> Target:
    try:
        for key, value in section.items():
            _validate_line(key, value)
        if "{" in section.name:
            raise UsageError("a section is a connection id, without placeholders")
        return validate_target(replace(common, conn_id=section.name, **section))
    except UsageError as error:
        raise UsageError(f"{path}, [{section.name}]: {error}") from None


def _validate_line(key: str, value: str) -> None:
    if key not in KEYS:
        raise UsageError(f"unknown key {key}; there are {', '.join(KEYS)}")
    if not value:
        raise UsageError(f"{key} has no value")
    if "\n" in value and key != "extra":
        raise UsageError(f"{key} has two lines")

"""--help: the options under headings, and where the documentation is."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any, Callable

import click


def under(heading: str) -> Callable[..., Any]:
    """click.option, for those that are listed under the heading."""
    return partial(click.option, cls=_ListedOption, heading=heading)


class _ListedOption(click.Option):
    def __init__(self, *args: Any, heading: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heading = heading


class Command(click.Command):
    """A command whose --help lists its options under their headings."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        listed: dict[str, list[tuple[str, str]]] = {}
        heading = "Options"
        for parameter in self.get_params(ctx):
            # Click's own --version and --help come last, below those before them.
            heading = getattr(parameter, "heading", heading)
            record = parameter.get_help_record(ctx)
            if record:
                listed.setdefault(heading, []).append(record)
        for heading, records in listed.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002 - as Click calls it
        formatter: click.HelpFormatter,
    ) -> None:
        folder = find_docs()
        if folder:
            formatter.write(f"\nDocumentation: {folder}\n")


def find_docs() -> str | None:
    """The folder docs/ of the clone, or the one that was installed with the command."""
    clone = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(sys.prefix, "share/ecr-airflow-sync")
    for root in (clone, installed):
        folder = os.path.join(root, "docs")
        if os.path.exists(os.path.join(folder, "options.md")):
            return folder
    return None

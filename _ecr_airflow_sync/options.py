"""The command's options, under the headings of --help and of docs/options.md."""

from __future__ import annotations

import re
from typing import Any, Callable, Mapping, TypeVar

import click
from click.core import ParameterSource

from .airflow_syntax import METHODS
from .errors import UsageError
from .help_page import under
from .model import DEFAULT_CONN_ID, Target
from .targets import combine_targets

Function = TypeVar("Function", bound=Callable[..., Any])


def take_options(function: Function) -> Function:
    """A decorator, as click.option is: it gives a command all of them."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def name_as_given(name: str) -> str:
    """What the user wrote to give the option: itself, or its variable."""
    context = click.get_current_context()
    if context.get_parameter_source(name) == ParameterSource.ENVIRONMENT:
        return f"{context.auto_envvar_prefix}_{name.upper()}"
    return f"--{name.replace('_', '-')}"


def _parse_duration(_context: object, _parameter: object, text: str | None) -> float:
    """Seconds, of hours, minutes and seconds in this order."""
    if text is None:
        return 0
    units = r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,7})s)?"
    found = re.fullmatch(units, text)
    hours, minutes, seconds = map(int, found.groups("0") if found else "000")
    if not hours + minutes + seconds:
        raise click.BadParameter(f"{text!r} is not a duration such as 6h, 90m or 1h30m")
    return 3600 * hours + 60 * minutes + seconds


what = under("What to write")
who = under("As which AWS identity")
where = under("Which Airflow, and how to write")
when = under("When to write")
shown = under("What to print")

OPTIONS = (
    what(
        "-r",
        "--region",
        metavar="REGION",
        multiple=True,
        help="Name the AWS region; repeat it for several. Without it, AWS_REGION "
        "or boto3 decides.",
    ),
    what(
        "--registry",
        metavar="ID",
        multiple=True,
        help="Name a registry by its account id, or public for ECR Public; repeat it "
        "for several. Without it, it is your own account's.",
    ),
    what(
        "--conn-id",
        metavar="TEMPLATE",
        default=DEFAULT_CONN_ID,
        help="Name the connection; may hold {registry} and {region}.",
    ),
    what(
        "--config",
        metavar="FILE",
        help="Read the connections from a file, where each has a section.",
    ),
    what(
        "--host",
        metavar="TEMPLATE",
        help="Set the connection's host, if image names have another than ECR's "
        "usual one.",
    ),
    what(
        "--conn-extra",
        metavar="JSON",
        help="Set the connection's extra, a JSON object.",
    ),
    who("--profile", metavar="NAME", help="Use this profile of ~/.aws/config."),
    who("--role-arn", metavar="ARN", help="Assume this role before ECR is asked."),
    who(
        "--external-id",
        metavar="ID",
        help="Give the external id that the role's trust policy asks for.",
    ),
    who(
        "--aws-conn-id",
        metavar="ID",
        help="Take the AWS credentials from this Airflow connection.",
    ),
    where(
        "--airflow",
        metavar="COMMAND",
        default="airflow",
        help="Name the airflow script, or a command line that ends in it.",
    ),
    where(
        "--airflow-version",
        metavar="X.Y.Z",
        help="State Airflow's version, so that it is not detected.",
    ),
    where(
        "--method",
        type=click.Choice(METHODS),
        default="auto",
        help="Choose how to write; auto is right for every version.",
    ),
    where(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=120,
        help="Limit all that Airflow does in this run; what is late is ended.",
    ),
    when(
        "--splay",
        metavar="SECONDS",
        type=click.IntRange(0, 86400),
        default=0,
        help="Wait for a random time before the run, at most this long; never in a "
        "terminal.",
    ),
    when(
        "--renew-before",
        metavar="DURATION",
        callback=_parse_duration,
        help="Leave a token alone that is valid for longer than this: 6h, 90m.",
    ),
    when(
        "--replace",
        is_flag=True,
        help="Replace a connection even if ecr-airflow-sync did not write it.",
    ),
    when(
        "--force",
        is_flag=True,
        help="Write in any case, whatever --renew-before says.",
    ),
    when(
        "--check",
        is_flag=True,
        help="Say whether DockerOperator could log in now; write nothing.",
    ),
    when(
        "--dry-run",
        is_flag=True,
        help="Say what would be written; write nothing.",
    ),
    shown(
        "--json",
        is_flag=True,
        help="Print the report as one JSON document.",
    ),
    shown(
        "--metrics-file",
        metavar="PATH",
        help="Write metrics for Prometheus to this file; needs the extra metrics.",
    ),
    shown(
        "-q",
        "--quiet",
        is_flag=True,
        help="Print errors only, so that cron sends no mail while all is well.",
    ),
    shown(
        "-v",
        "--verbose",
        is_flag=True,
        help="Also print what Airflow prints, with secrets masked.",
    ),
)


def read_targets(options: Mapping[str, Any]) -> list[Target]:
    """What the options ask for, or the file that they name. Raises UsageError."""
    common = Target(
        conn_id=options["conn_id"],
        profile=options["profile"],
        role_arn=options["role_arn"],
        external_id=options["external_id"],
        aws_conn_id=options["aws_conn_id"],
        host=options["host"],
        extra=options["conn_extra"],
    )
    if options["config"]:
        _refuse_beside_config(options)
        from .config_file import read_config  # what few runs need

        return read_config(options["config"], common)
    return combine_targets(common, options["region"], options["registry"])


def _refuse_beside_config(options: Mapping[str, Any]) -> None:
    in_the_file = {"region": (), "registry": (), "conn_id": DEFAULT_CONN_ID}
    given = [name for name, nothing in in_the_file.items() if options[name] != nothing]
    if given:
        names = " and ".join(name_as_given(name) for name in given)
        raise UsageError(
            f"{names} cannot be used with {name_as_given('config')}: "
            "regions, registries and connection ids stand in the file"
        )

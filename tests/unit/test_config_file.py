"""A file of sections: what it may say, who may write it, and how it is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _ecr_airflow_sync.config_file import read_config
from _ecr_airflow_sync.errors import UsageError
from _ecr_airflow_sync.model import Target

from .conftest import A, B, catch

KEYS = "region, registry, profile, role_arn, external_id, aws_conn_id, host, extra"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty file that only its owner may write."""
    file = tmp_path / "a folder" / "sync.ini"
    file.parent.mkdir()
    file.touch(0o600)
    return file


def refuse(path: Path) -> str:
    """Why."""
    return catch(UsageError, read_config, str(path), Target())


def test_a_section_comes_before_default_and_default_before_options(path: Path) -> None:
    path.write_text(f"""\
[DEFAULT]
region = us-east-1
host = {{registry}}.default
[one]
[two]
; a comment
# another
Region = eu-west-1
host = {{registry}}.two
extra = {{
    "email": "a%b@example.com"
  }}
[three]
registry = public
[{A}]
registry = {A}
""")
    common = Target("not.taken", "x", B, host="common", role_arn="r", extra="{}")
    assert read_config(str(path), common) == [
        Target("one", "us-east-1", B, host="{registry}.default", role_arn="r", extra="{}"),
        Target("two", "eu-west-1", B, host="{registry}.two", role_arn="r",
               extra='{\n"email": "a%b@example.com"\n}'),
        Target("three", "us-east-1", "public", host="public.ecr.aws", role_arn="r", extra="{}"),
        Target(A, "us-east-1", A, host="{registry}.default", role_arn="r", extra="{}"),
    ]  # fmt: skip


def test_a_key_may_have_an_equals_sign_and_a_colon_in_its_value(path: Path) -> None:
    path.write_text("[x]\nrole_arn=arn:aws:iam::1:role/a\nexternal_id = a=b : c\n")
    (target,) = read_config(str(path), Target())
    assert target.role_arn == "arn:aws:iam::1:role/a"
    assert target.external_id == "a=b : c"


def test_a_file_that_everyone_may_write(path: Path) -> None:
    """Whether a group may is the site's own choice."""
    path.write_text("[x]\n")
    path.chmod(0o664)
    assert read_config(str(path), Target()) == [Target("x")]
    path.chmod(0o602)
    assert refuse(path) == f"{path}: everyone may write it; chmod o-w '{path}'"


UNKNOWN = f"; there are {KEYS}"
REFUSED = [
    ("[x]\nregoin = us-east-1\n", f", [x]: unknown key regoin{UNKNOWN}"),
    ("[DEFAULT]\n\nconn_id = x\n[x]\n", f", [x]: unknown key conn_id{UNKNOWN}"),
    ("[x]\n\nregion =\n", ", [x]: region has no value"),
    ("[x]\nregion = a\n  profile = b\n", ", [x]: region has two lines"),
    (
        "[x]\nregion: us-east-1\n",
        ": Source contains parsing errors: '{path}' [line 2]: 'region: us-east-1",
    ),
    (
        "region = x\n",
        ": File contains no section headers. file: '{path}', line: 1 'region = x",
    ),
    (
        "[x]\n[y]\n[x]\n",
        ": While reading from '{path}' [line 3]: section 'x' already exists",
    ),
    ("[DEFAULT]\nregion = us-east-1\n", ": no section, such as [docker_default]"),
    (
        "[DEFAULT]\nprofile = a\n[x]\naws_conn_id = b\n",
        ", [x]: profile and aws_conn_id are two",
    ),
    ("[a b]\n", ", [a b]: conn id 'a b': it must be 1 to 200"),
    (
        "[e_{region}]\n",
        ", [e_{region}]: a section is a connection id, without placeholders",
    ),
    (
        "[x]\nregion = \udcff\n",
        ": 'utf-8' codec can't decode byte 0xff in position 13",
    ),
]


@pytest.mark.parametrize(("text", "error"), REFUSED, ids=ascii)
def test_what_is_refused(path: Path, text: str, error: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    told = refuse(path)
    assert told.startswith(f"{path}{error.replace('{path}', str(path))}")
    assert "\n" not in told


def test_what_cannot_be_read(path: Path) -> None:
    assert refuse(path.parent) == f"{path.parent}: Is a directory"


def test_a_folder_that_everyone_may_write(path: Path) -> None:
    """Unless it is sticky: then nobody can replace the file of another."""
    path.write_text("[x]\n")
    path.parent.chmod(0o777)
    told = f"{path}: everyone may write its folder {path.parent}; chmod o-w "
    assert refuse(path) == f"{told}'{path.parent}'"
    path.parent.chmod(0o1777)
    assert len(read_config(str(path), Target())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
@pytest.mark.parametrize(
    ("user", "name"), [(1, "daemon"), (12345678, "12345678")], ids=["known", "unknown"]
)
def test_a_file_of_another_user(path: Path, user: int, name: str) -> None:
    path.write_text("[x]\n")
    os.chown(path, user, -1)
    assert refuse(path) == f"{path}: its owner is {name}; chown root '{path}'"


def test_a_long_error_is_cut(path: Path) -> None:
    path.write_text("[x]\n" + "y\n" * 300)
    assert len(refuse(path)) == len(f"{path}: ") + 300


lines = st.sampled_from(
    ["[x]", "[y]", "[DEFAULT]", "region = us-east-1", f"registry = {A}", "extra = {", '  "a": 1}', "region", "= x",
     "host = {registry}.x", "role_arn = r", "external_id = e", "  continued", "# note", "; note", "[", "]", "[]"]
) | st.text("[]=:;#%{}\" \t\rx\u00fc", max_size=12)  # fmt: skip
files = st.lists(lines, max_size=8).map(
    lambda some: "\n".join(some).encode("utf-8", "replace")
)


@settings(max_examples=30, deadline=None)
@given(files | st.binary(max_size=60))
@example(b"[x]\nextra = " + b"[" * 100_000)
@example(b"[x]\r\nregion = a\r\n")
@example(b"\xef\xbb\xbf[x]\n")
@example(b"[DEFAULT]\n[x\n")
def test_no_file_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = Path(tmp_path_factory.getbasetemp(), "any.ini")
    path.write_bytes(content)
    path.chmod(0o600)
    try:
        targets = read_config(str(path), Target())
    except UsageError as error:
        told = str(error)
    else:
        told = str(path)
        assert len({target.conn_id for target in targets}) == len(targets) > 0
    assert "\n" not in told
    assert told.startswith(str(path))

"""Secrets are hidden here before anybody's text is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable


@dataclass(frozen=True)
class _Mask:
    hides: str
    pattern: str
    shown: str = "***"


_MASKS = (
    _Mask(
        # Not the list ['b'], nor an id that ends so.
        hides="a header that http.client refuses: a session token with a newline",
        pattern=r"(?<![\w'-])b'[^']*",
    ),
    _Mask(
        hides="the password of a URL, also one that holds a slash",
        pattern=r"(://[^\s:@/]{0,99}):\S{1,99}@",
        shown=r"\1:***@",
    ),
    _Mask(
        hides="the password of what is not quite a URL, such as db:user:password@host",
        pattern=r":[^\s:@/]+@",
        shown=":***@",
    ),
    _Mask(
        # No slash in it: paths and ARNs are to be read.
        hides="an authorization token, and any piece of one that is worth having",
        pattern=r"[\w+=-]{60,}",
    ),
    _Mask(
        hides="the port that urllib could not read, where a password holds a colon",
        pattern=r"(?<=value as ')[^']*",
    ),
)


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets, and without what looks like one."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    for each in _MASKS:
        text = re.sub(each.pattern, each.shown, text)
    return text

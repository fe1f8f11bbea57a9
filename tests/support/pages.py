"""What the pages print for a reader to type or to copy, for tests that do so."""

from __future__ import annotations

import re

from tests.support.command import ROOT


def commands(page: str, heading: str) -> list[str]:
    """The commands of a section, as they are to be typed."""
    found: list[str] = []
    for block in blocks(page, heading, "console"):
        found += re.findall(r"^\$ (.*(?:\n    .*)*)", block, re.MULTILINE)
    return found


def blocks(page: str, heading: str, language: str = "") -> list[str]:
    """The fenced blocks of that language in a section."""
    text = (ROOT / page).read_text()
    _, _, section = text.partition(f"\n## {heading}\n")
    assert section, f"{page} has no section {heading}"
    section, _, _ = section.partition("\n## ")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]

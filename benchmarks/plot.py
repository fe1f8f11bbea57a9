"""The README's plot: an SVG on a card of its own, light or dark as the browser is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

WIDTH, LEFT, RIGHT, BAR, STEP = 720, 150, 175, 14, 20
STYLE = """
  text { font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 } .airflow { font-weight: 600 } .small { font-size: 11px }
  .small, .axis { fill: #59636e } .card { fill: #ffffff; stroke: #d1d9e0 } .ground { fill: #ffffff } .grid { stroke: #d1d9e0 }
  .ours { fill: #1a7f5a } .common { fill: #9aa4af } .missing { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small, .axis { fill: #9198a1 } .card { fill: #0d1117; stroke: #3d444d } .ground { fill: #0d1117 }
    .grid { stroke: #3d444d } .ours { fill: #3fb98a } .common { fill: #6e7781 } .missing { fill: #ff6a69 }
  }
"""
KINDS = {
    "ours": "ecr-airflow-sync",
    "common": "connections delete, add",
    "missing": "a connection is missing",
}


@dataclass(frozen=True)
class Row:
    """One bar. ``wall`` and ``missing`` are seconds."""

    version: str
    count: int
    kind: str
    wall: float
    missing: float


def plot(rows: Sequence[Row], about: Sequence[str]) -> str:
    """``about`` are the lines below the axis."""
    longest = max(row.wall for row in rows)
    scale = (WIDTH - LEFT - RIGHT) / longest
    drawn = []
    y = 92.0
    before: Row | None = None
    for row in rows:
        if before is None or row.version != before.version:
            y += 14 if before else 4
            drawn.append(text(20, y + 11.5, f"Airflow {row.version}", "airflow"))
            y += STEP
        if before is None or (row.version, row.count) != (before.version, before.count):
            words = f"{row.count} connection{'s' if row.count > 1 else ''}"
            drawn.append(text(LEFT - 10, y + 11.5 + STEP / 2, words, "", "end"))
        drawn += draw_bar(y, scale, row)
        y += STEP
        before = row
    height = y + 66
    elements = [
        box(0.5, 0.5, WIDTH - 1, height - 1, "card"),
        text(20, 30, "Seconds to renew ECR tokens in Airflow connections", "title"),
        *draw_legend(56),
        *draw_axis(78, y + 2, scale, longest),
        *drawn,
    ]
    for number, words in enumerate(about):
        elements.append(text(20, height - 28 + 15 * number, words, "small"))
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    lines = "\n".join(f"  {element}" for element in elements)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return f"{svg}\n<style>{STYLE}</style>\n{lines}\n</svg>\n"


def format_seconds(value: float) -> str:
    """With two digits that count, and at least the ones."""
    if value >= 99.5 or not value:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def draw_bar(y: float, scale: float, row: Row) -> Iterator[str]:
    """As long as the run; the red part at its foot is how long one was missing."""
    end = LEFT + row.wall * scale
    yield box(LEFT, y, max(row.wall * scale, 1), BAR, row.kind)
    words = f"{format_seconds(row.wall)} s, never missing"
    if row.missing:
        yield box(LEFT, y + BAR - 5, max(row.missing * scale, 1), 5, "missing")
        missing = format_seconds(row.missing)
        words = f"{format_seconds(row.wall)} s, missing {missing} s"
    yield box(end + 6, y, 6.5 * len(words), BAR, "ground")
    yield text(end + 6, y + 11.5, words)


def draw_legend(y: float) -> Iterator[str]:
    x = 20.0
    for kind, words in KINDS.items():
        height = 5 if kind == "missing" else 12
        yield box(x, y - height + 1, 12, height, kind)
        yield text(x + 18, y, words)
        x += 30 + 7 * len(words)


def draw_axis(top: float, bottom: float, scale: float, longest: float) -> Iterator[str]:
    sizes = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    size = next(size for size in sizes if longest / size <= 9)
    for count in range(int(longest / size) + 1):
        x = LEFT + count * size * scale
        ends = f'x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"'
        yield f'<line {ends} class="grid"/>'
        words = f"{count * size:g} s" if count else "0"
        yield text(x, bottom + 15, words, "axis small", "middle")


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} class="{kind}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} class="{kind}"/>'

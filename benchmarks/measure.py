"""Two ways to do the same, measured in turns: medians, and the median of the ratios."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Callable, Generic, Sequence, TypeVar

Job = Callable[[], object]
AnyCost = TypeVar("AnyCost")


def seconds(job: Job) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Pairs(Generic[AnyCost]):
    """What each run of ours cost, and each of the other way, which came right after."""

    ours: Sequence[AnyCost]
    other: Sequence[AnyCost]

    def medians(self, figure: Callable[[AnyCost], float]) -> tuple[float, float]:
        return median(map(figure, self.ours)), median(map(figure, self.other))

    def ratio(self, figure: Callable[[AnyCost], float]) -> float:
        """Ours ÷ other. A machine that slows down changes both runs of a pair."""
        return median(figure(a) / figure(b) for a, b in zip(self.ours, self.other))


def take_turns(
    ours: Callable[[], AnyCost], other: Callable[[], AnyCost], rounds: int
) -> Pairs[AnyCost]:
    pairs = [(ours(), other()) for _ in range(rounds)]
    return Pairs([a for a, _ in pairs], [b for _, b in pairs])

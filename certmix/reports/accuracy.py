"""Shares of a run's inputs, with intervals for what they say about others drawn alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from scipy import stats

from certmix.formatting import percent_down, percent_nearest, percent_up

CONFIDENCE = 0.95
SHOW = {"least": percent_down, "most": percent_up, "counted": percent_nearest}
SIGN = {"least": "≥ ", "most": "≤ ", "counted": ""}


@dataclass(frozen=True)
class Share:
    """hits of n inputs. kind: what the count is of the truth: at least, at most, or it was counted. Requires n >= 1."""

    hits: int
    n: int
    kind: Literal["least", "most", "counted"]

    @property
    def percent(self) -> str:
        """Rounded down, up, or to the nearest, as fits the kind."""
        return SHOW[self.kind](self.hits, self.n)

    @property
    def text(self) -> str:
        return f"{SIGN[self.kind]}{self.percent} %"

    @property
    def interval(self) -> tuple[str, str]:
        """Clopper-Pearson, two-sided, in percent, rounded outward: where the share of the whole population lies if the
        inputs are a random sample of it."""
        low, high = _interval(self.hits, self.n)
        return percent_down(*low.as_integer_ratio()), percent_up(*high.as_integer_ratio())


@cache
def _interval(hits: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)

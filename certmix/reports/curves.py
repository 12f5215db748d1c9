"""Accuracy against the radius: exact steps of what is certified and what attacks leave, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from certmix.formatting import lower
from certmix.reports.inputs import Input

TICKS = 6  # about so many along the radius axis
WIDTH, HEIGHT = 10_000, 5_000  # units of the drawing: whole numbers, rounded to the safe side


@dataclass(frozen=True)
class AccuracyCurve:
    """counts[k] inputs from radii[k] on, up to the next one. radii[0] = 0. Ends: the makers say."""

    radii: tuple[float, ...]
    counts: tuple[int, ...]


def certified_curve(inputs: Sequence[Input]) -> AccuracyCurve:
    """How many inputs are certified as their label beyond each radius: a radius itself still counts."""
    certified_radii = sorted(i.radius for i in inputs if i.counts and i.radius is not None and i.radius > 0)
    radii = (0.0, *np.unique(certified_radii).tolist())
    counts = [len(certified_radii) - int(np.searchsorted(certified_radii, r, side="right")) for r in radii]
    return AccuracyCurve(radii, tuple(counts))


def attacked_curve(inputs: Sequence[Input], right: Sequence[bool]) -> AccuracyCurve:
    """How many inputs no known attack changes, of those that the mix gets right: at a radius the attack counts.

    right: (N,) whether the mix gives the label at the input.
    """
    lost = sorted(i.attack.radius for i, ok in zip(inputs, right, strict=True) if ok and i.attack is not None)
    radii = (0.0, *(r for r in np.unique(lost).tolist() if r > 0))
    return AccuracyCurve(radii, tuple(sum(right) - int(np.searchsorted(lost, r, side="right")) for r in radii))


@dataclass(frozen=True)
class Drawing:
    """Paths in a box of WIDTH × HEIGHT units, y downward. ticks: (per cent of the width, text) of the radius axis."""

    certified: str
    attacked: str
    band: str
    ticks: tuple[tuple[str, str], ...]


def draw(certified: AccuracyCurve, attacked: AccuracyCurve, n: int) -> Drawing | None:
    """None where no radius is known. Certified steps are rounded down and attacked ones up, so that the drawing never
    shows more certified, or fewer surviving, inputs than there are."""
    largest_radius = Fraction(max(certified.radii[-1], attacked.radii[-1]))
    if largest_radius <= 0:
        return None
    step = _nice(largest_radius / TICKS)
    count = math.ceil(largest_radius / step)
    low = _corners(certified, count * step, n, math.floor)
    high = _corners(attacked, count * step, n, math.ceil)
    ticks = tuple((lower(Fraction(100 * k, count), 4), lower(k * step, 4)) for k in range(count + 1))
    return Drawing(_path(low), _path(high), _path([*high, *reversed(low)]) + "Z", ticks)


def _nice(least: Fraction) -> Fraction:
    """The smallest 1, 2 or 5 times a power of ten that is at least `least`, > 0."""
    digits = math.log10(least.numerator) - math.log10(least.denominator)  # a float of `least` may be 0
    power = Fraction(10) ** math.floor(digits)
    return next(m * power for m in (1, 2, 5, 10, 20) if m * power >= least)


def _corners(curve: AccuracyCurve, ends: Fraction, n: int, whole: Callable[[Fraction], int]) -> list[tuple[int, int]]:
    """Of the steps, whole numbers of units, from radius 0 to `ends`."""
    x = [whole(Fraction(r) / ends * WIDTH) for r in curve.radii]
    y = [HEIGHT - whole(Fraction(k * HEIGHT, n)) for k in curve.counts]
    corners: list[tuple[int, int]] = []
    for start, stop, level in zip(x, [*x[1:], WIDTH], y, strict=True):
        corners += [(start, level), (stop, level)]
    return list(dict.fromkeys(corners))


def _path(corners: Sequence[tuple[int, int]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in corners)

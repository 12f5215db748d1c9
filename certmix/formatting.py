"""Numbers as text: lower bounds rounded down, upper bounds up, so that no figure says more than what was proven.

Nothing else in certmix turns a float into decimal digits (tests/certmix/test_formatting.py reads the sources).
"""

from __future__ import annotations

import decimal
import math
from fractions import Fraction


def lower(value: float | Fraction, digits: int = 6) -> str:
    """`value` to so many significant digits, rounded down (towards minus infinity).

    Ensures: the decimal number shown is <= value, exactly. Requires digits >= 1.
    """
    return _shown(value, digits, decimal.ROUND_FLOOR)


def upper(value: float | Fraction, digits: int = 6) -> str:
    """`value` to so many significant digits, rounded up.

    Ensures: the decimal number shown is >= value, exactly. Requires digits >= 1.
    """
    return _shown(value, digits, decimal.ROUND_CEILING)


def nearest(value: float | Fraction, digits: int = 6) -> str:
    """`value` to so many significant digits: for what bounds nothing, such as estimates and durations."""
    return _shown(value, digits, decimal.ROUND_HALF_EVEN)


def exact(value: float) -> str:
    """The shortest decimal that reads back as `value`: for what was given, such as alpha, and is part of a claim."""
    return repr(float(value)).removesuffix(".0")


def given(value: float) -> str:
    """The shorter of `exact` and, where the nearest double of one is `value`, a number of 255ths such as 2/255."""
    halves = round(510 * value)
    fraction = [f"{exact(halves / 2)}/255"] if float(Fraction(halves, 510)) == value else []
    return min([exact(value), *fraction], key=len)


def ratio(share: float) -> tuple[int, int]:
    """(k, n) in lowest terms of a share in percent that was computed from counts: the rounding of floats is undone.

    Requires counts of at most 10**6: two ratios of these differ by 10**-12 or more, far beyond that rounding.
    """
    return (Fraction(share) / 100).limit_denominator(10**6).as_integer_ratio()


def percent_down(part: int, whole: int) -> str:
    """100 part / whole with one decimal, rounded down. Requires 0 <= part <= whole, whole >= 1."""
    return _tenths(1000 * part // whole)


def percent_up(part: int, whole: int) -> str:
    """100 part / whole with one decimal, rounded up. Requires 0 <= part <= whole, whole >= 1."""
    return _tenths(-(-1000 * part // whole))


def percent_nearest(part: int, whole: int) -> str:
    """100 part / whole with one decimal, to the nearest: for a share that was counted and bounds nothing."""
    return _tenths(round(Fraction(1000 * part, whole)))


def _tenths(count: int) -> str:
    return f"{count // 10}.{count % 10}"


def _shown(value: float | Fraction, digits: int, rounding: str) -> str:
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(float(value), "nan")
    numerator, denominator = value.as_integer_ratio()
    context = decimal.Context(prec=digits, rounding=rounding, Emin=-9999, Emax=9999)
    rounded = context.divide(decimal.Decimal(numerator), decimal.Decimal(denominator))
    if rounded == 0:
        return "0"
    text = format(rounded, "f") if -5 < rounded.adjusted() < digits + 3 else format(rounded, "e")
    head, e, exponent = text.partition("e")
    return (head.rstrip("0").rstrip(".") if "." in head else head) + e + exponent

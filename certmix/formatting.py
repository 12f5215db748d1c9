"""Numbers as text, rounded to the safe side: what is shown of a lower bound is at most the bound, of an upper bound at
least."""

from __future__ import annotations

import decimal
import math


def lower(value: float, digits: int = 6) -> str:
    """`value` to so many significant digits, rounded down (towards minus infinity).

    Ensures: the decimal number shown is <= value, exactly. Requires digits >= 1.
    """
    return _shown(value, digits, decimal.ROUND_FLOOR)


def upper(value: float, digits: int = 6) -> str:
    """`value` to so many significant digits, rounded up.

    Ensures: the decimal number shown is >= value, exactly. Requires digits >= 1.
    """
    return _shown(value, digits, decimal.ROUND_CEILING)


def percent_down(part: int, whole: int) -> str:
    """100 part / whole with one decimal, rounded down. Requires 0 <= part <= whole, whole >= 1."""
    tenths = 1000 * part // whole
    return f"{tenths // 10}.{tenths % 10}"


def _shown(value: float, digits: int, rounding: str) -> str:
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "nan")
    context = decimal.Context(prec=digits, rounding=rounding, Emin=-9999, Emax=9999)
    rounded = context.plus(decimal.Decimal(value))
    if rounded == 0:
        return "0"
    text = format(rounded, "f") if -5 < rounded.adjusted() < digits + 3 else format(rounded, "e")
    if "e" in text or "." not in text:
        return text
    return text.rstrip("0").rstrip(".")

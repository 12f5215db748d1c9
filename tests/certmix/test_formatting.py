"""Displayed bounds never say more than the bound itself."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmix.formatting import lower, percent_down, upper

FINITE = st.floats(allow_nan=False, allow_infinity=False)
DIGITS = st.integers(1, 17)


@given(FINITE, DIGITS)
def test_a_lower_bound_is_shown_at_most_and_an_upper_bound_at_least(value: float, digits: int):
    assert Fraction(Decimal(lower(value, digits))) <= Fraction(value) <= Fraction(Decimal(upper(value, digits)))


@given(FINITE, DIGITS)
def test_what_is_shown_is_within_one_unit_of_the_last_digit(value: float, digits: int):
    for text in (lower(value, digits), upper(value, digits)):
        unit = Fraction(10) ** (Decimal(value).adjusted() - digits + 1) if value else Fraction(0)
        assert abs(Fraction(Decimal(text)) - Fraction(value)) <= unit


@pytest.mark.parametrize(
    ("value", "below", "above"),
    [(0.1234565, "0.123456", "0.123457"), (2 / 255, "0.00784313", "0.00784314"), (0.0, "0", "0"), (5.0, "5", "5")],
)
def test_examples(value: float, below: str, above: str):
    assert (lower(value), upper(value)) == (below, above)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_percentage_is_shown_at_most(part: int, whole: int):
    part = min(part, whole)
    shown = Fraction(Decimal(percent_down(part, whole)))
    assert 0 <= Fraction(100 * part, whole) - shown < Fraction(1, 10)

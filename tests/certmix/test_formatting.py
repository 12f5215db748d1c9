"""Displayed bounds never say more than the bound itself, and no other module shows any."""

from __future__ import annotations

import ast
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmix.formatting import exact, lower, percent_down, percent_nearest, percent_up, ratio, upper

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


@given(st.fractions(), DIGITS)
def test_a_ratio_is_shown_on_its_side_too(value: Fraction, digits: int):
    assert Fraction(Decimal(lower(value, digits))) <= value <= Fraction(Decimal(upper(value, digits)))


@given(FINITE)
def test_what_was_given_is_shown_exactly(value: float):
    assert float(exact(value)) == value


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_percentage_is_shown_on_its_side(part: int, whole: int):
    part = min(part, whole)
    share = Fraction(100 * part, whole)
    below, near, above = (Fraction(show(part, whole)) for show in (percent_down, percent_nearest, percent_up))
    assert 0 <= share - below < Fraction(1, 10)
    assert 0 <= above - share < Fraction(1, 10)
    assert abs(near - share) <= Fraction(1, 20)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_counts_are_read_back_from_a_share_in_floats(part: int, whole: int):
    part = min(part, whole)
    for share in (100.0 * part / whole, 100.0 * (part / whole)):
        assert Fraction(*ratio(share)) == Fraction(part, whole)


BY_ITSELF = ("certmix/formatting.py", "certmix/testing")  # the suite prints durations and chances
ROOT = Path(__file__).parents[2]
FLOAT_FORMAT = re.compile(r"(\.\d+)?[eEfFgG%]$|\.\d+$")  # the end of a format specification
IN_TEXT = re.compile(r"%[-+ 0]*\d*\.\d+[efg]|\|\s*round\b")  # printf style, also inside a template


def float_formats(source: str) -> list[str]:
    """Every format specification for floats in Python source: in f-strings, format(), str.format and printf style."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec = ast.unparse(node.format_spec).removeprefix("f").strip("'\"")
            found += [spec] if FLOAT_FORMAT.search(spec) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("format", "round"):
            of = ast.unparse(node.args[-1]).strip("'\"")
            found += [of] if len(node.args) == 2 else []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += IN_TEXT.findall(node.value) + re.findall(r"\{[^{}]*:[^{}]*\.\d+[efg%]?\}", node.value)
    return found


def test_nothing_else_turns_floats_into_digits():
    for path in sorted((ROOT / "certmix").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(BY_ITSELF):
            assert not float_formats(path.read_text(encoding="utf-8")), name
    for path in sorted((ROOT / "certmix").rglob("*.html")):
        assert not IN_TEXT.search(path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize(
    "line",
    ["f'{x:.3f}'", "f'{x:>8.2g}'", "f'{x:g}'", "f'{x:.1%}'", "f'{x:6.4}'", "format(x, '.3f')", "'%.6g' % x",
     "'{:.4f}'.format(x)", "round(x, 3)"],
)  # fmt: skip
def test_formats_of_floats_are_seen(line: str):
    assert float_formats(line)
    assert not float_formats("f'{x:>8} {n:3d} {name:<9s} {k:02x} {x!r}'; round(x)")

"""Every number on the page follows from the lines, and none says more than they do."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from bisect import bisect_left, bisect_right
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmix.__main__ import main
from certmix.records.outcomes import Attack
from certmix.reports import page, summary
from certmix.reports.accuracy import Share
from certmix.reports.curves import HEIGHT, WIDTH, attacked_curve, certified_curve, draw
from certmix.reports.inputs import Input
from certmix.reports.reading import MIX, RECOMPUTED, AuditReport, Classes, read

NAMED = {"adaptive": None, "smoothing": None, "robust": "0" * 64, "standard": None}
POINT = np.zeros((1, 8, 8), dtype=np.float32)
RADII = st.floats(min_value=2.0**-60, max_value=1e6) | st.sampled_from([0.0, 0.1, 0.25, 2 / 255, 0.1])


@st.composite
def many_inputs(draw_from: st.DrawFn) -> tuple[Input, ...]:
    """Certified, attacked and open inputs with right and wrong classes; attacks lie above certificates."""
    found: list[Input] = []
    for index in range(draw_from(st.integers(1, 12))):
        certified = draw_from(st.none() | RADII)
        label, predicted = draw_from(st.integers(0, 2)), draw_from(st.integers(0, 2))
        attack = None
        if draw_from(st.booleans()):
            beyond = draw_from(st.floats(min_value=0.0, max_value=1e6)) + (0.0 if certified is None else certified * 2)
            attack = Attack(beyond, predicted, 7, POINT)
        line = None if certified is None else {"evidence": {"rule": "network_margin"}, **NAMED}
        why = "" if certified is not None else 'RADIUS_NOT_REACHED: more, "or" less\nthan that'
        found.append(Input(index, label, predicted, certified, "accepted", why, line, attack))
    return tuple(found)


@pytest.fixture(scope="module")
def template(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """A report of a small run, whose inputs tests replace."""
    out = tmp_path_factory.mktemp("numbers") / "run"
    assert main(["audit", "--config", str(digits / "audit.toml"), "--limit", "2", "--out", str(out)]) == 0
    return read(out, None, 0)


def with_inputs(template: AuditReport, inputs: tuple[Input, ...]) -> AuditReport:
    radii = sorted(i.radius for i in inputs if i.counts and i.radius is not None)
    reference = radii[(len(radii) - 1) // 2] if radii else None
    clean = {MIX: Classes(tuple(i.predicted for i in inputs), RECOMPUTED)}
    return dataclasses.replace(template, inputs=inputs, values=None, clean=clean, reference=reference, survivors={})


def number(text: str) -> Fraction:
    return Fraction(Decimal(text))


@given(many_inputs())
def test_the_table_says_what_the_lines_say_and_radii_from_the_safe_side(inputs: tuple[Input, ...]):
    rows = list(csv.DictReader(io.StringIO(page.as_csv(inputs))))
    assert len(rows) == len(inputs)
    for row, i in zip(rows, inputs, strict=True):
        assert (row["input"], row["label"], row["class"]) == (str(i.index), str(i.label), str(i.predicted))
        assert row["why"] == i.why
        assert (row["certified radius"] == "") == (i.radius is None)
        assert i.radius is None or number(row["certified radius"]) <= Fraction(i.radius)
        assert i.attack is None or number(row["attack radius"]) >= Fraction(i.attack.radius)
        assert row["verdict"].startswith("certified") == (i.radius is not None)
        assert (row["verdict"] == "certified, wrong class") == (i.radius is not None and i.label != i.predicted)


def heights(path: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"(\d+) (\d+)", path)]


@given(many_inputs(), st.fractions(0, 1))
def test_the_drawn_curve_is_exact_and_never_above_what_is_certified(inputs: tuple[Input, ...], where: Fraction):
    n = len(inputs)
    right = [i.label == i.predicted for i in inputs]
    low, high = certified_curve(inputs), attacked_curve(inputs, right)
    drawing = draw(low, high, n)
    reach = max(low.radii[-1], high.radii[-1])
    assert (drawing is None) == (reach == 0)
    for radius in {*low.radii, *(r * 0.999 for r in low.radii), reach * float(where)}:
        certified = sum(i.counts and i.radius is not None and i.radius > radius for i in inputs)
        assert low.counts[bisect_right(low.radii, radius) - 1] == certified
        lost = sum(i.attack is not None and i.attack.radius <= radius for i in inputs if i.label == i.predicted)
        assert high.counts[bisect_right(high.radii, radius) - 1] == sum(right) - lost
    if drawing is None:
        return
    ends = Fraction(Decimal(drawing.ticks[-1][1]))
    at = [(x, y) for x, y in heights(drawing.certified)]
    assert at[-1][0] == WIDTH
    for (x, y), (following, _) in pairwise(at):
        if following > x:  # the level between the two corners, at every radius that it spans
            certified = sum(
                i.counts and i.radius is not None and Fraction(i.radius) * WIDTH >= following * ends for i in inputs
            )
            assert Fraction(HEIGHT - y, HEIGHT) <= Fraction(certified, n)


@given(many_inputs())
def test_counts_shares_and_the_headline_follow_from_the_inputs(template: AuditReport, inputs: tuple[Input, ...]):
    report = with_inputs(template, inputs)
    n, correct = len(inputs), sum(i.radius is not None and i.label == i.predicted for i in inputs)
    figures = summary.as_json(report)
    assert figures["certified_correct_count"] == correct
    assert sum(figures["verdicts"].values()) == n
    all_of = page.shares(inputs)
    assert all_of.certified == correct
    assert all_of.certified + all_of.wrong + all_of.attackable + all_of.open == n
    assert sum(of.n for of in page.by_class(report)) == n
    for of in page.by_class(report):
        own = sorted(i.radius for i in inputs if i.label == of.label and i.counts and i.radius is not None)
        assert number(of.certified) <= Fraction(100 * len(own), of.n)
        assert (of.median == "") == (not own)
        if own:  # at least half of them reach it
            assert len(own) - bisect_left(own, float(number(of.median))) >= len(own) / 2
            assert number(of.median) <= Fraction(own[(len(own) - 1) // 2])
    shown = page.headline(report)
    if correct:
        assert shown.startswith(f"{correct} of {n} inputs")
        radius = number(shown.split("radius ")[1].split(" ")[0])
        reach = sum(i.counts and i.radius is not None and Fraction(i.radius) >= radius for i in inputs)
        assert 2 * reach >= correct


@given(st.integers(0, 300), st.integers(1, 300))
def test_an_interval_holds_its_share_and_is_rounded_outward(hits: int, n: int):
    hits = min(hits, n)
    low, high = (Fraction(Decimal(text)) for text in Share(hits, n, "counted").interval)
    assert 0 <= low <= Fraction(100 * hits, n) <= high <= 100
    # Clopper and Pearson: no share outside is compatible with as few, or as many, hits
    wider = Share(hits, n, "least")
    assert (
        Fraction(Decimal(wider.percent)) <= Fraction(100 * hits, n) <= Fraction(Decimal(Share(hits, n, "most").percent))
    )


def test_an_interval_is_the_published_one():
    """Clopper and Pearson 1934, in the form of every table since: 0 of 10 and 5 of 10 at 95 %."""
    assert Share(0, 10, "counted").interval == ("0.0", "30.9")
    assert Share(5, 10, "counted").interval == ("18.7", "81.3")

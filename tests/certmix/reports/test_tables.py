"""Tables keep their numbers whole, whatever the width of the terminal, and round bounds to their side."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from rich.console import Console
from rich.table import Table

from certmix.reports import lipschitz_tables, sweep_tables
from certmix.reports.tables import print_table


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_no_cell_is_cut_or_wrapped_at_any_width(width: int) -> None:
    table = Table("bound", *(f"{k / 4:g}" for k in range(9)), title="certified accuracy")
    rows = [[f"theorem_{k}_of_the_paper", *(f"{k}{n}.{n}25" for n in range(9))] for k in range(3)]
    for row in rows:
        table.add_row(*row)
    console = Console(width=width, record=True, force_terminal=False)
    print_table(console, table)
    lines = console.export_text().splitlines()
    for row in rows:
        assert any(all(cell in line for cell in row) for line in lines)
    assert console.width == width


def test_constants_are_shown_from_above_and_radii_from_below(capsys: pytest.CaptureFixture[str]) -> None:
    names = dict.fromkeys(lipschitz_tables.RADII, 0.123456)
    logits = {"estimate": 2.34567, "local": 3.45671, "overall": 4.56781}
    row = {"index": 0, "predicted": 1, "logits": logits, "radius": names, "relaxed_holds": True,
           "relaxed": {"estimate": 1.11119, "crown": 2.22221}}  # fmt: skip
    wider = {**row, "index": 1, "logits": {**logits, "local": 7.00001}, "radius": {**names, "local, paper": 0.9}}
    settings = {"norm": "L2", "radius": 2 / 255, "alpha": 0.75, "temperature": 1.0}
    record = {"settings": settings, "rows": [row, wider], "rests_on": "x", "global": "y", "notes": []}
    lipschitz_tables.show(record)
    shown = capsys.readouterr().out
    for constant in ("3.457", "4.568", "7.001"):  # of an upper bound, also as the median of two
        assert constant in shown
    assert "2.345" in shown  # an estimate bounds from below
    assert "3.456 " not in shown
    assert "0.1234" in shown
    medians = [line for line in shown.splitlines() if "median" in line]
    assert ["7.001" in medians[0], "0.9" in medians[2]] == [True, False]
    assert "1.111 " in medians[1]  # an estimate, from below
    assert "2.223 " in medians[1]  # a relaxed constant, from above


@dataclass(frozen=True)
class Point:
    alpha: float
    temperature: float
    radius: float
    clean: float
    certified_correct: float
    attacked: float | None


def test_a_sweep_shows_certified_shares_from_below_and_attacked_ones_from_above(capsys) -> None:
    third = 100.0 / 3
    sweep_tables.show([Point(0.75, 1.0, 2 / 255, 2 * third, 2 * third, 2 * third)], 3, "Linf")
    shown = capsys.readouterr().out
    assert "66.7/66.6/66.7" in shown
    assert "0.00784313 " in shown
    sweep_tables.show([Point(0.75, 1.0, 0.5, 28.7, 28.7, None)], 1000, "Linf")
    assert "28.7/28.7/—" in capsys.readouterr().out

"""Tables keep their numbers whole, whatever the width of the terminal."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

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

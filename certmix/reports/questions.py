"""Several questions and their answers, as one table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from certmix.formatting import exact, percent_down, percent_up
from certmix.reports.tables import print_table
from certmix.runs.questions import Answer


def show(answers: Sequence[Answer], console: Console) -> None:
    """Shares in percent of all inputs; attackable: those without certificate that an attack changes."""
    table = Table("norm", "radius", "alpha", "certified %", "and correct %", "attackable %", "folder")
    for a in answers:
        radius = "largest" if a.radius is None else exact(a.radius)
        shares = (percent_down(a.certified, a.inputs), percent_down(a.correct, a.inputs))
        table.add_row(a.norm, radius, exact(a.alpha), *shares, percent_up(a.attackable, a.inputs), a.folder)
    print_table(console, table)
    console.print("as the lines of each run say: certmix check FOLDER judges them", markup=False, highlight=False)

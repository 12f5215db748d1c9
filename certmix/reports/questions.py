"""Several questions and their answers, as one table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.table import Table

from certmix.formatting import exact, percent_down, percent_up
from certmix.reports.tables import print_table


class Answered(Protocol):
    """A question and its counts of inputs (certmix.runs.questions.Answer)."""

    @property
    def folder(self) -> str: ...
    @property
    def norm(self) -> str: ...
    @property
    def radius(self) -> float | None: ...
    @property
    def alpha(self) -> float: ...
    @property
    def inputs(self) -> int: ...
    @property
    def certified(self) -> int: ...
    @property
    def correct(self) -> int: ...
    @property
    def attackable(self) -> int: ...


def show(answers: Sequence[Answered], console: Console) -> None:
    """Shares in percent of all inputs; attackable: those without certificate that an attack changes."""
    table = Table("norm", "radius", "alpha", "certified %", "and correct %", "attackable %", "folder")
    for a in answers:
        radius = "largest" if a.radius is None else exact(a.radius)
        shares = (percent_down(a.certified, a.inputs), percent_down(a.correct, a.inputs))
        table.add_row(a.norm, radius, exact(a.alpha), *shares, percent_up(a.attackable, a.inputs), a.folder)
    print_table(console, table)

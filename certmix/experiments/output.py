"""Every experiment ends as a table on the terminal, a JSON file with its settings, and a figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from certmix.formatting import nearest, ratio
from certmix.reports.tables import print_table

matplotlib.use("Agg")


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, abscissae and ordinates. steps: each ordinate holds until the next."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: str = "o-"
    steps: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a table. show: its floats as text, rounded as fits what they bound (certmix.formatting)."""

    name: str
    show: Callable[[float], str] = nearest


def shares(name: str, show: Callable[[int, int], str]) -> Column:
    """A column of shares in percent. show: percent_nearest, percent_down or percent_up."""
    return Column(name, lambda share: show(*ratio(share)))


def write(
    out: Path, name: str, settings: dict[str, Any], title: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]]
) -> None:
    """Print the table and write `out`/NAME.json: {"experiment", "settings", "columns", "rows"}."""
    out.mkdir(parents=True, exist_ok=True)
    table = Table(title=title)
    for column in columns:
        table.add_column(column.name, justify="left" if column.name in ("mix", "curve", "model") else "right")
    for row in rows:
        table.add_row(*[_cell(column, value) for column, value in zip(columns, row, strict=True)])
    print_table(Console(), table)
    names = [column.name for column in columns]
    content = {"experiment": name, "settings": settings, "columns": names, "rows": [list(r) for r in rows]}
    text = json.dumps(content, indent=1, allow_nan=False)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    Console().print(f"written to {out}: {name}.json, {name}.png")


def plot(path: Path, lines: Sequence[Line], x_label: str, y_label: str, title: str) -> None:
    """A figure of `lines` as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for line in lines:
        drawn = "steps-post" if line.steps else "default"
        axes.plot(line.x, line.y, line.style, label=line.name, markersize=3.5, drawstyle=drawn)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return "—"
    return column.show(value) if isinstance(value, float) else str(value)

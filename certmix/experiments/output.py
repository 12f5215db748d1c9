"""Every experiment ends as a table on the terminal, a JSON file with its settings, and a figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from certmix.formatting import given, nearest, ratio
from certmix.reports.tables import print_table

matplotlib.use("Agg")


WIDTH = 3.6  # inches of a panel: two side by side fill a printed page's text
HEIGHT = 3.3
LEGEND_ROW = 0.2  # inches
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")  # Okabe and Ito's
NARROWEST, WIDER = 1.2, 0.35  # points: a line is wider than the next, so that none hides behind one it coincides with
HALO = 1.1  # points, wider still than each line of the same points that is drawn over it
DASH, GAP = 5.0, 2.5  # points, of dashed lines of any width; each begins a gap later than the one before


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, abscissae and ordinates. steps: each ordinate holds until the next."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: str = "o-"
    steps: bool = False
    color: str | None = None


@dataclass(frozen=True)
class Mark:
    """A single point: name in the legend, or "" for none; an empty one is not filled."""

    name: str
    x: float
    y: float
    shape: str = "o"
    color: str = "black"
    filled: bool = True


@dataclass(frozen=True)
class Panel:
    """One of the axes of a figure. Equal names, styles and colours of its lines have one entry in the legend."""

    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()


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
    """Print the table and write `out`/NAME.json."""
    show(title, columns, rows)
    write_json(out, name, settings, [column.name for column in columns], rows)


def on_balls(settings: Mapping[str, Any]) -> str:
    """Norm, radius and inputs of a pair's settings, for a title."""
    norm = settings["norm"].replace("L", "ℓ").replace("inf", "∞")
    return f"{norm} radius {given(settings['radius'])}, {settings['inputs']} inputs"


def say(text: str) -> None:
    """Print a line."""
    Console().print(text, highlight=False)


def show(title: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column.name, justify="left" if column.name in ("mix", "curve", "model") else "right")
    for row in rows:
        table.add_row(*[_cell(column, value) for column, value in zip(columns, row, strict=True)])
    print_table(Console(), table)


def write_json(
    out: Path, name: str, settings: dict[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """`out`/NAME.json: {"experiment", "settings", "columns", "rows"}."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"experiment": name, "settings": settings, "columns": list(columns), "rows": [list(r) for r in rows]}
    text = json.dumps(content, indent=1, allow_nan=False)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    Console().print(f"written to {out}: {name}.json, {name}.png")


def plot(path: Path, panels: Sequence[Panel], x_label: str, title: str, columns: int = 2) -> None:
    """A figure of `panels` side by side as PNG, fit to print: the legend, in so many columns, stands below the axes."""
    names = list(dict.fromkeys(entry.name for p in panels for entry in (*p.lines, *p.marks) if entry.name))
    rows = -(-len(names) // columns)
    figure, all_axes = canvas(len(panels), HEIGHT + LEGEND_ROW * rows)
    handles: dict[str, Any] = {}
    for axes, panel in zip(all_axes, panels, strict=True):
        for k, line in enumerate(panel.lines):
            alike = [
                i for i, other in enumerate(panel.lines) if ("--" in other.style) == ("--" in line.style) and other.x
            ]
            later = [panel.lines[i] for i in alike if i > k]
            width = NARROWEST + WIDER * len(later) + HALO * sum(_coincide(line, other) for other in later)
            color, start = line.color or COLORS[k % len(COLORS)], GAP * len(later)
            handles.setdefault(line.name, _draw(axes, line, color, width if line.x else NARROWEST, start))
        for mark in panel.marks:
            face = mark.color if mark.filled else "white"
            (drawn,) = axes.plot(
                [mark.x], [mark.y], mark.shape, color=mark.color, markerfacecolor=face, markersize=7, zorder=5,
                clip_on=False,
            )  # fmt: skip
            handles.setdefault(mark.name, drawn)
        axes.set_xlabel(x_label)
        axes.set_ylabel(panel.y_label)
    figure.legend([handles[n] for n in names], names, loc="outside lower center", ncols=columns, fontsize=8)
    save(figure, path, title)


def canvas(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many panels side by side; one panel alone is wider."""
    figure = Figure(figsize=(WIDTH * panels if panels > 1 else 1.5 * WIDTH, height), layout="constrained")
    all_axes = [figure.add_subplot(1, panels, k + 1) for k in range(panels)]
    for axes in all_axes:
        axes.grid(alpha=0.3)
    return figure, all_axes


def save(figure: Figure, path: Path, title: str) -> None:
    """Write the figure, titled, as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=200)


def _coincide(line: Line, other: Line) -> bool:
    """Whether most of their points are the same, as far as can be seen."""
    first, second = (
        {(int(1000 * x + 0.5), int(10 * y + 0.5)) for x, y in zip(one.x, one.y, strict=True)} for one in (line, other)
    )
    return len(first & second) > max(len(first), len(second)) / 2


def _draw(axes: Axes, line: Line, color: str, width: float, start: float) -> Any:
    """start: of the first dash."""
    (drawn,) = axes.plot(
        line.x,
        line.y,
        line.style,
        color=color,
        linewidth=width,
        markersize=2.3 + width,
        drawstyle="steps-post" if line.steps else "default",
    )
    if "--" in line.style:  # matplotlib scales dashes by the width
        drawn.set_linestyle((start / width, (DASH / width, GAP / width)))
    return drawn


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return "—"
    return column.show(value) if isinstance(value, float) else str(value)

"""What a sweep looks like: tables on the terminal and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from certmix.formatting import exact, lower, percent_down, percent_nearest, percent_up, ratio
from certmix.records import assumptions as rests
from certmix.reports.tables import print_table
from certmix.runs.sweep import Point

matplotlib.use("Agg")
ROWS = 11
FRONT = 8


def show(points: Sequence[Point], n: int, norm: str) -> None:
    """A table per radius, its rows thinned, and the pairs that no other pair beats in both respects."""
    console = Console()
    for radius in sorted({p.radius for p in points}):
        points_at_radius = [p for p in points if p.radius == radius]
        temperatures = sorted({p.temperature for p in points_at_radius})
        table = Table("alpha", title=f"clean/certified/attacked %, {n} inputs, {norm} {lower(radius)}")
        for t in temperatures:
            table.add_column(f"T = {exact(t)}", justify="right")
        alphas = sorted({p.alpha for p in points_at_radius})
        by_pair = {(p.alpha, p.temperature): p for p in points_at_radius}
        for alpha in _thinned(alphas):
            table.add_row(exact(alpha), *[_cell(by_pair[alpha, t]) for t in temperatures])
        print_table(console, table)
        _show_front(console, points_at_radius)
    console.print("certified: by Lemma 3.2 and correct. attacked: an upper limit, by one pool of points for all mixes")
    console.print(f"certified shares rest on {rests.words(rests.ENGINE)}: --certify has the judge prove a pair")


def _thinned(values: list[float]) -> list[float]:
    step = max(1, -(-(len(values) - 1) // (ROWS - 1)))
    return sorted({*values[::step], values[-1]})


def _cell(point: Point) -> str:
    attacked = "—" if point.attacked is None else percent_up(*ratio(point.attacked))
    return f"{percent_nearest(*ratio(point.clean))}/{percent_down(*ratio(point.certified_correct))}/{attacked}"


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other point beats in clean or certified accuracy without losing in the other, by clean accuracy.

    Of several with the same shares, the one with the smallest alpha.
    """
    best: list[Point] = []
    for p in sorted(points, key=lambda p: (-p.clean, -p.certified_correct, p.alpha)):
        if not best or p.certified_correct > best[-1].certified_correct:
            best.append(p)
    return best


def _show_front(console: Console, points: Sequence[Point]) -> None:
    table = Table("clean %", "certified %", "alpha", "T", title="best pairs, chosen on these very inputs")
    for p in front(points)[-FRONT:]:
        shares = percent_nearest(*ratio(p.clean)), percent_down(*ratio(p.certified_correct))
        table.add_row(*shares, exact(p.alpha), exact(p.temperature))
    print_table(console, table)


def plot(path: Path, points: Sequence[Point], norm: str) -> None:
    """One panel per radius and temperature: three shares against alpha."""
    radii, temperatures = (sorted({getattr(p, name) for p in points}) for name in ("radius", "temperature"))
    size = (3.2 * len(temperatures), 2.8 * len(radii))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(radii), len(temperatures), squeeze=False, sharex=True, sharey=True)
    for i, radius in enumerate(radii):
        for j, temperature in enumerate(temperatures):
            panel_points = [p for p in points if p.radius == radius and p.temperature == temperature]
            alphas = [p.alpha for p in panel_points]
            panel = axes[i][j]
            panel.plot(alphas, [p.clean for p in panel_points], label="clean")
            attacked = [p.attacked for p in panel_points if p.attacked is not None]
            if attacked:
                panel.plot(alphas, attacked, "--", label="attacked (upper limit)")
            panel.plot(alphas, [p.certified_correct for p in panel_points], label="certified")
            panel.set_title(f"{norm} {lower(radius, 4)}, T = {exact(temperature)}", fontsize=9)
            panel.grid(alpha=0.3)
            panel.set_xlabel("alpha" if i == len(radii) - 1 else "")
            panel.set_ylabel("% of inputs" if j == 0 else "")
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=130)

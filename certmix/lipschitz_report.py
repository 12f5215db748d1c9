"""The table and the plot of `certmix lipschitz`: estimates never share a column with certified figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RADII = ("estimate", "local, paper", "local, bisected", "global, paper", "global, closed form", "global, bisected")


def show(record: dict[str, Any]) -> None:
    """Print one row per input and the medians."""
    s = record["settings"]
    title = f"{s['norm']} balls of radius {s['radius']:g}, alpha {s['alpha']:g}, temperature {s['temperature']:g}"
    table = Table(title=title, caption="estimates (~) bound the constant from below: they certify nothing")
    table.add_column("input", justify="right")
    table.add_column("class", justify="right")
    for name in ("~ estimate", "certified local", "certified global"):
        table.add_column(f"L of z_j - z_y\n{name}", justify="right")
    for name in RADII:
        table.add_column(f"radius\n{'~ ' if name == 'estimate' else ''}{name}", justify="right")
    table.add_column("relaxed\nr > eps", justify="right")
    for row in record["rows"]:
        constants = [f"{row['logits'][k]:.4g}" for k in ("estimate", "local", "overall")]
        radii = [_text(row["radius"][name]) for name in RADII]
        table.add_row(
            str(row["index"]), str(row["predicted"]), *constants, *radii, "yes" if row["relaxed_holds"] else "no"
        )
    medians = [f"{_median([r['logits'][k] for r in record['rows']]):.4g}" for k in ("estimate", "local", "overall")]
    typical = [_text(_median([_number(r["radius"][name]) for r in record["rows"]])) for name in RADII]
    share = sum(r["relaxed_holds"] for r in record["rows"]) / len(record["rows"])
    table.add_section()
    table.add_row("median", "", *medians, *typical, f"{share:.0%}")
    console = Console()
    console.print(table)
    console.print(f"global constants: {record['global']}", highlight=False)
    for note in record["notes"]:
        console.print(note, highlight=False)


def _number(value: float | None) -> float:
    return float("inf") if value is None else value


def _text(value: float | None) -> str:
    number = _number(value)
    return "∞" if number == float("inf") else "-" if number <= 0 else f"{number:.4g}"


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def draw(record: dict[str, Any], path: Path) -> None:
    """Constants and radii of every input, sorted by the certified local constant."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = sorted(record["rows"], key=lambda r: r["logits"]["local"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    styles = {"overall": ("certified global", "-"), "local": ("certified local", "-"), "estimate": ("estimate", ":")}
    for key, (label, style) in styles.items():
        left.plot([r["logits"][key] for r in rows], style, label=label)
    left.set(title="Lipschitz constant of z_j - z_y, largest j", xlabel="input", yscale="log")
    for name in RADII:
        values = [_number(r["radius"][name]) for r in rows]
        right.plot(values, ":" if name == "estimate" else "-", label=name)
    right.set(title=f"radius ({record['settings']['norm']})", xlabel="input")
    for axes in (left, right):
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)

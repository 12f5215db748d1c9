"""The table and the plot of `certmix lipschitz`: estimates never share a column with certified figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from certmix.reports.tables import print_table

JUDGED = "certmix audit --method lipschitz has the judge derive the like"
CONSTANTS = ("estimate", "local", "overall")
RADII = ("estimate", "local, paper", "local, bisected", "global, paper", "global, closed form", "global, bisected")


def show(record: dict[str, Any]) -> None:
    """Print constants and radii, one row per input, and their medians."""
    s, rows = record["settings"], record["rows"]
    ball = f"{s['norm']} balls of radius {s['radius']:g}"
    console = Console()
    constants = Table(title=f"Lipschitz constants of z_j - z_y, the largest: {ball}")
    _columns(constants, ("input", "class", "~ estimate", "certified local", "certified global"))
    for row in rows:
        values = [f"{row['logits'][k]:.4g}" for k in CONSTANTS]
        constants.add_row(str(row["index"]), str(row["predicted"]), *values)
    constants.add_section()
    constants.add_row("median", "", *[f"{_median([r['logits'][k] for r in rows]):.4g}" for k in CONSTANTS])
    print_table(console, constants)
    radii = Table(title=f"radii at alpha {s['alpha']:g}, temperature {s['temperature']:g}: {ball}")
    _columns(radii, ("input", *(f"~ {n}" if n == "estimate" else n for n in RADII), "relaxed holds"))
    for row in rows:
        holds = "yes" if row["relaxed_holds"] else "no"
        radii.add_row(str(row["index"]), *[_text(row["radius"][n]) for n in RADII], holds)
    share = sum(r["relaxed_holds"] for r in rows) / len(rows)
    radii.add_section()
    radii.add_row("median", *[_text(_median([_number(r["radius"][n]) for r in rows])) for n in RADII], f"{share:.0%}")
    print_table(console, radii)
    console.print("~ estimates bound the constant from below: they certify nothing", highlight=False)
    console.print(f"the other figures rest on {record['rests_on']}: {JUDGED}", highlight=False)
    console.print(f"global constants: {record['global']}", highlight=False)
    for note in record["notes"]:
        console.print(note, highlight=False)


def _columns(table: Table, names: tuple[str, ...]) -> None:
    for name in names:
        table.add_column(name, justify="right", overflow="fold")


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

"""The table and the plot of `certmix lipschitz`: estimates never share a column with certified figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from certmix.formatting import exact, lower, nearest, percent_down, upper
from certmix.reports.tables import print_table

JUDGED = "certmix audit --method lipschitz has the judge derive the like"
CONSTANTS = ("estimate", "local", "overall")
ESTIMATES = ("estimate", "estimate, paper")
HEADERS = {
    "estimate": "~\nestimate",
    "estimate, paper": "~ estimate,\npaper",
    "local, paper": "local,\npaper",
    "local, bisected": "local,\nbisected",
    "local, crown": "local,\nnative",
    "local, auto_lirpa": "local,\nauto_LiRPA",
    "global, paper": "global,\npaper",
    "global, closed form": "global,\nclosed form",
    "global, bisected": "global,\nbisected",
}
ENGINES = {"crown": "native", "auto_lirpa": "auto_LiRPA"}
LOCAL = ("estimate", "estimate, paper", "local, paper", "local, bisected", "local, crown", "local, auto_lirpa")
GLOBAL = ("global, paper", "global, closed form", "global, bisected")
RADII = (*LOCAL, *GLOBAL)


def show(record: dict[str, Any]) -> None:
    """Print constants and radii, one row per input, and their medians."""
    s, rows = record["settings"], record["rows"]
    ball = f"{s['norm']} balls of radius {lower(s['radius'])}"
    console = Console()
    constants = Table(title=f"Lipschitz constants of z_j - z_y, the largest:\n{ball}")
    _columns(constants, ("input", "class", "~ estimate", "certified local", "certified global"))
    for row in rows:
        values = [_constant(k, row["logits"][k]) for k in CONSTANTS]
        constants.add_row(str(row["index"]), str(row["predicted"]), *values)
    constants.add_section()
    middle = len(rows) // 2  # of an even number the larger, for constants: theirs is the weaker statement
    constants.add_row("median", "", *[_constant(k, sorted(r["logits"][k] for r in rows)[middle]) for k in CONSTANTS])
    print_table(console, constants)
    relaxed = Table(title=f"relaxed constants of the probabilities, the largest L_y + L_i:\n{ball}")
    kinds = list(rows[0]["relaxed"])
    _columns(relaxed, ("input", *("~ estimate" if k == "estimate" else ENGINES[k] for k in kinds), "relaxed holds"))
    for row in rows:
        holds = "yes" if row["relaxed_holds"] else "no"
        relaxed.add_row(str(row["index"]), *[_constant(k, row["relaxed"][k]) for k in kinds], holds)
    relaxed.add_section()
    share = percent_down(sum(r["relaxed_holds"] for r in rows), len(rows))
    medians = [_constant(k, sorted(r["relaxed"][k] for r in rows)[middle]) for k in kinds]
    relaxed.add_row("median", *medians, f"{share} %")
    print_table(console, relaxed)
    setting = f"at alpha {exact(s['alpha'])}, temperature {exact(s['temperature'])}"
    _show_radii(console, f"radii {setting}, at most the ball's where local:\n{ball}", rows, LOCAL)
    _show_radii(console, f"radii {setting}:\nby global constants", rows, GLOBAL)
    console.print("~ estimates bound the constant from below: they certify nothing", highlight=False)
    console.print(f"the other figures rest on {record['rests_on']}: {JUDGED}", highlight=False)
    console.print(f"global constants: {record['global']}", highlight=False)
    for note in record["notes"]:
        console.print(note, highlight=False)


def _show_radii(console: Console, title: str, rows: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    shown = [name for name in names if name in rows[0]["radius"]]
    radii = Table(title=title)
    _columns(radii, ("input", *(HEADERS[n] for n in shown)))
    for row in rows:
        radii.add_row(str(row["index"]), *[_radius(n, row["radius"][n]) for n in shown])
    radii.add_section()
    middle = (len(rows) - 1) // 2  # of an even number the smaller
    radii.add_row("median", *[_radius(n, sorted(_number(r["radius"][n]) for r in rows)[middle]) for n in shown])
    print_table(console, radii)


def _columns(table: Table, names: tuple[str, ...]) -> None:
    for name in names:
        table.add_column(name, justify="right", overflow="fold")


def _number(value: float | None) -> float:
    return float("inf") if value is None else value


def _constant(kind: str, value: float) -> str:
    return lower(value, 4) if kind == "estimate" else upper(value, 4)


def _radius(kind: str, value: float | None) -> str:
    number = _number(value)
    if number <= 0:
        return "-"
    return nearest(number, 4) if kind in ESTIMATES else lower(number, 4)


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
    for name in (n for n in RADII if n in rows[0]["radius"]):
        values = [_number(r["radius"][name]) for r in rows]
        right.plot(values, ":" if name in ESTIMATES else "-", label=name)
    right.set(title=f"radius ({record['settings']['norm']})", xlabel="input")
    for axes in (left, right):
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)

"""Tables of an audit: clean accuracies of g, h and the mix, certified shares, radii. Also DIR/summary.json, and
DIR/report.html, one page to hand on.

Shares are percentages of all inputs. "certified": a certificate was issued; "certified correct": and its class
is the label. With --fail-under P: exit 1 or 2 where the judge rejects a certificate or cannot read the folder, 3 where
fewer than P percent of the inputs are certified and correct.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from certmix.commands import arguments
from certmix.commands.smoothing_bounds import show_bounds
from certmix.errors import UsageError
from certmix.formatting import exact, lower, nearest, percent_down, percent_nearest, ratio
from certmix.provers.problem import Problem
from certmix.records import assumptions
from certmix.reports import lipschitz_tables as lipschitz_report
from certmix.reports import page as report_page
from certmix.reports.judged import judged
from certmix.reports.tables import print_table
from certmix.runs.finished import open_inputs
from certmix.runs.store import FINAL, Store
from certmix.settings import Settings

CONSTANTS = "lipschitz.json"
EVALUATION_DRAWS = 1_000
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
NEEDED = {field.name for field in dataclasses.fields(Settings)} - {"threads"}  # of a header, for its claim in words
CURVE_ROWS = 11  # of the table; the page and summary.json hold every step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder written by certmix audit (or lipschitz --out)")
    all_bounds = "of a smoothing run: draw again and show every smoothing bound side by side"
    parser.add_argument("--all-bounds", action="store_true", help=all_bounds)
    parser.add_argument("--no-check", action="store_true", help="do not judge the certificates; the page says so")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of the judge (default 1)")
    arguments.add_gate(parser)


def run(options: argparse.Namespace) -> int:
    store = Store(Path(options.folder))
    if options.fail_under is not None and options.no_check:
        raise UsageError("--fail-under counts what the judge accepts: leave out --no-check")
    arguments.gate(options.fail_under, 1, 1)  # misuse shows before anything runs
    if (store.path / CONSTANTS).exists():
        _show_constants(store.path)
        return 0
    summary = summarise(store)
    store.write_json("summary.json", summary)
    show(summary, Console())
    verdict = None if options.no_check else judged(store.path, options.jobs)
    console = Console()
    if verdict is None:
        console.print("nobody judged these certificates (--no-check)", style="bold red")
    else:
        console.print("\n".join(verdict.lines), style="green" if verdict.exit_code == 0 else "bold red", markup=False)
    page = report_page.write(store, summary, verdict)
    print(f"summary in {store.path / 'summary.json'}, page in {page}")
    if options.all_bounds:
        _show_all_bounds(Path(options.folder))
    if options.fail_under is None or verdict is None:
        return 0
    return verdict.exit_code or arguments.gate(options.fail_under, summary["certified_correct_count"], summary["n"])


def _show_constants(path: Path) -> None:
    """The table and the plot of `certmix lipschitz --out DIR`."""
    try:
        record = json.loads((path / CONSTANTS).read_bytes())
        lipschitz_report.show(record)
        lipschitz_report.draw(record, path / "lipschitz.png")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{path / CONSTANTS} was not written by certmix lipschitz: {error!r}") from None


def _show_all_bounds(path: Path) -> None:
    """The run's own draws are repeated: they depend on nothing but its seed."""
    settings, standard, robust, data = open_inputs(path)
    if settings.method != "smoothing":
        raise UsageError(f"{path} is no smoothing run but {settings.method}: leave out --all-bounds")
    inputs = torch.from_numpy(np.ascontiguousarray(data.inputs))
    labels = tuple(int(v) for v in data.labels)
    problem = Problem(standard, robust, inputs, tuple(range(len(labels))), labels, settings)
    show_bounds(problem, EVALUATION_DRAWS)


def summarise(store: Store) -> dict[str, Any]:
    """Everything the tables show, as plain JSON values. Raises UsageError unless the folder holds a finished run."""
    try:
        header = json.loads((store.path / "run.json").read_bytes())
        audit = json.loads((store.path / "audit.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{store.path} holds no finished audit: {error}") from None
    if not (store.path / FINAL).exists():
        raise UsageError(f"{store.path} holds an unfinished audit: run certmix audit again to go on")
    records = store.lines()
    labels = np.array([r["label"] for r in records])
    n = len(records)
    certified = [r for r in records if r["outcome"] == "certified"]
    correct = [r for r in certified if r["predicted"] == r["label"]]
    settings = header["settings"]
    lacking = sorted(NEEDED - set(settings))
    if lacking:
        raise UsageError(f"{store.path}/run.json does not say {', '.join(lacking)}: it is no run of certmix audit")
    return {
        "n": n,
        **{name: settings[name] for name in ("alpha", "temperature", "norm", "method", "radius", "evidence")},
        "rests_on": assumptions.words(frozenset().union(*map(assumptions.of_line, certified))),
        "clean_accuracy": {m: _share(np.array(p) == labels) for m, p in audit["predictions"].items()},
        "certified": _percent(len(certified), n),
        "certified_correct": _percent(len(correct), n),
        "certified_correct_count": len(correct),
        "outcomes": dict(Counter(r["outcome"] for r in records)),
        "reasons": dict(Counter(r["reason"] for r in records if r["outcome"] != "certified")),
        "radii": _quantiles([r["radius"] for r in certified]),
        "curve": _curve([r["radius"] for r in correct], n) if settings["radius"] is None else [],
        "seconds": audit["seconds"],
        "largest_relative_cost_of_judging": audit["largest_relative_cost_of_judging"],
    }


def _share(hits: np.ndarray) -> float:
    return 100.0 * float(np.mean(hits))


def _percent(part: int, n: int) -> float:
    return 100.0 * part / n


def _quantiles(radii: list[float]) -> dict[str, float]:
    if not radii:
        return {}
    return {exact(q): float(np.quantile(radii, q, method="lower")) for q in QUANTILES}


def _curve(radii: list[float], n: int) -> list[dict[str, float]]:
    """Every step of the certified-correct share: an input counts at r if its radius is at least r, so the share named
    at a radius holds from there down to the next smaller radius, that one excluded. From radius 0, the first point."""
    if not radii:
        return []
    ordered = np.sort(radii)
    steps = np.unique(np.append(0.0, ordered))
    hits = len(ordered) - np.searchsorted(ordered, steps, side="left")
    return [{"radius": float(r), "certified_correct": _percent(int(k), n)} for r, k in zip(steps, hits, strict=True)]


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    asked = "largest radius" if summary["radius"] is None else f"radius {lower(summary['radius'])}"
    console.print(
        f"{summary['n']} inputs, {summary['norm']}, {asked}, alpha {exact(summary['alpha'])}, "
        f"temperature {exact(summary['temperature'])}, method {summary['method']}"
    )
    console.print(f"certificates rest on {summary['rests_on']}, where the judge accepts them")
    table = Table("share of all inputs", "%", title="accuracy and certificates")
    for name, value in summary["clean_accuracy"].items():
        table.add_row(f"clean accuracy, {name}", percent_nearest(*ratio(value)))
    table.add_row("certified", percent_down(*ratio(summary["certified"])))
    table.add_row("certified and correct", percent_down(*ratio(summary["certified_correct"])), style="bold")
    for reason, count in summary["reasons"].items():
        table.add_row(f"no certificate: {reason}", percent_nearest(count, summary["n"]))
    print_table(console, table)
    if summary["radius"] is None and summary["radii"]:
        _show_radii(summary, console)
    console.print(f"{nearest(summary['seconds'], 3)} s")


def _show_radii(summary: dict[str, Any], console: Console) -> None:
    table = Table("quantile", "radius", title="certified radii")
    for q, radius in summary["radii"].items():
        table.add_row(q, lower(radius))
    print_table(console, table)
    curve = Table("radius", "certified and correct %", title="certified accuracy")
    points = summary["curve"]
    for k in np.unique(np.linspace(0, len(points) - 1, CURVE_ROWS).astype(int)):
        curve.add_row(lower(points[k]["radius"]), percent_down(*ratio(points[k]["certified_correct"])))
    print_table(console, curve)

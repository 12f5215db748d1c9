"""Tables of an audit: clean accuracies of g, h and the mix, certified shares, radii. Also DIR/summary.json, and
DIR/report.html, one page to hand on.

Shares are percentages of all inputs. "certified": a certificate was issued; "certified correct": and its class
is the label. `certmix check` says whether the judge accepts the certificates; this command does not.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from certmix.commands.smoothing_bounds import show_bounds
from certmix.errors import UsageError
from certmix.provers.problem import Problem
from certmix.records import assumptions as rests
from certmix.reports import lipschitz_tables as lipschitz_report
from certmix.reports import page as report_page
from certmix.runs.finished import open_inputs
from certmix.runs.store import FINAL, Store

CONSTANTS = "lipschitz.json"
EVALUATION_DRAWS = 1_000
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
CURVE_POINTS = 21


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder written by certmix audit (or lipschitz --out)")
    all_bounds = "of a smoothing run: draw again and show every smoothing bound side by side"
    parser.add_argument("--all-bounds", action="store_true", help=all_bounds)


def run(options: argparse.Namespace) -> int:
    store = Store(Path(options.folder))
    if (store.path / CONSTANTS).exists():
        _show_constants(store.path)
        return 0
    summary = summarise(store)
    store.write_json("summary.json", summary)
    show(summary, Console())
    page = report_page.write(store, summary)
    print(f"summary in {store.path / 'summary.json'}, page in {page}")
    if options.all_bounds:
        _show_all_bounds(Path(options.folder))
    return 0


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
    return {
        "n": n,
        **{name: settings[name] for name in ("alpha", "temperature", "norm", "method", "radius", "evidence")},
        "rests_on": rests.words(frozenset().union(*map(rests.of_line, certified))),
        "clean_accuracy": {m: _share(np.array(p) == labels) for m, p in audit["predictions"].items()},
        "certified": _percent(len(certified), n),
        "certified_correct": _percent(len(correct), n),
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
    return {f"{q:g}": float(np.quantile(radii, q, method="lower")) for q in QUANTILES}


def _curve(radii: list[float], n: int) -> list[dict[str, float]]:
    """Certified-correct share at evenly spaced radii: a point counts at r if its radius is at least r."""
    if not radii:
        return []
    grid = np.linspace(0, max(radii), CURVE_POINTS)
    return [{"radius": float(r), "certified_correct": _percent(int(np.sum(np.array(radii) >= r)), n)} for r in grid]


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    asked = "largest radius" if summary["radius"] is None else f"radius {summary['radius']:.6g}"
    console.print(
        f"{summary['n']} inputs, {summary['norm']}, {asked}, alpha {summary['alpha']:g}, "
        f"temperature {summary['temperature']:g}, method {summary['method']}"
    )
    console.print(f"certificates rest on {summary['rests_on']}; certmix check says which of them the judge accepts")
    table = Table("share of all inputs", "%", title="accuracy and certificates")
    for name, value in summary["clean_accuracy"].items():
        table.add_row(f"clean accuracy, {name}", f"{value:.1f}")
    table.add_row("certified", f"{summary['certified']:.1f}")
    table.add_row("certified and correct", f"{summary['certified_correct']:.1f}", style="bold")
    for reason, count in summary["reasons"].items():
        table.add_row(f"no certificate: {reason}", f"{_percent(count, summary['n']):.1f}")
    console.print(table)
    if summary["radius"] is None and summary["radii"]:
        _show_radii(summary, console)
    console.print(f"{summary['seconds']:.1f} s")


def _show_radii(summary: dict[str, Any], console: Console) -> None:
    table = Table("quantile", "radius", title="certified radii")
    for q, radius in summary["radii"].items():
        table.add_row(q, f"{radius:.6g}")
    console.print(table)
    curve = Table("radius", "certified and correct %", title="certified accuracy")
    for point in summary["curve"][::2]:
        curve.add_row(f"{point['radius']:.6g}", f"{point['certified_correct']:.1f}")
    console.print(curve)

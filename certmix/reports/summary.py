"""A report's figures as plain values: DIR/summary.json, and the tables on the terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from certmix.formatting import exact, lower, nearest, percent_down, percent_nearest
from certmix.models.model import VALUES_ONLY
from certmix.records import assumptions
from certmix.reports import claims
from certmix.reports.curves import certified_curve
from certmix.reports.reading import MIX, AuditReport, G, H
from certmix.reports.tables import print_table

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
CURVE_ROWS = 11  # of the table; the page and summary.json hold every step


def as_json(report: AuditReport) -> dict[str, Any]:
    """What summary.json holds. Certificates count where the judge accepted them, or nobody judged. curve: from each
    radius to the next, that one included, so many percent are certified beyond it as their label. Without
    labels nothing is correct: what says so is null, and the curve is of what is certified."""
    n, settings = report.n, report.settings
    certified = [i for i in report.inputs if i.radius is not None]
    correct = sum(i.counts for i in certified)
    curve = certified_curve(report.inputs)
    what = "certified_correct" if report.labelled else "certified"
    steps = zip(curve.radii, curve.counts, strict=True) if settings["radius"] is None else ()
    return {
        "n": n,
        **{name: settings[name] for name in ("alpha", "temperature", "norm", "method", "radius", "evidence")},
        "adaptive": report.said["adaptive"],
        "judged": report.verdict is not None,
        "labelled": report.labelled,
        "standard_without_gradients": report.g_without_gradients,
        "rests_on": assumptions.words(report.assumptions),
        "clean_accuracy": {_role(name): 100.0 * sum(report.right(name)) / n for name in report.clean},
        "clean_accuracy_source": {_role(name): of.source for name, of in report.clean.items()},
        "certified": 100.0 * len(certified) / n,
        "certified_correct": 100.0 * correct / n if report.labelled else None,
        "certified_correct_count": correct if report.labelled else None,
        "verdicts": dict(Counter(i.verdict for i in report.inputs)),
        "reasons": dict(Counter(i.why.split(":")[0] for i in report.inputs if i.radius is None)),
        "radii": _quantiles([i.radius for i in certified if i.radius is not None]),
        "curve": [{"radius": r, what: 100.0 * k / n} for r, k in steps],
        "seconds": report.audit["seconds"],
        "largest_relative_cost_of_judging": report.audit["largest_relative_cost_of_judging"],
    }


def _role(name: str) -> str:
    """What the command line and run.json call a model that the page names for a reader."""
    return name.replace(G, "standard").replace(H, "robust")


def _quantiles(radii: list[float]) -> dict[str, float]:
    if not radii:
        return {}
    return {exact(q): float(np.quantile(radii, q, method="lower")) for q in QUANTILES}


def show(report: AuditReport, console: Console) -> None:
    """Print the tables."""
    console.print(claims.title(report.n, report.settings, report.said), markup=False, highlight=False)
    console.print(f"certificates rest on {assumptions.words(report.assumptions)}", markup=False, highlight=False)
    n, inputs = report.n, report.inputs
    table = Table("share of all inputs", "%", title="accuracy and certificates")
    for name, of in report.clean.items():
        table.add_row(f"clean accuracy, {_role(name)} ({of.source})", percent_nearest(sum(report.right(name)), n))
    table.add_row("certified", percent_down(sum(i.radius is not None for i in inputs), n))
    if report.labelled:
        table.add_row("certified and correct", percent_down(sum(i.counts for i in inputs), n), style="bold")
    else:
        console.print("the inputs have no labels: nothing is known to be correct")
    attacked = report.attacked_share(MIX)
    if attacked is not None and report.reference is not None:
        table.add_row(f"correct and not attacked at {lower(report.reference)}, at most", attacked.percent)
    if report.g_without_gradients:
        console.print(f"the standard model {VALUES_ONLY}", markup=False, highlight=False)
    for reason, count in Counter(i.why.split(":")[0] for i in inputs if i.radius is None).items():
        table.add_row(f"no certificate: {reason}", percent_nearest(count, n))
    print_table(console, table)
    if report.settings["radius"] is None:
        _show_radii(report, console)
    console.print(f"audited in {nearest(report.audit['seconds'], 3)} s")


def _show_radii(report: AuditReport, console: Console) -> None:
    radii = _quantiles([i.radius for i in report.inputs if i.radius is not None])
    if not radii:
        return
    table = Table("quantile", "radius", title="certified radii")
    for q, radius in radii.items():
        table.add_row(q, lower(radius))
    print_table(console, table)
    curve = certified_curve(report.inputs)
    what = "certified and correct %" if report.labelled else "certified %"
    shares = Table("radius", what, title="certified beyond a radius")
    for k in np.unique(np.linspace(0, len(curve.radii) - 1, CURVE_ROWS).astype(int)):
        shares.add_row(lower(curve.radii[k]), percent_down(curve.counts[k], report.n))
    print_table(console, shares)

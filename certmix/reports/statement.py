"""A statement for a safety file, of two pages: what of a run can be said, and blanks for what a reviewer must say.

Everything measured comes from the run and the judge's verdict on it; what nobody can read from a run is a question.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

import certmix
from certmix.formatting import lower, percent_down
from certmix.reports import claims, page, provenance
from certmix.reports.reading import AuditReport

NAMED = 25  # inputs of each kind that are listed
FILE = "statement.md"


def write(report: AuditReport) -> Path:
    """DIR/statement.md. Requires a report of a run that the judge was asked about."""
    if report.verdict is None:
        raise ValueError("a statement needs the judge's verdict")
    template = resources.files("certmix.reports").joinpath(FILE).read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["plain"] = plain
    inputs, n = report.inputs, report.n
    of_kind = {kind: [i.index for i in inputs if i.verdict == kind] for kind in ("certified", "attackable", "open")}
    text = environment.from_string(template).render(
        version=certmix.__version__,
        title=claims.title(n, report.settings, report.said),
        headline=page.headline(report),
        claim=claims.claim(report.said),
        assumptions=claims.assumption_words(list(report.assumptions)),
        judged=report.verdict.lines,
        rejected=report.verdict.exit_code != 0,
        refuted=listed(list(report.refuted)) if report.refuted else "",
        n=n,
        labelled=report.labelled,
        counts={kind: len(found) for kind, found in of_kind.items()},
        certified_percent=percent_down(len(of_kind["certified"]), n),
        wrong=listed([i.index for i in inputs if i.radius is not None and not i.right]),
        attackable=listed(of_kind["attackable"]),
        open=listed(of_kind["open"]),
        least=lower(min((i.radius for i in inputs if i.radius is not None), default=0.0), 4),
        largest_radius=report.settings["radius"] is None,
        accuracies=page.accuracies(report),
        parts=provenance.parts(report),
        smoothing=report.said["smoothing"] is not None,
        real=report.said["semantics"] == "real",
        attacked=report.attacked,
    )
    path = report.path / FILE
    path.write_text(text, encoding="utf-8")
    return path


def listed(indices: list[int]) -> str:
    """Inputs by number, the first few."""
    shown = ", ".join(map(str, indices[:NAMED]))
    return f"{shown}, … ({len(indices)} in all)" if len(indices) > NAMED else shown or "none"


def plain(text: str) -> str:
    """What comes from files is text, and no markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)

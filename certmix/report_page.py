"""One self-contained HTML page of an audit, to hand to a reviewer: the claim, the judge's verdict, every input.

The page repeats what the run's files say and adds nothing; what proves a certificate is `certmix check`.
"""

from __future__ import annotations

import hashlib
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from certmix.store import FINAL, VERDICT, Store

matplotlib.use("Agg")
BALL = {"Linf": "ℓ∞", "L2": "ℓ2", "L1": "ℓ1"}


def write(store: Store, summary: dict[str, Any], rests: str) -> Path:
    """DIR/report.html. summary: as in summary.json; rests: what the certificates rest on, in words."""
    header = json.loads((store.path / "run.json").read_bytes())
    settings = header["settings"]
    certificates = hashlib.sha256((store.path / FINAL).read_bytes()).hexdigest()
    template = resources.files("certmix").joinpath("report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(template)
    text = page.render(
        title=title(summary),
        claim=claim(settings),
        rests=rests,
        verdict=verdict(store.path, certificates),
        certificates=certificates,
        folder=store.path,
        summary=summary,
        curve=curve(summary),
        rows=[row(r) for r in store.lines()],
        settings={**{n: header[n] for n in ("standard", "robust", "dataset")}, **flat(settings)},
    )
    path = store.path / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def title(summary: dict[str, Any]) -> str:
    asked = "largest certified radius" if summary["radius"] is None else f"radius {summary['radius']:.6g}"
    return (
        f"{summary['n']} inputs, {BALL[summary['norm']]}, {asked}, α = {summary['alpha']:g}, "
        f"T = {summary['temperature']:g}, method {summary['method']}"
    )


def claim(settings: dict[str, Any]) -> str:
    """What a certificate of these settings says, in one sentence."""
    smoothed = settings["method"] == "smoothing"
    which = "both networks are" if settings["use_standard"] else "h is"
    domain = settings["domain"]
    parts = [
        "For every input marked certified, the mix log((1 − α) · softmax(g) + α · softmax(T · h)) gives the class "
        f"shown at every point whose {BALL[settings['norm']]} distance from the input is at most the radius shown",
        "" if domain is None or smoothed else f" and whose coordinates lie in [{domain[0]:g}, {domain[1]:g}]",
        f"; {which} smoothed by Gaussian noise of standard deviation "
        f"{settings['smoothing']['noise_std']:g}, and each certificate fails with probability at most "
        f"{settings['smoothing']['failure_probability']:g} over the noise draws"
        if smoothed
        else "",
        ". g, h: the functions that the networks define in real arithmetic with their stored weights",
        ", and their logits as computed in IEEE float32." if settings["semantics"] == "float32" else ".",
    ]
    return "".join(parts)


def verdict(folder: Path, certificates: str) -> dict[str, Any] | None:
    """What `certmix check` last wrote, if it spoke of exactly these certificates."""
    try:
        found = json.loads((folder / VERDICT).read_bytes())
        return found if found["certificates"] == certificates else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def row(line: dict[str, Any]) -> dict[str, Any]:
    why = "" if line["outcome"] == "certified" else f"{line['reason']}: {line['advice']}"
    return {**{n: line[n] for n in ("index", "label", "predicted", "outcome", "radius")}, "why": why}


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names, as text."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"settings.{prefix}{name}"] = json.dumps(value, ensure_ascii=False)
    return found


def curve(summary: dict[str, Any]) -> str | None:
    """Certified accuracy against radius as inline SVG; None for a run at one radius."""
    if not summary["curve"]:
        return None
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    points = summary["curve"]
    axes.step([p["radius"] for p in points], [p["certified_correct"] for p in points], where="post")
    axes.set(xlabel=f"{BALL[summary['norm']]} radius", ylabel="certified and correct, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "certmix"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()[stream.getvalue().index("<svg") :]

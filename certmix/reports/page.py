"""One self-contained HTML page of an audit, to hand to a reviewer: the claim, the judge's verdict, every input.

The page repeats what the run's files say and adds nothing; what proves a certificate is `certmix check`.
"""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from certmix.errors import UsageError
from certmix.formatting import exact, lower, percent_down, percent_nearest, ratio
from certmix.reports.judged import Judged
from certmix.runs.store import Store, digests

matplotlib.use("Agg")
BALL = {"Linf": "ℓ∞", "L2": "ℓ2", "L1": "ℓ1"}


def write(store: Store, summary: dict[str, Any], verdict: Judged | None) -> Path:
    """DIR/report.html. summary: as in summary.json. verdict: the judge's, None if nobody asked it."""
    header = json.loads((store.path / "run.json").read_bytes())
    settings, lines = header["settings"], store.lines()
    adaptive = of_all(lines)
    template = resources.files("certmix.reports").joinpath("page.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(template)
    text = page.render(
        title=title(summary, adaptive),
        claim=claim(settings, adaptive),
        verdict=verdict,
        judged=digests(store.path),
        lower=lower,
        percent_down=lambda share: percent_down(*ratio(share)),
        percent_nearest=lambda share: percent_nearest(*ratio(share)),
        folder=store.path,
        summary=summary,
        curve=curve(summary),
        rows=[row(line) for line in lines],
        settings={**{n: header[n] for n in ("standard", "robust", "dataset")}, **flat(settings)},
    )
    path = store.path / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def of_all(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The field `adaptive` of the claims. Raises UsageError if they differ: one sentence speaks of one mix."""
    found = [line["adaptive"] for line in lines if line["outcome"] == "certified"]
    if any(adaptive != found[0] for adaptive in found):
        raise UsageError(
            "the certificates speak of several mixes (their field adaptive differs): report one run at a time"
        )
    return found[0] if found else None


def title(summary: dict[str, Any], adaptive: dict[str, Any] | None = None) -> str:
    asked = "largest certified radius" if summary["radius"] is None else f"radius {lower(summary['radius'])}"
    weight = "α depends on the input" if adaptive and adaptive["alpha"] else f"α = {exact(summary['alpha'])}"
    return (
        f"{summary['n']} inputs, {BALL[summary['norm']]}, {asked}, {weight}, "
        f"T = {exact(summary['temperature'])}, method {summary['method']}"
    )


def claim(settings: dict[str, Any], adaptive: dict[str, Any] | None = None) -> str:
    """What a certificate of these settings says, in words. adaptive: that field of the claims."""
    weight, robust = "α", "h"
    if adaptive and adaptive["alpha"]:
        weight = "a(x)"
    if adaptive and adaptive["transform"]:
        robust = "M(h)"
    smoothed = settings["method"] == "smoothing"
    which = "both networks are" if settings["use_standard"] else "h is"
    domain = settings["domain"]
    parts = [
        f"For every input marked certified, the mix log((1 − {weight}) · softmax(g) + {weight} · softmax(T · {robust}))"
        f" gives the class shown at every point whose {BALL[settings['norm']]} distance from the input is at most the "
        "radius shown",
        "" if domain is None or smoothed else f" and whose coordinates lie in [{exact(domain[0])}, {exact(domain[1])}]",
        f"; {which} smoothed by Gaussian noise of standard deviation "
        f"{exact(settings['smoothing']['noise_std'])}, and each certificate fails with probability at most "
        f"{exact(settings['smoothing']['failure_probability'])} over the noise draws"
        if smoothed
        else "",
        ". g, h: the functions that the networks define in real arithmetic with their stored weights",
        ", and their logits as computed in IEEE float32." if settings["semantics"] == "float32" else ".",
        _alpha_words(adaptive["alpha"]) if adaptive and adaptive["alpha"] else "",
        _transform_words(adaptive["transform"]) if adaptive and adaptive["transform"] else "",
    ]
    return "".join(parts)


def _alpha_words(alpha: dict[str, Any]) -> str:
    source = "any function" if alpha["network"] is None else f"by the network {alpha['network'][:12]}…"
    return f" a(x): {source}, between {exact(alpha['low'])} and {exact(alpha['high'])}."


def _transform_words(how: dict[str, Any]) -> str:
    moved, power = f"z + {exact(how['shift'])}", f"{exact(how['power'])}"
    shape = f"max({moved}, 0)^{power}" if how["clamp"] else f"sign({moved}) |{moved}|^{power}"
    return f" M(z) = {shape}, of each logit by itself."


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
    radii, shares = [p["radius"] for p in points], [p["certified_correct"] for p in points]
    axes.step([*radii, radii[-1]], [*shares, 0.0], where="pre")
    axes.set(xlabel=f"{BALL[summary['norm']]} radius", ylabel="certified and correct, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "certmix"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()[stream.getvalue().index("<svg") :]

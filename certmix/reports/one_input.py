"""One input on the terminal: verdict, radii by every method, what attacks reach, and what the judge went through."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from certmix.formatting import lower, nearest, upper
from certmix.records.outcomes import Certified, Method, Outcome
from certmix.reports import claims
from certmix.reports.inputs import Input
from certmix.reports.judged import Verdict, printable
from certmix.reports.reading import AuditReport
from certmix.runs.one_input import JudgedLine
from proofs_check.certificate import Accepted, Rejected
from proofs_check.reading import parse

SHADES = " ░▒▓█"  # dark to light
LARGEST = 32  # rows and columns of a drawn input

ALWAYS = (
    "the line is sealed, and every field has its type (FORMAT.md 2 to 4)",
    "the networks and the input at hand have the digests that the claim names, and the input lies in its domain",
)
STRICT = "the class is proven to be the strict argmax of h at the input"
CONSTANTS = "with these constants the theorem's inequality holds for every rival up to the radius"
SAMPLES = "the counts prove the stated lower bounds, at shares that add up to at most the failure probability"
STEPS: dict[str, tuple[str, ...]] = {
    "network_margin": (
        STRICT,
        "h's logit differences are bounded on the ball, every rounding error counted",
        "the bounds exceed, for every rival, the margin that Lemma 3.2 requires at this α",
    ),
    "branched_margin": (
        STRICT,
        "h's logit differences are bounded on the ball, every rounding error counted",
        "for every rival these bounds, or a tree of splits whose every leaf is proven, show the margin that Lemma 3.2 "
        "requires at this α",
    ),
    "engine_margin": (
        STRICT,
        "the engine's bounds are taken as they are; they admit the differences at the input itself",
        "the bounds exceed, for every rival, the margin that Lemma 3.2 requires at this α",
    ),
    "pair_margin": (
        "logit differences of g and of h are bounded on the ball, every rounding error counted",
        "for every rival the weighted sum of the two margins is positive, or h's alone suffices",
    ),
    "branched_pair": (
        "logit differences of g and of h are bounded on the ball, every rounding error counted",
        "for every rival a tree of splits of both, whose every leaf is proven, proves the mix's margins",
    ),
    "lipschitz_local": (STRICT, "the stated constants hold on the ball: slopes of every node are bounded", CONSTANTS),
    "lipschitz_global": (STRICT, "the stated constants hold everywhere: a matrix is positive definite", CONSTANTS),
    "lipschitz_layers": (STRICT, "the stated constants hold everywhere: products of the layers' norms", CONSTANTS),
    "lipschitz_pair": (
        "the stated constants of g and of h are derived again: on the ball, or everywhere",
        "for every rival they prove the stated margins of both, whose weighted sum is positive",
    ),
    "lipschitz_relaxed": (
        STRICT,
        "h's logit differences are bounded on the ball, every rounding error counted",
        "Theorem 3.5 holds with relaxed constants at its fixed point, for every rival",
    ),
    "engine_lipschitz_relaxed": (
        STRICT,
        "the engine's bounds are taken as they are; they admit the differences at the input itself",
        "Theorem 3.5 holds with relaxed constants at its fixed point, for every rival",
    ),
    "adaptive_margin": (
        "the weight is at least the claimed α on the ball",
        "the transformed logits are bounded, and exceed the required margin for every rival",
    ),
    "smoothed_distribution": (SAMPLES, "the margin's distribution, moved by the radius, stays above what is required"),
    "smoothed_means": (SAMPLES, "the means, moved by the radius, stay above what is required"),
    "stopped_means": (
        SAMPLES,
        "the means, moved by the radius, stay above what is required at the stop",
    ),
}


def said_of(judged: JudgedLine) -> Verdict:
    """The judge's word for the line, as a report takes it."""
    if judged.line is None:
        return Verdict("malformed", printable(judged.trouble))
    if isinstance(judged.verdict, Accepted):
        return Verdict("accepted", None, tuple(sorted(a.name for a in judged.verdict.assumptions)))
    if isinstance(judged.verdict, Rejected):
        return Verdict("rejected", printable(f"{judged.verdict.step}: {judged.verdict.reason}"))
    return Verdict(judged.line.outcome if isinstance(judged.line, parse.NotCertified) else "rejected", None)


def lines(report: AuditReport, of: Input, judged: JudgedLine, others: Mapping[Method, Outcome | str]) -> list[str]:
    """The text, line by line."""
    ball = claims.ball(report.said["norm"])
    label = "no label" if of.label < 0 else f"label {of.label}"
    text_lines = [f"input {of.index} of {report.path}: {label}, class {of.predicted}, {_verdict(of)}"]
    for name, model in report.clean.items():
        given = model.classes[of.index]
        text_lines.append(f"  {name} gives class {given} ({model.source})")
    if report.values is not None:
        text_lines += [f"  {row}" for row in drawn(report.values[of.index])]
    units = "" if report.said["features"] is None else ", in units of each feature"
    text_lines.append(f"{ball} radii{units}")
    text_lines += [f"  {text}" for text in _radii(report, of, judged, others)]
    text_lines.append("the judge")
    text_lines += [f"  {text}" for text in _steps(judged)]
    return text_lines


def _verdict(of: Input) -> str:
    return "certified as another class than the label" if of.verdict == "certified" and not of.right else of.verdict


def _radii(report: AuditReport, of: Input, judged: JudgedLine, others: Mapping[Method, Outcome | str]) -> list[str]:
    run_method = report.settings["method"]
    rule = f", rule {judged.line.rule}" if isinstance(judged.line, parse.Certificate) else ""
    texts = [f"{run_method} (this run): {_radius(of.radius, rule) if of.radius is not None else printable(of.why)}"]
    for method, outcome in others.items():
        if isinstance(outcome, str):
            text = printable(outcome)
        elif isinstance(outcome, Certified):
            text = _radius(outcome.radius, "")
        else:
            text = f"none: {printable(outcome.advice)}"
        how = " (proven now, and accepted by the judge)" if isinstance(outcome, Certified) else ""
        texts.append(f"{method}{how}: {text}")
    if of.attack is not None:
        texts.append(f"attack: class {of.attack.rival} at {upper(of.attack.radius)} or less")
    else:
        texts.append("attack: none on record" if report.attacked else "attack: not looked for")
    return texts


def _radius(radius: float, rule: str) -> str:
    return f"certified to {lower(radius)}{rule}"


def _steps(judged: JudgedLine) -> list[str]:
    """What the judge checks, in order, and how that ended."""
    if judged.line is None:
        return [f"✗ malformed: {printable(judged.trouble)}"]
    if not isinstance(judged.line, parse.Certificate):
        return [f"nothing to judge: the line is {judged.line.outcome}"]
    steps = (*ALWAYS, *STEPS[judged.line.rule])
    if isinstance(judged.verdict, Accepted):
        rests = ", ".join(sorted(a.name for a in judged.verdict.assumptions)) or "none beyond exact export"
        return [*(f"✓ {step}" for step in steps), f"accepted; assumptions: {rests}", _cost(judged)]
    if isinstance(judged.verdict, Rejected):
        failed = printable(f"{judged.verdict.step}: {judged.verdict.reason}")
        return [*(f"· {step}" for step in steps), f"✗ rejected at {failed}"]
    raise TypeError("excluded: a certificate has a verdict")


def _cost(judged: JudgedLine) -> str:
    """What the proof takes to keep and to judge; of a branched one, how many parts of the ball it goes through."""
    branched = ""
    if judged.trees:
        leaves, deepest = sum(t.leaves for t in judged.trees), max(t.deepest for t in judged.trees)
        branched = f"; {len(judged.trees)} trees of {leaves} leaves, at most {deepest} splits above one"
    return f"{judged.size} bytes, judged in {nearest(judged.seconds, 2)} s{branched}"


def drawn(value: NDArray[np.float32]) -> list[str]:
    """A picture of an input that is one, in characters; nothing for others."""
    if value.ndim != 3 or value.shape[0] not in (1, 3) or min(value.shape[1:]) < 4:
        return []
    step = -(-max(value.shape[1:]) // LARGEST)
    grey = value.astype(np.float64).mean(axis=0)[::step, ::step]
    low, high = float(grey.min()), float(grey.max())
    scaled = (grey - low) / (high - low) if high > low else np.zeros_like(grey)
    shade = np.minimum((scaled * len(SHADES)).astype(int), len(SHADES) - 1)
    return ["".join(SHADES[k] * 2 for k in row) for row in shade]

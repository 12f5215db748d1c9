"""One self-contained HTML page of an audit, to hand to a reviewer: what is claimed, of what, and every input.

It loads nothing and holds everything: drawings, pictures, and all inputs as CSV. Numbers are text made by
certmix.formatting; the page's script sorts and filters and writes none.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined

from certmix.formatting import lower, nearest, percent_down, upper
from certmix.models.model import VALUES_ONLY
from certmix.reports import claims, curves, pictures, provenance
from certmix.reports.inputs import Input
from certmix.reports.reading import MIX, AuditReport, G, H
from certmix.runs import own_files
from certmix.runs.own_files import Compared
from certmix.runs.store import digests

GALLERY = 6  # inputs of each kind
PLAIN = 2**19  # characters of the table of inputs; a longer one is compressed
FEW_CLASSES = 20  # a longer table is folded
COLUMNS = ("input", "label", "class", "verdict", "certified radius", "attack radius", "judge", "why")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # at the start of a cell, to a spreadsheet


def write(report: AuditReport, own: tuple[Compared, ...] = ()) -> Path:
    """DIR/report.html. own: files of the reviewer's, as compared with the run."""
    template = resources.files("certmix.reports").joinpath("page.html").read_text(encoding="utf-8")
    table = as_csv(report.inputs)
    packed = len(table) > PLAIN
    if packed:
        table = base64.b64encode(gzip.compress(table.encode(), mtime=0)).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(
        report=report,
        own=own_files.verdict(own) if own else [],
        own_same=own_files.all_same(own),
        ball=claims.ball(report.said["norm"]),
        title=claims.title(report.n, report.settings, report.said),
        headline=headline(report),
        claim=claims.claim(report.said),
        assumptions=claims.assumption_words(list(report.assumptions)),
        files=digests(report.path),
        parts=provenance.parts(report),
        circumstances=provenance.circumstances(report),
        faithfulness=faithfulness(report),
        accuracies=accuracies(report),
        bar=shares(report.inputs),
        drawing=drawing(report),
        classes=by_class(report),
        few_classes=FEW_CLASSES,
        gallery=gallery(report),
        packed=packed,
        table=json.dumps(table, ensure_ascii=False).replace("<", "\\u003c"),
        settings=flat(report.settings),
        values_only=VALUES_ONLY,
        lower=lower,
        nearest=nearest,
    )
    path = report.path / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def headline(report: AuditReport) -> str:
    """The result in one sentence."""
    n, ball = report.n, claims.ball(report.said["norm"])
    hits = sum(i.counts for i in report.inputs)
    what = "their label" if report.labelled else "their class, and none has a label"
    if report.settings["radius"] is not None:
        within = f"within {ball} radius {lower(report.settings['radius'])}"
        return f"{percent_down(hits, n)} % of {n} inputs are certified to keep {what}, {within}."
    if report.reference is None:
        return f"None of {n} inputs is certified to keep its {'label' if report.labelled else 'class'}."
    return (
        f"{hits} of {n} inputs are certified to keep {what}, half of these {hits} up to {ball} radius "
        f"{lower(report.reference, 4)} or more."
    )


def faithfulness(report: AuditReport) -> list[str]:
    """How far each plain network was found from the model it was made of."""
    sentences: list[str] = []
    for key, name in (("standard", "g"), ("robust", "h")):
        of = report.audit.get("faithfulness", {}).get(key)
        if key == "standard" and report.g_without_gradients:
            sentences.append("g: it has no plain network, and was run as given.")
            continue
        if of is None:
            sentences.append(f"{name}: not recorded.")
            continue
        differs = of["class_differs"]
        words = (
            f"the two give other classes at inputs {', '.join(map(str, differs))}"
            if differs
            else "and they give the same classes"
        )
        where = f"at all {report.n} inputs"
        sentences.append(f"{name}: no logit differs by more than {upper(max(of['differences']), 3)} {where}, {words}.")
    return sentences


@dataclass(frozen=True)
class AccuracyRow:
    """One model's shares as (percent with its sign, interval), None where there is nothing to say. source: whose word
    the clean one is."""

    model: str
    source: str
    clean: tuple[str, str] | None
    attacked: tuple[str, str] | None
    certified: tuple[str, str] | None


def accuracies(report: AuditReport) -> list[AccuracyRow]:
    names = [name for name in (MIX, H, G) if name in report.clean]
    names += [name for name in report.clean if name not in names]
    rows: list[AccuracyRow] = []
    for name in names:
        given = report.clean_share(name), report.attacked_share(name), report.certified_share(name)
        if name not in (MIX, H, G):
            given = given[0], None, None
        texts = [None if s is None else (s.text, f"{s.interval[0]} – {s.interval[1]}") for s in given]
        rows.append(AccuracyRow(name, report.clean[name].source, *texts))
    return rows


@dataclass(frozen=True)
class VerdictShares:
    """How many of some inputs ended in what; text: the same in words."""

    certified: int
    wrong: int
    attackable: int
    open: int

    @property
    def text(self) -> str:
        return (
            f"{self.certified} certified, {self.wrong} certified as another class than the label, "
            f"{self.attackable} attackable, {self.open} open"
        )


def shares(inputs: Sequence[Input]) -> VerdictShares:
    counts = Counter("wrong" if i.verdict == "certified" and not i.right else i.verdict for i in inputs)
    return VerdictShares(counts["certified"], counts["wrong"], counts["attackable"], counts["open"])


def drawing(report: AuditReport) -> curves.Drawing | None:
    """Of a run that looked for the largest radii."""
    if report.settings["radius"] is not None:
        return None
    right = report.right(MIX) if MIX in report.clean else [True] * report.n
    attacked = curves.attacked_curve(report.inputs, right)
    return curves.draw(curves.certified_curve(report.inputs), attacked, report.n)


@dataclass(frozen=True)
class OfClass:
    """The inputs with one label. median: a radius that half of those certified as it reach; "" if there is none."""

    label: int
    n: int
    shares: VerdictShares
    certified: str
    median: str


def by_class(report: AuditReport) -> list[OfClass]:
    classes: list[OfClass] = []
    if not report.labelled:
        return classes
    for label in sorted({i.label for i in report.inputs}):
        inputs_of_class = [i for i in report.inputs if i.label == label]
        radii = sorted(i.radius for i in inputs_of_class if i.counts and i.radius is not None)
        median = lower(radii[(len(radii) - 1) // 2]) if radii else ""
        certified = percent_down(len(radii), len(inputs_of_class))
        classes.append(OfClass(label, len(inputs_of_class), shares(inputs_of_class), certified, median))
    return classes


@dataclass(frozen=True)
class Exhibit:
    """One input of the gallery. pictures: (data address, what it shows)."""

    index: int
    caption: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Group:
    name: str
    meaning: str
    exhibits: tuple[Exhibit, ...]

    @property
    def wide(self) -> bool:
        return any(len(e.pictures) > 1 for e in self.exhibits)


def gallery(report: AuditReport) -> list[Group]:
    """The most telling inputs of each kind; groups without any are left out."""
    inputs = report.inputs
    strong = sorted((i for i in inputs if i.counts), key=lambda i: -(i.radius or 0.0))
    largest = report.settings["radius"] is None
    groups = [
        ("strongest", "the largest certified radii", strong[:GALLERY] if largest else []),
        ("weakest", "the smallest certified radii", strong[GALLERY:][::-1][:GALLERY] if largest else []),
        ("certified", "the first ones certified", [] if largest else strong[:GALLERY]),
        ("open", "neither a proof nor an attack", [i for i in inputs if i.verdict == "open"]),
        (
            "attackable",
            "the nearest points found at which the mix gives another class; what was added, magnified",
            sorted(
                (i for i in inputs if i.verdict == "attackable"), key=lambda i: i.attack.radius if i.attack else 0.0
            ),
        ),
        (
            "certified as another class",
            "the answer cannot change, and is not the label",
            sorted((i for i in inputs if i.radius is not None and not i.right), key=lambda i: -(i.radius or 0.0)),
        ),
    ]
    scale = _scale(report)
    return [
        Group(name, meaning, tuple(_exhibit(report, i, scale) for i in candidates[:GALLERY]))
        for name, meaning, candidates in groups
        if candidates
    ]


def _scale(report: AuditReport) -> tuple[float, float]:
    """The values shown black and white: the domain, or what the inputs reach."""
    if report.said["domain"] is not None:
        return report.said["domain"][0], report.said["domain"][1]
    values = np.zeros(1) if report.values is None else report.values
    low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0


def _exhibit(report: AuditReport, of: Input, scale: tuple[float, float]) -> Exhibit:
    caption = [f"{_label(of)}, class {of.predicted}"]
    if of.radius is not None:
        caption.append(f"certified to {lower(of.radius, 4)}")
    if of.attack is not None:
        caption.append(f"class {of.attack.rival} at {upper(of.attack.radius, 4)}")
    shown: list[tuple[str, str]] = []
    if report.values is not None and pictures.is_image(report.values.shape[1:]):
        x = report.values[of.index]
        shown.append((pictures.picture(x, *scale), f"input {of.index}: {'; '.join(caption)}"))
        if of.attack is not None and of.radius is None:
            words = f"input {of.index} attacked: the mix says class {of.attack.rival}"
            shown.append((pictures.picture(of.attack.point, *scale), words))
            change = f"what the attack added to input {of.index}, magnified"
            shown.append((pictures.difference(of.attack.point, x), change))
    return Exhibit(of.index, tuple(caption), tuple(shown))


def _label(of: Input) -> str:
    return "no label" if of.label < 0 else f"label {of.label}"


def as_csv(inputs: Sequence[Input]) -> str:
    """All inputs, radii rounded to their safe side; a comma and a line feed separate, as RFC 4180 has it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for i in inputs:
        wrong = i.verdict == "certified" and not i.right
        verdict = "certified, wrong class" if wrong else i.verdict
        radius = "" if i.radius is None else lower(i.radius)
        attack = "" if i.attack is None else upper(i.attack.radius)
        label = "" if i.label < 0 else i.label
        writer.writerow([i.index, label, i.predicted, verdict, radius, attack, i.judge, _cell(i.why)])
    return stream.getvalue()


def _cell(text: str) -> str:
    """`text`, which a folder of anybody's may hold, as no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def flat(settings: dict[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names, as text."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            texts.update(flat(value, f"{prefix}{name}."))
        else:
            texts[f"{prefix}{name}"] = json.dumps(value, ensure_ascii=False)
    return texts

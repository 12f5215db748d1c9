"""A run's margin questions for other verifiers: ONNX files and VNN-LIB properties, as VNN-COMP hands them out.

A property describes counterexamples. Two are written of each input, since no condition on gaps of logits alone is the
margin of probabilities (docs/maths.md 3c): if `prove` is unsatisfiable h has the margin that Lemma 3.2 requires; if
`refute` is satisfiable h has it not. The outputs are gaps z_y - z_i, so that each condition compares one output with a
number, which every tool reads. Of two classes the two ask the same.

Numbers are doubles and printed so that they read back as they are. Those of `prove` are rounded so that it describes
more counterexamples than there are, those of `refute` less. Nothing that a tool answers is a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.models.written import gaps, written
from certmix.runs.finished import OpenedRun, opened
from certmix.runs.store import Store
from certmix.theorems.logit_gaps import enough_up, needed_down
from verifiers.norms import NORMS

SECONDS = 300  # in instances.csv, what a tool may take
Kind = Literal["prove", "refute"]
MEANS = {
    "prove": "unsat: h has the margin that Lemma 3.2 requires on the whole ball; sat: nothing follows",
    "refute": "sat: h has not the margin that Lemma 3.2 requires; unsat: nothing follows",
}


@dataclass(frozen=True, eq=False)
class Question:
    """Whether h keeps class `predicted` of input `index` by the required margin on the ball of `radius` around x."""

    index: int
    x: NDArray[np.float32]
    predicted: int
    radius: float


def write(path: Path, out: Path, radius: float | None = None) -> int:
    """The questions of the finished run in `path`, in the folder `out`, which is new; how many inputs they are about.

    radius: to ask at; None: that of the run, and where it looked for the largest, the certified one of each input.
    Raises UsageError.
    """
    run = opened(path)
    asked = list(_questions(run, Store(path).lines(), radius))
    if not asked:
        raise UsageError(f"{path} certified no radius to ask at: say which one with --radius")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: choose another folder for --vnnlib")
    model = written(run.robust.require_network())
    for folder in ("onnx", "vnnlib"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    onnx.save(model, out / "onnx" / "robust.onnx")
    for predicted in sorted({q.predicted for q in asked}):
        onnx.save(gaps(model, predicted), out / "onnx" / f"gaps-{predicted}.onnx")
    instances: list[str] = []
    kinds: tuple[Kind, ...] = ("prove", "refute")
    for question in asked:
        for kind in kinds:
            name = f"vnnlib/{question.index:08d}-{kind}.vnnlib"
            (out / name).write_text(text(run, question, kind), encoding="utf-8")
            instances.append(f"onnx/gaps-{question.predicted}.onnx,{name},{SECONDS}\n")
    (out / "instances.csv").write_text("".join(instances), encoding="utf-8")
    return len(asked)


def _questions(run: OpenedRun, lines: Iterable[dict[str, object]], radius: float | None) -> Iterator[Question]:
    s = run.settings
    if s.method != "margin" or s.use_standard:
        raise UsageError("VNN-LIB asks for margins of h: of a run with --method margin, without --use-standard")
    if not NORMS[s.norm].is_box:
        raise UsageError(f"VNN-LIB describes boxes, so balls that are boxes: the run is about {s.norm}")
    if not s.alpha > 0.5:
        raise UsageError(f"no margin of h is enough with alpha {exact(s.alpha)}: Lemma 3.2 certifies alpha > 1/2 only")
    if radius is not None and not (math.isfinite(radius) and radius >= 0):
        raise UsageError(f"--radius must be >= 0 and finite, got {exact(radius)}")
    for line in lines:
        index, predicted, certified = line["index"], line["predicted"], line.get("radius")
        at = next((r for r in (radius, s.radius, certified) if r is not None), None)
        if isinstance(index, int) and isinstance(predicted, int) and isinstance(at, float):
            yield Question(index, run.data.inputs[index], predicted, at)


def text(run: OpenedRun, question: Question, kind: Kind) -> str:
    """The property: its box holds the ball, and its conditions all that may be too little; or the other way round."""
    s, prove = run.settings, kind == "prove"
    classes = run.robust.classes
    gap = enough_up(s.alpha, s.temperature, classes) if prove else needed_down(s.alpha, s.temperature)
    cells = [ends(float(v), question.radius, s.domain, outward=prove) for v in question.x.ravel()]
    conditions = "".join(f"\n  (and (<= Y_{k} {_number(gap)}))" for k in range(classes - 1))
    return "\n".join(
        [
            f"; input {question.index}, class {question.predicted}, {s.norm} radius {exact(question.radius)}, "
            f"alpha {exact(s.alpha)}, temperature {exact(s.temperature)}",
            f"; {MEANS[kind]}",
            *(f"(declare-const X_{k} Real)" for k in range(len(cells))),
            *(f"(declare-const Y_{k} Real)" for k in range(classes - 1)),
            *(
                f"(assert (>= X_{k} {_number(low)}))\n(assert (<= X_{k} {_number(high)}))"
                for k, (low, high) in enumerate(cells)
            ),
            f"(assert (or{conditions}))",
            "",
        ]
    )


def ends(value: float, radius: float, domain: tuple[float, float] | None, *, outward: bool) -> tuple[float, float]:
    """Doubles beside the ends of [value - radius, value + radius] cut by the domain: outside of it, or inside."""
    low, high = Fraction(value) - Fraction(radius), Fraction(value) + Fraction(radius)
    if domain is not None:
        low, high = max(low, Fraction(domain[0])), min(high, Fraction(domain[1]))
    return _rounded(low, up=not outward), _rounded(high, up=outward)


def _rounded(value: Fraction, *, up: bool) -> float:
    near = float(value)
    if up:
        return near if Fraction(near) >= value else math.nextafter(near, math.inf)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def _number(value: float) -> str:
    """In decimals, without an exponent: it reads back as this double."""
    return np.format_float_positional(value, unique=True, trim="0")

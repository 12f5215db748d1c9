"""The chain of steps behind an accepted certificate, rule by rule: the numbers that the judge derived, in his order.

Numbers are what his functions were given and found (`observed`), or what they make of that again; what bounds from
below is shown rounded down, what bounds from above rounded up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb

from certmix.formatting import exact, lower, upper
from certmix.reports.explained.observed import Call, Summary
from proofs_check.certificate import Claim
from proofs_check.kernel.rounding import Array, arb_down, arb_up, sum_up
from proofs_check.reading.parse import Certificate
from proofs_check.rules.margin.differences import Differences, exponentials, rivals
from proofs_check.rules.margin.rule import margin_lower

DIGITS, MOST_DIGITS = 4, 17
MOST_ROWS = 10
DIFFERENCES = "rules.margin.differences.differences"
NEED_CLASS = "rules.margin.differences.need_class"
ENGINE_BOUNDS = "rules.margin.differences.engine_bounds"
BOX = "rules.margin.rule.box_proves"
MARGIN_LOWER = "rules.margin.rule.margin_lower"
CHORD = "rules.margin.exponential.chord"
UPPER_OF = "rules.margin.exponential.upper_of"
MISSES = "rules.margin.exponential.exponential_misses"
LEAF = "rules.margin.branching._leaf_proves"
NEED_THEOREM = "rules.lipschitz.rule.need_theorem"
JOINT = "rules.lipschitz.joint.joint_proves"
LOG_SUM = "rules.lipschitz.joint.log_sum"
SIDE = "rules.lipschitz.pair._side"
FIXED_POINT = "rules.lipschitz.rule.need_fixed_point"
LOCAL = "kernel.jacobian.difference_constants"
GLOBAL = "rules.lipschitz.layer_norms.global_constants"
MATRIX = "rules.lipschitz.lipsdp.positive_definite"
ALPHA = "rules.adaptive._alpha_on_ball"
TRANSFORMED = "rules.adaptive.transformed_upper"
NUTS = "rules.mixed_nuts.nuts_upper"
SHIFT = "rules.smoothing._shift"
SPLIT = "rules.smoothing._need_split"
TAIL = "rules.smoothing._need_tail"
MEAN = "rules.smoothing.need_mean"
NEED_MARGIN = "rules.smoothing.need_margin"
WATCHED = (
    DIFFERENCES, NEED_CLASS, ENGINE_BOUNDS, BOX, MARGIN_LOWER, CHORD, UPPER_OF, MISSES, NEED_THEOREM, JOINT, LOG_SUM,
    SIDE, FIXED_POINT, LOCAL, GLOBAL, MATRIX, ALPHA, TRANSFORMED, NUTS, SHIFT, SPLIT, TAIL, MEAN, NEED_MARGIN,
)  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    """A leaf of a rival's tree. how: "empty", "box" or "line"."""

    rival: int
    depth: int
    how: str


def _leaf(call: Call) -> Leaf:
    how = "line" if call.of(UPPER_OF) else "box" if call.of(MARGIN_LOWER) else "empty"
    return Leaf(call.arguments["rival"], len(call.arguments["leaf"].path), how)


SUMMARIES: dict[str, Summary] = {LEAF: _leaf}  # a tree may have many thousand leaves


@dataclass(frozen=True)
class Chain:
    """steps: (what, found). rows: a table, its first row the heads; of the rivals, or of groups of them."""

    steps: list[tuple[str, str]]
    rows: list[tuple[str, ...]]


# ---------------------------------------------------------------- numbers


def required(claim: Claim) -> Fraction:
    """(1 - alpha)/alpha, exactly."""
    return (1 - Fraction(claim.alpha)) / Fraction(claim.alpha)


def above(value: arb, bound: Fraction) -> str:
    """`value` rounded down, with as many digits as show that it exceeds `bound`."""
    least = arb_down(value)
    digits = next((d for d in range(DIGITS, MOST_DIGITS) if Fraction(lower(least, d)) > bound), MOST_DIGITS)
    return lower(least, digits)


def below(value: arb, bound: arb) -> str:
    """The text "<= value < bound", the first rounded up, the other down, with as many digits as show it."""
    most, least = arb_up(value), arb_down(bound)
    digits = next((d for d in range(DIGITS, MOST_DIGITS) if Fraction(upper(most, d)) < Fraction(lower(least, d))), None)
    return f"<= {upper(most, digits or MOST_DIGITS)} < {lower(least, digits or MOST_DIGITS)}"


def _box_margin(of_upper: Array, rival: int, claim: Claim) -> arb:
    """h_y - h_i >= (1 - e_i)/sum e at these upper bounds of d (3a), where d_i <= 0."""
    e = exponentials(of_upper, claim.temperature, claim.predicted)
    return (1 - e[rival]) / sum(e, arb(0))


def _up(value: float) -> str:
    return upper(float(value), DIGITS)


def _down(value: float) -> str:
    return lower(float(value), DIGITS)


def _shown(claim: Claim, strength: Array) -> list[int]:
    """The rivals of the table: all, or the strongest."""
    every = rivals(claim, len(strength))
    return every if len(every) <= MOST_ROWS else sorted(every, key=lambda i: -strength[i])[: MOST_ROWS - 1]


def _table(claim: Claim, strength: Array, heads: Sequence[str], row: Callable[[int], tuple[str, ...]]) -> Any:
    """A row for each rival of the table; the last one counts those that are left out."""
    shown = _shown(claim, strength)
    left = len(strength) - 1 - len(shown)
    more = [(f"and {left} weaker", *[""] * (len(heads) - 1))] if left else []
    return [("rival", *heads[1:]), *((str(i), *row(i)) for i in shown), *more]


# ---------------------------------------------------------------- steps that rules share


def _class_step(seen: Call, claim: Claim) -> list[tuple[str, str]]:
    """d_j = z_j - z_y, and that y is the class at x."""
    checks = seen.all_of(NEED_CLASS)
    if not checks:
        return []
    again = checks[0].of(DIFFERENCES)
    found: Array = again[0].result.upper if again else checks[0].arguments["upper"]
    most = _up(np.delete(found, claim.predicted).max())
    return [("class at x", f"{claim.predicted}: every d_j = z_j - z_{claim.predicted} there is <= {most}")]


def _on_ball(seen: Call, claim: Claim) -> list[Differences]:
    """What was found of the logit differences on the claimed ball, of h and then of other networks."""
    outside = [c for c in seen.all_of(DIFFERENCES) if not _within(seen, c, NEED_CLASS)]
    return [c.result for c in outside]


def _within(root: Call, call: Call, function: str) -> bool:
    return any(c is call for outer in root.all_of(function) for c in outer.all_of(call.function))


def _intervals(found: Differences, y: int) -> Array:
    """Upper bounds of d_j from the intervals of the logits alone."""
    ends = (found.values.upper[-1].ravel(), found.values.lower[-1].ravel())
    return sum_up(ends[0], -ends[1][y] * np.ones_like(ends[0]), found.error)


def _margin_step(claim: Claim, margins: Iterable[arb]) -> tuple[str, str]:
    """What is required, rounded up, with as many digits as show that these margins, rounded down, exceed it."""
    bound, shown = required(claim), [Fraction(above(m, required(claim))) for m in margins]
    least = min(shown, default=bound)
    digits = next((d for d in range(DIGITS, MOST_DIGITS) if Fraction(upper(bound, d)) < least), DIGITS)
    return ("required", f"h_{claim.predicted} - h_i > (1 - alpha)/alpha, which is <= {upper(bound, digits)}")


# ---------------------------------------------------------------- rules


def _margin(line: Certificate, seen: Call) -> Chain:
    """`network_margin` and `branched_margin`."""
    claim = line.claim
    found = _on_ball(seen, claim)[0]
    intervals = _intervals(found, claim.predicted)
    boxes = {c.arguments["rival"] for c in seen.all_of(BOX) if c.result}  # of the ball: leaves keep theirs
    lines = _lines(seen)
    leaves: list[Leaf] = [c.result for c in seen.all_of(LEAF)]
    margins = {i: margin_lower(found, i, claim.temperature, claim.predicted) for i in boxes}

    def row(i: int) -> tuple[str, ...]:
        if of_i := [leaf for leaf in leaves if leaf.rival == i]:
            how, proof = _of_tree(of_i)
        elif i in boxes:
            how, proof = "box (3a)", f">= {above(margins[i], required(claim))}"
        else:
            how, proof = "line (3b)", lines.get(i, "")
        ends = f"{_down(found.lower[i])} .. {_up(found.upper[i])}"
        return (_up(intervals[i]), ends, how, proof)

    steps = [*_class_step(seen, claim), _margin_step(claim, margins.values())]
    if lines:
        steps.append(("line (3b)", "e_i + (1 - alpha) sum of other e_j < 2 alpha - 1, e_j = exp(T d_j)"))
    if leaves:
        steps.append(("trees", f"{len(leaves)} leaves: {_kinds(leaves)}"))
    heads = ("rival", "d, intervals <=", "d, backward bounds", "proven by", "margin, or sum")
    return Chain(steps, _table(claim, found.upper, heads, row))


def _lines(seen: Call) -> dict[int, str]:
    """Per rival left to the exponential form, its sum and the threshold."""
    result: dict[int, str] = {}
    for misses in seen.all_of(MISSES):
        chords = [c.result for c in misses.of(CHORD)]
        for i, chord, most in zip(misses.arguments["unproven"], chords, _uppers(misses), strict=True):
            result[i] = below(chord.intercept + arb(float(most)), chord.threshold)
    return result


def _uppers(misses: Call) -> Array:
    found = misses.of(UPPER_OF)
    return found[0].result if found else np.zeros(0)


def _of_tree(leaves: list[Leaf]) -> tuple[str, str]:
    return "tree (10)", f"{len(leaves)} leaves, {max(leaf.depth for leaf in leaves)} deep"


def _kinds(leaves: list[Leaf]) -> str:
    counts = Counter(leaf.how for leaf in leaves)
    words = {"empty": "hold no point", "box": "by the box", "line": "by a line and multipliers"}
    return ", ".join(f"{counts[how]} {text}" for how, text in words.items() if counts[how])


def _engine_margin(line: Certificate, seen: Call) -> Chain:
    claim = line.claim
    bottom, top = seen.all_of(ENGINE_BOUNDS)[0].result
    margins = {i: _box_margin(top, i, claim) for i in rivals(claim, len(top))}

    def row(i: int) -> tuple[str, ...]:
        return (f"{_down(bottom[i])} .. {_up(top[i])}", above(margins[i], required(claim)))

    steps = [
        *_class_step(seen, claim),
        _margin_step(claim, margins.values()),
        ("bounds", f"taken from {line.evidence.engine!r}"),
    ]
    return Chain(steps, _table(claim, top, ("rival", "d, as stated", "margin (3a) >="), row))


def _pair_margin(line: Certificate, seen: Call) -> Chain:
    claim = line.claim
    h, g = _on_ball(seen, claim)[:2]
    of = [arb(c.result) for c in seen.all_of(MARGIN_LOWER)]
    pairs = dict(zip(rivals(claim, len(h.upper)), zip(of[::2], of[1::2], strict=True), strict=True))
    alpha = arb(claim.alpha)

    def row(i: int) -> tuple[str, ...]:
        of_g, of_h = pairs[i]
        mix = (1 - alpha) * of_g + alpha * of_h
        proof = above(mix, Fraction(0)) if mix > 0 else f"h alone: {above(of_h, required(claim))}"
        ends = (f"{_down(d.lower[i])} .. {_up(d.upper[i])}" for d in (g, h))
        return (*ends, _down(arb_down(of_g)), _down(arb_down(of_h)), proof)

    text = "(1 - alpha) (g_y - g_i) + alpha (h_y - h_i) > 0"
    heads = ("rival", "d of g", "d of h", "g_y - g_i >=", "h_y - h_i >=", "mix >=")
    return Chain([*_class_step(seen, claim), ("required", text)], _table(claim, h.upper, heads, row))


def _branched_pair(line: Certificate, seen: Call) -> Chain:
    claim = line.claim
    found = _on_ball(seen, claim)[0]
    (low_g, low_h), (high_g, high_h) = np.split(found.lower, 2), np.split(found.upper, 2)
    leaves: list[Leaf] = [c.result for c in seen.all_of(LEAF)]

    def row(i: int) -> tuple[str, ...]:
        ends = (f"{_down(a[i])} .. {_up(b[i])}" for a, b in ((low_g, high_g), (low_h, high_h)))
        return (*ends, *_of_tree([leaf for leaf in leaves if leaf.rival == i]))

    text = "(1 - alpha) (g_y - g_i) + alpha (h_y - h_i) > 0"
    steps = [*_class_step(seen, claim), ("required", text), ("trees", f"{len(leaves)} leaves: {_kinds(leaves)}")]
    return Chain(steps, _table(claim, high_h, ("rival", "d of g", "d of h", "proven by", "its tree"), row))


def _constants(line: Certificate, seen: Call) -> Chain:
    """`lipschitz_local`, `lipschitz_layers`, `lipschitz_global`."""
    claim, asked = line.claim, seen.all_of(NEED_THEOREM)[0].arguments
    at_x, used, theorem = asked["at_x"], asked["constants"], asked["theorem"]
    derived = next((c.result for name in (LOCAL, GLOBAL) for c in seen.all_of(name)), None)
    boxes = {c.arguments["rival"]: c.arguments["upper"] for c in seen.all_of(BOX)}

    def falls(i: int) -> arb:
        slope = max(used[i] / 2, np.delete(used, i).max() / 4)
        return arb(claim.radius) * arb(claim.temperature) * arb(float(slope))

    sums = {c.arguments["rival"]: c.of(LOG_SUM)[0].result for c in seen.all_of(JOINT)}
    margins = {i: _box_margin(top, i, claim) for i, top in boxes.items() if i not in sums}
    if theorem == "3.5":
        margins = {i: _box_margin(at_x, i, claim) - falls(i) for i in rivals(claim, len(at_x))}

    def row(i: int) -> tuple[str, ...]:
        own = "by its matrix" if derived is None else _up(derived[i])
        if i in sums:
            return (_up(at_x[i]), own, _up(used[i]), "", below(sums[i], (2 * arb(claim.alpha) - 1).log()))
        on_ball = _up(boxes[i][i]) if i in boxes else ""
        return (_up(at_x[i]), own, _up(used[i]), on_ball, above(margins[i], required(claim)))

    by = {
        "3.5": "h_y - h_i falls by at most r T max(L_i / 2, L_o / 4)",
        "4a": "d_j <= d_j(x) + L_j r, then the box (3a)",
        "4b": f"the same, or log sum w e^(T d) < log(2 alpha - 1) by {_up(asked['joint'] or 0.0)} of all z",
    }
    steps = [*_class_step(seen, claim), _margin_step(claim, margins.values()), (f"theorem {theorem}", by[theorem])]
    heads = ("rival", "d(x) <=", "L proven <=", "L used", "d on the ball <=", "margin >=")
    return Chain(steps, _table(claim, at_x, heads, row))


def _lipschitz_pair(line: Certificate, seen: Call) -> Chain:
    claim, evidence = line.claim, line.evidence
    h, g = (c.result for c in seen.all_of(SIDE))
    alpha = arb(claim.alpha)

    def row(i: int) -> tuple[str, ...]:
        of_g, of_h = evidence.standard_margins[i], evidence.robust_margins[i]
        mix = (1 - alpha) * arb(of_g) + alpha * arb(of_h)
        ends = (f"{_down(side.on_ball.lower[i])} .. {_up(side.on_ball.upper[i])}" for side in (g, h))
        return (*ends, _down(of_g), _down(of_h), above(mix, Fraction(0)))

    names = (f"{name} {_up(max(side.constants))} (theorem {side.theorem})"
             for name, side in (("g", evidence.standard), ("h", evidence.robust)))  # fmt: skip
    steps = [
        *_class_step(seen, claim),
        ("constants", "largest proven: " + ", ".join(names)),
        ("required", "(1 - alpha) (g_y - g_i) + alpha (h_y - h_i) > 0"),
    ]
    heads = ("rival", "d of g", "d of h", "g_y - g_i >=", "h_y - h_i >=", "mix >=")
    return Chain(steps, _table(claim, h.on_ball.upper, heads, row))


def _relaxed(line: Certificate, seen: Call) -> Chain:
    claim, asked = line.claim, seen.all_of(FIXED_POINT)[0].arguments
    bottom, top = asked["lower"], asked["upper"]
    e_low, e_up = (exponentials(b, claim.temperature, claim.predicted) for b in (bottom, top))
    least = 1 / sum(e_up, arb(0))

    most = {i: e_up[i] / (e_up[i] + sum((e for j, e in enumerate(e_low) if j != i), arb(0))) for i in
            rivals(claim, len(top))}  # fmt: skip
    margins = {i: least - value for i, value in most.items()}

    def row(i: int) -> tuple[str, ...]:
        return (f"{_down(bottom[i])} .. {_up(top[i])}", _up(arb_up(most[i])), above(margins[i], required(claim)))

    y = claim.predicted
    of_y = (f"h_{y}", f">= {_down(arb_down(least))} on the ball")
    steps = [*_class_step(seen, claim), _margin_step(claim, margins.values()), of_y]
    return Chain(steps, _table(claim, top, ("rival", "d on the ball", "h_i <=", f"h_{y} - h_i >="), row))


def _adaptive(line: Certificate, seen: Call) -> Chain:
    claim = line.claim
    on_ball = [c for c in seen.all_of(ALPHA) if c.of(DIFFERENCES)]
    source = "declared" if not on_ball else f"s_1 - s_0 >= {_down(on_ball[0].of(DIFFERENCES)[0].result.lower[1])}"
    steps: list[tuple[str, str]] = []
    if claim.adaptive is not None and claim.adaptive.alpha is not None:
        steps.append(("a(x') >=", f"{exact(claim.alpha)} on the ball ({source})"))
    moved = seen.all_of(TRANSFORMED) or seen.all_of(NUTS)
    if not moved:
        seen.inside = [c for c in seen.inside if c.function != ALPHA]  # what is left is `network_margin`
        of_margin = _margin(line, seen)
        return Chain([*steps, *of_margin.steps], of_margin.rows)
    tops: list[arb] = moved[0].result
    e = [arb(1) if j == claim.predicted else (arb(claim.temperature) * t).exp() for j, t in enumerate(tops)]
    most = np.array([0.0 if j == claim.predicted else arb_up(t) for j, t in enumerate(tops)])
    margins = {i: (1 - e[i]) / sum(e, arb(0)) for i in rivals(claim, len(e))}

    def row(i: int) -> tuple[str, ...]:
        return (_up(most[i]), above(margins[i], required(claim)))

    steps.append(_margin_step(claim, margins.values()))
    y = claim.predicted
    return Chain(steps, _table(claim, most, ("rival", f"M(z_i) - M(z_{y}) <=", "margin (3a) >="), row))


def _smoothing(line: Certificate, seen: Call) -> Chain:
    """`smoothed_means`, `smoothed_distribution` and `stopped_means`."""
    claim, sample = line.claim, line.evidence.sample
    noise = claim.smoothing
    if noise is None:
        raise TypeError("excluded: an accepted certificate of smoothing speaks of one")
    both = noise.networks == "both"
    shift = seen.all_of(SHIFT)[0].result
    tests = [c.arguments["margin"] for c in seen.all_of(NEED_MARGIN)]
    statements = len(seen.all_of(TAIL)) + len([c for c in seen.all_of(MEAN) if not c.of(TAIL)])
    if line.rule == "stopped_means":
        draws, share = f"{sample.samples} of at most {sample.most}", noise.failure_probability
    else:
        draws, share = f"{seen.all_of(SPLIT)[0].result}", sample.looks[sample.look].share
        draws += f", look {sample.look + 1} of {len(sample.looks)}"
    bound = Fraction(0) if both else required(claim)
    of_y = getattr(line.evidence, "predicted", None)
    steps = [
        ("draws", f"{draws}; of noise {exact(noise.noise_std)}"),
        ("may fail", f"with probability {exact(noise.failure_probability)}; here <= {upper(share, DIGITS)}"),
        ("shift", f"s = (radius + distance of x to the grid) / noise <= {_up(arb_up(shift))}"),
        ("counts", f"prove {statements} confidence bound{'s' * (statements > 1)}"),
        *([] if of_y is None else [("mean", f"of class {claim.predicted} >= {_down(of_y.lower)}")]),
        ("required", "> 0, of the mix") if both else _margin_step(claim, tests),
    ]
    rows = [("rivals", "stated", "margin on the ball >=")]
    for group, margin in list(zip(line.evidence.groups, tests, strict=True))[:MOST_ROWS]:
        names = [str(j) for j in group.classes]
        named = ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
        rows.append((named, _of_group(group), above(margin, bound)))
    if len(tests) > MOST_ROWS:
        rows.append((f"{len(tests) - MOST_ROWS} more groups", "", above(min(tests, key=arb_down), bound)))
    return Chain(steps, rows)


def _of_group(group: Any) -> str:
    """What a group of rivals states."""
    if hasattr(group, "tail"):
        tail = group.tail
        return f"P[v_y - v_i >= {_down(tail.thresholds[0])}] >= {_down(tail.lower[0])}, {len(tail.lower)} such"
    return "1 - v_y" if group.complement is None else f"1 - v_i >= {_down(group.complement.lower)} in the mean"


CHAINS: dict[str, Callable[[Certificate, Call], Chain]] = {
    "adaptive_margin": _adaptive,
    "branched_margin": _margin,
    "branched_pair": _branched_pair,
    "engine_lipschitz_relaxed": _relaxed,
    "engine_margin": _engine_margin,
    "lipschitz_global": _constants,
    "lipschitz_layers": _constants,
    "lipschitz_local": _constants,
    "lipschitz_pair": _lipschitz_pair,
    "lipschitz_relaxed": _relaxed,
    "network_margin": _margin,
    "pair_margin": _pair_margin,
    "smoothed_distribution": _smoothing,
    "smoothed_means": _smoothing,
    "stopped_means": _smoothing,
}

"""What every theorem behind the judge says, in words, and who rests on it. Needs no z3.

Each is proven in `in_z3`, under the same name. A rule without one, or one without a rule, fails a test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """section: of the page on the mathematics. rules: of `proofs_check.rules.RULES` that rest on it. layers: classes of
    `proofs_check.kernel.layers.KINDS` that do. only: those certificates for which this function of the judge ran (None:
    all). beside: no line of the judge rests on it."""

    name: str
    section: str
    text: str
    rules: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    only: str | None = None
    beside: bool = False


MARGIN = ("engine_margin", "network_margin", "branched_margin", "adaptive_margin", "pair_margin")
EXPONENTIAL = ("network_margin", "branched_margin", "adaptive_margin")
FROM_CONSTANTS = ("lipschitz_local", "lipschitz_global", "lipschitz_layers")
RELAXED = ("lipschitz_relaxed", "engine_lipschitz_relaxed")
SMOOTHED = ("smoothed_distribution", "smoothed_means", "stopped_means")
BY_MEANS = ("smoothed_means", "stopped_means")
CURVES = (
    "Sigmoid", "Tanh", "Softplus", "Exp", "Square", "Cube", "Erf", "Abs", "HardSwish", "Elu", "Gelu", "Swish",
    "InversePower", "SquareRoot",
)  # fmt: skip
NORMED = "rules/mixed_nuts.py normed"
CHORD = "rules/margin/exponential.py chord"
LEAF = "rules/margin/branching.py _leaf_proves"
ALL = (*MARGIN, *FROM_CONSTANTS, *RELAXED, *SMOOTHED)

STATEMENTS = (
    Statement(
        "lemma 3.2",
        "2",
        "If h_y - h_i > (1 - alpha)/alpha then the mix prefers y to i, whatever probabilities g has.",
        ALL,
    ),
    Statement(
        "lemma 3.2, without strictness",
        "2",
        "At exactly the required margin the mix does not prefer i to y: they may tie.",
        beside=True,
    ),
    Statement(
        "lemma 3.2 is tight", "2", "At any smaller margin some probabilities g make the mix not prefer y.", beside=True
    ),
    Statement(
        "alpha of one half certifies nothing",
        "2",
        "At alpha <= 1/2 no probabilities h exceed the required margin.",
        beside=True,
    ),
    Statement(
        "box form, rival below",
        "3a",
        "h_y - h_i = (1 - e)/(1 + e + others) falls in e and in others while e <= 1: least at the upper bounds of d.",
        MARGIN,
        only="rules/margin/differences.py exponentials",
    ),
    Statement(
        "box form, rival perhaps above",
        "3a",
        "Where the rival may win, the margin is least at the least others.",
        ("pair_margin",),
    ),
    Statement("exponential form", "3b", "The margin exceeds mu iff (1 + mu) e + mu others < 1 - mu.", beside=True),
    Statement(
        "exponential form, times alpha",
        "3b",
        "The required margin is e + (1 - alpha) others < 2 alpha - 1, e and others exponentials of T d.",
        EXPONENTIAL,
        only=CHORD,
    ),
    Statement("pair form", "6", "Lower bounds of both margins, weighted, prove the mix's.", ("pair_margin",)),
    Statement(
        "input-dependent alpha",
        "8",
        "A lower bound alpha of a(x') takes the place of a(x') in Lemma 3.2.",
        ("adaptive_margin",),
    ),
    Statement(
        "transformed logits",
        "8",
        "A nondecreasing M takes bounds of single logits to one of the difference.",
        ("adaptive_margin",),
        only="rules/adaptive.py transformed_upper",
    ),
    Statement(
        "chords",
        "3b",
        "Lines above the terms and a bound of their sum prove the exponential form.",
        EXPONENTIAL,
        only=CHORD,
    ),
    Statement(
        "violation region",
        "3b",
        "A point that violates the form has w_1 e_1 >= w_1 E_1 - S, S = w . E - t.",
        EXPONENTIAL,
        only=CHORD,
    ),
    Statement(
        "multipliers",
        "10",
        "Where v >= at, a weight >= 0 of v - at may be added to what is bounded.",
        ("branched_margin",),
        only=LEAF,
    ),
    Statement(
        "multipliers, other side",
        "10",
        "Where v <= at, a weight >= 0 of at - v may be added.",
        ("branched_margin",),
        only=LEAF,
    ),
    Statement(
        "splits",
        "10",
        "What holds on both sides of a split holds: a tree of them covers the ball.",
        ("branched_margin",),
        only=LEAF,
    ),
    Statement(
        "the strongest rival",
        "10",
        "If all rivals are proven, each need only be where it is the strongest.",
        ("branched_margin",),
        only=LEAF,
    ),
    Statement(
        "trees",
        "10",
        "A node whose two children are proven is proven: from the leaves up, the root.",
        ("branched_margin",),
        only=LEAF,
    ),
    Statement(
        "theorem 3.5",
        "4",
        "Constants of h_y and h_i, as the paper has it: the mix holds at distances below its radius.",
        beside=True,
    ),
    Statement(
        "theorem 3.5, of the difference",
        "4",
        "If h_y - h_i is L-Lipschitz and exceeds (1 - alpha)/alpha + r L at x, the mix prefers y to i within r.",
        FROM_CONSTANTS,
        only="rules/lipschitz/rule.py _difference_form",
    ),
    Statement(
        "relaxed constants",
        "4",
        "Bounds of h_y from below and h_i from above that differ by more than (1 - alpha)/alpha are enough.",
        RELAXED,
    ),
    Statement(
        "logit differences from constants",
        "4a",
        "d at distance t <= r is at most d(x) + L r, L a Lipschitz constant of d.",
        FROM_CONSTANTS,
        only="rules/margin/rule.py box_proves",
    ),
    Statement(
        "constants of a composition",
        "4",
        "The product of the constants is one of the composition.",
        ("lipschitz_layers",),
    ),
    Statement("constants of a sum", "4", "The sum of the constants is one of the sum.", ("lipschitz_layers",)),
    Statement(
        "increments of a node", "4", "w = slope v with a slope in [0, 1] obeys w (v - w) >= 0.", ("lipschitz_global",)
    ),
    Statement(
        "LipSDP's last step",
        "4",
        "L is a constant if L^2 |delta|^2 - change^2 - 2 theta w (v - w) >= 0.",
        ("lipschitz_global",),
    ),
    Statement(
        "gain of a block",
        "11",
        "y^2 <= (rho + e (1 + c^2)) x^2 where the block's matrix is >= -e and |w| <= c |x|.",
        ("lipschitz_layers",),
        only="rules/lipschitz/inequality.py _proven",
    ),
    Statement(
        "a matrix below a multiple of one",
        "11",
        "A A' = rho - F F' - R gives |A|^2 <= rho + |R|: here a' stands for |A' u|^2, |u| = 1.",
        ("lipschitz_layers",),
        only="kernel/norms.py spectral_norm",
    ),
    Statement(
        "direct margin bound",
        "5a",
        "The margin s = r/sigma away is at least Phi(q_y - s) - Phi(q_i + s), q at x.",
        BY_MEANS,
    ),
    Statement(
        "theorem 3.7", "5", "With q of alpha h_y and alpha h_i + 1 - alpha: y within sigma/2 (q_y - q_i).", beside=True
    ),
    Statement(
        "layers of a value",
        "5b",
        "A value in [-1, 1] is at least -1 + sum_k (t_k - t_{k-1}) [value >= t_k].",
        ("smoothed_distribution",),
    ),
    Statement(
        "distributional bound", "5b", "Lower bounds of the tails bound the mean from below.", ("smoothed_distribution",)
    ),
    Statement(
        "a bet on a mean that is too large",
        "5c",
        "The expected factor of the capital is at most 1, and a lesser mean would leave more.",
        BY_MEANS,
    ),
    Statement(
        "Ville's inequality, one draw",
        "5d",
        "After a fair bet a goal is reached with probability at most capital/goal: so it is before.",
        ("stopped_means",),
    ),
    Statement(
        "normed logit, above",
        "8",
        "n / sqrt(n^2 + rest) is largest at the largest n and, for n >= 0, at the least rest.",
        ("adaptive_margin",),
        only=NORMED,
    ),
    Statement(
        "squares of what adds up to the opposite",
        "8",
        "Two numbers that add up to -n have squares of at least n^2/2 together.",
        ("adaptive_margin",),
        only=NORMED,
    ),
    Statement("line below a ReLU", "9a", "max(v, 0) >= slope v for every slope in [0, 1].", layers=("Relu",)),
    Statement("line above a ReLU", "9a", "On [low, high] around 0 the chord is above max(v, 0).", beside=True),
    Statement(
        "line above a leaky ReLU",
        "9a",
        "A line of any slope that is above the ReLU at both ends of an interval is above it there.",
        layers=("Relu", "LeakyRelu"),
    ),
    Statement(
        "line above where a curve is convex",
        "9a",
        "A line of any slope that is above the curve at both ends is above it between them.",
        layers=CURVES,
    ),
    Statement(
        "line above where a curve is concave",
        "9a",
        "A tangent is above the curve; a line of another slope is, when raised by what they differ on the interval.",
        layers=CURVES,
    ),
    Statement(
        "slopes of a curve",
        "4",
        "Where the slope is monotone, those at the ends of an interval bound it between them.",
        layers=CURVES,
    ),
    Statement(
        "gather",
        "9a",
        "A form on cells moved, left out or repeated is the form on their origins with coefficients added up.",
        layers=("Gather", "Flatten"),
    ),
    Statement(
        "line below a leaky ReLU",
        "9a",
        "The leaky ReLU is at least slope v for every slope between its own and 1.",
        layers=("LeakyRelu",),
    ),
    Statement(
        "MaxMin with one ReLU",
        "11",
        "(b + r, a - r) with r = max(a - b, 0) is (max, min), and has the length of (a, b).",
        beside=True,
    ),
)

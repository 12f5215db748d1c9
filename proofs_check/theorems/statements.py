"""What every theorem behind the judge says, in words, and who rests on it. Needs no z3.

Each is proven in `in_z3`, under the same name. A rule without one, or one without a rule, fails a test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """section: of the page on the mathematics. rules: of `proofs_check.rules.RULES` that rest on it. layers: classes of
    `proofs_check.kernel.layers`: what derives from one rests on it. only: those certificates for which this function of
    the judge ran (None: all). beside: no line of the judge rests on it."""

    name: str
    section: str
    text: str
    rules: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    only: str | None = None
    beside: bool = False


MARGIN = ("engine_margin", "network_margin", "branched_margin", "branched_pair", "adaptive_margin", "pair_margin")
EXPONENTIAL = ("network_margin", "branched_margin", "branched_pair", "adaptive_margin")
TREES = ("branched_margin", "branched_pair")
FROM_CONSTANTS = ("lipschitz_local", "lipschitz_global", "lipschitz_layers")
RELAXED = ("lipschitz_relaxed", "engine_lipschitz_relaxed")
SMOOTHED = ("smoothed_distribution", "smoothed_means", "stopped_means")
BY_MEANS = ("smoothed_means", "stopped_means")
BETS = "rules/smoothing.py _need_capital"
NORMED = "rules/mixed_nuts.py normed"
ON_BALL = "kernel/bounds.py _concretize_ball"
JACOBIAN = "kernel/jacobian.py slopes_over"
CHORD = "rules/margin/exponential.py chord"
LEAF = "rules/margin/branching.py _leaf_proves"
ALL = (*MARGIN, "lipschitz_pair", *FROM_CONSTANTS, *RELAXED, *SMOOTHED)

STATEMENTS = (
    Statement(
        "lemma 3.2",
        "2",
        "If h_y - h_i > (1 - alpha)/alpha, the mix prefers y to i, whatever g.",
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
        "(1 - e)/(1 + e + others), e <= 1, is least at the upper bounds of d.",
        MARGIN,
        only="rules/margin/differences.py exponentials",
    ),
    Statement(
        "box form, rival perhaps above",
        "3a",
        "Where the rival may win, the margin is least at the least others.",
        ("branched_pair", "lipschitz_pair", "pair_margin"),
    ),
    Statement("exponential form", "3b", "The margin exceeds mu iff (1 + mu) e + mu others < 1 - mu.", beside=True),
    Statement(
        "exponential form, times alpha",
        "3b",
        "That margin: e + (1 - alpha) others < 2 alpha - 1, of e_j = exp(T d_j).",
        EXPONENTIAL,
        only=CHORD,
    ),
    Statement(
        "pair form",
        "6",
        "Lower bounds of both margins, weighted, prove the mix's.",
        ("branched_pair", "lipschitz_pair", "pair_margin"),
    ),
    Statement(
        "exponential form beside g",
        "10",
        "(alpha - c) e - c others < alpha + c where c <= (1 - alpha)(g_y - g_i).",
        ("branched_pair",),
        only=LEAF,
    ),
    Statement(
        "g's least margin beside h's strongest rival",
        "10",
        "g's least margin and h's over its strongest rival prove those of the mix.",
        ("branched_pair",),
        only=LEAF,
    ),
    Statement(
        "input-dependent alpha",
        "8",
        "A lower bound alpha of a(x') takes the place of a(x') in Lemma 3.2.",
        ("adaptive_margin",),
    ),
    Statement(
        "transformed logits",
        "8",
        "A nondecreasing M takes bounds of logits to one of M(z_j) - M(z_y).",
        ("adaptive_margin",),
        only="rules/adaptive.py transformed_upper",
    ),
    Statement(
        "chords",
        "3b",
        "Lines above the e_j and a bound of their sum prove the form above.",
        EXPONENTIAL,
        only=CHORD,
    ),
    Statement(
        "violation region",
        "3b",
        "Where that form fails, w_1 e_1 >= w_1 E_1 - S, S = w . E - t.",
        EXPONENTIAL,
        only=CHORD,
    ),
    Statement(
        "multipliers",
        "10",
        "Where a side of a split holds, a weight >= 0 of it may be added.",
        TREES,
        only=LEAF,
    ),
    Statement(
        "multipliers, other side",
        "10",
        "Where a side of a split holds, a weight >= 0 of it may be added.",
        TREES,
        only=LEAF,
    ),
    Statement(
        "splits",
        "10",
        "What holds on both sides of a split holds: they cover the ball.",
        TREES,
        only=LEAF,
    ),
    Statement(
        "the strongest rival",
        "10",
        "If all rivals are proven, each need only be where it is the strongest.",
        TREES,
        only=LEAF,
    ),
    Statement(
        "trees",
        "10",
        "A node whose two children are proven is proven, and so the root.",
        TREES,
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
        "L-Lipschitz h_y - h_i > (1 - alpha)/alpha + r L at x: y within r.",
        FROM_CONSTANTS,
        only="rules/lipschitz/rule.py _difference_form",
    ),
    Statement(
        "relaxed constants",
        "4",
        "h_y from below less h_i from above > (1 - alpha)/alpha is enough.",
        RELAXED,
    ),
    Statement(
        "logit differences from constants",
        "4a",
        "d at distance t <= r is at most d(x) + L r, L a constant of d.",
        FROM_CONSTANTS,
        only="rules/margin/rule.py box_proves",
    ),
    Statement(
        "slope of a margin that is not negative",
        "4",
        "While m = h_y - h_i >= 0 it falls by at most max(L_i/2, L_o/4) r.",
        FROM_CONSTANTS,
        only="rules/lipschitz/rule.py _difference_form",
    ),
    Statement(
        "a sum of exponentials by its shares",
        "4b",
        "log sum e^b = sum p (b - log p), p the shares of its terms: one form of z.",
        ("lipschitz_layers", "lipschitz_pair"),
        only="rules/lipschitz/joint.py log_sum",
    ),
    Statement(
        "a margin below 0",
        "4b",
        "It is above m < 0 if e_i (1 + m) < (1 - m) + |m| others.",
        ("lipschitz_pair",),
        only="rules/lipschitz/joint.py joint_margin",
    ),
    Statement(
        "a product below a parabola",
        "4b",
        "s u <= s^2 / (4 c) + c u^2.",
        ("lipschitz_layers", "lipschitz_pair"),
        only="rules/lipschitz/joint.py log_sum",
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
        "L is a constant if L^2 |D|^2 - change^2 - 2 theta w (v - w) >= 0.",
        ("lipschitz_global",),
    ),
    Statement(
        "gain of a block",
        "11",
        "|y|^2 <= (rho + e (1 + c^2)) |x|^2: its matrix >= -e, |w| <= c |x|.",
        ("lipschitz_layers",),
        only="rules/lipschitz/inequality.py _proven",
    ),
    Statement(
        "gain of a block, frequency by frequency",
        "11",
        "|y|^2 <= (|A|^2 + e (1 + |C|^2)) |x|^2: e >= |A'B + C'L|, B'B <= 2 L.",
        ("lipschitz_layers",),
        only="rules/lipschitz/frequencies.py _proven",
    ),
    Statement(
        "a matrix below a multiple of one",
        "11",
        "A A' = rho - F F' - R gives |A|^2 <= rho + |R|.",
        ("lipschitz_layers",),
        only="kernel/norms.py spectral_norm",
    ),
    Statement(
        "direct margin bound",
        "5a",
        "Within s sigma of x the margin is >= Phi(q_y - s) - Phi(q_i + s).",
        BY_MEANS,
    ),
    Statement(
        "theorem 3.7", "5", "With q of alpha h_y and alpha h_i + 1 - alpha: y within sigma/2 (q_y - q_i).", beside=True
    ),
    Statement(
        "layers of a value",
        "5b",
        "A value in [-1, 1] is >= -1 + sum (t_k - t_(k-1)) [value >= t_k].",
        ("smoothed_distribution",),
    ),
    Statement(
        "distributional bound", "5b", "Lower bounds of the tails bound the mean from below.", ("smoothed_distribution",)
    ),
    Statement(
        "a bet on a mean that is too large",
        "5c",
        "The capital's expected factor is <= 1; a lesser mean leaves it more.",
        BY_MEANS,
        only=BETS,
    ),
    Statement(
        "several bets at once", "5c", "The mean of capitals by fair bets is one by fair bets.", BY_MEANS, only=BETS
    ),
    Statement(
        "a value, rounded down",
        "5c",
        "A value in [0, 1] is >= sum (t_k - t_(k-1)) [value >= t_k].",
        BY_MEANS,
        only=BETS,
    ),
    Statement(
        "rivals bounded by what is left",
        "5a",
        "As h_y + h_i <= 1, a bound of h_y from below is one of 1 - h_i.",
        BY_MEANS,
    ),
    Statement(
        "around the grid point", "5c", "Within r of x is within r + distance of the grid point next to x.", SMOOTHED
    ),
    Statement(
        "Ville's inequality, one draw",
        "5d",
        "After fair bets a goal is reached with probability <= capital/goal.",
        ("stopped_means",),
    ),
    Statement(
        "normed logit, above",
        "8",
        "n / sqrt(n^2 + rest), n >= 0: largest at largest n, least rest.",
        ("adaptive_margin",),
        only=NORMED,
    ),
    Statement(
        "normed logit, below zero",
        "8",
        "n / sqrt(n^2 + rest), n <= 0: largest at largest n, largest rest.",
        ("adaptive_margin",),
        only=NORMED,
    ),
    Statement(
        "squares of what adds up to the opposite",
        "8",
        "Two numbers that add up to -n have squares of >= n^2/2 together.",
        ("adaptive_margin",),
        only=NORMED,
    ),
    Statement(
        "differences of one scale",
        "8",
        "v_j = v_y + r d, d <= b <= 0, r >= r_0 >= 0: v_j <= v_y + r_0 b.",
        ("adaptive_margin",),
        only="rules/mixed_nuts.py pushed",
    ),
    Statement("line below a ReLU", "9a", "max(v, 0) >= slope v for every slope in [0, 1].", beside=True),
    Statement("line above a ReLU", "9a", "On [low, high] around 0 the chord is above max(v, 0).", beside=True),
    Statement(
        "line above a leaky ReLU",
        "9a",
        "A line above a ReLU at both ends of an interval is above it there.",
        layers=("Relu",),
    ),
    Statement(
        "line above where a curve is convex",
        "9a",
        "A line above a convex piece at both ends is above it between them.",
        layers=("Curve",),
    ),
    Statement(
        "line above where a curve is concave",
        "9a",
        "A tangent is above a concave piece; any line, raised by what they differ.",
        layers=("Curve",),
    ),
    Statement(
        "slopes of a curve",
        "4",
        "Where the slope is monotone, those at the ends bound it between them.",
        layers=("Curve",),
        only=JACOBIAN,
    ),
    Statement(
        "form on an affine node",
        "9a",
        "c . (W x + b) = (c W) . x + c . b: a form on a node, on its inputs.",
        layers=("Affine",),
    ),
    Statement(
        "batch norm is affine",
        "9a",
        "With gain = scale / root it is gain x + (shift - mean gain).",
        layers=("BatchNorm",),
    ),
    Statement("quotient is affine", "9a", "x / constant = reciprocal x.", layers=("Divide",)),
    Statement(
        "form over a box", "9a", "c x <= c center + |c| radius wherever |x - center| <= radius.", layers=("Input",)
    ),
    Statement(
        "form over a ball and a box",
        "9a",
        "c d <= share |d| + (|c| - share) extent for any 0 <= share <= |c|.",
        layers=("Input",),
        only=ON_BALL,
    ),
    Statement(
        "dual of l2",
        "9a",
        "c . d <= |c| |d|, the lengths of both.",
        layers=("Input",),
        only=ON_BALL,
    ),
    Statement(
        "line above a product",
        "9a",
        "x y <= q x + p y + t, any p, q; t from corners of (x - p)(y - q) - p q.",
        layers=("Product",),
    ),
    Statement("line below a product", "9a", "The same with x y, q x and p y turned around.", layers=("Product",)),
    Statement(
        "increments of a product",
        "4",
        "Those of x y are y' dx + x' dy with x', y' inside the bounds of x, y.",
        layers=("Product",),
        only=JACOBIAN,
    ),
    Statement("line below a maximum", "9a", "A maximum is at least each of its cells.", layers=("MaxPool2d",)),
    Statement("line above a maximum", "9a", "It is at most a cell that no other can exceed.", layers=("MaxPool2d",)),
    Statement("constant above a maximum", "9a", "It is at most what bounds all its cells.", layers=("MaxPool2d",)),
    Statement(
        "increments of a maximum",
        "4",
        "They lie between the least and the largest of its cells.",
        layers=("MaxPool2d",),
        only=JACOBIAN,
    ),
    Statement(
        "gather",
        "9a",
        "A form on cells moved or repeated: on their origins, added up.",
        layers=("Gather",),
    ),
    Statement(
        "line below a leaky ReLU",
        "9a",
        "A ReLU, leaky or not, is >= slope v for slopes from its own to 1.",
        layers=("Relu",),
    ),
    Statement(
        "MaxMin with one ReLU",
        "11",
        "(b + r, a - r) with r = max(a - b, 0) is (max, min), and has the length of (a, b).",
        beside=True,
    ),
)

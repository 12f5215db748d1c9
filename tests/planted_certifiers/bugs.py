"""Certifiers that lie: each is the reference certifier with one step replaced. The suite must break every one.

`BUGS` is the literal table of unsound ones (each must break a soundness law), `BLEMISHES` that of sound but poor
ones (each must raise a warning), `SOUND` the reference methods themselves (which must break nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from planted_certifiers import reference as ref
from planted_certifiers import reference_lipschitz as lip
from planted_certifiers import steps as wrong

MARGIN = ref.MarginSteps()
LOGITS = ref.LogitSteps()
PROBABILITIES = ref.ProbabilitySteps()
LIPSCHITZ = lip.LipschitzSteps()
LOCAL = lip.LocalSteps()
CONSTANTS = lip.ConstantSteps()
COUNTS = lip.CountSteps()
SMOOTHED = lip.SmoothedSteps()


@dataclass(frozen=True)
class Bug:
    """What is wrong, in a sentence, and the certifier that has it (protocol: where it is no attribute of it)."""

    what: str
    certifier: Callable[..., Any]
    protocol: str | None = None


def logit_bug(**steps: Any) -> ref.LogitSteps:
    """The logit bounds with these interval steps replaced."""
    return ref.LogitSteps(replace(MARGIN, **steps))


BUGS: dict[str, Bug] = {
    # Lemma 3.2 and the box form
    "wrong_sign": Bug(
        "the ends of every interval are exchanged", replace(MARGIN, affine=wrong.wrong_sign, use_ball=False)
    ),
    "same_norm_not_dual": Bug("||w||_p instead of the dual norm", replace(MARGIN, dual=lambda p: p)),
    "always_l2": Bug("the l2 norm of the weights for every ball", replace(MARGIN, dual=lambda p: 2.0)),
    "required_margin_forgotten": Bug("margin > 0 whatever alpha", replace(MARGIN, required=lambda a: 0.0)),
    "required_margin_without_quotient": Bug(
        "1 - alpha instead of (1-alpha)/alpha", replace(MARGIN, required=lambda a: 1 - a)
    ),
    "required_margin_inverted": Bug(
        "alpha / (1-alpha) above 1/2, clipped", replace(MARGIN, required=lambda a: max(0.0, 2 - 2 * a) / 2 * a)
    ),
    "alpha_below_half": Bug(
        "the lemma used below 1/2 with |2 alpha - 1|",
        replace(MARGIN, required=lambda a: abs(2 * a - 1) * 0.5 if a < 0.5 else ref.required_margin(a)),
    ),
    "at_least_not_more": Bug(
        "margin >= required: ties certify", replace(MARGIN, margin=wrong.margin_with_ties, accept=lambda m, r: m >= r)
    ),
    "bounds_of_standard": Bug("g's bounds in place of h's", replace(MARGIN, robust=lambda g, h: g)),
    "argmax_of_standard": Bug(
        "y = argmax g, with |h_y - h_i|",
        replace(
            LIPSCHITZ,
            predicted=lambda g, h: g.argmax(1),
            radius=wrong.theorem_with(lambda m, a: wrong.right_numerator(abs(m), a), wrong.right_denominator),
        ),
    ),
    "only_next_class": Bug("one rival instead of all", replace(MARGIN, margin=wrong.margin_against_second_index)),
    "rivals_left_out_of_the_sum": Bug(
        "the sum over j != y reduced to one class", replace(MARGIN, margin=wrong.margin_without_rivals)
    ),
    "own_probability_as_margin": Bug(
        "h_y in place of h_y - h_i", replace(MARGIN, margin=wrong.margin_of_own_probability)
    ),
    "float32_overflow": Bug(
        "exp overflows float32, NaN passes the test", replace(MARGIN, margin=wrong.overflowing_margin)
    ),
    "float32_margin_of_one": Bug(
        "1 - e^d is 1 in float32: alpha = 1/2 certifies",
        replace(MARGIN, margin=wrong.float32_margin, accept=lambda m, r: m >= r / (1 + 1e-13) if r > 0 else m > 0),
    ),
    "float32_bounds": Bug(
        "interval arithmetic in float32 without rounding outward",
        replace(MARGIN, affine=wrong.float32_affine, use_ball=False),
    ),
    "float32_ball": Bug("x + r rounds to x in float32", replace(MARGIN, box=wrong.float32_ball, use_ball=False)),
    "normalisation_forgotten": Bug(
        "the normalising first layers are skipped", replace(MARGIN, read=wrong.without_normalisation)
    ),
    "radius_in_normalised_units": Bug(
        "radius divided by the deviation", replace(MARGIN, report=wrong.in_normalised_units)
    ),
    "batch_statistics_forgotten": Bug(
        "batch norm without its mean and variance", replace(MARGIN, read=wrong.without_batch_statistics)
    ),
    "next_radius_reported": Bug(
        "the first radius that failed is reported",
        replace(MARGIN, pick=lambda radii, k: float(radii[min(k + 1, len(radii) - 1)])),
    ),
    "diameter_reported": Bug("twice the radius", replace(MARGIN, report=lambda r, n: 2 * r)),
    "temperature_squared": Bug("temperature applied twice", replace(MARGIN, heat=lambda u, t: u * t * t)),
    "temperature_ignored": Bug("temperature not applied", replace(MARGIN, heat=lambda u, t: u)),
    "domain_shrinks_the_ball": Bug(
        "the box is clipped to [0, 1] without being asked to",
        replace(MARGIN, box=lambda x, r, d: ref.input_box(x, r, (0.0, 1.0)), use_ball=False),
    ),
    "empirical_radius": Bug("no attack found, therefore certified", wrong.attacked_radius),
    # bounds of networks
    "negative_weights_unsorted": Bug(
        "lower @ W without swapping ends", logit_bug(affine=wrong.unsorted_affine, use_ball=False)
    ),
    "dual_norm_of_bounds": Bug("||w||_p in logit bounds", logit_bug(dual=lambda p: p)),
    "conv_bias_dropped": Bug("convolutions without bias", logit_bug(read=wrong.without_hidden_bias)),
    "cells_moved_back": Bug("cells moved the other way", logit_bug(read=wrong.with_cells_moved_back)),
    "padding_at_the_wrong_side": Bug(
        "top-left and bottom-right padding swapped", logit_bug(read=wrong.with_symmetric_padding)
    ),
    "leaky_as_relu": Bug(
        "negative slopes of leaky ReLUs taken as 0", logit_bug(relu=lambda b, s: ref.relu_box(b, 0.0))
    ),
    "dead_by_centre": Bug("a ReLU whose centre is negative counts as dead", logit_bug(relu=wrong.dead_by_centre)),
    "pool_of_first_cell": Bug("max pooling keeps the first cell's bounds", logit_bug(pool=wrong.first_cell)),
    "pool_upper_from_lower": Bug(
        "max pooling's upper bound is the least upper bound", logit_bug(pool=wrong.least_upper)
    ),
    "residual_lost": Bug("the skip connection's width is lost", logit_bug(add=wrong.narrow_sum)),
    "curve_at_its_ends": Bug("curves bounded by their values at both ends", logit_bug(curve=wrong.curve_at_ends)),
    "curve_by_its_tangent": Bug(
        "curves bounded by their tangent in the middle", logit_bug(curve=wrong.curve_by_tangent)
    ),
    "product_of_lower_ends": Bug("lower times lower, upper times upper", logit_bug(product=wrong.product_of_ends)),
    "gate_at_its_centre": Bug("the second factor's width is lost", logit_bug(product=wrong.product_at_centre)),
    "product_without_second_order": Bug(
        "the middle's tangent plane, without the product of both half-widths",
        logit_bug(product=wrong.product_by_tangent),
    ),
    "softmax_shared_shift": Bug(
        "one shift and a constant 1e-8 in softmax bounds", replace(PROBABILITIES, squash=wrong.shifted_softmax)
    ),
    "softmax_of_uppers": Bug(
        "softmax(upper logits) as the upper bound", replace(PROBABILITIES, squash=wrong.box_quotient)
    ),
    # Theorem 3.5
    "lipschitz_of_one_class": Bug(
        "L_y alone in the denominator",
        replace(LIPSCHITZ, radius=wrong.theorem_with(wrong.right_numerator, lambda y, i, a: a * y)),
    ),
    "lipschitz_numerator": Bug(
        "alpha - 1 missing in the numerator",
        replace(LIPSCHITZ, radius=wrong.theorem_with(lambda m, a: a * m - 1e-9, wrong.right_denominator)),
    ),
    "lipschitz_alpha_inverted": Bug(
        "alpha / (L_y + L_i) squared",
        replace(LIPSCHITZ, radius=wrong.theorem_with(wrong.right_numerator, lambda y, i, a: a * a * a * (y + i) / 2)),
    ),
    "lipschitz_mean_of_classes": Bug(
        "the mean over rivals instead of the least", replace(LIPSCHITZ, radius=wrong.theorem_with_own_class)
    ),
    "lipschitz_dual": Bug("||J||_p instead of the dual norm", replace(LIPSCHITZ, dual=lambda p: p)),
    "lipschitz_eighth": Bug(
        "1/8 instead of 1/4", replace(CONSTANTS, steps=replace(LIPSCHITZ, constants=lambda k: k.max(1) / 8))
    ),
    "lipschitz_of_single_logits": Bug(
        "Lip(z_i)/4: no differences of logits",
        replace(CONSTANTS, steps=replace(LIPSCHITZ, constants=lambda k: k.max(1) / 4, jacobian=wrong.single_logits)),
    ),
    "lipschitz_least_pair": Bug(
        "the least constant over pairs",
        replace(CONSTANTS, steps=replace(LIPSCHITZ, constants=lambda k: np.where(k > 0, k, np.inf).min(1) / 4)),
    ),
    "power_iteration_as_norm": Bug(
        "a lower bound of the norm as the constant",
        replace(CONSTANTS, steps=replace(LIPSCHITZ, pairs=wrong.spectral_by_power_iteration)),
    ),
    "sampled_constant": Bug("the largest sampled quotient as the constant", wrong.sampled_constants, "lipschitz"),
    "softmax_over_the_batch": Bug(
        "softmax over the wrong axis", replace(LIPSCHITZ, probabilities=wrong.batch_axis_probabilities)
    ),
    "local_constant_outside_its_ball": Bug(
        "a constant of the epsilon-ball used beyond epsilon", replace(LOCAL, cap=wrong.local_constants_beyond)
    ),
    # smoothing
    "share_without_confidence": Bug("the votes' share itself", replace(COUNTS, confidence=wrong.mean_share)),
    "wald_interval": Bug("normal approximation of the confidence bound", replace(COUNTS, confidence=wrong.wald)),
    "upper_for_lower": Bug("the upper confidence bound", replace(COUNTS, confidence=wrong.upper_confidence)),
    "one_sided_as_two_sided": Bug(
        "failure 2 beta where beta was asked",
        replace(COUNTS, confidence=lambda k, n, b: lip.clopper_pearson(k, n, min(2 * b, 0.5))),
    ),
    "selection_reused": Bug(
        "the class is chosen on the certifying sample", replace(COUNTS, choose=lambda s, n: n.argmax(1))
    ),
    "cohen_for_the_mix": Bug(
        "sigma Phi^-1(p): alpha has no price", replace(COUNTS, radius=wrong.theorem_without_alpha)
    ),
    "variance_for_deviation": Bug(
        "sigma^2 in place of sigma", replace(COUNTS, radius=lambda p, a, s: lip.smoothed_radius(p, a, max(s, s * s)))
    ),
    "wrong_quantile": Bug("Phi^-1(alpha) in place of Phi^-1(1/(2 alpha))", replace(COUNTS, radius=wrong.half_at_best)),
    "noise_too_small": Bug(
        "noise of half the stated deviation", replace(SMOOTHED, noise=lambda shape, s: torch.randn(shape) * s / 2)
    ),
    "one_sample_for_both": Bug(
        "selection and certification share the draws",
        replace(SMOOTHED, second=False, counts=replace(COUNTS, choose=lambda s, n: n.argmax(1))),
    ),
    "rectified_noise": Bug("uniform noise of the same deviation", replace(SMOOTHED, noise=wrong.uniform_noise)),
}

BLEMISHES: dict[str, Bug] = {
    "always_abstains": Bug("nothing is ever certified", wrong.nothing),
    "zero_for_none": Bug("radius 0 in place of an abstention", wrong.zero_for_none),
    "random_radius": Bug("another answer at every call", wrong.random_radius),
    "batch_minimum": Bug("the answer depends on the batch", wrong.batch_minimum),
    "fixed_radii": Bug("radii of a fixed list: scaling is lost", wrong.fixed_radii),
    "alpha_not_monotone": Bug("a larger alpha certifies less", wrong.best_below_three_quarters),
    "class_zero_only": Bug("depends on the names of classes", wrong.class_zero_only),
    "near_the_origin": Bug("depends on where the input lies", wrong.near_the_origin),
}

SOUND: dict[str, Callable[..., Any]] = {
    "margin": MARGIN,
    "lipschitz": LIPSCHITZ,
    "local_lipschitz": LOCAL,
    "logit_bounds": LOGITS,
    "probability_bounds": PROBABILITIES,
    "lipschitz_constants": CONSTANTS,
    "votes": COUNTS,
    "smoothing": SMOOTHED,
}

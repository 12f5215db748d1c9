"""What the accepted certificates of a run claim, in words: every figure comes from the claims that were judged."""

from __future__ import annotations

import decimal

from proofs_check.certificate import Claim, InputAlpha, MixedNuts, ModelFile, Smoothing, Transform


def down(value: float, digits: int = 6) -> str:
    """`value` >= 0 as a decimal number of so many significant digits. Ensures: the number is <= value, exactly."""
    context = decimal.Context(prec=digits, rounding=decimal.ROUND_FLOOR, Emin=-9999, Emax=9999)
    rounded = context.create_decimal(decimal.Decimal(value)).normalize(context)
    return format(rounded, "f" if -8 < rounded.adjusted() < 20 else "")


def of_claims(claim: Claim, least: float, most: float) -> list[str]:
    """Sentences for claims that agree in all but input, class, radius (from `least` to `most`) and, where it depends
    on the input, the lower bound of alpha."""
    alpha = None if claim.adaptive is None else claim.adaptive.alpha
    transform = None if claim.adaptive is None else claim.adaptive.transform
    noise = claim.smoothing
    within = f"{claim.norm} radius {down(least)} of the input"
    if least != most:
        within = f"the {claim.norm} radius of its certificate ({down(least)} to {down(most)})"
    box = "" if claim.domain is None else f" with every coordinate in [{claim.domain[0]}, {claim.domain[1]}]"
    weight, logits = "alpha" if alpha is None else "a(x)", "h" if transform is None else "M(h)"
    valued = f"T = {claim.temperature}" if alpha is not None else f"alpha = {claim.alpha} and T = {claim.temperature}"
    owner = "the mix" if claim.class_of == "mix" else "h" if noise is None else "the smoothed h"
    computed = ", and as computed in IEEE float32 in any order of summation" if claim.semantics == "float32" else ""
    return [
        f"The mix is (1 - {weight}) softmax(g) + {weight} softmax(T {logits}) with {valued}.",
        f"Its class cannot change: at every point within {within}{box} it is the one that {owner} gives the input.",
        *([] if alpha is None else [_alpha(alpha)]),
        *([] if transform is None else [_transform(transform)]),
        *([] if noise is None else [_smoothing(noise)]),
        f"h and g count as what their stored weights define in real arithmetic{computed}.",
        f"h is {_model(claim.robust)}.",
        f"g is {'any network with as many classes' if claim.standard is None else _model(claim.standard)}.",
    ]


def _model(model: str | ModelFile) -> str:
    if isinstance(model, ModelFile):
        return f"the model in the ONNX file {model.sha256}, of {model.classes} classes and inputs {model.input_shape}"
    return f"the network {model}"


def _alpha(alpha: InputAlpha) -> str:
    source = "any function" if alpha.network is None else f"given by the network {alpha.network},"
    return f"a(x) is {source} between {alpha.low} and {alpha.high}."


def _transform(how: Transform | MixedNuts) -> str:
    if isinstance(how, MixedNuts):
        return (
            f"M(z) is {how.scale} sign(w) |w|^{how.power}, w = GELU(v + {how.shift}), v the logits less their mean, by "
            "the root of 1e-8 + their sample variance."
        )
    moved = f"(z + {how.shift})"
    shape = f"max{moved[:-1]}, 0)^{how.power}" if how.clamp else f"sign{moved} |z + {how.shift}|^{how.power}"
    return f"M(z) is {shape}, of each logit z by itself."


def _smoothing(noise: Smoothing) -> str:
    which = "softmax(T h) and softmax(g) are" if noise.networks == "both" else "softmax(T h) is"
    what = "" if noise.base == "soft" else " of its one-hot class"
    return (
        f"{which} replaced by the mean{what} over Gaussian noise of standard deviation {noise.noise_std} on the input, "
        f"rounded to multiples of 1/{noise.grid}; each certificate may be false with probability "
        f"at most {noise.failure_probability} over its draws."
    )

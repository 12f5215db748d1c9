"""What the certificates of a run say, in words. What is said comes from the lines that count, not from the header."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from certmix.errors import UsageError
from certmix.formatting import exact, lower
from certmix.reports.inputs import Input
from certmix.runs.store import scaling
from proofs_check.certificate import Assumption

SHARED = ("norm", "temperature", "domain", "semantics", "class_of", "standard", "robust", "smoothing", "adaptive")


def ball(norm: str) -> str:
    """Linf as ℓ∞, L2 as ℓ2."""
    return "ℓ" + norm[1:].replace("inf", "∞")


def said(settings: dict[str, Any], header: dict[str, Any], inputs: Sequence[Input]) -> dict[str, Any]:
    """The fields that all certificates share, `alpha` where it does not depend on the input; of a run without any,
    what its header says; and the `features` in whose units the header says inputs are. Raises UsageError if
    certificates differ in one of them: one sentence speaks of one claim."""
    lines = [i.certificate for i in inputs if i.certificate is not None]
    features = scaling(settings)
    if not lines:
        noise = dict(settings["smoothing"]) if settings["method"] == "smoothing" else None
        if noise is not None:
            noise["networks"] = "both" if settings["use_standard"] else "robust"
        of_class = "mix" if settings["use_standard"] else "robust"
        digests = {name: header[name] for name in ("standard", "robust")}
        adaptive = settings.get("adaptive")  # of earlier versions' runs, which do not say, the lines do
        of_run = {**settings, **digests, "smoothing": noise, "class_of": of_class, "adaptive": adaptive}
        if adaptive is not None and adaptive["alpha"] is not None:
            del of_run["alpha"]  # it depends on the input
        return {**of_run, "features": features}
    first = {name: lines[0][name] for name in SHARED}
    weighted = first["adaptive"] is None or first["adaptive"]["alpha"] is None
    names = (*SHARED, "alpha") if weighted else SHARED
    for name in names:
        others = [line[name] for line in lines if line[name] != lines[0][name]]
        if others:
            raise UsageError(
                f"the certificates speak of several claims ({name} is {lines[0][name]} and {others[0]}): "
                "report one run at a time"
            )
    return {**{name: lines[0][name] for name in names}, "features": features}


def mix_words(of: dict[str, Any]) -> str:
    adaptive: dict[str, Any] = of["adaptive"] or {"alpha": None, "transform": None}
    weight = "a(x)" if adaptive["alpha"] else "α"
    logits = "M(h)" if adaptive["transform"] else "h"
    return f"log((1 − {weight})·softmax(g) + {weight}·softmax(T·{logits}))"


def title(n: int, settings: dict[str, Any], of: dict[str, Any]) -> str:
    asked = "largest certified radius" if settings["radius"] is None else f"radius {lower(settings['radius'])}"
    weight = f"α = {exact(of['alpha'])}" if "alpha" in of else "α depends on the input"
    units = "" if of["features"] is None else " in units of each feature"
    return (
        f"{n} inputs, {ball(of['norm'])}, {asked}{units}, {weight}, T = {exact(of['temperature'])}, "
        f"method {settings['method']}"
    )


def claim(of: dict[str, Any]) -> list[str]:
    """What a certificate with these fields says; one sentence each."""
    adaptive: dict[str, Any] = of["adaptive"] or {"alpha": None, "transform": None}
    noise, domain = of["smoothing"], of["domain"]
    box = "" if domain is None else f" and whose coordinates lie in [{exact(domain[0])}, {exact(domain[1])}]"
    values = [f"α = {exact(of['alpha'])}"] if "alpha" in of else []
    values.append(f"T = {exact(of['temperature'])}")
    computed = ", and with their logits as computed in IEEE float32" if of["semantics"] == "float32" else ""
    sentences = [
        f"For every input marked certified: at every point whose {ball(of['norm'])} distance from the input is at most "
        f"the radius shown{box}, the mix {mix_words(of)} with {' and '.join(values)} gives one and the same class, the "
        "class shown."
    ]
    if of["features"] is not None:
        sentences.append(
            f"Inputs, box and radii are scaled feature by feature: each network {of['features'].note}. Its first nodes "
            "lead back to raw inputs, so that the networks named below are those of scaled ones."
        )
    if adaptive["alpha"]:
        sentences.append(_alpha_words(adaptive["alpha"]))
    if adaptive["transform"]:
        sentences.append(_transform_words(adaptive["transform"]))
    if noise is not None:
        sentences.append(_smoothing_words(noise))
    files = [name for name, role in (("g", "standard"), ("h", "robust")) if isinstance(of[role], dict)]
    sentences.append(
        "g and h are the functions that the plain networks named below define in real arithmetic with their stored "
        f"weights{computed}; but of {' and '.join(files)} it is the ONNX file named there that defines it."
        if files
        else "g and h are the functions that the plain networks named below define in real arithmetic with their "
        f"stored weights{computed}."
    )
    if of["standard"] is None:
        sentences.append("g may be any network with as many classes.")
    sentences.append(
        "Nothing is claimed about inputs that are not listed, and not that the class is the right one: certificates of "
        "another class than the label are marked."
    )
    return sentences


def _smoothing_words(noise: dict[str, Any]) -> str:
    both = noise["networks"] == "both"
    which = "softmax(g) and softmax(T·h) are" if both else "softmax(T·h) is"
    return (
        f"Here {which} smoothed: the mean over Gaussian noise of standard deviation {exact(noise['noise_std'])} on the "
        f"input, rounded to multiples of 1/{noise['grid']}. Each certificate fails with probability at most "
        f"{exact(noise['failure_probability'])} over the noise draws."
    )


def _alpha_words(alpha: dict[str, Any]) -> str:
    source = "any function" if alpha["network"] is None else f"given by the network {alpha['network'][:12]}…"
    return f"a(x): {source}, between {exact(alpha['low'])} and {exact(alpha['high'])}."


def _transform_words(how: dict[str, Any]) -> str:
    moved, power = f"z + {exact(how['shift'])}", exact(how["power"])
    if "scale" in how:
        return (
            f"M = {exact(how['scale'])} sign(w) |w|^{power} with w = GELU(v + {exact(how['shift'])}) and v the layer "
            "norm of all logits: the map of MixedNUTS."
        )
    shape = f"max({moved}, 0)^{power}" if how["clamp"] else f"sign({moved}) |{moved}|^{power}"
    return f"M(z) = {shape}, of each logit by itself."


EXPORT = (
    "Exact export: the certificates speak of plain networks, your models written out as sums, products and simple "
    "functions with the same float32 weights (folder networks/). They carry over to your model files as far as both "
    "compute the same function."
)
MEANINGS = {
    Assumption.ENGINE_TRUSTED: "The engine's bounds are right: nobody derived them again.",
    Assumption.SAMPLES_IID: "The noise draws were independent, distributed as stated, and taken after the plan was "
    "fixed.",
    Assumption.COUNTS_TRUSTED: "The counts are those of these draws through these networks: nobody counted again "
    "(certmix replay repeats a part).",
    Assumption.REAL_ARITHMETIC_BASE: "The floating-point outputs of the smoothed network count as its exact values.",
    Assumption.MODEL_FILE: "The model in the ONNX file gives as many logits, for inputs of the shape, as its "
    "certificates state: the judge reads nothing of the file but its digest.",
    Assumption.ALPHA_BOUND_TRUSTED: "The declared lower bound of the input-dependent weight is right: nobody derived "
    "it again.",
}


def assumption_words(assumptions: Sequence[Assumption]) -> list[tuple[str, str]]:
    """(name, sentence) of each, the exact export of the models first: it is behind every certificate."""
    by_name = sorted(assumptions, key=lambda a: a.name)
    return [("EXACT_EXPORT", EXPORT), *((a.name, MEANINGS[a]) for a in by_name)]

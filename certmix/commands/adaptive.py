"""Options for what of a mix is adaptive."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from certmix.commands.arguments import number, required
from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.settings import as_number
from proofs_check.certificate import Float32Array, MalformedError, MixedNuts, Transform

if TYPE_CHECKING:
    from certmix.mixing.adaptive import AdaptiveMix


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What of the mix is adaptive; `mix` reads it."""
    group = parser.add_argument_group("alpha that depends on the input, transformed logits (--method adaptive)")
    words = "its two logits s give alpha(x) = LOW + (HIGH - LOW) sigmoid(s1 - s0), in place of --alpha"
    group.add_argument("--alpha-network", metavar="A.onnx", help=words)
    group.add_argument("--alpha-range", nargs=2, type=number, metavar=("LOW", "HIGH"), help="of alpha(x), in [0, 1]")
    words = "or its one output, by any operators, is alpha(x), raised to LOW where it is below: the judge trusts that"
    group.add_argument("--alpha-lower", type=number, metavar="LOW", help=words)
    words = "h's logits z become sign(z + SHIFT) |z + SHIFT|^POWER; or mixednuts:S,C,P, its layer norm, GELU and power"
    group.add_argument("--transform", nargs="+", metavar="SHIFT POWER", help=words)
    group.add_argument("--clamp", action="store_true", help="they become max(z + SHIFT, 0)^POWER instead")


def mix(options: argparse.Namespace) -> AdaptiveMix | None:
    """The mix of --method adaptive; None for another method. Raises UsageError where options contradict each other."""
    network, transform = options.alpha_network, options.transform
    if options.method != "adaptive":
        for name in ("alpha_network", "alpha_range", "alpha_lower", "transform", "clamp"):
            if getattr(options, name) is not (False if name == "clamp" else None):
                raise UsageError(f"--{name.replace('_', '-')} is for --method adaptive, not for {options.method}")
        return None
    from certmix.mixing.adaptive import AdaptiveMix

    if network is None and transform is None:
        raise UsageError("nothing of this mix is adaptive: give --alpha-network or --transform, or another --method")
    ways = [w for w in (options.alpha_range, options.alpha_lower) if w is not None]
    if len(ways) != (network is not None):
        raise UsageError("--alpha-network goes together with one of --alpha-range LOW HIGH and --alpha-lower LOW")
    if options.clamp and transform is None:
        raise UsageError("--clamp says how to transform: give --transform SHIFT POWER with it")
    if network is not None and options.alpha is not None:
        raise UsageError(f"alpha is given twice, --alpha {exact(options.alpha)} and --alpha-network: leave one out")
    how = None if transform is None else transformation(transform, options.clamp)
    if network is None:
        return AdaptiveMix(required(options, "alpha"), transform=how)
    try:
        return _of_network(network, options.alpha_range, options.alpha_lower, how)
    except UsageError as error:
        raise UsageError(f"--alpha-network: {error}") from None


def _of_network(
    file: str, ends: tuple[float, float] | None, least: float | None, how: Transform | MixedNuts | None
) -> AdaptiveMix:
    """ends: of a network's two logits; else the file says alpha itself, and `least` is declared. Raises UsageError."""
    from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
    from certmix.mixing.parameters import check_alpha
    from certmix.models.model import load_model
    from certmix.models.runtime import RuntimeWeight

    if least is not None:
        return AdaptiveMix(RuntimeWeight.of(file), check_alpha(least), how)
    if ends is None:
        raise TypeError("excluded by `mix`")
    return AdaptiveMix(SigmoidAlpha(load_model(file).require_network(), ends[0], ends[1]), transform=how)


def tried(mix: AdaptiveMix, inputs: Float32Array) -> None:
    """Raises UsageError where a model of alpha gives no weight at the first input."""
    import torch

    from certmix.models.runtime import RuntimeWeight

    if isinstance(mix.alpha, RuntimeWeight):
        try:
            weight = float(mix.alpha(torch.from_numpy(inputs[:1]))[0])
        except UsageError as error:
            raise UsageError(f"--alpha-network: {error}") from None
        if not 0 <= weight <= 1:
            raise UsageError(f"--alpha-network must give weights in [0, 1], gives {exact(weight)} at the first input")


NUTS = "mixednuts:"


def transformation(given: Sequence[str], clamp: bool = False) -> Transform | MixedNuts:
    """What SHIFT POWER, or mixednuts:S,C,P, stands for. Raises UsageError."""
    nuts = len(given) == 1 and given[0].startswith(NUTS)
    parts = given[0].removeprefix(NUTS).split(",") if nuts else [str(v) for v in given]
    got = f"--transform {' '.join(map(str, given))}"
    try:
        numbers = [as_number(part, got) for part in parts]
        if nuts and len(numbers) == 3 and not clamp:
            return MixedNuts(*numbers)
        if not nuts and len(numbers) == 2:
            return Transform(numbers[0], numbers[1], clamp)
    except MalformedError as error:
        raise UsageError(f"{got}: {error.place} {error.reason}") from None
    raise UsageError(f"{got}: it takes SHIFT POWER (--clamp may go with it), or mixednuts:S,C,P")

"""Options for what of a mix is adaptive; for `tune`, grids of them."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from certmix.commands.arguments import grid, number, required
from certmix.commands.parsing import file
from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.mixing.parameters import check_alpha
from certmix.settings import as_number
from proofs_check.certificate import Float32Array, MalformedError, MixedNuts, Transform

if TYPE_CHECKING:
    from certmix.mixing.adaptive import AdaptiveMix
    from certmix.runs.tune_adaptive import Candidates


def add_arguments(parser: argparse.ArgumentParser, grids: bool = False) -> None:
    """What of the mix is adaptive; `mix` reads it. grids: of ranges and maps; `candidates` reads them."""
    group = parser.add_argument_group("alpha that depends on the input, transformed logits (--method adaptive)")
    words = "its two logits s give alpha(x) = LOW + (HIGH - LOW) sigmoid(s1 - s0), in place of --alpha"
    group.add_argument("--alpha-network", type=file, metavar="A.onnx", help=words)
    words = "of alpha(x), in [0, 1]" + (", each a number or L:H:STEP" if grids else "")
    group.add_argument("--alpha-range", nargs=2, type=str if grids else number, metavar=("LOW", "HIGH"), help=words)
    words = "or its one output, by any operators, is alpha(x), raised to LOW where it is below: the judge trusts that"
    group.add_argument("--alpha-lower", type=number, metavar="LOW", help=words)
    words = "h's logits z become sign(z + SHIFT) |z + SHIFT|^POWER; or mixednuts:S,C,P, its layer norm, GELU and power"
    words += (
        "; each a number or L:H:STEP (of a negative L: --transform=SHIFT,POWER); mixednuts alone: a grid of its own"
    )
    words = words if grids else words.split("; each")[0]
    group.add_argument("--transform", nargs="+", metavar="SHIFT POWER", help=words)
    group.add_argument("--clamp", action="store_true", help="they become max(z + SHIFT, 0)^POWER instead")


def mix(options: argparse.Namespace) -> AdaptiveMix | None:
    """The mix of --method adaptive; None for another method. Raises UsageError where options contradict each other."""
    network, transform = options.alpha_network, options.transform
    if not asked(options):
        return None
    from certmix.mixing.adaptive import AdaptiveMix

    how = None if transform is None else transformation(transform, options.clamp)
    if network is None:
        return AdaptiveMix(required(options, "alpha"), transform=how)
    try:
        return _of_network(network, options.alpha_range, options.alpha_lower, how)
    except UsageError as error:
        raise UsageError(f"--alpha-network: {error}") from None


def asked(options: argparse.Namespace) -> bool:
    """Whether the method is adaptive. Raises UsageError where options contradict each other."""
    network, transform = options.alpha_network, options.transform
    if options.method != "adaptive":
        for name in ("alpha_network", "alpha_range", "alpha_lower", "transform", "clamp"):
            if getattr(options, name) is not (False if name == "clamp" else None):
                raise UsageError(f"--{name.replace('_', '-')} is for --method adaptive, not for {options.method}")
        return False
    if network is None and transform is None:
        raise UsageError("nothing of this mix is adaptive: give --alpha-network or --transform, or another --method")
    ways = [w for w in (options.alpha_range, options.alpha_lower) if w is not None]
    if len(ways) != (network is not None):
        raise UsageError("--alpha-network goes together with one of --alpha-range LOW HIGH and --alpha-lower LOW")
    if options.clamp and transform is None:
        raise UsageError("--clamp says how to transform: give --transform SHIFT POWER with it")
    if network is not None and options.alpha is not None:
        given = options.alpha if isinstance(options.alpha, str) else exact(options.alpha)
        raise UsageError(f"alpha is given twice, --alpha {given} and --alpha-network: leave one out")
    return True


def candidates(options: argparse.Namespace, alphas: Sequence[float], temperatures: Sequence[float]) -> Candidates:
    """All mixes that the grids of a `tune` with --method adaptive stand for. Requires: `asked`. Raises UsageError."""
    from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
    from certmix.models.model import load_model
    from certmix.runs.tune_adaptive import Candidates

    maps = (None,) if options.transform is None else transformations(options.transform, options.clamp)
    if options.alpha_network is None:
        return Candidates(tuple(AdaptiveMix(a) for a in alphas), tuple(temperatures), maps)
    try:
        if options.alpha_range is None:
            weights = (_of_network(options.alpha_network, None, options.alpha_lower, None),)
        else:
            lows, highs = (grid(part, "--alpha-range", check_alpha) for part in options.alpha_range)
            network = load_model(options.alpha_network).require_network()
            ranges = [(low, high) for low in lows for high in highs if low <= high or len(lows) == len(highs) == 1]
            weights = tuple(AdaptiveMix(SigmoidAlpha(network, *ends)) for ends in ranges)
        return Candidates(weights, tuple(temperatures), maps)
    except UsageError as error:
        raise UsageError(f"--alpha-network: {error}") from None


def _of_network(
    file: str, ends: tuple[float, float] | None, least: float | None, how: Transform | MixedNuts | None
) -> AdaptiveMix:
    """ends: of a network's two logits; else the file says alpha itself, and `least` is declared. Raises UsageError."""
    from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
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


NUTS = "mixednuts"
NUTS_GRID = "1,3,10,30,100", "-2,-1.5,-1,-0.5,0", "1,2,3,4"  # scales, shifts, powers that `tune` tries by itself


def transformation(given: Sequence[str], clamp: bool = False) -> Transform | MixedNuts:
    """What SHIFT POWER, or mixednuts:S,C,P, stands for. Raises UsageError."""
    parts, nuts, got = _parts(given, clamp)
    return _made([as_number(part, got) for part in parts], nuts, clamp, got)


def transformations(given: Sequence[str], clamp: bool) -> tuple[Transform | MixedNuts, ...]:
    """All that these stand for where each part may be LOW:HIGH:STEP; mixednuts alone: those of `NUTS_GRID`. Raises
    UsageError."""
    if list(given) == [NUTS] and not clamp:
        parts, nuts, got = list(NUTS_GRID), True, f"--transform {NUTS}"
    else:
        parts, nuts, got = _parts(given, clamp)
    axes = [grid(part, got, float) for part in parts]
    return tuple(_made(numbers, nuts, clamp, got) for numbers in itertools.product(*axes))


def _parts(given: Sequence[str], clamp: bool) -> tuple[list[str], bool, str]:
    """The parts of what --transform says, whether they are MixedNUTS', and how it was said. Raises UsageError."""
    words, got = [str(v) for v in given], f"--transform {' '.join(map(str, given))}"
    nuts = words[0].startswith(f"{NUTS}:")
    parts = words[0].removeprefix(f"{NUTS}:").split(",") if len(words) == 1 else words
    if len(parts) != (3 if nuts else 2) or (nuts and clamp):
        raise UsageError(f"{got}: it takes SHIFT POWER (--clamp may go with it), or {NUTS}:S,C,P")
    return parts, nuts, got


def _made(numbers: Sequence[float], nuts: bool, clamp: bool, got: str) -> Transform | MixedNuts:
    try:
        return MixedNuts(*numbers) if nuts else Transform(numbers[0], numbers[1], clamp)
    except MalformedError as error:
        raise UsageError(f"{got}: {error.place} {error.reason}") from None

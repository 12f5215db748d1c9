"""Arguments shared by the subcommands."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, get_type_hints

from certmix.commands.parsing import file, file_or_name, model, number_or_file
from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.records.outcomes import Method
from certmix.settings import Group, Option, Settings, SmoothingSettings, as_norm, as_number, choices, option_of
from proofs_check.certificate import Norm, Semantics

if TYPE_CHECKING:
    from certmix.data.dataset import Dataset
    from certmix.data.features import Features
    from certmix.mixing.adaptive import AdaptiveMix
    from certmix.models.onnx.ends import Asked
    from certmix.models.preprocess import Preprocess


MAX_GRID = 10_001  # values


def number(text: str) -> float:
    """A decimal number or a fraction such as 2/255 or 0.5/255, as the nearest double."""
    try:
        return as_number(text)
    except UsageError:
        raise argparse.ArgumentTypeError(f"must be a number such as 0.1 or 2/255, got {text!r}") from None


def grid(text: str, name: str, check: Callable[[float], float]) -> tuple[float, ...]:
    """LOW:HIGH:STEP (both ends included) or a comma-separated list, increasing, without repetition."""
    try:
        if ":" in text:
            low, high, step = (Fraction(part) for part in text.split(":"))
            if step <= 0 or low > high or (high - low) / step > MAX_GRID:
                raise ValueError(text)
            values = [float(low + k * step) for k in range(int((high - low) / step) + 1)]
        else:
            values = [float(Fraction(part)) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f"{name} must be LOW:HIGH:STEP or a list such as 0.6,0.75, got {text!r}") from None
    return tuple(sorted({check(v) for v in values}))


def norm(text: str) -> str:
    """Linf, L2 or L1 from one of its names; another text as it is, for `choices` to refuse."""
    try:
        return as_norm(text)
    except UsageError:
        return text


def several(one: Callable[[str], Any]) -> Callable[[str], Any]:
    """What reads a value, or a tuple of them where there are commas."""

    def read(text: str) -> Any:
        values = tuple(dict.fromkeys(one(part) for part in text.split(",")))
        return values[0] if len(values) == 1 else values

    return read


def add_gate(parser: argparse.ArgumentParser) -> None:
    """--fail-under."""
    words = "exit with 3 if fewer percent of the inputs are certified and correct"
    parser.add_argument("--fail-under", type=number, metavar="P", help=words)


def gate(least: float | None, hits: int, n: int) -> int:
    """0, or 3 if fewer than `least` percent of `n` inputs are hits; compared without rounding. Raises UsageError."""
    if least is None:
        return 0
    if not 0 <= least <= 100:
        raise UsageError(f"--fail-under is a share in percent, in [0, 100], got {exact(least)}")
    if Fraction(100 * hits, n) >= Fraction(least):
        return 0
    print(f"{hits} of {n} inputs are certified and correct, fewer than {exact(least)} %", file=sys.stderr)
    return 3


def add_models(parser: argparse.ArgumentParser) -> None:
    """--standard, --robust."""
    group = parser.add_argument_group("models")
    group.add_argument("--standard", type=model, metavar="S.onnx", help="g: accurate, possibly fragile")
    words = (
        "h: robust; the certificates rest on it. Either may also be arch.py:build@weights.safetensors, a state dict "
    )
    words += "and the Python file, which is run, whose function builds its module"
    group.add_argument("--robust", type=model, metavar="R.onnx", help=words)
    add_allow_code(group)
    add_ends(parser)


def add_allow_code(parser: Any) -> None:
    """--allow-code, of a parser or a group."""
    words = "read .pt2, .pt and .pth files, which can run code that they hold: trusted ones only"
    parser.add_argument("--allow-code", action="store_true", help=words)


ROLES = ("standard", "robust")


def add_ends(parser: argparse.ArgumentParser) -> None:
    """--output, --outputs, --preprocess: what `ends` reads."""
    group = parser.add_argument_group("outputs and inputs of the models")
    words = "of several outputs the one that holds the logits; where it is that of one model alone: robust=NAME"
    group.add_argument("--output", nargs="+", metavar="NAME", help=words)
    words = "what models give, logits or probabilities: then they end in Softmax, and the logits before it are taken"
    group.add_argument("--outputs", nargs="+", metavar="WHAT", help=f"{words}; of one model alone: robust=WHAT")
    words = "put (x - mean) / std in front of models of normalised inputs: a number for each channel, or one for all"
    group.add_argument(
        "--preprocess", nargs="+", metavar="M[,M…]:S[,S…]", help=f"{words}; of one model alone: robust=M:S"
    )


def ends(options: argparse.Namespace) -> tuple[Asked, Asked]:
    """What is asked of the ends of the standard model and of the robust one. Raises UsageError."""
    from certmix.models.onnx.ends import Asked

    found: list[Asked] = []
    for role in ROLES:
        what = _of_role("--outputs", options.outputs, role)
        if what is not None and what != "logits" and what != "probabilities":
            raise UsageError(f"--outputs must be logits or probabilities, got {what!r}")
        normalisation = _preprocess(_of_role("--preprocess", options.preprocess, role))
        found.append(Asked(_of_role("--output", options.output, role), what, normalisation, features(options)))
    return found[0], found[1]


def _preprocess(text: str | None) -> Preprocess | None:
    from certmix.models.preprocess import Preprocess

    if text is None:
        return None
    mean, colon, std = text.partition(":")
    if not colon:
        raise UsageError(f"--preprocess takes MEAN:STD, such as 0.5:0.25 or 0.49,0.48,0.45:0.2,0.2,0.2, got {text!r}")
    values = [[as_number(v, "--preprocess: a mean or std") for v in part.split(",")] for part in (mean, std)]
    return Preprocess(tuple(values[0]), tuple(values[1]))


def _of_role(option: str, given: list[str] | None, role: str) -> str | None:
    """Of TEXT or ROLE=TEXT, what is said of this role; of both alike, where nothing else is."""
    found: dict[str, str] = {}
    for text in given or ():
        head, equals, rest = text.partition("=")
        name, value = (head, rest) if equals and head in ROLES else ("", text)
        if name in found:
            raise UsageError(f"{option} says {found[name]!r} and {value!r} of the same model")
        found[name] = value
    return found.get(role, found.get(""))


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data, --limit, --domain."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        type=file,
        metavar="D",
        help="arrays `images` (float32 in the domain, or uint8) and `labels` (D.npz; D.npy with --labels), a table "
        "(.csv, .parquet), or a folder of images, with a folder for each class",
    )
    words = "array or column of D with the classes, where it has no usual name; a file L.npy; none: there are none"
    group.add_argument("--labels", type=file_or_name, metavar="NAME", help=words)
    group.add_argument("--limit", type=int, metavar="N", help="use only the first N inputs")
    add_settings(group, "domain", type=number_or_file, nargs="+")


def features(options: argparse.Namespace) -> Features | None:
    """What --domain says of each feature, where it names a file. Raises UsageError."""
    from certmix.data.features import Features

    given = options.domain
    return Features.read(given[0]) if len(given) == 1 and isinstance(given[0], str) else None


def domain(options: argparse.Namespace) -> tuple[float, float]:
    """Of --domain LOW HIGH, or of the scaled features. Raises UsageError."""
    if (scaled := features(options)) is not None:
        return scaled.domain
    if len(options.domain) != 2 or any(isinstance(end, str) for end in options.domain):
        given = " ".join(map(str, options.domain))
        raise UsageError(f"--domain takes LOW HIGH, two numbers, or one file F.csv of features, got {given}")
    return options.domain[0], options.domain[1]


def data(options: argparse.Namespace, within: tuple[float, float] | None, name: str = "data") -> Dataset:
    """What --data (or the option `name`) and --labels say, in the domain, or in the features that --domain names.
    Raises UsageError."""
    from certmix.data.dataset import load_data

    return load_data(required(options, name), options.limit, features(options) or within, options.labels)


def add_settings(parser: Any, group: Group, many: bool = False, **otherwise: Any) -> None:
    """An option, of a parser or a group, for each field of the settings that is declared for `group`. many: it takes
    several values. otherwise: what argparse is told in place of what the declaration says."""
    for owner in (Settings, SmoothingSettings):
        kinds = get_type_hints(owner)
        for of in dataclasses.fields(owner):
            option = option_of(of)
            if option is not None and option.group == group:
                name, given = _option(of.name, kinds[of.name], of.default, option, choices(owner, of.name), many)
                parser.add_argument(name, **{**given, **otherwise})


def _option(
    field: str, kind: Any, default: Any, option: Option, allowed: tuple[str, ...], many: bool
) -> tuple[str, dict[str, Any]]:
    """What argparse is told of one field."""
    name = field.replace("_", "-")
    if kind is bool:
        return f"--{'no-' if default else ''}{name}", {"action": "store_true", "help": option.words}
    default = option.ordinary or (None if default is dataclasses.MISSING else default)
    shown = "" if default is None else f" (default {_shown(default)})"
    given = {"type": READ[kind], "default": default, "help": option.words + shown, "metavar": option.metavar}
    if many:
        read = _one_of(READ[kind], allowed) if allowed else READ[kind]
        metavar = f"{'|'.join(allowed)}[,…]" if allowed else f"{option.metavar}[,{option.metavar}…]"
        given |= {"type": several(read), "metavar": metavar}
    elif allowed:
        given |= {"choices": allowed}
    return f"--{name}", given


def _shown(default: object) -> str:
    parts = default if isinstance(default, tuple) else (default,)
    return " ".join(exact(v) if isinstance(v, float) else str(v) for v in parts)


def _one_of(read: Callable[[str], Any], allowed: tuple[str, ...]) -> Callable[[str], Any]:
    def known(text: str) -> Any:
        found = read(text)
        if found not in allowed:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(allowed)}, got {text!r}")
        return found

    return known


def add_mix(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """--alpha, --temperature. many: --alpha takes several values."""
    group = parser.add_argument_group("mix: log((1 - alpha) softmax g + alpha softmax(T h))")
    add_settings(group, "weight", many)
    add_settings(group, "temperature")


def add_norm(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """--norm. many: it takes several."""
    add_settings(parser, "norm", many)


def add_radius(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """--radius, --max-radius. many: --radius takes several."""
    group = parser.add_mutually_exclusive_group()
    add_settings(group, "radius", many)
    group.add_argument("--max-radius", action="store_true", help="find the largest provable radius (the default)")


def add_method(parser: argparse.ArgumentParser) -> None:
    """Everything that says how to certify."""
    add_settings(parser.add_argument_group("method"), "method")
    add_settings(parser.add_argument_group("randomised smoothing (--method smoothing)"), "noise")


def fractions(text: str) -> tuple[float, ...]:
    """Comma-separated numbers."""
    return tuple(number(part) for part in text.split(","))


def looks(text: str) -> tuple[float, ...]:
    """Fractions; none for "any"."""
    return () if text == "any" else fractions(text)


# how a value of a field's type is read
READ: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: number,
    float | None: number,
    str: str,
    Norm: norm,
    Method: str,
    Semantics: str,
    tuple[float, ...]: looks,
    tuple[float, float] | None: number_or_file,
}


def settings(options: argparse.Namespace, adaptive: AdaptiveMix | None = None) -> Settings:
    """The run's settings. adaptive: see `commands.adaptive`. Raises UsageError, also where the engine's package is not
    installed."""
    given = _of_fields(Settings, options)
    given["alpha"] = required(options, "alpha") if adaptive is None else adaptive.least()
    given["domain"] = domain(options)
    given["device"] = device(options.device, getattr(options, "gpus_per_worker", 0) > 0)
    if adaptive is not None:
        given |= {"adaptive": adaptive.claimed(), "curves": False}
    run_settings = Settings(**given, smoothing=SmoothingSettings(**_of_fields(SmoothingSettings, options)))
    run_settings.require_installed()
    return run_settings


def _of_fields(owner: type, options: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_settings` say, by field."""
    names = [of.name for of in dataclasses.fields(owner) if option_of(of) is not None]
    return {n: getattr(options, n) if hasattr(options, n) else not getattr(options, f"no_{n}") for n in names}


def required(options: argparse.Namespace, name: str) -> Any:
    """The value of an argument that neither the command line nor the configuration file may leave out."""
    value = getattr(options, name)
    if value is None:
        raise UsageError(f"--{name.replace('_', '-')} is missing: give it here or in the --config file")
    return value


def warn(texts: Iterable[str]) -> None:
    """What looks like a mistake, on standard error."""
    for text in texts:
        print(f"WARNING: {text}", file=sys.stderr)


def device(name: str, elsewhere: bool = False) -> str:
    """`name`, with auto resolved. elsewhere: on machines that have GPUs, whatever this one has. Raises UsageError for a
    device torch does not have."""
    import torch

    if elsewhere:
        return "cuda" if name == "auto" else name
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not usable: {str(error).splitlines()[0]}") from None
    return name


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=file, metavar="FILE.toml", help="arguments from a file, same names; paths relative to it"
    )


def add_certification(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """Everything that says what to certify, and how: `settings` reads it. many: alphas, norms and radii may be several,
    of which `settings` reads one each."""
    for add in (add_config, add_models, add_data):
        add(parser)
    for add_question in (add_mix, add_norm, add_radius):
        add_question(parser, many)
    add_method(parser)

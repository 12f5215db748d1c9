"""Arguments shared by the subcommands, their parsing, and configuration files with the same names."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.settings import BEST, METHODS, NORMS, Settings, SmoothingSettings, as_norm, as_number
from proofs_check.certificate import MalformedError, Transform

if TYPE_CHECKING:
    from certmix.mixing.adaptive import AdaptiveMix
    from certmix.models.onnx.ends import Asked


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors: one line, exit code 2."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see {self.prog} --help)")


def number(text: str) -> float:
    """A decimal number or a fraction such as 2/255 or 0.5/255, as the nearest double."""
    try:
        return as_number(text)
    except UsageError:
        raise argparse.ArgumentTypeError(f"must be a number such as 0.1 or 2/255, got {text!r}") from None


def norm(text: str) -> str:
    """Linf, L2 or L1 from one of its names; another text as it is, for `choices` to refuse."""
    try:
        return as_norm(text)
    except UsageError:
        return text


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
    group.add_argument("--standard", metavar="S.onnx", help="g: accurate, possibly fragile")
    group.add_argument("--robust", metavar="R.onnx", help="h: robust; the certificates rest on it")
    add_ends(parser)


ROLES = ("standard", "robust")


def add_ends(parser: argparse.ArgumentParser) -> None:
    """--output, --outputs: what `ends` reads."""
    group = parser.add_argument_group("outputs of the models")
    words = "of several outputs the one that holds the logits; where it is that of one model alone: robust=NAME"
    group.add_argument("--output", nargs="+", metavar="NAME", help=words)
    words = "what models give, logits or probabilities: then they end in Softmax, and the logits before it are taken"
    group.add_argument("--outputs", nargs="+", metavar="WHAT", help=f"{words}; of one model alone: robust=WHAT")


def ends(options: argparse.Namespace) -> tuple[Asked, Asked]:
    """What is asked of the ends of the standard model and of the robust one. Raises UsageError."""
    from certmix.models.onnx.ends import Asked

    found: list[Asked] = []
    for role in ROLES:
        what = _of_role("--outputs", options.outputs, role)
        if what is not None and what != "logits" and what != "probabilities":
            raise UsageError(f"--outputs must be logits or probabilities, got {what!r}")
        found.append(Asked(_of_role("--output", options.output, role), what))
    return found[0], found[1]


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
        metavar="D.npz",
        help="arrays `images` (float32 in the domain, or uint8) and `labels`; or a table D.csv",
    )
    group.add_argument("--limit", type=int, metavar="N", help="use only the first N inputs")
    group.add_argument(
        "--domain",
        nargs=2,
        type=number,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="every coordinate stays in it (default 0 1)",
    )


def add_mix(parser: argparse.ArgumentParser) -> None:
    """--alpha, --temperature."""
    group = parser.add_argument_group("mix: log((1 - alpha) softmax g + alpha softmax(T h))")
    group.add_argument("--alpha", type=number, metavar="A", help="weight of the robust model, in [0, 1]")
    group.add_argument("--temperature", type=number, default=1.0, metavar="T", help="T > 0 (default 1)")


def add_norm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--norm", type=norm, choices=NORMS, default="Linf", help="of the perturbation (default Linf)")


def add_radius(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--radius", type=number, metavar="R", help="decide this radius, in raw input units, e.g. 2/255")
    group.add_argument("--max-radius", action="store_true", help="find the largest provable radius (the default)")


def add_method(parser: argparse.ArgumentParser) -> None:
    """Everything that says how to certify."""
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method",
        choices=METHODS,
        default="margin",
        help="theorem: margin (Lemma 3.2), lipschitz (Theorem 3.5), smoothing (Theorem 3.7), adaptive (Lemma 3.2 for "
        "the mixes at the end)",
    )
    words = "what bounds: best (default: crown, and auto_LiRPA asked on a sample of the balls), crown or auto_lirpa"
    group.add_argument("--engine", default=BEST, metavar="NAME", help=words)
    group.add_argument(
        "--evidence",
        choices=("network", "engine"),
        default="network",
        help="network: the judge re-derives all bounds (default); engine: it trusts the engine's",
    )
    group.add_argument(
        "--semantics",
        choices=("real", "float32"),
        default="real",
        help="float32: also cover the networks as executed in IEEE float32",
    )
    group.add_argument("--use-standard", action="store_true", help="bound g too: certifies the mix's class, any alpha")
    group.add_argument("--optimise", type=int, default=8, metavar="STEPS", help="gradient steps on slopes (default 8)")
    group.add_argument("--tolerance", type=number, default=1e-3, help="relative, of a largest radius (default 0.001)")
    group.add_argument("--attack-steps", type=int, default=10, metavar="N", help="attack in every ball (default 10)")
    group.add_argument(
        "--branch", type=number, default=0.0, metavar="SECONDS",
        help="branch and bound, for so long per input, where bounds alone do not settle it (default 0: none)",
    )  # fmt: skip
    group.add_argument(
        "--branch-parts", type=int, default=0, metavar="N",
        help="branch and bound until N parts of an input's ball are bounded; repeatable, unlike seconds (default 0)",
    )  # fmt: skip
    group.add_argument("--no-curves", action="store_true", help="keep no bounds for certmix sweep (saves some time)")
    group.add_argument("--batch-size", type=int, default=32, metavar="N", help="inputs bounded at once (default 32)")
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    group.add_argument("--threads", type=int, default=1, metavar="N", help="of the processor (default 1)")
    group.add_argument("--seed", type=int, default=0, help="of attacks and noise (default 0)")
    noise = parser.add_argument_group("randomised smoothing (--method smoothing)")
    d = SmoothingSettings()
    noise.add_argument("--noise-std", type=number, default=d.noise_std, metavar="S", help="in raw input units")
    noise.add_argument("--samples", type=int, default=d.samples, metavar="N", help="certifying draws per input")
    noise.add_argument("--selection-samples", type=int, default=d.selection_samples, metavar="N")
    noise.add_argument("--failure-probability", type=number, default=d.failure_probability, metavar="P")
    noise.add_argument("--base", choices=("soft", "hard"), default=d.base, help="probabilities or votes")
    noise.add_argument(
        "--grid", type=int, default=d.grid, metavar="G", help="noisy inputs are multiples of 1/G (default 255)"
    )
    noise.add_argument("--bound", default=d.bound, help="which smoothing bound (default best)")
    looks = "fractions of the draws at which to stop once a given --radius is reached, e.g. 0.1,0.3,1"
    noise.add_argument("--looks", type=fractions, default=d.looks, metavar="F,…", help=looks)
    noise.add_argument("--precision", choices=("float32", "bfloat16"), default=d.precision, help="of the base model")


def add_adaptive(parser: argparse.ArgumentParser) -> None:
    """What of the mix is adaptive; `adaptive_mix` reads it."""
    group = parser.add_argument_group("alpha that depends on the input, transformed logits (--method adaptive)")
    words = "its two logits s give alpha(x) = LOW + (HIGH - LOW) sigmoid(s1 - s0), in place of --alpha"
    group.add_argument("--alpha-network", metavar="A.onnx", help=words)
    group.add_argument("--alpha-range", nargs=2, type=number, metavar=("LOW", "HIGH"), help="of alpha(x), in [0, 1]")
    words = "h's logits z become sign(z + SHIFT) |z + SHIFT|^POWER"
    group.add_argument("--transform", nargs=2, type=number, metavar=("SHIFT", "POWER"), help=words)
    group.add_argument("--clamp", action="store_true", help="they become max(z + SHIFT, 0)^POWER instead")


def adaptive_mix(options: argparse.Namespace) -> AdaptiveMix | None:
    """The mix of --method adaptive; None for another method. Raises UsageError where options contradict each other."""
    network, ends, transform = options.alpha_network, options.alpha_range, options.transform
    if options.method != "adaptive":
        for name in ("alpha_network", "alpha_range", "transform", "clamp"):
            if getattr(options, name):
                raise UsageError(f"--{name.replace('_', '-')} is for --method adaptive, not for {options.method}")
        return None
    from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
    from certmix.models.model import load_model

    if network is None and transform is None:
        raise UsageError("nothing of this mix is adaptive: give --alpha-network or --transform, or another --method")
    if (network is None) != (ends is None):
        raise UsageError("--alpha-network and --alpha-range LOW HIGH go together: give both, or neither")
    if options.clamp and transform is None:
        raise UsageError("--clamp says how to transform: give --transform SHIFT POWER with it")
    if network is not None and options.alpha is not None:
        raise UsageError(f"alpha is given twice, --alpha {exact(options.alpha)} and --alpha-network: leave one out")
    how = None if transform is None else _transform(transform[0], transform[1], options.clamp)
    if network is None or ends is None:
        return AdaptiveMix(required(options, "alpha"), transform=how)
    try:
        return AdaptiveMix(SigmoidAlpha(load_model(network).require_network(), ends[0], ends[1]), transform=how)
    except UsageError as error:
        raise UsageError(f"--alpha-network: {error}") from None


def _transform(shift: float, power: float, clamp: bool) -> Transform:
    try:
        return Transform(shift, power, clamp)
    except MalformedError as error:
        raise UsageError(f"--transform {exact(shift)} {exact(power)}: {error.place} {error.reason}") from None


def fractions(text: str) -> tuple[float, ...]:
    """Comma-separated numbers."""
    return tuple(number(part) for part in text.split(","))


def settings(options: argparse.Namespace, adaptive: AdaptiveMix | None = None) -> Settings:
    """The run's settings. adaptive: see `adaptive_mix`. Raises UsageError, also where the engine's package is not
    installed."""
    run_settings = Settings(
        alpha=required(options, "alpha") if adaptive is None else adaptive.least(),
        adaptive=None if adaptive is None else adaptive.claimed(),
        norm=options.norm,
        radius=options.radius,
        temperature=options.temperature,
        domain=(options.domain[0], options.domain[1]),
        method=options.method,
        engine=options.engine,
        evidence=options.evidence,
        semantics=options.semantics,
        use_standard=options.use_standard,
        optimise=options.optimise,
        tolerance=options.tolerance,
        attack_steps=options.attack_steps,
        branch=options.branch,
        branch_parts=options.branch_parts,
        curves=not options.no_curves and adaptive is None,
        batch_size=options.batch_size,
        device=device(options.device),
        threads=options.threads,
        seed=options.seed,
        smoothing=SmoothingSettings(
            noise_std=options.noise_std,
            samples=options.samples,
            selection_samples=options.selection_samples,
            failure_probability=options.failure_probability,
            base=options.base,
            bound=options.bound,
            looks=options.looks,
            grid=options.grid,
            precision=options.precision,
        ),
    )
    run_settings.require_installed()
    return run_settings


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


def device(name: str) -> str:
    """`name`, with auto resolved. Raises UsageError for a device torch does not have."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not usable: {str(error).splitlines()[0]}") from None
    return name


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse, taking defaults from --config FILE.toml where it is given; the command line has the last word."""
    _refuse_repeated(parser, arguments)
    first, _ = _config_only().parse_known_args(arguments)
    if first.config is not None:
        parser.set_defaults(**_from_file(parser, Path(first.config)))
    return parser.parse_args(arguments)


def spelled(command: str, add: Callable[[argparse.ArgumentParser], None], options: argparse.Namespace) -> str:
    """The command line, as a shell reads it, that asks for `options` without a configuration file.

    add: what gives the command its arguments. Numbers are written so that they read back as they are.
    """
    parser = Parser()
    add(parser)
    words = ["certmix", command]
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if action.dest in ("help", "config") or value is None or value == action.default:
            continue
        if not action.option_strings:
            words.append(str(value))
        elif action.nargs == 0:
            words.append(action.option_strings[0])
        else:
            given = [_word(v) for v in (value if isinstance(value, list | tuple) else [value])]
            words += [action.option_strings[0], *(given if action.nargs is not None else [",".join(given)])]
    return shlex.join(words)


def _word(value: object) -> str:
    return exact(value) if isinstance(value, float) else str(value)


def _refuse_repeated(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Raises UsageError where an option is given twice: argparse would take the last in silence."""
    seen: dict[str, str] = {}
    for text in itertools.takewhile(lambda a: a != "--", arguments):
        action = parser._option_string_actions.get(text.split("=", 1)[0])
        if action is None:
            continue
        if action.dest in seen and action.dest != "help":
            raise UsageError(f"{text} comes after {seen[action.dest]}: give it once (see {parser.prog} --help)")
        seen[action.dest] = text


def add_certification(parser: argparse.ArgumentParser) -> None:
    """Everything that says what to certify, and how: `settings` reads it."""
    for add in (add_config, add_models, add_data, add_mix, add_norm, add_radius, add_method):
        add(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE.toml", help="arguments from a file, same names; paths relative to it")


def _config_only() -> argparse.ArgumentParser:
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def _from_file(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", "config")}
    options: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in actions:
            raise UsageError(f"{path}: {key!r} is not known; known are {', '.join(sorted(actions))}")
        options[name] = _convert(actions[name], value, path, key)
    return options


def _convert(action: argparse.Action, value: Any, path: Path, key: str) -> Any:
    if action.dest in ("standard", "robust", "alpha_network", "data", "audit_data", "out"):
        return os.fspath(path.parent / str(value))
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {key} must be true or false, got {value!r}")
        return value
    try:
        if isinstance(value, list):
            return tuple(action.type(str(v)) if callable(action.type) else v for v in value)
        converted = action.type(str(value)) if callable(action.type) else str(value)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise UsageError(f"{path}: {key}: {error}") from None
    if action.choices is not None and converted not in action.choices:
        raise UsageError(f"{path}: {key} must be one of {', '.join(map(str, action.choices))}, got {value!r}")
    return converted

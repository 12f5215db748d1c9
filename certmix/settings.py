"""What a certification run is asked for: one frozen value, validated where it is made."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, SupportsFloat, TypeVar, get_args, get_origin, get_type_hints

from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.mixing.parameters import check_alpha, check_temperature
from certmix.records.outcomes import Method
from proofs_check.certificate import Adaptive, Norm, Semantics

NORMS: tuple[Norm, ...] = get_args(Norm)
BEST = "best"
NORM_NAMES: dict[str, Norm] = {name: norm for norm in NORMS for name in (norm.lower(), norm[1:])}

T = TypeVar("T")
OPTION = "option"  # in a field's metadata
Group = Literal["weight", "temperature", "norm", "radius", "domain", "method", "noise"]


@dataclass(frozen=True)
class Option:
    """How one is asked for a field of the settings; its name, type and default are the field's own.

    This one declaration makes the command line, configuration files, `certmix options` and shell completion, and is
    what choices and bounds are checked by. words: what it is; metavar: of its value. choices: all that it may be, where
    the type does not say; least: of a number. ordinary: the default of commands where it is not the field's.
    """

    words: str
    metavar: str | None = None
    group: Group = "method"
    choices: tuple[str, ...] = ()
    least: int | None = None
    ordinary: str | None = None


def option(default: T, words: str, metavar: str | None = None, group: Group = "method", **more: Any) -> T:
    """A field with that default, declared as `Option(words, metavar, group, …)`."""
    return field(default=default, metadata={OPTION: Option(words, metavar, group, **more)})


def option_of(of: dataclasses.Field[Any]) -> Option | None:
    """How one is asked for a field; None for what no option says alone."""
    return of.metadata.get(OPTION)


# what earlier versions did not know: each default is what they did
ADDED = ("threads", "branch", "branch_parts", "adaptive")


def as_number(value: object, name: str = "it") -> float:
    """A number as it is, or the nearest double to a text: a decimal number or a fraction of two, such as 0.5/255.

    Raises UsageError."""
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        try:
            whole = Fraction(numerator) if "/" not in denominator else Fraction("")
            return float(whole / Fraction(denominator) if slash else whole)
        except (ValueError, ZeroDivisionError, OverflowError):
            raise UsageError(f"{name} must be a number such as 0.1 or 2/255, got {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise UsageError(f"{name} must be a number such as 0.1 or 2/255, got {value!r}")
    return float(value)


def as_norm(value: object) -> Norm:
    """Linf, L2 or L1 from its name in either case, with or without the L, or from inf, 2, 1. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, str | SupportsFloat):
        raise UsageError(f"norm must be one of {', '.join(NORMS)}, got {value!r}")
    text = value.lower() if isinstance(value, str) else exact(float(value))
    if text not in NORM_NAMES:
        raise UsageError(f"norm must be one of {', '.join(NORMS)}, got {value!r}")
    return NORM_NAMES[text]


def choose(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


@functools.cache
def choices(of: type, name: str) -> tuple[str, ...]:
    """All that a field may be: of its option, or of its type; () where that is no enumeration."""
    (found,) = (f for f in dataclasses.fields(of) if f.name == name)
    option, kind = option_of(found), get_type_hints(of)[name]
    return option.choices if option and option.choices else get_args(kind) if get_origin(kind) is Literal else ()


def check_declared(settings: Any, but: tuple[str, ...] = ()) -> None:
    """Raises UsageError where a field, of others than `but`, is none of its choices, or below its least value."""
    for of in dataclasses.fields(settings):
        option, value = option_of(of), getattr(settings, of.name)
        if (allowed := choices(type(settings), of.name)) and of.name not in but:
            choose(of.name, value, allowed)
        if option is not None and option.least is not None and value < option.least:
            raise UsageError(f"{of.name} must be >= {option.least}, got {value}")


@dataclass(frozen=True)
class SmoothingSettings:
    """Randomised smoothing of h (docs/maths.md 5). noise_std in raw input units; samples per input.

    looks: increasing fractions of `samples` at which sampling may stop once a given radius is reached, the last 1;
    they share failure_probability; none: at any time, by bets, at no cost in shares. grid: noisy inputs are multiples
    of 1/grid; an input that is not itself loses its distance to the grid. draw_batch: noisy inputs run at once.
    precision: of the base model's arithmetic, float32 or bfloat16.
    """

    noise_std: float = option(0.5, "in raw input units", "S", "noise")
    samples: int = option(100_000, "certifying draws per input", "N", "noise", least=1)
    selection_samples: int = option(1_000, "draws that choose the class", "N", "noise", least=1)
    failure_probability: float = option(0.001, "of a certificate, at most", "P", "noise")
    base: str = option("soft", "probabilities or votes", None, "noise", choices=("soft", "hard"))
    bound: str = option("best", "which smoothing bound", "NAME", "noise")
    looks: tuple[float, ...] = option(
        (1.0,),
        "where to stop once a given --radius is reached: at fractions of the draws, e.g. 0.1,0.3,1, or at any draw",
        "F,…|any",
        "noise",
    )
    grid: int = option(255, "noisy inputs are multiples of 1/G", "G", "noise")
    draw_batch: int = option(512, "noisy inputs run at once", "N", "noise", least=1)
    precision: str = option("float32", "of the base model", None, "noise", choices=("float32", "bfloat16"))

    def __post_init__(self) -> None:
        check_declared(self)
        if not (math.isfinite(self.noise_std) and self.noise_std > 0):
            raise UsageError(f"noise_std must be > 0, got {self.noise_std}")
        if not 0 < self.failure_probability < 1:
            raise UsageError(f"failure_probability must lie in (0, 1), got {self.failure_probability}")
        ends = (0.0, *self.looks)
        if self.looks and (ends[-1] != 1.0 or any(a >= b for a, b in pairwise(ends))):
            raise UsageError(f"looks must be increasing fractions that end in 1, or none, got {self.looks}")
        if not 1 <= self.grid <= 65536:
            raise UsageError(f"grid must lie in [1, 65536], got {self.grid}")


@dataclass(frozen=True)
class Settings:
    """alpha: mixing weight of h. radius: raw input units, None for the largest provable. domain: box or None.

    norm: also inf, 2, 1 or "l2"; radius: also "2/255", the nearest double. Both are kept as what they mean.
    engine: what proposes bounds; "best": the native one, with auto_LiRPA asked on a sample of an audit's balls.
    evidence "network": the judge re-derives everything; "engine": it takes the engine's bounds (ENGINE_TRUSTED).
    use_standard: also bound g (docs/maths.md 6), for any alpha; the class certified is then the mix's own.
    optimise: gradient steps spent on relu slopes per query (engine "auto_lirpa": with evidence "engine" alone, for the
    judge cannot be told its slopes). tolerance: relative, of a largest radius. attack_steps: PGD steps of the quick
    attack inside every certified ball, 0 for none. curves: keep the bounds found (method margin), also of inputs that
    only another alpha or temperature could certify. branch, branch_parts: what branch and bound may spend on each input
    that bounds alone do not settle, in seconds by the clock and in parts of its ball that are bounded
    (docs/maths.md 10), by the native engine on the processor; where one is 0 the other alone counts, where both are
    there is none. threads: of the processor, for each tensor operation; like batch_size it may change the last bits of
    what an engine proposes. adaptive: what of the mix is, with method adaptive; alpha is then a lower bound of its
    alpha on the whole domain.
    """

    alpha: float = field(metadata={OPTION: Option("weight of the robust model, in [0, 1]", "A", "weight")})
    norm: Norm = option("Linf", "of the perturbation", None, "norm")
    radius: float | None = option(None, "decide this radius, in raw input units, e.g. 2/255", "R", "radius")
    temperature: float = option(1.0, "T > 0", "T", "temperature")
    domain: tuple[float, float] | None = option(
        (0.0, 1.0),
        "every coordinate stays in it; or a file F.csv with the ends of each feature, `low` and `high`, in which "
        "inputs and radii are scaled by its width, or by its `unit`",
        "LOW HIGH",
        "domain",
    )
    method: Method = option(
        "margin",
        "theorem: margin (Lemma 3.2), lipschitz (Theorem 3.5), smoothing (Theorem 3.7), adaptive (Lemma 3.2 for the "
        "mixes at the end)",
    )
    engine: str = option(
        "crown",
        "what bounds: best (crown, and auto_LiRPA asked on a sample of the balls), crown or auto_lirpa",
        "NAME",
        ordinary=BEST,
    )
    evidence: str = option(
        "network",
        "network: the judge re-derives all bounds; engine: it trusts the engine's",
        choices=("network", "engine"),
    )
    semantics: Semantics = option("real", "float32: also cover the networks as executed in IEEE float32")
    use_standard: bool = option(False, "bound g too: certifies the mix's class, any alpha")
    optimise: int = option(8, "gradient steps on slopes", "STEPS", least=0)
    tolerance: float = option(1e-3, "relative, of a largest radius", "SHARE")
    attack_steps: int = option(10, "attack in every ball", "N", least=0)
    branch: float = option(
        0.0, "branch and bound, for so long per input, where bounds alone do not settle it; 0: none", "SECONDS"
    )
    branch_parts: int = option(
        0, "branch and bound until N parts of an input's ball are bounded; repeatable, unlike seconds", "N", least=0
    )
    curves: bool = option(True, "keep no bounds for certmix sweep (saves some time)")
    batch_size: int = option(32, "inputs bounded at once", "N", least=1)
    device: str = option("cpu", "auto, cpu, cuda, …; --branch: the processor", "NAME", ordinary="auto")
    threads: int = option(1, "of the processor", "N", least=1)
    seed: int = option(0, "of attacks and noise", "N")
    smoothing: SmoothingSettings = SmoothingSettings()
    adaptive: Adaptive | None = None

    def __post_init__(self) -> None:
        from verifiers import ENGINES  # torch comes with it: loaded for a run, not for the options of a command

        check_alpha(self.alpha)
        check_temperature(self.temperature)
        object.__setattr__(self, "norm", as_norm(self.norm))
        if self.radius is not None:
            object.__setattr__(self, "radius", as_number(self.radius, "radius"))
        check_declared(self, but=("norm",))  # which `as_norm` has read
        choose("engine", self.engine, (BEST, *ENGINES))
        if self.radius is not None and not (math.isfinite(self.radius) and self.radius >= 0):
            raise UsageError(f"radius must be >= 0 and finite, got {self.radius}; leave it out for the largest radius")
        if self.domain is not None:
            object.__setattr__(self, "domain", _pair(self.domain))
        if self.domain is not None and not -math.inf < self.domain[0] < self.domain[1] < math.inf:
            raise UsageError(f"domain must be LOW HIGH with LOW < HIGH, got {self.domain}")
        if self.radius is None and self.domain is None and self.method in ("margin", "adaptive"):
            raise UsageError("the largest radius needs a bounded domain: give domain, or a radius")
        if self.semantics == "float32" and self.evidence == "engine":
            raise UsageError("semantics float32 needs evidence network: an engine covers real arithmetic only")
        self._check_branch()
        self._check_adaptive()
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance must lie in (0, 1), got {self.tolerance}")

    @property
    def proposer(self) -> str:
        """The engine, of verifiers.ENGINES, whose bounds are proposed."""
        return "crown" if self.engine == BEST else self.engine

    @property
    def branches(self) -> bool:
        """Whether inputs that bounds leave open, or could certify no farther, go on to branch and bound."""
        return self.branch > 0 or self.branch_parts > 0

    def _check_branch(self) -> None:
        if not (math.isfinite(self.branch) and self.branch >= 0):
            raise UsageError(f"branch must be >= 0 seconds and finite, got {self.branch}; 0 for no such limit")
        if self.branches and (self.method, self.evidence, self.semantics) != ("margin", "network", "real"):
            raise UsageError(
                "branch needs method margin, evidence network and semantics real: leave branch and branch_parts out, "
                "or what they do not go with"
            )

    def _check_adaptive(self) -> None:
        if (self.method == "adaptive") != (self.adaptive is not None):
            raise UsageError(
                "method adaptive is for a mix whose alpha depends on the input or whose logits are transformed, "
                "and for no other: say which (--alpha-network, --transform; certify_adaptive), or leave the method out"
            )
        if self.adaptive and (self.evidence, self.semantics, self.use_standard) != ("network", "real", False):
            raise UsageError(
                "method adaptive needs evidence network and semantics real, and does not use g: leave out evidence, "
                "semantics and use_standard"
            )

    def require_installed(self) -> None:
        """Raises UsageError, saying how to install it, where the engine needs a package that cannot be imported."""
        if self.method != "smoothing":
            from verifiers import ENGINES
            from verifiers.engine import EngineError

            try:
                ENGINES[self.proposer].require_installed()
            except EngineError as error:
                raise UsageError(f"engine {self.engine}: {error}") from error


def with_added(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name as a folder states them, those that it is too old to know with their defaults."""
    return {**{f.name: f.default for f in dataclasses.fields(Settings) if f.name in ADDED}, **stored}


def _pair(domain: Sequence[float]) -> tuple[float, float]:
    if isinstance(domain, str) or len(domain) != 2:
        raise UsageError(f"domain must be LOW HIGH with LOW < HIGH, got {domain!r}")
    return (domain[0], domain[1])


def diameter(norm: Norm, domain: tuple[float, float], dimension: int) -> float:
    """Largest distance, in `norm`, of two points of the box domain with `dimension` coordinates."""
    from verifiers import norms  # brings torch

    return (domain[1] - domain[0]) * norms.NORMS[norm].of_ones(dimension)

"""What a certification run is asked for: one frozen value, validated where it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, SupportsFloat, get_args

from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.mixing.parameters import check_alpha, check_temperature
from certmix.records.outcomes import Method
from proofs_check.certificate import Adaptive, Norm, Semantics

NORMS: tuple[Norm, ...] = get_args(Norm)
BEST = "best"
METHODS: tuple[Method, ...] = ("margin", "lipschitz", "smoothing", "adaptive")
NORM_NAMES: dict[str, Norm] = {name: norm for norm in NORMS for name in (norm.lower(), norm[1:])}

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


@dataclass(frozen=True)
class SmoothingSettings:
    """Randomised smoothing of h (docs/maths.md 5). noise_std in raw input units; samples per input.

    looks: increasing fractions of `samples` at which sampling may stop once a given radius is reached, the last 1;
    they share failure_probability; none: at any time, by bets, at no cost in shares. grid: noisy inputs are multiples
    of 1/grid; an input that is not itself loses its distance to the grid. draw_batch: noisy inputs run at once.
    precision: of the base model's arithmetic, float32 or bfloat16.
    """

    noise_std: float = 0.5
    samples: int = 100_000
    selection_samples: int = 1_000
    failure_probability: float = 0.001
    base: str = "soft"
    bound: str = "best"
    looks: tuple[float, ...] = (1.0,)
    grid: int = 255
    draw_batch: int = 512
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_std) and self.noise_std > 0):
            raise UsageError(f"noise_std must be > 0, got {self.noise_std}")
        if self.samples < 1 or self.selection_samples < 1:
            raise UsageError(f"samples must be >= 1, got {self.samples} and {self.selection_samples} for selection")
        if not 0 < self.failure_probability < 1:
            raise UsageError(f"failure_probability must lie in (0, 1), got {self.failure_probability}")
        ends = (0.0, *self.looks)
        if self.looks and (ends[-1] != 1.0 or any(a >= b for a, b in pairwise(ends))):
            raise UsageError(f"looks must be increasing fractions that end in 1, or none, got {self.looks}")
        if not 1 <= self.grid <= 65536:
            raise UsageError(f"grid must lie in [1, 65536], got {self.grid}")
        if self.draw_batch < 1:
            raise UsageError(f"draw_batch must be >= 1, got {self.draw_batch}")


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

    alpha: float
    norm: Norm = "Linf"
    radius: float | None = None
    temperature: float = 1.0
    domain: tuple[float, float] | None = (0.0, 1.0)
    method: Method = "margin"
    engine: str = "crown"
    evidence: str = "network"
    semantics: Semantics = "real"
    use_standard: bool = False
    optimise: int = 8
    tolerance: float = 1e-3
    attack_steps: int = 10
    branch: float = 0.0
    branch_parts: int = 0
    curves: bool = True
    batch_size: int = 32
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    smoothing: SmoothingSettings = SmoothingSettings()
    adaptive: Adaptive | None = None

    def __post_init__(self) -> None:
        from verifiers import ENGINES  # torch comes with it: loaded for a run, not for the options of a command

        check_alpha(self.alpha)
        check_temperature(self.temperature)
        object.__setattr__(self, "norm", as_norm(self.norm))
        if self.radius is not None:
            object.__setattr__(self, "radius", as_number(self.radius, "radius"))
        choose("method", self.method, METHODS)
        choose("engine", self.engine, (BEST, *ENGINES))
        choose("evidence", self.evidence, ("network", "engine"))
        choose("semantics", self.semantics, ("real", "float32"))
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
        if self.threads < 1:
            raise UsageError(f"threads must be >= 1, got {self.threads}")
        if self.batch_size < 1 or self.attack_steps < 0 or self.optimise < 0:
            raise UsageError(
                f"batch_size must be >= 1, attack_steps and optimise >= 0, "
                f"got {self.batch_size}, {self.attack_steps}, {self.optimise}"
            )

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
        if self.branch_parts < 0:
            raise UsageError(f"branch_parts must be >= 0, got {self.branch_parts}; 0 for no such limit")
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


def choose(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def diameter(norm: Norm, domain: tuple[float, float], dimension: int) -> float:
    """Largest distance, in `norm`, of two points of the box domain with `dimension` coordinates."""
    from verifiers import norms  # brings torch

    return (domain[1] - domain[0]) * norms.NORMS[norm].of_ones(dimension)

"""certmix's own methods, protocol "mix"."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from certmix.provers.certify import certify
from certmix.records.outcomes import Certified, Method, Outcome
from certmix.settings import Settings

DOMAIN_HALF_WIDTH = 64.0  # of the domain that a largest radius is searched in, in multiples of the batch's extent
LARGEST_COUNTED_DISTANCE = 1024.0  # of a batch from the origin: farther away, radii are no larger


def margin(
    standard: nn.Module,
    robust: nn.Module,
    x: Tensor,
    alpha: float,
    norm: str = "Linf",
    temperature: float = 1.0,
    domain: tuple[float, float] | None = None,
) -> list[float | None]:
    """Lemma 3.2 from network bounds, proven by the judge."""
    return _ask("margin", False, standard, robust, x, alpha, norm, temperature, domain)


def margin_with_standard(
    standard: nn.Module,
    robust: nn.Module,
    x: Tensor,
    alpha: float,
    norm: str = "Linf",
    temperature: float = 1.0,
    domain: tuple[float, float] | None = None,
) -> list[float | None]:
    """Bounds of g and of h (docs/maths.md 6), for every alpha."""
    return _ask("margin", True, standard, robust, x, alpha, norm, temperature, domain)


def lipschitz(
    standard: nn.Module,
    robust: nn.Module,
    x: Tensor,
    alpha: float,
    norm: str = "Linf",
    temperature: float = 1.0,
    domain: tuple[float, float] | None = None,
) -> list[float | None]:
    """Theorem 3.5 and (4a) from Lipschitz constants."""
    return _ask("lipschitz", False, standard, robust, x, alpha, norm, temperature, domain)


Certifier = Callable[..., list[float | None]]


def fixed_radius(method: Method = "margin") -> Certifier:
    """The same, asked about one given radius (the keyword `radius` has no default)."""

    def certifier(
        standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float, radius: float, norm: str = "Linf"
    ) -> list[float | None]:
        settings = Settings(alpha, norm=norm, radius=radius, domain=None, method=method, attack_steps=0)  # type: ignore[arg-type]
        return _radii(certify(standard, robust, x, alpha=alpha, settings=settings))

    return certifier


margin_at_radius: Certifier = fixed_radius()
lipschitz_at_radius: Certifier = fixed_radius("lipschitz")


def _ask(
    method: Method,
    use_standard: bool,
    standard: nn.Module,
    robust: nn.Module,
    x: Tensor,
    alpha: float,
    norm: str,
    temperature: float,
    domain: tuple[float, float] | None,
) -> list[float | None]:
    """Radii of certified inputs. Without a domain the search is given a box so wide that it does not cut the ball.

    Attacks are off: the suite attacks, and a falsified input must show as the broken claim it would have been.
    """
    low, high = float(x.min()), float(x.max())
    widening = DOMAIN_HALF_WIDTH * (1 + high - low + min(max(abs(low), abs(high)), LARGEST_COUNTED_DISTANCE))
    box = (low - widening, high + widening) if domain is None else domain
    settings = Settings(
        alpha, norm=norm, temperature=temperature, domain=box, method=method, use_standard=use_standard, attack_steps=0  # type: ignore[arg-type]
    )  # fmt: skip
    radii = _radii(certify(standard, robust, x, alpha=alpha, settings=settings))
    # a claim speaks of the box only: beyond it the radius says nothing
    inside = min(low - box[0], box[1] - high) * (1 - 2.0**-40)
    return radii if domain is not None else [None if r is None else min(r, inside) for r in radii]


def _radii(outcomes: list[Outcome]) -> list[float | None]:
    return [outcome.radius if isinstance(outcome, Certified) else None for outcome in outcomes]

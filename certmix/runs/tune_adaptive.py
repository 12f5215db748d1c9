"""An adaptive mix chosen on one split: of many maps of h's logits, weights and temperatures, from one pass of bounds.

An engine's bounds of h's logits on the balls, and of those of alpha's network, serve every map and every weight
(docs/maths.md 8): what certifies follows from them in closed form. Floats that choose; the audit of the other split
proves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from certmix.data.dataset import Dataset
from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.mixing.mixed import transformed
from certmix.models.model import Model
from certmix.provers.adaptive import least_alpha, slack
from certmix.provers.adaptive_bounds import LogitsOnBalls
from certmix.provers.session import EngineSession, make_engine
from certmix.runs.listener import Listener
from certmix.settings import Settings
from proofs_check.certificate import MixedNuts, PlainNetwork, Transform
from verifiers.engine import Answer, EngineError, Query, differences
from verifiers.network.module import PlainModule
from verifiers.perturbation import Balls

Map = Transform | MixedNuts | None
MOST = 1_000_000  # mixes to try: minutes, for hundreds of inputs


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every map with every temperature and every weight. weights: mixes without map, either all numbers, or modules
    that share what they compute: one network at several ranges, or one module. maps: all of one kind."""

    weights: tuple[AdaptiveMix, ...]
    temperatures: tuple[float, ...]
    maps: tuple[Map, ...]

    def __post_init__(self) -> None:
        count = len(self.weights) * len(self.temperatures) * len(self.maps)
        if count > MOST:
            raise UsageError(f"{count} mixes are too many to try, at most {MOST}: coarser grids")

    def first(self) -> AdaptiveMix:
        return replace(self.weights[0], transform=self.maps[0])


@dataclass(frozen=True, eq=False)
class AdaptivePoint:
    """Shares in percent of all inputs: the mix is right; by the engine's bounds it is certified at the radius, and of
    the right class."""

    mix: AdaptiveMix
    temperature: float
    radius: float
    clean: float
    certified: float
    certified_correct: float

    @property
    def alpha(self) -> float:
        """The weight, or the least that it can be."""
        return self.mix.least()

    def in_words(self) -> str:
        return in_words(self.mix, self.temperature)


def in_words(mix: AdaptiveMix, temperature: float) -> str:
    """A mix as its options would say it."""
    weight = f"alpha {exact(mix.least())}"
    if isinstance(mix.alpha, SigmoidAlpha):
        weight = f"alpha in [{exact(mix.alpha.low)}, {exact(mix.alpha.high)}]"
    elif isinstance(mix.alpha, nn.Module):
        weight = f"alpha >= {exact(mix.least())}"
    return f"{weight}, temperature {exact(temperature)}{_map_in_words(mix.transform)}"


def _map_in_words(how: Map) -> str:
    if isinstance(how, MixedNuts):
        return f", mixednuts:{','.join(map(exact, (how.scale, how.shift, how.power)))}"
    if how is None:
        return ""
    return f", transform {exact(how.shift)} {exact(how.power)}{' clamped' if how.clamp else ''}"


# ---------------------------------------------------------------- what is known once


@dataclass(frozen=True, eq=False)
class Known:
    """Of N inputs, whatever the candidate. standard: (N, K) softmax of g; logits: (N, K) of h. on_balls: of h's.
    of_alpha: (N,) s_1 - s_0 of alpha's network, least_of_alpha: at least on the balls; 0 without."""

    labels: Tensor
    standard: Tensor
    logits: Tensor
    on_balls: LogitsOnBalls
    of_alpha: Tensor
    least_of_alpha: Tensor


def known_of(
    standard: Model, robust: Model, data: Dataset, candidates: Candidates, settings: Settings, listener: Listener
) -> Known:
    """Evaluate g and h, and bound h and alpha's network on the balls of settings.radius. Raises UsageError."""
    x, labels = torch.from_numpy(np.ascontiguousarray(data.inputs)), torch.from_numpy(data.labels)
    session, network, mix = EngineSession(make_engine(settings)), robust.require_network(), candidates.first()
    parts: list[Known] = []
    try:
        for index in torch.arange(len(x)).split(settings.batch_size):
            listener.progress(int(index[0]), len(x))
            parts.append(_part(standard, network, x[index], labels[index], mix, settings, session))
        listener.progress(len(x), len(x))
    except EngineError as error:
        raise UsageError(f"engine {settings.engine}: {error}") from error
    finally:
        listener.stopped()
    return _joined(parts)


def _part(
    standard: Model,
    network: PlainNetwork,
    x: Tensor,
    labels: Tensor,
    mix: AdaptiveMix,
    settings: Settings,
    session: EngineSession,
) -> Known:
    radius = settings.radius
    if radius is None:
        raise TypeError("tune decides one radius")

    def asked(of: PlainNetwork, classes: Tensor) -> Answer:
        radii = torch.full((len(x),), radius, dtype=torch.float64)
        balls = Balls(x, radii, settings.norm, settings.domain)
        return session.answer(of, Query(balls, differences(classes, of.classes)))

    with torch.no_grad():
        g, logits = standard.module(x).double(), PlainModule(network).double()(x.double())
        predicted = logits.argmax(dim=1)
        of_alpha = least = torch.zeros(len(x), dtype=torch.float64)
        if mix.network is not None:
            s = PlainModule(mix.network).double()(x.double())
            of_alpha, least = s[:, 1] - s[:, 0], asked(mix.network, torch.zeros_like(predicted)).bounds.lower[:, 1]
        elif isinstance(mix.alpha, nn.Module):
            of_alpha = mix.alpha(x).double()
    on_balls = LogitsOnBalls.of(asked(network, predicted), predicted, mix.transform)
    return Known(labels, torch.softmax(g, dim=1), logits, on_balls, of_alpha, least)


def _joined(parts: Sequence[Known]) -> Known:
    labels, standard, logits, of_alpha, least = (
        torch.cat([getattr(p, name) for p in parts])
        for name in ("labels", "standard", "logits", "of_alpha", "least_of_alpha")
    )
    return Known(labels, standard, logits, LogitsOnBalls.joined([p.on_balls for p in parts]), of_alpha, least)


# ---------------------------------------------------------------- every candidate


def points(known: Known, candidates: Candidates, radius: float) -> Iterator[AdaptivePoint]:
    """One for every candidate."""
    predicted_right = known.on_balls.predicted == known.labels
    for how in candidates.maps:
        upper, mapped = known.on_balls.upper(how), transformed(known.logits, how)
        for temperature in candidates.temperatures:
            margin = known.on_balls.margin_of(upper, temperature)
            robust = torch.softmax(temperature * mapped, dim=1)
            for weight in candidates.weights:
                mixed = known.standard + weights_at(known, weight)[:, None] * (robust - known.standard)
                right = mixed.argmax(dim=1) == known.labels
                certified = slack(least_alpha(weight, known.least_of_alpha), margin) > 0
                shares = (100 * float(v.double().mean()) for v in (right, certified, certified & predicted_right))
                yield AdaptivePoint(replace(weight, transform=how), temperature, radius, *shares)


def weights_at(known: Known, mix: AdaptiveMix) -> Tensor:
    """(N,) the mix's weight at the inputs."""
    if isinstance(mix.alpha, SigmoidAlpha):
        return mix.alpha.of_difference(known.of_alpha)
    if isinstance(mix.alpha, nn.Module):
        return known.of_alpha.clamp(mix.least(), 1.0)
    return torch.full_like(known.of_alpha, mix.least())

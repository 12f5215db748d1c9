"""Mixes whose alpha depends on the input, or whose robust logits pass a map (docs/maths.md 8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.mixing.mixed import MixedClassifier
from certmix.theorems.mixed_nuts import need_few
from proofs_check.certificate import Adaptive, InputAlpha, MixedNuts, PlainNetwork, Transform
from verifiers.network.module import PlainModule


class SigmoidAlpha(nn.Module):
    """a(x) = low + (high - low) sigmoid(s_1(x) - s_0(x)), s the two logits of `network`; (N, …) -> (N,)."""

    def __init__(self, network: PlainNetwork, low: float, high: float) -> None:
        super().__init__()
        if not 0 <= low <= high <= 1:
            raise UsageError(f"alpha's range must have 0 <= low <= high <= 1, got {low}, {high}")
        if network.classes != 2:
            raise UsageError(f"the network of alpha must have two logits, has {network.classes}")
        self.network = network
        self.module: PlainModule = PlainModule(network).eval()
        self.low = low
        self.high = high

    def forward(self, x: Tensor) -> Tensor:
        s = self.module(x)
        return self.of_difference(s[:, 1] - s[:, 0])

    def of_difference(self, difference: Tensor) -> Tensor:
        """Nondecreasing in s_1 - s_0."""
        return self.low + (self.high - self.low) * torch.sigmoid(difference)


@dataclass(frozen=True, eq=False)
class AdaptiveMix:
    """What of the mix is adaptive. alpha: the plain case's number; a network; or a module with alpha_lower declared."""

    alpha: float | nn.Module
    alpha_lower: float | None = None
    transform: Transform | MixedNuts | None = None

    @property
    def network(self) -> PlainNetwork | None:
        return self.alpha.network if isinstance(self.alpha, SigmoidAlpha) else None

    def classifier(self, standard: nn.Module, robust: nn.Module, temperature: float) -> MixedClassifier:
        """The mix itself."""
        lower = self.alpha.low if isinstance(self.alpha, SigmoidAlpha) else self.alpha_lower
        return MixedClassifier(standard, robust, self.alpha, temperature, alpha_lower=lower, transform=self.transform)

    def claimed(self) -> Adaptive | None:
        """The claim's field; None: nothing is adaptive."""
        alpha = None
        if isinstance(self.alpha, SigmoidAlpha):
            alpha = InputAlpha(self.alpha.network.sha256, self.alpha.low, self.alpha.high)
        elif isinstance(self.alpha, nn.Module):
            alpha = InputAlpha(None, self.least(), 1.0)
        return None if alpha is None and self.transform is None else Adaptive(alpha, self.transform)

    def least(self) -> float:
        """A lower bound of alpha everywhere."""
        if isinstance(self.alpha, SigmoidAlpha):
            return self.alpha.low
        if isinstance(self.alpha, nn.Module):
            if self.alpha_lower is None:
                raise UsageError("an alpha that depends on the input needs alpha_lower, a lower bound of it")
            return self.alpha_lower
        return self.alpha


def mix_of(said: Adaptive, alpha: float, network: Callable[[str], PlainNetwork]) -> AdaptiveMix | None:
    """The mix of which a claim says `said`; None where its alpha is a function that no network gives.

    alpha: where it does not depend on the input. network: by digest.
    """
    if said.alpha is None:
        return AdaptiveMix(alpha, transform=said.transform)
    if said.alpha.network is None:
        return None
    return AdaptiveMix(SigmoidAlpha(network(said.alpha.network), said.alpha.low, said.alpha.high), None, said.transform)


def checked(input_shape: tuple[int, ...], classes: int, mix: AdaptiveMix) -> None:
    """Raise UsageError unless the mix is adaptive and fits an h of this input shape and so many classes."""
    if mix.claimed() is None:
        raise UsageError("nothing of this mix is adaptive: use certmix.certify")
    if not (math.isfinite(mix.least()) and 0 <= mix.least() <= 1):
        raise UsageError(f"alpha_lower must be in [0, 1], got {mix.least()}")
    if isinstance(mix.transform, MixedNuts):
        need_few(classes)
    network = mix.network
    if network is not None and network.input_shape != input_shape:
        raise UsageError(f"the network of alpha takes inputs {network.input_shape}, h takes {input_shape}")

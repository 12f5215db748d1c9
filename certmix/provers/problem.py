"""What a prover is handed: models, a batch of inputs, their places in the dataset, and the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certmix.data.dataset import outside_advice, shape_advice
from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import Model, require_pair
from certmix.records.bound_archive import ArchivedBound
from certmix.records.outcomes import Abstained, Reason
from certmix.records.unfinished import Desk
from certmix.settings import Settings
from proofs_check.certificate import Claim, ClassOf, Digest, ModelFile, PlainNetwork, Smoothing
from proofs_check.reading.parse import array_sha256
from verifiers.layers import KINDS

# index in the dataset, and bounds of h's logit differences that some engine found there
Archiver = Callable[[int, ArchivedBound], None]


@dataclass(frozen=True)
class Pursued:
    """How far branching has come on one input, by its index in the dataset: of the ball of `radius` so many parts are
    proven, of all that it is cut into; lack: how far the worst of the others is from that. seconds: left, None: no
    limit."""

    index: int
    radius: float
    proven: int
    parts: int
    lack: float
    seconds: float | None


@dataclass(frozen=True, eq=False)
class ProverProblem:
    """inputs: (N, *shape) float32 in raw units. indices, labels: (N,) places in the dataset and true classes.

    archive: told of every bound of h's logit differences that is found, if they are archived. desk: where branching
    keeps what an interruption must not lose. tell: hears of its progress. adaptive: the mix that settings.adaptive is
    about.
    """

    standard: Model
    robust: Model
    inputs: Tensor
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    settings: Settings
    archive: Archiver | None = None
    desk: Desk | None = None
    tell: Callable[[Pursued], None] | None = None
    adaptive: AdaptiveMix | None = None

    def __post_init__(self) -> None:
        standard, robust = self.standard, self.robust
        require_pair(standard, robust)
        self.settings.require_installed()
        stated, smoothed = self.stated, self.settings.method == "smoothing"
        expected = stated.input_shape
        if self.settings.use_standard and smoothed:
            standard.require_stated()
        elif self.settings.use_standard and standard.network is None:
            raise UsageError(
                f"use_standard bounds g, and {standard.source} has no plain network ({standard.no_network}): "
                "leave it out"
            )
        if self.settings.evidence == "engine":
            check_defined_everywhere([robust, standard][: 1 + self.settings.use_standard])
        if self.inputs.dtype != torch.float32 or tuple(self.inputs.shape[1:]) != expected:
            shape_and_dtype = f"{tuple(self.inputs.shape)} {self.inputs.dtype}"
            advice = shape_advice(tuple(self.inputs.shape[1:]), expected)
            more = f": {advice}" if tuple(self.inputs.shape[1:]) != expected else ""
            raise UsageError(
                f"inputs must be float32 of shape (N, {', '.join(map(str, expected))}), got {shape_and_dtype}{more}"
            )
        if not bool(torch.isfinite(self.inputs).all()):
            raise UsageError("inputs hold NaN or infinite values")
        if self.settings.adaptive != (None if self.adaptive is None else self.adaptive.claimed()):
            raise UsageError("settings.adaptive speaks of another mix: use certify_adaptive (docs/adaptive.md)")
        if self.settings.domain is not None:
            check_domain(self.inputs, self.settings.domain)

    @property
    def network(self) -> PlainNetwork:
        """The robust model's plain network. Raises UsageError where there is none."""
        return self.robust.require_network()

    @property
    def stated(self) -> PlainNetwork | ModelFile:
        """What claims speak of as h: the plain network; where smoothing only counts, any model's file will do. Raises
        UsageError."""
        return self.robust.require_stated() if self.settings.method == "smoothing" else self.network

    @property
    def stated_standard(self) -> PlainNetwork | ModelFile | None:
        """What claims speak of as g; None: of any."""
        smoothed = self.settings.method == "smoothing" and self.settings.use_standard
        return self.standard.network or (self.standard.file if smoothed else None)

    @property
    def mix(self) -> MixedClassifier:
        """The classifier that certificates are about (without smoothing)."""
        standard, robust, s = self.standard.module, self.robust.module, self.settings
        if self.adaptive is None:
            return MixedClassifier(standard, robust, s.alpha, s.temperature)
        return self.adaptive.classifier(standard, robust, s.temperature)

    def input(self, batch_index: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.inputs[batch_index].numpy())

    def claim(
        self, batch_index: int, radius: float, predicted: int, class_of: ClassOf, smoothing: Smoothing | None
    ) -> Claim:
        """The claim these settings make about input `batch_index`."""
        s = self.settings
        return Claim(
            norm=s.norm,
            radius=radius,
            alpha=s.alpha,
            temperature=s.temperature,
            predicted=predicted,
            class_of=class_of,
            domain=s.domain,
            semantics=s.semantics,
            robust=named(self.stated),
            standard=None if self.stated_standard is None else named(self.stated_standard),
            input=array_sha256(self.input(batch_index)),
            smoothing=smoothing,
            adaptive=s.adaptive,
        )

    def abstained(self, predicted: int, reason: Reason, advice: str, class_of: ClassOf = "robust") -> Abstained:
        s = self.settings
        return Abstained(predicted, s.radius, s.norm, s.alpha, s.method, class_of, reason, advice)


def named(stated: PlainNetwork | ModelFile) -> Digest | ModelFile:
    """How a claim, or a header, spells it."""
    return stated if isinstance(stated, ModelFile) else stated.sha256


def check_defined_everywhere(models: list[Model]) -> None:
    """Raise UsageError if an engine's bounds of a network may say nothing of an input, for want of the judge."""
    for model in models:
        for k, node in enumerate(() if model.network is None else model.network.nodes):
            if KINDS[type(node)].partial:
                raise UsageError(
                    f"evidence engine takes an engine's word, and no engine proves that node {k} of {model.source}, "
                    f"{type(node).__name__}, is defined on the ball: leave evidence out, the judge proves it"
                )


def check_domain(inputs: Tensor, domain: tuple[float, float]) -> None:
    """Raise UsageError unless every coordinate, exactly, lies in the domain."""
    exact = inputs.double()
    low, high = float(exact.min()), float(exact.max())
    if low < domain[0] or high > domain[1]:
        raise UsageError(
            f"inputs reach from {low} to {high}, outside the domain [{domain[0]}, {domain[1]}]: "
            f"{outside_advice(low, high)}"
        )

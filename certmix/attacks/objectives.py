"""What an attack climbs: a score per input, its gradient, and whether the input's class is lost already."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certmix.mixing.mixed import MixedClassifier
from certmix.models.runtime import differentiable
from verifiers.network.module import PlainModule

Loss = Literal["cross_entropy", "margin", "dlr"]


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) max_{j≠y} z_j − z_y: positive exactly where another class is strictly larger than y's."""
    label_logits = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - label_logits


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) −log softmax(z)_y."""
    return F.cross_entropy(logits, labels, reduction="none")


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) difference-of-logits ratio (Croce & Hein 2020): the margin over the largest minus third-largest logit.

    With fewer than three classes the denominator is the difference of the two.
    """
    top = logits.topk(min(3, logits.shape[1]), dim=1).values
    return margins(logits, labels) / (top[:, 0] - top[:, -1] + 1e-12)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) log((1 − p_y) / p_y): a smooth largest margin, never flat."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.logsumexp(others, 1) - logits.gather(1, labels[:, None]).squeeze(1)


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margins,
    "dlr": dlr,
}


@dataclass(frozen=True, eq=False)
class Ascent:
    """At N points: score (N,) to compare iterates by, gradient (N, …) to follow; logits (N, K), labels (N,)."""

    score: Tensor
    gradient: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def broken(self) -> Tensor:
        """(N,) bool: another class is strictly larger than the label."""
        return margins(self.logits, self.labels) > 0


class Objective(abc.ABC):
    """A function of the input to climb, given the class to leave.

    Models that run in onnxruntime have no gradient: what is climbed is the part of the others, theirs being zero."""

    @property
    @abc.abstractmethod
    def models(self) -> tuple[nn.Module, ...]:
        """Those whose gradients are followed."""

    @property
    def blind(self) -> bool:
        """Whether some model has no gradient."""
        return not all(differentiable(model) for model in self.models)

    @property
    def climbs(self) -> bool:
        """Whether some model has a gradient."""
        return any(differentiable(model) for model in self.models)

    @abc.abstractmethod
    def ascent(self, points: Tensor, labels: Tensor, targets: Tensor) -> Ascent:
        """At `points` (N, …). labels (N,): the class to leave. targets (N,): the class to reach, or −1 for any."""

    @abc.abstractmethod
    def logits(self, points: Tensor) -> Tensor:
        """(N, K): those of the classifier that is to lose its class."""

    def broken(self, points: Tensor, labels: Tensor) -> Tensor:
        """(N,) bool: another class is strictly larger than `labels`."""
        with torch.no_grad():
            return margins(self.logits(points), labels) > 0


@dataclass(frozen=True, eq=False)
class ClassifierObjective(Objective):
    """A loss of one module's logits, followed along its end-to-end gradient.

    Targets STD, ROB and MIX are this with the standard, the robust and the mixed classifier.
    """

    model: nn.Module
    loss: Loss

    @property
    def models(self) -> tuple[nn.Module, ...]:
        mixed = self.model
        return (mixed.standard, mixed.robust) if isinstance(mixed, MixedClassifier) else (mixed,)

    def ascent(self, points: Tensor, labels: Tensor, targets: Tensor) -> Ascent:
        points = _leaf(points, self.model)
        logits = self.model(points)
        score = _targeted(logits, labels, targets, LOSSES[self.loss](logits, labels))
        return Ascent(score.detach(), _gradient(score, points), logits.detach(), labels)

    def logits(self, points: Tensor) -> Tensor:
        return self.model(points)


@dataclass(frozen=True, eq=False)
class FloorObjective(Objective):
    """The mix-aware objective that follows Lemma 3.2: drive h's margin under (1 − α)/α while g votes against.

    The mix loses y to i as soon as (1−α)(g_i − g_y) + α(h_i − h_y) > 0. g's summand is at its floor, 1 − α,
    once g is sure of i; then nothing more is to be had from g. The mix's own gradient is nearly blind to g before
    (g sure of y: softmax is flat). So g and h are both climbed, with normalised gradients of functions that never
    flatten. aim "runner_up": the logit difference z_i − z_y, i the target where one is set, else h's runner-up at the
    iterate; stronger where g is fragile and h is not sure. aim "all": the log-odds against y; stronger where g
    resists. g's part is dropped where its lead g_i − g_y (i: any class, for "all") exceeds `sure`. Iterates are
    compared by the mix's log-margin.
    """

    mix: MixedClassifier
    aim: Literal["runner_up", "all"] = "runner_up"
    sure: float = 0.99

    @property
    def models(self) -> tuple[nn.Module, ...]:
        return self.mix.standard, self.mix.robust

    def ascent(self, points: Tensor, labels: Tensor, targets: Tensor) -> Ascent:
        points = _leaf(points, self.mix)
        standard, robust = self.mix.standard(points), self.mix.robust(points)
        with torch.no_grad():
            mixed = self.mix.mix(standard, robust, self.mix.weight(points))
            probabilities = torch.softmax(standard, 1)
            score = _targeted(mixed, labels, targets, margins(mixed, labels))
            if self.aim == "runner_up":
                targets = torch.where(targets >= 0, targets, _runner_up(robust, labels))
            vote = _targeted(probabilities, labels, targets, margins(probabilities, labels))
        climbed = [_targeted(z, labels, targets, log_odds(z, labels)) for z in (standard, robust)]
        of_standard, of_robust = (_gradient(f, points) for f in climbed)
        needed = (vote <= self.sure).to(points.dtype) * (self.mix.alpha < 1)
        used = float(self.mix.alpha > 0)
        gradient = _unit(of_standard) * _column(needed, points) + _unit(of_robust) * used
        return Ascent(score, gradient, mixed, labels)

    def logits(self, points: Tensor) -> Tensor:
        return self.mix(points)


def _gradient(score: Tensor, points: Tensor) -> Tensor:
    """Of each score (N,) by its point (N, …); zero where no model behind it has one."""
    return torch.autograd.grad(score.sum(), points)[0] if score.requires_grad else torch.zeros_like(points)


def _leaf(points: Tensor, model: nn.Module) -> Tensor:
    """`points` (N, …) to differentiate by. Images that only plain networks read go with channels last on a CPU, where
    convolutions are faster so; a module of somebody else may ask for the usual layout."""
    points = points.detach()
    if points.ndim == 4 and points.device.type == "cpu" and _plain(model):
        points = points.contiguous(memory_format=torch.channels_last)
    return points.requires_grad_()


def _plain(model: nn.Module) -> bool:
    if isinstance(model, MixedClassifier):
        return all(_plain(part) for part in model.children())
    return isinstance(model, PlainModule)


def _targeted(logits: Tensor, labels: Tensor, targets: Tensor, untargeted: Tensor) -> Tensor:
    """z_t − z_y where a target is set, else the untargeted score."""
    if bool((targets < 0).all()):
        return untargeted
    towards = _difference(logits, targets.clamp_min(0), labels)
    return torch.where(targets >= 0, towards, untargeted)


def _difference(values: Tensor, rivals: Tensor, labels: Tensor) -> Tensor:
    return (values.gather(1, rivals[:, None]) - values.gather(1, labels[:, None])).squeeze(1)


def _runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _unit(gradient: Tensor) -> Tensor:
    """Each row divided by its mean absolute value."""
    return gradient / _column(gradient.flatten(1).abs().mean(1).clamp_min(1e-30), gradient)

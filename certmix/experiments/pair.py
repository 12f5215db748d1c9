"""What every attack experiment starts from: two classifiers, labelled inputs, a perturbation set, a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certmix.attacks.ball import Ball, make_ball
from certmix.attacks.pgd import Candidates
from certmix.attacks.worst import Budget, members_here
from certmix.data.dataset import load_data
from certmix.data.features import Features
from certmix.errors import UsageError
from certmix.models.model import load_asked
from certmix.models.onnx.ends import Asked
from certmix.models.preprocess import Behind
from certmix.models.runtime import differentiable
from certmix.models.sources import of_torch
from certmix.models.torch_files import load_module
from proofs_check.certificate import Norm
from verifiers.network.module import PlainModule


@dataclass(frozen=True, eq=False)
class Pair:
    """standard, robust: g and h, (N, …) -> logits. inputs (N, …) float32, labels (N,), both on one device.

    radius: of the attacks, raw units. batch_size: inputs attacked at once.
    """

    standard: nn.Module
    robust: nn.Module
    inputs: Tensor
    labels: Tensor
    norm: Norm
    radius: float
    domain: tuple[float, float] | None
    budget: Budget
    batch_size: int
    sources: dict[str, str]

    def gather(self, measure: Callable[[Ball, Tensor], Tensor]) -> Tensor:
        """`measure` of every batch of perturbation sets and labels, joined along the first axis."""
        return torch.cat([measure(self._ball(index), self.labels[index]) for index in self._batches(self._all())])

    def surviving(self, so_far: Tensor, attack: Callable[[Ball, Tensor], Candidates]) -> Tensor:
        """(N,) bool: `so_far` without the inputs that `attack`, which sees these alone, makes lose their label."""
        left = so_far.clone()
        for index in self._batches(so_far.nonzero().squeeze(1)):
            left[index] = ~attack(self._ball(index), self.labels[index]).found
        return left

    def _all(self) -> Tensor:
        return torch.arange(len(self.inputs), device=self.inputs.device)

    def _batches(self, index: Tensor) -> tuple[Tensor, ...]:
        return index.split(self.batch_size) if len(index) else ()

    def _ball(self, index: Tensor) -> Ball:
        return make_ball(self.inputs[index], self.radius, self.norm, self.domain)

    def predictions(self, model: nn.Module, points: Tensor) -> Tensor:
        """(N,) classes `model` gives to `points` (N, …)."""
        with torch.no_grad():
            return torch.cat([model(part).argmax(1) for part in points.split(self.batch_size)])

    def correct(self, model: nn.Module) -> Tensor:
        """(N,) bool: `model` gives the label at the clean input."""
        return self.predictions(model, self.inputs) == self.labels

    def settings(self) -> dict[str, Any]:
        """What a reader needs to repeat the run."""
        budget = self.budget
        return {
            **self.sources,
            "inputs": len(self.inputs),
            "norm": self.norm,
            "radius": self.radius,
            "domain": self.domain,
            "steps": budget.steps,
            "restarts": budget.restarts,
            "rivals": budget.rivals,
            "seed": budget.seed,
            "worst_case": list(members_here()),
        }


def percent(flags: Tensor) -> float:
    """The share of true flags, in percent."""
    return 100.0 * float(flags.double().mean())


def load_pair(
    sources: dict[str, str],
    limit: int | None,
    domain: tuple[float, float] | Features,
    norm: Norm,
    radius: float,
    budget: Budget,
    batch_size: int,
    device: str,
    allow_code: bool = False,
    ends: tuple[Asked, Asked] = (Asked(), Asked()),
    labels: str | None = None,
) -> Pair:
    """The pair and its data on `device`, from the files sources["standard"], ["robust"], ["data"].

    limit: only the first inputs; None: all. radius in raw input units. allow_code: as load_classifier has it. ends:
    what is asked of the ends of g's file and of h's. labels: as of `load_data`. Raises UsageError.
    """
    if batch_size < 1:
        raise UsageError(f"batch-size must be >= 1, got {batch_size}")
    data = load_data(sources["data"], limit, domain, labels)
    data.require_labels("accuracies need labels")
    box = domain.domain if isinstance(domain, Features) else domain
    shape = data.inputs.shape[1:]
    files = zip((sources["standard"], sources["robust"]), ends, strict=True)
    standard, robust = (load_classifier(file, allow_code, shape, end) for file, end in files)
    if not differentiable(robust):
        raise UsageError(
            f"{sources['robust']} has no plain network, and without gradients of h attacks say little: "
            "give it as a file of torch"
        )
    if isinstance(standard, PlainModule) and isinstance(robust, PlainModule):
        _require_one_shape(standard, robust, sources)
    standard, robust = standard.to(device), robust.to(device)
    inputs = torch.from_numpy(data.inputs).to(device)
    shapes = [_classes(m, inputs[:1], sources[name]) for m, name in ((standard, "standard"), (robust, "robust"))]
    if shapes[0] != shapes[1]:
        g, h = (f"{name} ({sources[name]})" for name in ("standard", "robust"))
        raise UsageError(f"class counts differ: {g} has {shapes[0]}, {h} has {shapes[1]}")
    data.require(tuple(inputs.shape[1:]), shapes[0], box)
    classes = torch.from_numpy(data.labels).to(device)
    return Pair(standard, robust, inputs, classes, norm, radius, box, budget, batch_size, sources)


def _require_one_shape(standard: PlainModule, robust: PlainModule, paths: dict[str, str]) -> None:
    shapes = standard.network.input_shape, robust.network.input_shape
    if shapes[0] != shapes[1]:
        g, h = (f"{name} ({paths[name]})" for name in ("standard", "robust"))
        raise UsageError(f"input shapes differ: {g} takes {shapes[0]}, {h} takes {shapes[1]}")


def load_classifier(
    path: str, allow_code: bool = False, input_shape: tuple[int, ...] | None = None, end: Asked | None = None
) -> nn.Module:
    """A classifier in evaluation mode: an ONNX file or one of torch, as `load_model` takes them. It is differentiable
    but for an ONNX file without plain network.

    A file of torch may use any layer (attacks need no plain network) and is not exported; the batch axis of a .pt2
    file must be dynamic. Raises UsageError.
    """
    end = end or Asked()
    if not of_torch(path):
        return load_asked(path, input_shape, end).module
    if end.output is not None or end.outputs == "probabilities":
        raise UsageError(f"{path}: output and outputs are for ONNX files: give a module whose one output is logits")
    module = load_module(path, allow_code)
    for front in (end.preprocess, end.features):
        if front is not None:
            module = Behind(module, front, tuple(input_shape or ()))
    return module


def _classes(model: nn.Module, example: Tensor, path: str) -> int:
    try:
        with torch.no_grad():
            logits = model(example)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"{path} cannot be run on inputs of shape {tuple(example.shape)}: {error}") from None
    if logits.ndim != 2:
        raise UsageError(f"{path} must give logits (N, K), got shape {tuple(logits.shape)}")
    return int(logits.shape[1])

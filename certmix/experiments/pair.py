"""What every attack experiment starts from: two classifiers, labelled inputs, a perturbation set, a budget."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certmix.attacks.ball import Ball, make_ball
from certmix.attacks.worst import Budget
from certmix.commands import arguments
from certmix.data.dataset import load_data
from certmix.errors import UsageError
from certmix.models.model import load_model
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

    def batches(self) -> Iterator[tuple[Ball, Tensor]]:
        """The perturbation sets and labels, `batch_size` inputs at a time."""
        for start in range(0, len(self.inputs), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield make_ball(self.inputs[rows], self.radius, self.norm, self.domain), self.labels[rows]

    def gather(self, measure: Callable[[Ball, Tensor], Tensor]) -> Tensor:
        """`measure` of every batch, joined along the first axis."""
        return torch.cat([measure(ball, labels) for ball, labels in self.batches()])

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
        }


def percent(flags: Tensor) -> float:
    """The share of true flags, in percent."""
    return 100.0 * float(flags.double().mean())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_models(parser)
    arguments.add_data(parser)
    arguments.add_norm(parser)
    group = parser.add_argument_group("attack")
    group.add_argument("--radius", type=arguments.number, metavar="R", help="of the attacks, raw units, e.g. 8/255")
    group.add_argument("--steps", type=int, default=20, metavar="N", help="gradients per restart (default 20)")
    group.add_argument("--restarts", type=int, default=1, metavar="N", help="of the attacks on the mix (default 1)")
    group.add_argument(
        "--rivals", type=int, default=3, metavar="N", help="classes that targeted attacks try (default 3)"
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    group.add_argument("--batch-size", type=int, default=128, metavar="N", help="inputs attacked at once (default 128)")


def load_pair(options: argparse.Namespace) -> Pair:
    """The pair, its data and budget from the command line. Raises UsageError."""
    if options.batch_size < 1:
        raise UsageError(f"batch-size must be >= 1, got {options.batch_size}")
    paths = {name: str(arguments.required(options, name)) for name in ("standard", "robust", "data")}
    radius = float(arguments.required(options, "radius"))
    domain = (options.domain[0], options.domain[1])
    data = load_data(paths["data"], options.limit, domain)
    device = arguments.device(options.device)
    standard, robust = (load_classifier(paths[name]) for name in ("standard", "robust"))
    if isinstance(standard, PlainModule) and isinstance(robust, PlainModule):
        _require_one_shape(standard, robust, paths)
    standard, robust = standard.to(device), robust.to(device)
    inputs = torch.from_numpy(data.inputs).to(device)
    shapes = [_classes(m, inputs[:1], paths[name]) for m, name in ((standard, "standard"), (robust, "robust"))]
    if shapes[0] != shapes[1]:
        g, h = (f"{name} ({paths[name]})" for name in ("standard", "robust"))
        raise UsageError(f"class counts differ: {g} has {shapes[0]}, {h} has {shapes[1]}")
    data.require(tuple(inputs.shape[1:]), shapes[0], domain)
    budget = Budget(options.steps, options.restarts, options.rivals, options.seed)
    labels = torch.from_numpy(data.labels).to(device)
    return Pair(
        standard, robust, inputs, labels, options.norm, radius, domain, budget, options.batch_size, paths
    )  # fmt: skip


def _require_one_shape(standard: PlainModule, robust: PlainModule, paths: dict[str, str]) -> None:
    shapes = standard.network.input_shape, robust.network.input_shape
    if shapes[0] != shapes[1]:
        g, h = (f"{name} ({paths[name]})" for name in ("standard", "robust"))
        raise UsageError(f"input shapes differ: {g} takes {shapes[0]}, {h} takes {shapes[1]}")


def load_classifier(path: str) -> nn.Module:
    """A differentiable classifier in evaluation mode: an ONNX file, or a .pt2 file of torch.export.save.

    A .pt2 file may use any layer (attacks need no plain network); its batch axis must be dynamic.
    """
    if Path(path).suffix != ".pt2":
        return load_model(path).module
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is not a program saved by torch.export.save: it is no zip archive")
    try:
        return torch.export.load(path).module()
    except (RuntimeError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise UsageError(f"{path} is not a program saved by torch.export.save: {str(error).splitlines()[0]}") from None


def _classes(model: nn.Module, example: Tensor, path: str) -> int:
    try:
        with torch.no_grad():
            logits = model(example)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"{path} cannot be run on inputs of shape {tuple(example.shape)}: {error}") from None
    if logits.ndim != 2:
        raise UsageError(f"{path} must give logits (N, K), got shape {tuple(logits.shape)}")
    return int(logits.shape[1])

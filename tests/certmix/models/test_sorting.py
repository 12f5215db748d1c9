"""Activations of published Lipschitz networks that sort: loaded from torch with their true constant."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from certmix.models.model import from_module
from certmix.models.onnx.sorting import comparators
from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.rules.lipschitz.layer_norms import node_constants
from verifiers.network.module import PlainModule


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12])
def test_comparators_sort_every_row_of_zeros_and_ones(count: int) -> None:
    rows = np.array(list(itertools.product((0, 1), repeat=count)))  # then any other, too
    for low, high in comparators(count):
        assert len({*low, *high}) == 2 * len(low)  # each value is compared once in a stage
        rows[:, low], rows[:, high] = np.minimum(rows[:, low], rows[:, high]), np.maximum(rows[:, low], rows[:, high])
    assert (np.diff(rows, axis=1) >= 0).all()


def groups(x: torch.Tensor, size: int) -> torch.Tensor:
    return x.reshape(len(x), x.shape[1] // size, size, *x.shape[2:])


class Pairs(nn.Module):
    """GroupSort2 by extremes of pairs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = groups(x, 2)
        return torch.cat([pairs.amin(2, keepdim=True), pairs.max(2, keepdim=True).values], 2).reshape(x.shape)


class Halves(nn.Module):
    """MaxMin of the first half of the channels and the second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stacked = torch.stack(x.chunk(2, 1), 2)
        return torch.cat([stacked.max(2).values, stacked.min(2).values], 1)


class Sort(nn.Module):
    """GroupSort."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return groups(x, self.size).sort(2, descending=True).values.reshape(x.shape)


class FullSort(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(1).values


@pytest.mark.parametrize(
    "activation", [Pairs(), Halves(), Sort(2), Sort(4), FullSort()], ids=lambda m: type(m).__name__
)
def test_what_sorts_is_loaded_and_stays_1_lipschitz(activation: nn.Module) -> None:
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 8, 1), nn.Linear(72, 3)
    nn.init.orthogonal_(first.weight)
    nn.init.orthogonal_(last.weight)
    module = nn.Sequential(first, activation, nn.Flatten(), last).eval()
    network = from_module(module, (1, 3, 3)).require_network()
    x = torch.randn(20, 1, 3, 3)
    torch.testing.assert_close(PlainModule(network)(x), module(x))
    assert all(
        len(shape) == 3 for node, shape in zip(network.nodes, network.shapes, strict=True) if isinstance(node, c.Relu)
    )
    constants, _ = node_constants(bounds.prepare(network), "L2")
    assert constants[-1] <= 1 + 1e-5
    assert math.isclose(constants[1], constants[-2], rel_tol=1e-5)

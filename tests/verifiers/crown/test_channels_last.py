"""An input in another order: the engine bounds a network of it as it does the twin that takes it in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import NORMS

from proofs_check import certificate as c
from verifiers.crown.engine import Crown
from verifiers.crown.intermediate import dual_norms
from verifiers.crown.network import prepare
from verifiers.engine import MarginQuery
from verifiers.network.module import build

F32 = np.float32
SHAPE = (2, 6, 5)


def twins(convolutions: int, first: tuple[int, ...]) -> tuple[c.PlainNetwork, c.PlainNetwork]:
    """Scaled by element, then convolutions before a ReLU; the second takes its image channels last, as `first`."""
    rng = np.random.default_rng(convolutions)

    def array(*shape: int) -> c.Float32Array:
        return rng.normal(size=shape).astype(F32) / F32(3)

    scale, offset, weights = array(*SHAPE), array(*SHAPE), [array(2, 2, 3, 3) for _ in range(convolutions)]
    last = array(3, 60)
    index = np.arange(60, dtype=np.int32).reshape(6, 5, 2).transpose(2, 0, 1)
    networks: list[c.PlainNetwork] = []
    for moved in (False, True):
        nodes: list[c.Node] = [c.Input(first if moved else SHAPE)]
        if len(nodes[0].shape) == 3:  # type: ignore[union-attr]
            parts = [p.transpose(1, 2, 0).copy() if moved else p for p in (scale, offset)]
            nodes += [c.Scale((0,), parts[0]), c.Shift((1,), parts[1])]
        if moved:
            nodes.append(c.Gather((len(nodes) - 1,), index))
        if len(first) != 3:
            nodes += [c.Scale((len(nodes) - 1,), scale), c.Shift((len(nodes),), offset)] if moved else []
        for weight in weights:
            nodes.append(c.Conv2d((len(nodes) - 1,), weight, array(2) * 0, (1, 1), (1, 1, 1, 1), (1, 1), 1))
        nodes += [c.Relu((len(nodes) - 1,)), c.Flatten((len(nodes),)), c.Linear((len(nodes) + 1,), last, last[:, 0])]
        networks.append(build(nodes))
    return networks[0], networks[1]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
@pytest.mark.parametrize("first", [(6, 5, 2), (60,), (6, 10)])
@pytest.mark.parametrize("convolutions", [1, 2])
def test_bounds_do_not_depend_on_the_order_of_the_input(
    norm: c.Norm, domain: tuple[float, float] | None, first: tuple[int, ...], convolutions: int
) -> None:
    plain, moved = twins(convolutions, first)
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    radii, predicted = torch.tensor([0.01, 0.1, 0.5], dtype=torch.float64), torch.tensor([0, 1, 2])
    engine, inputs = Crown(precision="float64"), (x, x.permute(0, 2, 3, 1).reshape(3, *first))
    one, two = (
        engine.bounds(MarginQuery(network, at, norm, radii, domain, predicted))
        for network, at in zip((plain, moved), inputs, strict=True)
    )
    torch.testing.assert_close(one.lower, two.lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.upper, two.upper, rtol=1e-9, atol=1e-9)


def test_gradients_stop_where_only_the_order_is_left() -> None:
    prepared = [prepare(network, torch.float64, torch.device("cpu")) for network in twins(2, (6, 5, 2))]
    assert 3 in prepared[1].roots
    for norm in NORMS:
        torch.testing.assert_close(dual_norms(prepared[0], 4, norm), dual_norms(prepared[1], 5, norm))

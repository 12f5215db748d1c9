"""Attacks on models without gradients: by search at random, and along the gradient of the other model of a mix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_networks import NORMS, mlp
from torch import nn

from certmix.attacks.ball import make_ball
from certmix.attacks.confirm import contained
from certmix.attacks.objectives import ClassifierObjective, FloorObjective, margins
from certmix.attacks.pgd import Schedule, pgd
from certmix.attacks.random_search import random_search
from certmix.mixing.mixed import MixedClassifier
from certmix.models.runtime import Runtime, RuntimeModule
from verifiers.network.module import PlainModule

H = PlainModule(mlp(3)).eval()


def runtime(shape: tuple[int, ...] = (4,), gain: float = 1.0, seed: int = 0) -> RuntimeModule:
    """Three logits: linear in the sines of the inputs."""
    size = int(np.prod(shape))
    weight = gain * np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)
    nodes = [helper.make_node(op, i, o) for op, i, o in
             (("Sin", ["x"], ["s"]), ("Flatten", ["s"], ["f"]), ("MatMul", ["f", "w"], ["y"]))]  # fmt: skip
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *s])] for name, s in (("x", shape), ("y", (3,)))
    ]
    made = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(weight.astype(np.float32), "w")])
    opsets = [helper.make_opsetid("", 17)]
    return RuntimeModule(
        Runtime(helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())
    ).eval()


@settings(max_examples=25, deadline=None)
@given(
    norm=st.sampled_from(NORMS), radius=st.floats(1e-3, 2), seed=st.integers(0, 99), steps=st.integers(1, 20),
    shape=st.sampled_from([(4,), (1, 4, 4), (3, 2, 5)]),
)  # fmt: skip
def test_the_search_stays_in_ball_and_domain_and_never_loses_margin(norm, radius, seed, steps, shape) -> None:
    model, g = runtime(shape), torch.Generator().manual_seed(seed)
    x = torch.rand(3, *shape, generator=g)
    y = model(x).argmax(1)
    objective, ball = ClassifierObjective(model, "margin"), make_ball(x, radius, norm, (0.0, 1.0))
    begin = ball.random(g)
    first, again = (
        random_search(objective, ball, y, begin, steps, torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert bool((margins(model(first), y) >= margins(model(begin), y)).all())
    for point, center in zip(first.numpy(), x.numpy(), strict=True):
        assert contained(point, center, radius, norm, (0.0, 1.0))


@pytest.mark.parametrize("norm", NORMS)
def test_a_fragile_model_without_gradients_is_broken(norm) -> None:
    model = runtime((1, 6, 6), 20.0)
    x = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y, radius = model(x).argmax(1), {"Linf": 0.4, "L2": 2.0, "L1": 9.0}[norm]
    objective, ball = ClassifierObjective(model, "margin"), make_ball(x, radius, norm, (0.0, 1.0))
    attack = pgd(objective, ball, y, Schedule(40))
    assert torch.equal(attack.found, objective.broken(attack.points, y))
    by_chance = objective.broken(ball.random(torch.Generator().manual_seed(1)), y)
    assert int(attack.found.sum()) >= 4 + int(by_chance.sum())


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.75, 1.0])
@pytest.mark.parametrize("floor", [False, True])
def test_a_mix_follows_the_gradient_of_the_model_that_has_one(alpha: float, floor: bool) -> None:
    """With the other's values as constants; at alpha 0 there is none."""
    mix = MixedClassifier(runtime(), H, alpha)
    objective = FloorObjective(mix) if floor else ClassifierObjective(mix, "cross_entropy")
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    y, anything = mix(x).argmax(1), torch.full((5,), -1)
    ascent = objective.ascent(x, y, anything)
    assert objective.blind
    assert objective.climbs

    class Constant(nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return mix.standard(x) + 0 * points.sum()

    twin = MixedClassifier(Constant(), H, alpha)
    same = FloorObjective(twin) if floor else ClassifierObjective(twin, "cross_entropy")
    torch.testing.assert_close(ascent.gradient, same.ascent(x, y, anything).gradient)
    assert bool((ascent.gradient != 0).any()) == (alpha > 0)


def test_the_search_finds_what_the_gradient_of_the_other_model_does_not() -> None:
    """h does not move at all: whatever is found comes from values of g."""
    still = nn.Linear(4, 3)
    nn.init.zeros_(still.weight)
    nn.init.zeros_(still.bias)
    mix = MixedClassifier(runtime(gain=5.0, seed=2), still, 0.4)
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(2))
    y, ball = mix(x).argmax(1), make_ball(x, 0.5, "Linf", (0.0, 1.0))
    corners = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=4)))
    reachable = (mix((x[:, None] + corners).clamp(0, 1).flatten(0, 1)).argmax(1).view(8, 16) != y[:, None]).any(1)
    assert 0 < int(reachable.sum()) < 8
    found = pgd(ClassifierObjective(mix, "margin"), ball, y, Schedule(30)).found
    assert bool(found[reachable].all())

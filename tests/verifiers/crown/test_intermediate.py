"""The native CROWN engine's parts: relaxations contain the curve, adjoints are adjoints, patches show what is there."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_kinds import CURVES

from proofs_check import certificate as c
from verifiers.crown.engine import Crown
from verifiers.crown.intermediate import value_bounds
from verifiers.crown.network import prepare
from verifiers.engine import MarginQuery
from verifiers.layers import KINDS
from verifiers.layers.curve import Curve
from verifiers.layers.max_pool2d import max_pool_relaxation
from verifiers.layers.powers import LEAST, Above
from verifiers.layers.relu import relu_relaxation
from verifiers.layers.windows import pad
from verifiers.linear_forms.blocks import depth_to_space, space_to_depth
from verifiers.linear_forms.convolution import adjoint_of
from verifiers.linear_forms.patches import Patches
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls

seeds = st.integers(0, 2**32 - 1)
small = st.integers(1, 3)
MANY = settings(max_examples=40, deadline=None)


def curve(name: str) -> Curve[Any]:
    node = CURVES[name]
    return KINDS[type(node)](node, ((1,),), (1,), {})  # type: ignore[return-value]  # all of them curves


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**31)


# ---------------------------------------------------------------- relaxations


@given(st.sampled_from(list(CURVES)), seeds, st.sampled_from([1e-9, 1e-3, 0.3, 1.0, 5.0, 40.0]))
@settings(max_examples=100, deadline=None)
def test_relaxations_of_a_curve_contain_it(name: str, seed: int, scale: float) -> None:
    found = curve(name)
    g = rng_of(seed)
    lower = scale * torch.randn(200, generator=g, dtype=torch.float64)
    if isinstance(found, Above):
        lower = LEAST + lower.abs()  # it is defined there, and bounded for no less
    upper = lower + scale * torch.rand(200, generator=g, dtype=torch.float64) ** 3
    relaxation, (low, high) = found.relaxation(lower, upper, None), found.interval((lower, upper))
    assert relaxation.lower_intercept is not None
    x = lower + (upper - lower) * torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    value, steep = found.value(x), relaxation.upper_slope.abs() + relaxation.lower_slope.abs()
    rounding = 4e-15 * (1 + value.abs() + steep * x.abs())
    assert (relaxation.upper_slope * x + relaxation.upper_intercept >= value - rounding).all()
    assert (relaxation.lower_slope * x + relaxation.lower_intercept <= value + rounding).all()
    assert (low - rounding <= value).all()
    assert (value <= high + rounding).all()


@given(seeds)
@MANY
def test_relaxations_of_a_curve_of_known_bend_touch_it(seed: int) -> None:
    """To the right of 0 the lower line is the chord, and the upper one touches."""
    g = rng_of(seed)
    lower = torch.rand(50, generator=g, dtype=torch.float64)
    upper = lower + 0.01 + torch.rand(50, generator=g, dtype=torch.float64)
    relaxation = curve("tanh").relaxation(lower, upper, None)
    assert relaxation.lower_intercept is not None
    for x in (lower, upper):
        assert torch.allclose(relaxation.lower_slope * x + relaxation.lower_intercept, torch.tanh(x), atol=1e-12)
    x = lower + (upper - lower) * torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    assert ((relaxation.upper_slope * x + relaxation.upper_intercept - torch.tanh(x)).amin(0) < 1e-6).all()


@given(seeds, small, st.integers(1, 2), st.booleans())
@MANY
def test_the_selected_pixels_bound_a_pooled_value(seed: int, kernel: int, stride: int, padded: bool) -> None:
    g = rng_of(seed)
    node = c.MaxPool2d(
        (0,), (kernel, kernel), (stride, stride), (1, 0, 0, 1) if padded and kernel > 1 else (0, 0, 0, 0)
    )
    lower = torch.randn(2, 3, 5, 4, generator=g, dtype=torch.float64)
    upper = lower + torch.rand(lower.shape, generator=g, dtype=torch.float64)
    found = max_pool_relaxation(lower, upper, node)
    for _ in range(20):
        x = lower + (upper - lower) * torch.rand(lower.shape, generator=g, dtype=torch.float64).round()
        pixels = pad(x, node.padding, -math.inf).flatten(2)
        pooled = F.max_pool2d(pad(x, node.padding, -math.inf), node.kernel, node.stride)
        chosen = pixels.gather(2, found.selected.flatten(2)).view(pooled.shape)
        assert (chosen <= pooled).all()
        assert (chosen * found.dominates + found.rival_constant >= pooled).all()


# ---------------------------------------------------------------- adjoints


@given(
    seeds, st.integers(1, 4), st.integers(1, 4), small, small, st.integers(0, 2), st.integers(1, 2), st.integers(1, 2)
)
@MANY
def test_the_space_to_depth_convolution_is_the_adjoint(
    seed: int, high: int, wide: int, stride: int, other: int, padding: int, dilation: int, groups: int
) -> None:
    """<r, conv(x)> = <adjoint(r), x> for any x: the gradient of the left side is the adjoint."""
    g = rng_of(seed)
    weight = torch.randn(2 * groups, 3, high, wide, generator=g, dtype=torch.float64)
    x = torch.randn(1, 3 * groups, 11, 10, generator=g, dtype=torch.float64).requires_grad_()
    step, space = (stride, other), (dilation, 1)
    sides = (padding, 1, padding + 1, 0)  # top, left, bottom, right
    y = F.conv2d(pad(x, sides, 0.0), weight, None, step, 0, space, groups)
    forms = torch.randn(y.shape, generator=g, dtype=torch.float64)
    (expected,) = torch.autograd.grad((forms * y).sum(), x)
    adjoint = adjoint_of(weight, step, sides[:2], space, groups)
    assert torch.allclose(adjoint.to_image(forms, (11, 10)), expected, atol=1e-12)
    block = tuple(2 if n % 2 == 0 else 1 for n in forms.shape[2:])
    with torch.no_grad():  # what was there before does not show
        for sign in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0]), torch.tensor([5.0, 4.0])):
            factor = sign.double().view(-1, 1, 1, 1)
            found = adjoint.to_image(forms * factor, (11, 10))
            assert torch.allclose(found, expected * factor, atol=1e-12)
            found = adjoint.to_image(space_to_depth(forms * factor, block), (11, 10), block)
            assert torch.allclose(found, expected * factor, atol=1e-12)


@given(seeds, small, small, st.integers(3, 7), st.integers(3, 7))
@MANY
def test_space_to_depth_only_reorders(seed: int, down: int, right: int, height: int, width: int) -> None:
    images = torch.randn(2, 3, height, width, generator=rng_of(seed))
    blocks = space_to_depth(images, (down, right))
    assert torch.equal(depth_to_space(blocks, (down, right), (height, width)), images)
    assert torch.allclose(blocks.abs().sum(), images.abs().sum())
    assert torch.equal(blocks[:, 0], images[:, 0, ::down, ::right])


@given(seeds, small, st.integers(-3, 2), st.integers(1, 4), st.integers(1, 40))
@MANY
def test_a_patch_shows_the_image_and_zeros_outside(seed: int, step: int, offset: int, size: int, count: int) -> None:
    """Few patches are looked up one by one, many from a table: the same."""
    g = rng_of(seed)
    images = torch.randn(3, 2, 6, 5, generator=g)
    positions, image_index = torch.randint(0, 12, (count,), generator=g), torch.randint(0, 3, (count,), generator=g)
    patches = Patches(positions, (4, 3), (step, step), (offset, offset))
    extracted = patches.extract(images, (size, size), image_index)
    inside = patches.inside_mask((size, size), (6, 5), images)
    for r in range(count):
        top, left = (int(n) * step + offset for n in divmod(int(positions[r]), 3))
        for y in range(size):
            for x in range(size):
                present = 0 <= top + y < 6 and 0 <= left + x < 5
                assert inside[r, y, x, 0] == float(present)
                expected = images[image_index[r], :, top + y, left + x] if present else torch.zeros(2)
                assert torch.equal(extracted[r, y, x], expected)


@given(seeds, st.integers(1, 2), st.floats(0.0, 0.5))
@MANY
def test_relaxations_with_other_slopes_are_others_however_they_are_read(seed: int, stride: int, leak: float) -> None:
    g = rng_of(seed)
    lower = torch.randn(1, 3, 4, 6, generator=g)
    relaxation = relu_relaxation(lower, lower + 0.2, torch.rand(lower.shape, generator=g), leak)
    before = relaxation.sparse((stride, stride))
    if before is None:  # many are unstable
        return
    moved = dataclasses.replace(relaxation, lower_slope=relaxation.lower_slope + 1.0)
    after = moved.sparse((stride, stride))
    assert after is None or not torch.equal(after.slope, before.slope)
    assert (
        before.slope.tolist()
        == space_to_depth(relaxation.lower_slope, (stride, stride)).movedim(1, -1).flatten().tolist()
    )
    unstable = (relaxation.upper_slope != relaxation.lower_slope) | (relaxation.upper_intercept != 0)
    assert len(before.unstable) == int(unstable.sum())


# ---------------------------------------------------------------- networks with curves


def curved(rng: np.random.Generator, curve: type[c.Tanh] | type[c.Sigmoid]) -> c.PlainNetwork:
    def array(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / math.sqrt(max(1, math.prod(shape[1:])))).astype(np.float32)

    nodes: list[c.Node] = [c.Input((5,)), c.Linear((0,), 2 * array(8, 5), array(8)), curve((1,))]
    nodes += [c.Linear((2,), 2 * array(8, 8), array(8)), curve((3,)), c.Linear((4,), 3 * array(4, 8), array(4))]
    return build(nodes)


def by_intervals(network: c.PlainNetwork, lower: torch.Tensor, upper: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Interval arithmetic through linear layers and increasing curves, layer by layer."""
    found = [(lower, upper)]
    for node in network.nodes[1:]:
        lower, upper = found[-1]
        if isinstance(node, c.Linear):
            weight, bias = (torch.from_numpy(a.astype(np.float64)) for a in (node.weight, node.bias))
            up, down = weight.clamp(min=0), weight.clamp(max=0)
            found.append((lower @ up.T + upper @ down.T + bias, upper @ up.T + lower @ down.T + bias))
        else:
            curve = torch.tanh if isinstance(node, c.Tanh) else torch.sigmoid
            found.append((curve(lower), curve(upper)))
    return found


@given(seeds, st.sampled_from([c.Tanh, c.Sigmoid]), st.sampled_from(["Linf", "L2", "L1"]), st.floats(0.001, 0.5))
@settings(max_examples=15, deadline=None)
def test_curved_networks_are_bounded_soundly_and_never_looser_than_by_intervals(
    seed: int, curve: type[c.Tanh] | type[c.Sigmoid], norm: c.Norm, radius: float
) -> None:
    rng = np.random.default_rng(seed)
    network = curved(rng, curve)
    inputs = torch.from_numpy(rng.uniform(0, 1, (2, 5)).astype(np.float32))
    module = PlainModule(network)
    predicted = module(inputs).argmax(1)
    query = MarginQuery(network, inputs, norm, torch.full((2,), radius).double(), None, predicted)
    found = Crown(precision="float64").bounds(query)
    low, high = by_intervals(network, inputs.double() - radius, inputs.double() + radius)[-1]
    own = predicted[:, None]
    rivals = torch.ones(2, 4).scatter(1, own, 0.0).bool()
    assert (found.upper <= high - low.gather(1, own) + 1e-9)[rivals].all()
    assert (found.lower >= low - high.gather(1, own) - 1e-9)[rivals].all()
    direction = torch.randn(200, 2, 5, generator=rng_of(seed), dtype=torch.float64)
    order = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}[norm]
    direction = direction / torch.linalg.vector_norm(direction, order, dim=2, keepdim=True)
    z = module.double()((inputs.double() + radius * direction).flatten(0, 1)).view(200, 2, -1)
    d = z - z.gather(2, predicted.view(1, 2, 1).expand(200, 2, 1))
    assert (d <= found.upper + 1e-9).all()
    assert (d >= found.lower - 1e-9).all()


@given(seeds, st.sampled_from([c.Tanh, c.Sigmoid]))
@settings(max_examples=10, deadline=None)
def test_layers_after_a_curve_are_bounded_tighter_than_by_intervals(
    seed: int, curve: type[c.Tanh] | type[c.Sigmoid]
) -> None:
    rng = np.random.default_rng(seed)
    network = curved(rng, curve)
    x = torch.from_numpy(rng.uniform(0, 1, (4, 5)))
    half_width = torch.full((4,), 0.02).double()
    found = value_bounds(
        prepare(network, torch.float64, x.device), Balls(x, half_width, "Linf", None).boxed(torch.float64), None
    ).values[3]
    lower, upper = by_intervals(network, x - 0.02, x + 0.02)[3]
    assert (found[1] - found[0] < upper - lower).all()

"""Gains of blocks that do the same at every pixel: never below a sampled Jacobian, and exact where that is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import array

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.kernel.bounds import Prepared
from proofs_check.kernel.layers.conv2d import Conv2d
from proofs_check.rules.lipschitz import blocks, frequencies, inequality
from proofs_check.rules.lipschitz.layer_norms import node_constants
from proofs_check.rules.lipschitz.periodic import roles_of
from verifiers.network.module import PlainModule, build

Nodes = list[c.Node]
Padding = tuple[int, int, int, int]
SHAPE = (4, 5, 3)


def push(nodes: Nodes, node: c.Node) -> int:
    nodes.append(node)
    return len(nodes) - 1


def around(shape: tuple[int, ...], size: int) -> np.ndarray:
    cells = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    return np.pad(cells, ((0, 0), (size, size), (size, size)), mode="wrap")


def conv(nodes: Nodes, source: int, weight: np.ndarray, circular: bool = False, shape: tuple[int, ...] = SHAPE) -> int:
    """Of odd kernels, image sizes kept."""
    size = weight.shape[2] // 2
    if circular and size:
        source = push(nodes, c.Gather((source,), around((weight.shape[1], *shape[1:]), size)))
    padding: Padding = (0,) * 4 if circular else (size,) * 4  # type: ignore[assignment]
    bias = np.full(len(weight), 0.1, np.float32)
    return push(nodes, c.Conv2d((source,), weight.astype(np.float32), bias, (1, 1), padding, (1, 1), 1))


def closed(nodes: Nodes, last: int, shape: tuple[int, ...] = SHAPE) -> Prepared:
    """With two logits."""
    flat = push(nodes, c.Flatten((last,)))
    size = math.prod(shape)
    push(nodes, c.Linear((flat,), np.eye(2, size, dtype=np.float32), np.zeros(2, np.float32)))
    return bounds.prepare(build(nodes))


def known(prepared: Prepared, node: int) -> float | None:
    """The gain by frequencies of the block that ends in a node."""
    found = blocks._between(prepared, node)
    assert found is not None
    return frequencies.gain(prepared, *found)


def random_block(g: np.random.Generator, circular: bool) -> tuple[Nodes, int]:
    nodes: Nodes = [c.Input(SHAPE), c.Shift((0,), array(g, 4, 1, 1))]
    layers = [[1], [1]]  # nodes before, and also after the nonlinear ones

    def step(level: int) -> int:
        kind, x = int(g.integers(0, 5)), int(g.choice(layers[level]))
        if kind == 0:
            return conv(nodes, x, 0.4 * array(g, 4, 4, 3, 3), circular)
        if kind == 1:
            return conv(nodes, x, array(g, 4, 4, 1, 1))
        if kind == 2:
            return push(nodes, c.Scale((x,), array(g, 4, 1, 1)))
        if kind == 3:
            halves = [push(nodes, c.Slice((x,), (s, 0, 0), SHAPE, (2, 1, 1))) for s in (1, 0)]
            return push(nodes, c.Concat((halves[0], halves[1])))
        return push(nodes, c.Add((x, int(g.choice(layers[level])))))

    for _ in range(int(g.integers(0, 2))):
        layers[0].append(step(0))
    for _ in range(int(g.integers(0, 3))):
        kind = [c.Relu, c.Tanh, c.Sigmoid][int(g.integers(0, 3))]
        layers[1].append(push(nodes, kind((int(g.choice(layers[0])),))))
    for _ in range(int(g.integers(1, 4))):
        layers[1].append(step(1))
    return nodes, push(nodes, c.Add((layers[1][-1], int(g.choice(layers[1])))))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_no_sampled_jacobian_exceeds_the_gain_by_frequencies(seed: int, circular: bool) -> None:
    nodes, last = random_block(np.random.default_rng(seed), circular)
    prepared = closed(nodes, last)
    last = len(prepared.network.nodes) - 3
    found = blocks._between(prepared, last)
    gain = None if found is None else frequencies.gain(prepared, *found)
    if found is None or gain is None:
        return
    model, at = PlainModule(prepared.network).double(), (found[0], last)

    def value(k: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: model.values(x[None])[k][0].flatten()

    for point in torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64):
        of_below, of_last = (torch.autograd.functional.jacobian(value(k), point).flatten(1).numpy() for k in at)
        room = gain**2 * of_below.T @ of_below - of_last.T @ of_last  # |of_last v| <= gain |of_below v|
        assert np.linalg.eigvalsh(room)[0] >= -1e-12 * np.linalg.norm(of_last, 2) ** 2


def matrix_of(prepared: Prepared, node: int) -> np.ndarray:
    """Of an affine node in the input."""
    model = PlainModule(prepared.network).double()
    point = torch.zeros(prepared.network.input_shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.values(x[None])[node][0].flatten(), point)
    return jacobian.flatten(1).numpy()


@pytest.mark.parametrize("circular", [False, True])
def test_a_linear_residual_step_has_the_norm_of_its_sum(circular: bool) -> None:
    nodes: Nodes = [c.Input(SHAPE)]
    last = push(nodes, c.Add((0, conv(nodes, 0, 0.2 * array(np.random.default_rng(0), 4, 4, 3, 3), circular))))
    prepared = closed(nodes, last)
    exact, found = np.linalg.norm(matrix_of(prepared, last), 2), known(prepared, last)
    assert found is not None
    assert exact <= found <= exact * (1 + 1e-9 if circular else 1.3)


@pytest.mark.parametrize("corner", [(1, 1), (0, 2)])
def test_a_circular_convolution_has_its_true_norm(corner: tuple[int, int]) -> None:
    shape = (8, 16, 16)
    cells = around(shape, 2)[:, corner[0] : corner[0] + 18, corner[1] : corner[1] + 18]
    weight = array(np.random.default_rng(0), 8, 8, 3, 3).astype(np.float64)
    nodes: Nodes = [c.Input(shape), c.Gather((0,), cells)]
    nodes.append(c.Conv2d((1,), weight.astype(np.float32), np.zeros(8, np.float32), (1, 1), (0,) * 4, (1, 1), 1))  # type: ignore[arg-type]
    constants, joins = node_constants(closed(nodes, 2, shape), "L2")
    transform = np.fft.fft2(weight, (16, 16))
    exact = np.linalg.norm(np.moveaxis(transform, (0, 1), (2, 3)), 2, axis=(2, 3)).max()
    assert exact <= constants[2] * (1 + 1e-12)
    assert constants[2] <= exact * (1 + 1e-9)
    assert joins == (2,)


def potential(nodes: Nodes, g: np.random.Generator, circular: bool, shape: tuple[int, ...]) -> int:
    """x - 2 W T^-1 relu(W' x), T by sums of |W' W| (SLL), of convolutions."""
    weight = 0.3 * array(g, shape[0], shape[0], 3, 3).astype(np.float64)
    gram = np.zeros((shape[0], shape[0], 5, 5))  # of the convolution after its transpose
    for i in range(3):
        for j in range(3):
            gram[:, :, i : i + 3, j : j + 3] += np.einsum("oi,opkl->ipkl", weight[:, :, i, j], weight[:, :, ::-1, ::-1])
    scale = 2 / np.abs(gram).sum(axis=(1, 2, 3))
    hidden = push(nodes, c.Relu((conv(nodes, 0, weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1], circular, shape),)))
    return push(nodes, c.Add((0, conv(nodes, hidden, -weight * scale[:, None, None], circular, shape))))


@pytest.mark.parametrize("circular", [False, True])
def test_convolutional_sll_blocks_are_1_lipschitz(circular: bool) -> None:
    shape = (8, 16, 16)  # too large to be written out
    nodes: Nodes = [c.Input(shape)]
    last = potential(nodes, np.random.default_rng(0), circular, shape)
    constants, _ = node_constants(closed(nodes, last, shape), "L2")
    assert 1 <= constants[last] <= 1 + 1e-4


def test_householder_reflections_of_channel_pairs_cost_nothing() -> None:
    shape = (6, 20, 20)
    turn = np.random.default_rng(0).uniform(0, math.pi, 3)
    cosines, sines = (f(turn).astype(np.float32).reshape(3, 1, 1) for f in (np.cos, np.sin))
    nodes: Nodes = [c.Input(shape)]
    a, b = (push(nodes, c.Slice((0,), (s, 0, 0), (s + 3, 20, 20), (1, 1, 1))) for s in (0, 3))
    inner = push(nodes, c.Add((push(nodes, c.Scale((a,), sines)), push(nodes, c.Scale((b,), -cosines)))))
    r = push(nodes, c.Relu((inner,)))
    sides = [
        push(nodes, c.Add((x, push(nodes, c.Scale((r,), factor))))) for x, factor in ((a, -2 * sines), (b, 2 * cosines))
    ]
    last = push(nodes, c.Concat((sides[0], sides[1])))
    found = blocks.gain(closed(nodes, last, shape), last)
    assert found is not None
    assert found[0] == 0
    assert 1 - 1e-5 <= found[1] <= 1 + 1e-5


def test_a_torus_is_long_enough_for_taps_on_one_side_alone() -> None:
    """x_t and the difference of x_t and x_(t - 1): on a torus of one pixel there would be no difference."""
    for size, padding in (((1, 2), (0, 1, 0, 0)), ((2, 1), (1, 0, 0, 0))):
        weight = np.stack([-np.eye(4), np.eye(4)], axis=2).reshape(4, 4, *size).astype(np.float32)
        nodes: Nodes = [c.Input(SHAPE), c.Conv2d((0,), weight, np.zeros(4, np.float32), (1, 1), padding, (1, 1), 1)]
        last = push(nodes, c.Add((0, 1)))
        prepared = closed(nodes, last)
        found = known(prepared, last)
        assert found is not None
        assert np.linalg.norm(matrix_of(prepared, last), 2) <= found


def off_of(nodes: Nodes, last: int) -> float:
    """How far the matrix of a node may be off, of those in the input."""
    prepared, inside = closed([*nodes], last), list(range(1, last + 1))
    found = roles_of(prepared, 0, inside)
    assert found is not None
    torus = frequencies.Torus(found[1], np.zeros((1, 2), dtype=np.int64), 2)
    return frequencies._values(prepared, 0, inside, found[0], torus)[0].off


def test_what_the_matrices_of_frequencies_are_off_is_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By half of every tap of differences, whose matrices are zero at the frequency asked for: errors are left."""
    circle, unit = frequencies.circle, 2.0**-53
    monkeypatch.setattr(frequencies, "circle", lambda size: (*circle(size)[:2], 0.5))
    difference = np.stack([np.eye(4), np.zeros((4, 4)), -np.eye(4)], axis=2)[:, :, None]
    square = np.zeros((4, 4, 3, 3))
    square[:, :, 1:2] = difference
    nodes: Nodes = [c.Input(SHAPE)]
    first = conv(nodes, 0, square)
    off = off_of(nodes, first)
    assert off >= 0.5 * 8  # half of the sum of sizes
    branch = [*nodes]
    scaled = push(branch, c.Scale((first,), np.float32([2, 1, 1, 1]).reshape(4, 1, 1)))
    assert off_of(branch, scaled) >= 2 * off
    assert off_of(branch, push(branch, c.Add((first, scaled)))) >= 3 * off
    branch = [*nodes]
    cells = np.arange(math.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    twice = push(branch, c.Gather((first,), cells[[0, 0, 1, 2]]))
    assert off_of(branch, twice) >= math.sqrt(2) * off
    branch = [*nodes]
    one = np.zeros((4, 4, 1, 1))
    one[0, 0] = 3.0
    assert off_of(branch, conv(branch, first, one)) >= 3 * (1 + math.sqrt(0.5)) * off  # off by the root of 4.5, itself
    nodes = [c.Input(SHAPE)]
    assert off_of(nodes, push(nodes, c.Scale((0,), np.full((4, 1, 1), 2.0, np.float32)))) >= 2 * unit
    nodes = [c.Input(SHAPE)]
    assert off_of(nodes, push(nodes, c.Add((0, 0)))) >= 2 * unit


def test_sums_of_taps_are_charged_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: Nodes = [c.Input(SHAPE)]
    prepared = closed(nodes, conv(nodes, 0, np.ones((4, 4, 5, 5))))
    found = roles_of(prepared, 0, [1])
    assert found is not None
    torus = frequencies.Torus(found[1], np.zeros((1, 2), dtype=np.int64), 2)
    doubt = torus.kernel(prepared.layers[1], found[0][1])[1]  # type: ignore[arg-type]
    circle = frequencies.circle(math.prod(found[1]))
    assert doubt >= (circle[2] + 25 * 2.0**-53) * 400
    monkeypatch.setattr(frequencies, "circle", lambda _: (*circle[:2], 0.5))
    doubt = torus.kernel(prepared.layers[1], found[0][1])[1]  # type: ignore[arg-type]
    assert doubt >= math.sqrt(2) * 0.5 * 400  # of a cosine and of a sine


def twice(nodes: Nodes, g: np.random.Generator) -> int:
    """One convolution reads what another left beyond the image."""
    return conv(nodes, conv(nodes, 0, array(g, 4, 4, 3, 3)), array(g, 4, 4, 3, 3))


def partly(nodes: Nodes, g: np.random.Generator) -> int:
    """One convolution reads, among others, what another left beyond the image."""
    return conv(nodes, push(nodes, c.Add((0, conv(nodes, 0, array(g, 4, 4, 3, 3))))), array(g, 4, 4, 3, 3))


def framed(nodes: Nodes, g: np.random.Generator) -> int:
    """Zeros around the periods."""
    gathered = push(nodes, c.Gather((0,), around(SHAPE, 1)))
    return push(
        nodes, c.Conv2d((gathered,), array(g, 4, 4, 5, 5), np.zeros(4, np.float32), (1, 1), (1,) * 4, (1, 1), 1)
    )  # type: ignore[arg-type]


def again(nodes: Nodes, g: np.random.Generator) -> int:
    """Periods of what was surrounded with periods."""
    wide = push(nodes, c.Gather((push(nodes, c.Gather((0,), around(SHAPE, 1))),), around((4, 7, 5), 1)))
    return push(nodes, c.Conv2d((wide,), array(g, 4, 4, 5, 5), np.zeros(4, np.float32), (1, 1), (0,) * 4, (1, 1), 1))  # type: ignore[arg-type]


def mixed(nodes: Nodes, g: np.random.Generator) -> int:
    """Zero padding and periods."""
    return push(nodes, c.Add((conv(nodes, 0, array(g, 4, 4, 3, 3)), conv(nodes, 0, array(g, 4, 4, 3, 3), True))))


def mixed_in_one_direction(nodes: Nodes, g: np.random.Generator) -> int:
    """Zero padding along the width alone, and periods."""
    along = c.Conv2d((0,), array(g, 4, 4, 1, 3), np.zeros(4, np.float32), (1, 1), (0, 1, 0, 1), (1, 1), 1)
    return push(nodes, c.Add((push(nodes, along), conv(nodes, 0, array(g, 4, 4, 3, 3), True))))


def by_pixel(nodes: Nodes, g: np.random.Generator) -> int:
    return push(nodes, c.Scale((0,), array(g, *SHAPE)))


def turned(nodes: Nodes, g: np.random.Generator) -> int:
    return push(nodes, c.Gather((0,), np.arange(60, dtype=np.int32)[::-1].reshape(SHAPE).copy()))


def strided(nodes: Nodes, g: np.random.Generator) -> int:
    up = push(nodes, c.Pad((0,), (0, 5, 3), (0, 1, 1), 0.0))
    return push(nodes, c.Conv2d((up,), array(g, 4, 4, 2, 2), np.zeros(4, np.float32), (2, 2), (0,) * 4, (1, 1), 1))  # type: ignore[arg-type]


def reflected(nodes: Nodes, g: np.random.Generator) -> int:
    cells = np.pad(np.arange(60, dtype=np.int32).reshape(SHAPE), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    gathered = push(nodes, c.Gather((0,), cells))
    return push(
        nodes, c.Conv2d((gathered,), array(g, 4, 4, 3, 3), np.zeros(4, np.float32), (1, 1), (0,) * 4, (1, 1), 1)
    )  # type: ignore[arg-type]


def stepped(nodes: Nodes, g: np.random.Generator) -> int:
    """Padded once more, and every second window taken: as large as before."""
    return push(nodes, c.Conv2d((0,), array(g, 4, 4, 1, 1), np.zeros(4, np.float32), (2, 2), (2, 1, 2, 2), (1, 1), 1))


def cut(nodes: Nodes, g: np.random.Generator) -> int:
    """The corner of what was surrounded with periods."""
    return push(nodes, c.Slice((push(nodes, c.Gather((0,), around(SHAPE, 1))),), (0, 0, 0), SHAPE, (1, 1, 1)))


def doubled(nodes: Nodes, g: np.random.Generator) -> int:
    """Channels repeated, too."""
    gathered = push(nodes, c.Gather((0,), np.concatenate([around(SHAPE, 1)] * 2)))
    return push(
        nodes, c.Conv2d((gathered,), array(g, 4, 8, 3, 3), np.zeros(4, np.float32), (1, 1), (0,) * 4, (1, 1), 1)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "side",
    [
        doubled,
        twice,
        partly,
        framed,
        again,
        mixed,
        mixed_in_one_direction,
        by_pixel,
        turned,
        strided,
        reflected,
        stepped,
        cut,
    ],
)
def test_what_differs_from_pixel_to_pixel_is_no_such_block(side: Callable[[Nodes, np.random.Generator], int]) -> None:
    nodes: Nodes = [c.Input(SHAPE)]
    last = push(nodes, c.Add((0, side(nodes, np.random.default_rng(0)))))
    assert known(closed(nodes, last), last) is None


def test_what_is_surrounded_with_periods_is_no_block_without_its_convolution() -> None:
    nodes: Nodes = [c.Input(SHAPE), c.Gather((0,), around(SHAPE, 1))]
    prepared = closed(nodes, conv(nodes, 1, np.ones((4, 4, 3, 3))), (4, 7, 5))
    assert frequencies.gain(prepared, 0, [1]) is None


@pytest.mark.parametrize(("layers", "by_zero"), [(9, False), (5, True)])
def test_a_gain_that_a_double_does_not_hold_is_none(layers: int, by_zero: bool) -> None:
    """Infinite entries times 0, and errors of beyond a double times a scale of 0, are not a number: of two such the
    larger one is not the other."""
    nodes: Nodes = [c.Input((1, 40, 40))]
    last = 0
    for _ in range(layers):
        last = conv(nodes, last, np.full((1, 1, 1, 1), 3e38))
    last = conv(nodes, last, np.ones((1, 1, 3, 3)))
    if by_zero:
        last = push(nodes, c.Scale((last,), np.zeros((1, 1, 1), np.float32)))
    last = push(nodes, c.Add((0, last)))
    with np.errstate(all="ignore"):
        assert known(closed(nodes, last, (1, 40, 40)), last) is None


def test_few_frequencies_at_a_time_prove_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (4, 8, 8)
    nodes: Nodes = [c.Input(shape)]
    last = potential(nodes, np.random.default_rng(0), False, shape)
    prepared = closed(nodes, last, shape)
    whole = known(prepared, last)
    monkeypatch.setattr(frequencies, "MAX_ENTRIES", 1000)
    parts = known(prepared, last)
    assert whole is not None
    assert parts is not None
    assert abs(whole - parts) < 1e-5


@pytest.mark.parametrize("limit", ["MAX_SQUARED", "MAX_PLACES", "MAX_PRODUCTS", "MAX_COLUMNS"])
def test_what_takes_too_long_has_no_gain(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: Nodes = [c.Input(SHAPE)]
    side = 1 if limit == "MAX_COLUMNS" else 3
    last = push(nodes, c.Add((0, conv(nodes, 0, array(np.random.default_rng(0), 4, 4, side, side)))))
    prepared = closed(nodes, last)
    assert known(prepared, last) is not None
    monkeypatch.setattr(frequencies, limit, 1)
    assert known(prepared, last) is None


# ---------------------------------------------------------------- what is charged


OFF = 2.0**-10  # of every kernel, whose entry is stated too small by so much


def exactly(nodes: Nodes, below: int, kernels: dict[int, Fraction]) -> list[list[Fraction]]:
    """Rows of the last node's value in cells of x, then of w, of single pixels."""
    width = nodes[0].shape[0]  # type: ignore[union-attr]
    nonlinear = [k for k, node in enumerate(nodes) if isinstance(node, c.Elu)]
    size = width * (1 + len(nonlinear))
    values = {below: [[Fraction(int(i == j)) for j in range(size)] for i in range(width)]}
    for k, node in list(enumerate(nodes))[below + 1 :]:
        (first, *others) = (values[i] for i in node.inputs)  # type: ignore[union-attr]
        if isinstance(node, c.Elu):
            start = width * (1 + nonlinear.index(k))
            slope = Fraction(max(node.alpha, 1.0))
            rows = [[slope * (start + i == j) for j in range(size)] for i in range(width)]
        elif isinstance(node, c.Conv2d):
            rows = [[kernels[k] * v for v in row] for row in first]
        elif isinstance(node, c.Scale):
            gains = [Fraction(float(v)) for v in node.constant.ravel()]
            rows = [[g * v for v in row] for g, row in zip(gains, first, strict=True)]
        elif isinstance(node, c.Add):
            rows = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(first, others[0], strict=True)]
        elif isinstance(node, c.Concat):
            rows = [*first, *others[0]]
        else:
            assert isinstance(node, c.Gather)
            rows = [first[i] for i in node.index.ravel().tolist()]
        values[k] = rows
    return values[len(nodes) - 1]


def one(nodes: Nodes, source: int, weight: float) -> int:
    return conv(nodes, source, np.full((1, 1, 1, 1), weight, np.float32))


def convolved(nodes: Nodes) -> None:
    one(nodes, one(nodes, 0, 3.0), 5.0)


def added(nodes: Nodes) -> None:
    push(nodes, c.Add((one(nodes, 0, 3.0), one(nodes, 0, 5.0))))


def stretched(nodes: Nodes) -> None:
    pair = push(nodes, c.Concat((one(nodes, 0, 3.0), one(nodes, 0, 5.0))))
    push(nodes, c.Scale((pair,), np.array([1.0, 7.0], np.float32).reshape(2, 1, 1)))


def copied(nodes: Nodes) -> None:
    pair = push(nodes, c.Concat((one(nodes, 0, 3.0), 0)))
    push(nodes, c.Gather((pair,), np.array([0, 0, 1, 0], np.int32).reshape(4, 1, 1)))


def thrice(nodes: Nodes) -> None:
    """Three times a slope of 1.1, which is rounded, and so is the sum."""
    w = push(nodes, c.Elu((0,), 1.1))
    push(nodes, c.Add((push(nodes, c.Add((w, w))), w)))


def turned_around(nodes: Nodes) -> None:
    """The same, the larger term last."""
    w = push(nodes, c.Elu((0,), 1.1))
    push(nodes, c.Add((w, push(nodes, c.Add((w, w))))))


def lost(nodes: Nodes) -> None:
    """A term that the other one swallows."""
    push(nodes, c.Add((0, one(nodes, 0, 2.0**-60))))


def lost_before(nodes: Nodes) -> None:
    push(nodes, c.Add((one(nodes, 0, 2.0**-60), 0)))


def negated(nodes: Nodes) -> None:
    pair = push(nodes, c.Concat((one(nodes, 0, 3.0), one(nodes, 0, 5.0))))
    push(nodes, c.Scale((pair,), np.array([-1.0, -7.0], np.float32).reshape(2, 1, 1)))


def rescaled(nodes: Nodes) -> None:
    """A slope of 1.1 times what float32 has of 0.1."""
    push(nodes, c.Scale((push(nodes, c.Elu((0,), 1.1)),), np.full((1, 1, 1), 0.1, np.float32)))


def multiplied(nodes: Nodes) -> None:
    one(nodes, push(nodes, c.Elu((0,), 1.1)), 0.1)


@pytest.mark.parametrize("off", [0.0, OFF])
@pytest.mark.parametrize(
    "block",
    [convolved, added, stretched, copied, thrice, turned_around, lost, lost_before, negated, rescaled, multiplied],
)
def test_what_the_matrices_of_a_block_are_off_is_charged(
    block: Callable[[Nodes], None], off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off by kernels that are as wrong as they say, or by rounding alone."""
    nodes: Nodes = [c.Input((1, 1, 1))]
    block(nodes)
    weights = {k: float(node.weight.item()) for k, node in enumerate(nodes) if isinstance(node, c.Conv2d)}
    last = len(nodes) - 1
    exact = exactly(nodes, 0, {k: Fraction(w) for k, w in weights.items()})
    prepared, inside = closed(nodes, last, (len(exact), 1, 1)), list(range(1, last + 1))
    found = roles_of(prepared, 0, inside)
    assert found is not None

    def kernel(self: frequencies.Torus, layer: Conv2d, places: np.ndarray) -> tuple[np.ndarray, float]:
        return layer.weight.reshape(1, 1, 1).astype(np.float64) - off, off

    monkeypatch.setattr(frequencies.Torus, "kernel", kernel)
    torus = frequencies.Torus((1, 1), np.zeros((1, 2), np.int64), 1)
    y = frequencies._values(prepared, 0, inside, found[0], torus)[0]
    stated = [[Fraction(float(v)) for v in row] for row in y.flat[0]]
    missed = [sum((a - b) ** 2 for a, b in zip(*rows, strict=True)) for rows in zip(exact, stated, strict=True)]
    assert y.off >= 0
    assert sum(missed) <= Fraction(y.off) ** 2  # the differences have one column: their norm is its length


SCALARS = [  # a, b, c of y = a x + b w, v = c x; what each may be off
    ((1.0, -10.0, 1.0), (0.0, 0.0, 0.0)),
    ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    ((1.0, -1000.0, 0.01), (0.0, 0.0, 0.0)),
    ((1.0, -0.01, 0.01), (0.0, 0.0, 0.0)),
    ((1.0, -0.01, 0.01), (1.0, 1.0, 0.0)),
    ((1.0, 0.01, 1.0), (1.0, 1.0, 0.0)),
    ((1.0, -10.0, 1.0), (0.0, 0.0, 0.5)),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),
    ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((2.0, -3.0, 0.5), (0.25, 0.25, 0.125)),
]


def least_gain(numbers: tuple[float, ...], off: tuple[float, ...]) -> float:
    """The largest |a + s b c| there may be, s 0 or 1: below every gain that is proven."""
    signs = itertools.product((-1, 1), repeat=3)
    moved = [[v + s * o for v, s, o in zip(numbers, chosen, off, strict=True)] for chosen in signs]
    return max(abs(a + s * b * k) for a, b, k in moved for s in (0, 1))


@pytest.mark.parametrize(("numbers", "off"), SCALARS)
def test_no_slope_and_no_matrices_within_what_they_are_off_exceed_the_gain(
    numbers: tuple[float, float, float], off: tuple[float, float, float]
) -> None:
    least, joint = least_gain(numbers, off), max(off[:2])  # of A and B beside each other
    complex_ones = tuple(v * np.eye(2)[None] for v in numbers)
    assert frequencies._proven(iter([(complex_ones, (joint, joint, off[2]))])) >= least  # type: ignore[list-item]
    a, b, k = (np.array([[v]]) for v in numbers)
    found = inequality.gain((a, b, k), off)
    assert found is not None
    assert found >= least


def test_of_channels_that_ask_for_different_multipliers_the_larger_counts() -> None:
    """One of them has a gain of |1 - 10|."""
    a, b, k = (np.kron(np.eye(2), np.diag(v))[None] for v in ([1.0, 1.0], [-10.0, -0.1], [1.0, 1.0]))
    assert frequencies._proven(iter([((a, b, k), (0.0, 0.0, 0.0))])) >= 9

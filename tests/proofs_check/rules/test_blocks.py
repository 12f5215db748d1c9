"""Gains of blocks where paths join: exact where they are known, never below a sampled Jacobian, none where none is."""

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
from proofs_check.rules.lipschitz import blocks, frequencies, inequality, parts
from proofs_check.rules.lipschitz.layer_norms import node_constants, products
from verifiers.network.module import PlainModule, build

Nodes = list[c.Node]
Block = Callable[[Nodes, np.random.Generator], None]  # appends nodes after the last
WIDTH = 16


def push(nodes: Nodes, node: c.Node) -> int:
    nodes.append(node)
    return len(nodes) - 1


def linear(nodes: Nodes, source: int, weight: np.ndarray) -> int:
    return push(nodes, c.Linear((source,), weight.astype(np.float32), np.full(len(weight), 0.1, np.float32)))


def scaled(nodes: Nodes, source: int, *factors: float) -> int:
    return push(nodes, c.Scale((source,), np.array(factors, np.float32)))


def part(nodes: Nodes, source: int, cells: np.ndarray) -> int:
    return push(nodes, c.Gather((source,), cells.astype(np.int32)))


def maxmin(nodes: Nodes, _: np.random.Generator) -> None:
    x, half = len(nodes) - 1, np.arange(0, WIDTH, 2)
    a, b = part(nodes, x, half), part(nodes, x, half + 1)
    gap = push(nodes, c.Add((a, scaled(nodes, b, -1.0))))
    r = push(nodes, c.Relu((gap,)))
    larger, smaller = push(nodes, c.Add((b, r))), push(nodes, c.Add((a, scaled(nodes, r, -1.0))))
    push(nodes, c.Concat((larger, smaller)))


def absolute(nodes: Nodes, _: np.random.Generator) -> None:
    x = len(nodes) - 1
    twice = scaled(nodes, push(nodes, c.Relu((x,))), 2.0)
    push(nodes, c.Add((twice, scaled(nodes, x, -1.0))))


def convex_potential(nodes: Nodes, g: np.random.Generator, by_rows: bool = False) -> None:
    """x - 2 W T^-1 relu(W' x): T >= W' W by its rows' sums (SLL) or by the squared norm (CPL)."""
    x, weight = len(nodes) - 1, array(g, WIDTH, WIDTH).astype(np.float64)
    t = np.abs(weight.T @ weight).sum(axis=1) if by_rows else np.full(WIDTH, np.linalg.norm(weight, 2) ** 2)
    hidden = push(nodes, c.Relu((linear(nodes, x, weight.T),)))
    push(nodes, c.Add((x, linear(nodes, hidden, -2 * weight / t))))


def by_rows(nodes: Nodes, g: np.random.Generator) -> None:
    convex_potential(nodes, g, True)


def turned(block: Block, depth: int) -> c.PlainNetwork:
    """Blocks with rotations before them, and four rows of another as logits."""
    g = np.random.default_rng(0)
    nodes: Nodes = [c.Input((WIDTH,))]
    for _ in range(depth):
        linear(nodes, len(nodes) - 1, np.linalg.qr(g.normal(size=(WIDTH, WIDTH)))[0])
        block(nodes, g)
    linear(nodes, len(nodes) - 1, np.linalg.qr(g.normal(size=(WIDTH, WIDTH)))[0][:4])
    return build(nodes)


@pytest.mark.parametrize("block", [maxmin, absolute, convex_potential, by_rows])
def test_blocks_that_are_1_lipschitz_are_proven_so_at_any_depth(block: Block) -> None:
    network = turned(block, 12)
    form = np.eye(4)[:1] - np.eye(4)[1:2]
    found = products(bounds.prepare(network), form, "L2")[0]
    assert found <= math.sqrt(2) * (1 + 1e-5)
    points = torch.randn((200, WIDTH), dtype=torch.float64).requires_grad_()
    z = PlainModule(network).double()(points) @ torch.from_numpy(form[0])
    (gradient,) = torch.autograd.grad(z.sum(), points)
    assert float(gradient.norm(dim=1).max()) <= found
    if block is maxmin:
        assert float(gradient.norm(dim=1).max()) >= math.sqrt(2) * (1 - 1e-6)


def test_maxmin_of_channels_costs_nothing_on_images_of_any_size() -> None:
    shape = (WIDTH, 24, 24)
    nodes: Nodes = [c.Input(shape)]
    a, b = (push(nodes, c.Slice((0,), (s, 0, 0), shape, (2, 1, 1))) for s in (0, 1))
    r = push(nodes, c.Relu((push(nodes, c.Add((a, scaled(nodes, b, -1.0)))),)))
    last = push(nodes, c.Concat((push(nodes, c.Add((b, r))), push(nodes, c.Add((a, scaled(nodes, r, -1.0)))))))
    size = math.prod(shape)
    push(nodes, c.Flatten((last,)))
    linear(nodes, len(nodes) - 1, np.eye(2, size))
    prepared = bounds.prepare(build(nodes))
    found = blocks.gain(prepared, last)
    assert found is not None
    assert found[0] == 0
    assert 1 <= found[1] <= 1 + 1e-8
    assert last in node_constants(prepared, "L2")[1]
    assert node_constants(prepared, "Linf")[1] == ()


def random_block(g: np.random.Generator, exact: bool) -> tuple[Nodes, int]:
    """A random block on a vector of 6, and its last node; exact: only moves, sums, and powers of two as factors."""
    nodes: Nodes = [c.Input((6,)), c.Shift((0,), array(g, 6))]
    layers = [[1], [1]]  # nodes of 6 cells before, and also after the nonlinear ones

    def choose(level: int) -> int:
        return int(g.choice(layers[level]))

    def step(level: int) -> int:
        kind, x = g.integers(0, 4 if exact else 5), choose(level)
        if kind == 0:
            return part(nodes, x, g.integers(0, 6, 6))
        if kind == 1:
            return scaled(nodes, x, *(2.0 ** g.integers(-2, 2, 6) * g.choice([-1, 1], 6)))
        if kind == 2:
            return push(nodes, c.Add((x, choose(level))))
        if kind == 3:
            cells = g.permutation(6)
            return push(nodes, c.Concat((part(nodes, x, cells[:3]), part(nodes, choose(level), cells[3:]))))
        return linear(nodes, x, array(g, 6, 6))

    for _ in range(int(g.integers(0, 3))):
        layers[0].append(step(0))
    for _ in range(int(g.integers(1, 3))):
        kind = [c.Relu, c.Tanh, c.Sigmoid][int(g.integers(0, 3))]
        layers[1].append(push(nodes, kind((choose(0),))))
    for _ in range(int(g.integers(1, 4))):
        layers[1].append(step(1))
    return nodes, push(nodes, c.Add((layers[1][-1], choose(1))))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_no_sampled_jacobian_of_a_block_exceeds_its_gain(seed: int, exact: bool) -> None:
    g = np.random.default_rng(seed)
    nodes, last = random_block(g, exact)
    network = build([*nodes, c.Linear((last,), array(g, 2, 6), np.zeros(2, np.float32))])
    last = len(network.nodes) - 2
    prepared = bounds.prepare(network)
    found = blocks.gain(prepared, last)
    if found is None:
        return
    gain, at = found[1], (found[0], last)
    model = PlainModule(network).double()

    def value(k: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: model.values(x[None])[k][0]

    points = torch.randn((6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    for point in points:
        of_below, of_last = (torch.autograd.functional.jacobian(value(k), point).numpy() for k in at)
        # |of_last v| <= gain |of_below v| for every v
        room = gain**2 * of_below.T @ of_below - of_last.T @ of_last
        assert np.linalg.eigvalsh(room)[0] >= -1e-12 * np.linalg.norm(of_last, 2) ** 2


def test_parts_and_what_is_written_out_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The multipliers are chosen for each part, so parts are at most as large."""
    compared = 0
    for seed in range(60):
        nodes, last = random_block(np.random.default_rng(seed), True)
        prepared = bounds.prepare(
            build([*nodes, c.Linear((last,), np.ones((2, 6), np.float32), np.zeros(2, np.float32))])
        )
        last = len(prepared.layers) - 2
        by_parts = blocks.gain(prepared, last)
        with monkeypatch.context() as patched:
            patched.setattr(blocks, "parts_of", lambda *_: None)
            whole = blocks.gain(prepared, last)
        if by_parts is None or whole is None:
            continue
        compared += 1
        assert by_parts[0] == whole[0]
        assert by_parts[1] <= whole[1] * (1 + 1e-6)
    assert compared > 20


def test_coefficients_that_would_round_are_no_parts() -> None:
    """Slopes of parts are powers of two; other blocks are written out, and what rounds is charged."""
    third, one = (c.Scale((0,), np.array([0.5] * few + [0.3] * (6 - few), np.float32)) for few in (0, 5))
    cases = ((c.Relu((0,)), 1.0, True), (c.Elu((0,), 1.7), 1.7, False), (third, 0.3, False), (one, 0.5, False))
    for node, slope, exact in cases:
        nodes: Nodes = [c.Input((6,))]
        last = push(nodes, c.Add((push(nodes, node), 0)))
        network = build([*nodes, c.Linear((last,), np.ones((2, 6), np.float32), np.zeros(2, np.float32))])
        prepared = bounds.prepare(network)
        assert (parts.parts_of(prepared, 0, list(range(1, last + 1))) is not None) == exact
        found = blocks.gain(prepared, last)
        assert found is not None
        assert 1 + slope <= found[1]


@pytest.mark.parametrize(
    "middle",
    [
        lambda nodes: push(nodes, c.Relu((push(nodes, c.Tanh((0,))),))),  # one nonlinear node after another
        lambda nodes: push(nodes, c.LeakyRelu((0,), 0.5)),  # slopes that are not 0 somewhere
    ],
)
def test_blocks_of_another_form_have_no_gain(middle: Callable[[Nodes], int]) -> None:
    nodes: Nodes = [c.Input((4,))]
    push(nodes, c.Add((middle(nodes), 0)))
    last = linear(nodes, len(nodes) - 1, np.eye(2, 4)) - 1
    assert blocks.gain(bounds.prepare(build(nodes)), last) is None


@pytest.mark.parametrize("exact", [True, False])
def test_the_gain_of_an_affine_join_is_its_norm(exact: bool) -> None:
    g = np.random.default_rng(0)
    nodes: Nodes = [c.Input((WIDTH,)), c.Tanh((0,))]
    turn = part(nodes, 1, g.permutation(WIDTH)) if exact else linear(nodes, 1, g.normal(size=(WIDTH, WIDTH)))
    matrix = np.eye(WIDTH)[nodes[turn].index] if exact else nodes[turn].weight.astype(np.float64)  # type: ignore[union-attr]
    last = push(nodes, c.Add((scaled(nodes, 1, *([0.5] * WIDTH)), turn)))
    linear(nodes, last, np.eye(2, WIDTH))
    found = blocks.gain(bounds.prepare(build(nodes)), last)
    norm = np.linalg.norm(0.5 * np.eye(WIDTH) + matrix, 2)
    assert found is not None
    assert found[0] == 1
    assert norm <= found[1] * (1 + 1e-12)
    assert found[1] <= norm * (1 + 1e-6)


def test_pooling_has_no_gain() -> None:
    pool = c.MaxPool2d((0,), (1, 1), (1, 1), (0, 0, 0, 0))
    nodes: Nodes = [c.Input((1, 2, 2)), pool, c.Add((0, 1)), c.Flatten((2,))]
    linear(nodes, 3, np.ones((2, 4)))
    assert blocks.gain(bounds.prepare(build(nodes)), 2) is None


@pytest.mark.parametrize(
    ("limit", "value"),
    [("MAX_ROUNDS", 0), ("MAX_ENTRIES", 0), ("MAX_TERMS", 1), ("LARGEST", 0.5), ("MAX_PARTS", 0)],
)
def test_what_is_too_large_has_no_gain(limit: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: Nodes = [c.Input((WIDTH,))]
    maxmin(nodes, np.random.default_rng(0))
    last = linear(nodes, len(nodes) - 1, np.eye(2, WIDTH)) - 1
    prepared = bounds.prepare(build(nodes))
    monkeypatch.setattr(blocks, "MAX_CELLS", 15)
    assert blocks.gain(prepared, last) is not None
    monkeypatch.setattr(parts, limit, value)
    monkeypatch.setattr(frequencies, "MAX_COLUMNS", 0)
    assert blocks.gain(prepared, last) is None


def test_radii_of_coefficients_are_added_as_matrices() -> None:
    g = np.random.default_rng(0)
    matrices = (np.eye(5), 0.3 * g.normal(size=(5, 4)), g.normal(size=(4, 5)))
    norm = np.linalg.norm(matrices[2], 2)
    exact = inequality.gain(matrices, (0.0, 0.0, 0.0))
    assert exact is not None
    for off, least in (((1e-3, 0.0, 0.0), 1e-3), ((0.0, 1e-3, 0.0), 1e-3 * norm)):
        more = inequality.gain(matrices, off)
        assert more is not None
        assert least * (1 - 1e-6) <= more - exact <= least * 1.001
    shifted = (matrices[0], matrices[1], matrices[2] + 1e-3 * np.eye(4, 5))
    more, other = inequality.gain(matrices, (0.0, 0.0, 1e-3)), inequality.gain(shifted, (0.0, 0.0, 0.0))
    assert more is not None
    assert other is not None
    assert more > exact


DIAGONALS = (  # of A, B and C: |y| is known
    ((1.0,), (1.0,), (1.0,)),
    ((0.0,), (1.0,), (1.0,)),
    ((1.0,), (-1.0,), (1.0,)),
    ((0.1,), (0.1,), (0.1,)),
    ((1.0,), (2.0**-60,), (1.0,)),
    ((1.0, 0.0), (-4.0, 0.0), (1.0, 2.0**-10)),  # multipliers of very different sizes
    ((1.0, 1.0), (-1.0, -8.0), (1.0, 0.125)),
    ((1.0, 0.5), (), ()),
)


def farthest(a: tuple[float, ...], b: tuple[float, ...], g: tuple[float, ...], off_y: float, off_v: float) -> float:
    """The largest |(a + .) + (b + .)(g + .) d| of a row, d in [0, 1], each . as large as it may be."""
    b, g = b or (0.0,) * len(a), g or (0.0,) * len(a)
    if not any(b):
        return max(map(abs, a)) + off_y
    signs = itertools.product((-1, 1), repeat=3)
    return max(abs(x + off_y * s + d * (y + off_y * t) * (z + off_v * u))
               for s, t, u in signs for d in (0, 1) for x, y, z in zip(a, b, g, strict=True))  # fmt: skip


@pytest.mark.parametrize("off", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("pixels", [1, 2])
def test_a_gain_holds_whatever_the_matrices_are_off(off: tuple[float, float], pixels: int) -> None:
    for diagonals in DIAGONALS:
        n = len(diagonals[0])
        a, b, g = (
            np.diag(v) if v else np.zeros(shape) for v, shape in zip(diagonals, ((), (n, 0), (0, n)), strict=True)
        )
        errors = (off[0], *off)
        if pixels == 1:
            found = inequality.gain((a, b, g), errors)
        else:
            complex_ones = tuple(np.kron(np.eye(2), m)[None] for m in (a, b, g))
            found = frequencies._proven(iter([(complex_ones, errors)]))  # type: ignore[list-item]
        assert found is not None
        assert farthest(*diagonals, *off) <= found, diagonals


def test_products_of_the_matrices_of_a_frequency_are_charged_in_any_order() -> None:
    """A'B = 0 is a sum of 64 products of 2^14, which may be 64 half units of 2^20 off."""
    a, b = np.full((64, 1), 0.125), np.resize([2.0**17, -(2.0**17)], (64, 1))
    matrices = tuple(np.kron(np.eye(2), m)[None] for m in (a, b, np.array([[2.0**-80]])))
    found = frequencies._proven(iter([(matrices, (0.0, 0.0, 0.0))]))  # type: ignore[list-item]
    assert found**2 >= 1 + 64 * 2.0**-53 * 2.0**20


def test_the_frobenius_norm_is_rounded_up_whatever_the_order_of_its_sum() -> None:
    for matrix in (np.full((1, 1), 0.1), np.random.default_rng(0).uniform(1, 2, (40, 50))):
        exact = sum(Fraction(float(v)) ** 2 for v in matrix.ravel())
        found = Fraction(inequality.frobenius(matrix)) ** 2
        assert exact * (1 + Fraction(matrix.size, 2**53)) <= found <= exact * (1 + Fraction(1, 2**38))


def by_parts(nodes: Nodes, last: int) -> float:
    """The gain of a block that falls apart."""
    logits = c.Linear((last,), np.ones((2, 4), np.float32), np.zeros(2, np.float32))
    prepared = bounds.prepare(build([*nodes, logits]))
    assert parts.parts_of(prepared, 0, list(range(1, last + 1))) is not None
    found = blocks.gain(prepared, last)
    assert found is not None
    return found[1]


def test_cells_of_different_nonlinear_nodes_are_different() -> None:
    """x + (relu(1 + x) - relu(1 - x)) / 2 has slope 2 at 0."""
    nodes: Nodes = [c.Input((4,))]
    one, half = np.ones(4, np.float32), np.full(4, 0.5, np.float32)
    first = push(nodes, c.Relu((push(nodes, c.Shift((0,), one)),)))
    second = push(nodes, c.Relu((push(nodes, c.Shift((push(nodes, c.Scale((0,), -one)),), one)),)))
    both = push(nodes, c.Add((push(nodes, c.Scale((first,), half)), push(nodes, c.Scale((second,), -half)))))
    assert 2 <= by_parts(nodes, push(nodes, c.Add((0, both)))) <= 3


def test_a_nonlinear_node_below_another_is_none_of_the_same_block() -> None:
    """x + relu(x) + relu(relu(x)), the middle one by a node of its own, has slope 3."""
    nodes: Nodes = [c.Input((3,))]
    first = push(nodes, c.Relu((0,)))
    middle = scaled(nodes, first, 1.0, 1.0, 1.0)
    last = push(nodes, c.Add((0, push(nodes, c.Add((push(nodes, c.Relu((first,))), middle))))))
    linear(nodes, last, np.ones((2, 3)))
    found = blocks.gain(bounds.prepare(build(nodes)), last)
    assert found is None or found[1] >= 3


def test_a_cell_of_fewer_terms_than_others_stays_in_its_part() -> None:
    """4 relu(x_i) of two cells beside 2 x_i of the others."""
    nodes: Nodes = [c.Input((4,))]
    halves = [push(nodes, c.Slice((0,), (k,), (k + 2,), (1,))) for k in (0, 2)]
    four = push(nodes, c.Scale((push(nodes, c.Relu((halves[0],))),), np.full(2, 4, np.float32)))
    twice = push(nodes, c.Add((halves[1], halves[1])))
    assert by_parts(nodes, push(nodes, c.Concat((four, twice)))) >= 4


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_wrong_estimate_only_loosens_the_gain(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """y = x + relu(x): the gain is 2."""
    eigenvalues = np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda m: share * eigenvalues(m))
    monkeypatch.setattr(np.linalg, "cholesky", lambda m: 0.5 * np.eye(len(m)))
    found = inequality.gain((np.eye(3), np.eye(3), np.eye(3)), (0.0, 0.0, 0.0))
    assert found is not None
    assert found >= 2


@pytest.mark.parametrize(
    ("numbers", "multiplier", "rho", "missing", "at"),
    [((1.0, -8.0, 0.125), 64.0, 0.75, 0.25, 0), ((100.0, 25.0, 4.0), 1.0, 20016.0, 1249.0, 1)],
)
def test_what_a_factor_lacks_is_charged_for_inputs_and_for_neurons(
    numbers: tuple[float, ...], multiplier: float, rho: float, missing: float, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a x + b d, d in [0, c x]: with rho too small, the matrix has a factor once `missing` is added where `at` says."""
    a, b, g = numbers
    cholesky, wrong = np.linalg.cholesky, iter([np.zeros(1), np.array([rho])])
    monkeypatch.setattr(inequality, "spectral_norm", lambda _: g)
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda _: next(wrong))
    monkeypatch.setattr(np.linalg, "cholesky", lambda m: cholesky(m + np.diag(np.eye(2)[at]) * missing * (1 + 1e-9)))
    matrices = (np.full((1, 1), v) for v in numbers)
    found = inequality._proven(*matrices, np.array([multiplier]), (0.0, 0.0, 0.0))
    assert max(abs(a), abs(a + b * g)) <= found


def test_no_factor_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: np.ndarray) -> np.ndarray:
        raise np.linalg.LinAlgError

    monkeypatch.setattr(np.linalg, "cholesky", fail)
    assert inequality.gain((np.eye(3), np.eye(3), np.eye(3)), (0.0, 0.0, 0.0)) is None


def test_chains_of_joins_multiply() -> None:
    """Two residual steps x + relu(x): 4, and past them the same by sums."""
    nodes: Nodes = [c.Input((4,))]
    for x in (0, 2):
        push(nodes, c.Relu((x,)))
        push(nodes, c.Add((x, len(nodes) - 1)))
    linear(nodes, len(nodes) - 1, np.eye(2, 4))
    constants, _ = node_constants(bounds.prepare(build(nodes)), "L2")
    for k, exact in itertools.pairwise((4, 4)):
        assert exact <= constants[k] <= exact * (1 + 1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_coefficients_of_parts_are_neither_too_large_nor_too_small(sign: int) -> None:
    for factor, fits in ((2.0**16, True), (2.0**-16, True), (2.0**17, False), (2.0**-17, False)):
        nodes: Nodes = [c.Input((2,))]
        last = scaled(nodes, 0, sign * factor, 1.0)
        linear(nodes, last, np.eye(2))
        assert (parts.parts_of(bounds.prepare(build(nodes)), 0, [last]) is not None) == fits

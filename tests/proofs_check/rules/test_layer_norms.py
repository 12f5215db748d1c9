"""The rule of layer norms: exact norms of layers, sampled gradients, networks whose constant is known, forgeries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from partial_derivatives import gradient_bounds
from small_networks import DUAL, NORMS, ORDER, array, every_layer, mlp

from proofs_check import certificate as c
from proofs_check.certificate import Claim, RejectedError
from proofs_check.kernel import bounds, jacobian, norms, spectra
from proofs_check.kernel.layers import conv2d
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.norms import spectral_norm
from proofs_check.kernel.rounding import float_up
from proofs_check.kernel.spectra import convolution_norm
from proofs_check.kernel.windows import Sliding
from proofs_check.reading.parse import array_sha256
from proofs_check.rules import prove
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import layer_norms
from proofs_check.rules.lipschitz.layer_norms import (
    LayerLipschitz,
    global_constants,
    layer_lipschitz,
    products,
)
from verifiers.layers.convolution_norm import by_frequencies
from verifiers.lipschitz.layer_norms import product_constants
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.network.module import PlainModule, build

FORMS = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])


def head(g: np.random.Generator, nodes: list[c.Node], size: int) -> c.PlainNetwork:
    """`nodes`, flattened, and a linear layer to three logits."""
    k = len(nodes)
    return build([*nodes, c.Flatten((k - 1,)), c.Linear((k,), array(g, 3, size), array(g, 3))])


KINDS = {
    **{name: (lambda seed, name=name: mlp(seed, activation=name)) for name in ("relu", "leaky", "sigmoid", "tanh")},
    "everything": every_layer,
}


def largest_gradients(network: c.PlainNetwork, norm: c.Norm, count: int = 1500) -> np.ndarray:
    """(R,) the largest dual norms of the gradients of FORMS at random points."""
    g = torch.Generator().manual_seed(0)
    points = (torch.randn((count, *network.input_shape), generator=g, dtype=torch.float64) * 2).requires_grad_()
    z = PlainModule(network).double()(points)
    found: list[float] = []
    for form in FORMS:
        (gradient,) = torch.autograd.grad((z @ torch.from_numpy(form)).sum(), points, retain_graph=True)
        found.append(float(torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL[norm], dim=1).max()))
    return np.array(found)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_sampled_gradient_exceeds_products_or_unrestricted_jacobians(kind: str, norm: c.Norm) -> None:
    for seed in range(3):
        network = KINDS[kind](seed)
        prepared, sampled = bounds.prepare(network), largest_gradients(network, norm)
        by_product = products(prepared, FORMS, norm)
        by_gradient = jacobian.dual_norms(prepared, jacobian.slopes_everywhere(prepared), FORMS, norm)
        # the sampled gradients themselves are rounded
        assert (sampled * (1 - 1e-13) <= by_product).all()
        assert (sampled * (1 - 1e-13) <= by_gradient).all()
        found = global_constants(prepared, 1, norm)
        assert found[1] == 0
        assert found[0] == pytest.approx(min(by_product[0], by_gradient[0]), rel=1e-12)
        assert found[2] == pytest.approx(min(by_product[1], by_gradient[1]), rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_an_independent_computation(kind: str, norm: c.Norm) -> None:
    """Which knows spectral norms by singular values."""
    network = KINDS[kind](5)
    other = product_constants(LinearMaps(network), torch.from_numpy(FORMS), norm).numpy()
    found = products(bounds.prepare(network), FORMS, norm)
    assert (other * (1 - 1e-8) <= found).all()
    assert (found <= other * (1 + 1e-9)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_local_constants_never_exceed_global_ones(kind: str, norm: c.Norm) -> None:
    network = KINDS[kind](2)
    prepared = bounds.prepare(network)
    x = np.random.default_rng(0).random(network.input_shape).astype(np.float32)
    overall = np.array(global_constants(prepared, 0, norm))
    gradients = gradient_bounds(prepared, jacobian.slopes_everywhere(prepared), FORMS)
    for radius in (0.0, 0.1, 10.0):
        values = bounds.value_bounds(prepared, bounds.Ball(x, radius, norm, None), None)
        local = gradient_bounds(prepared, jacobian.slopes_over(values), FORMS)
        assert (local <= gradients * (1 + 1e-9)).all()
    assert (overall >= 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_constants_of_networks_known_in_closed_form(norm: c.Norm) -> None:
    eye = np.eye(2, dtype=np.float32)
    g = np.random.default_rng(1)
    weight = array(g, 3, 2)
    exact = weight.astype(np.float64)
    linear = build([c.Input((2,)), c.Linear((0,), weight, array(g, 3))])
    expected = np.linalg.norm(exact[2] - exact[0], ord=DUAL[norm])
    assert global_constants(bounds.prepare(linear), 0, norm)[2] == pytest.approx(expected, rel=1e-12)

    def twice(join: type[c.Add | c.Concat], size: int) -> float:
        """d = c . relu((x, x)) or c . relu(x + x): the form's dual norm times the norm of the join."""
        last = c.Linear((2,), np.ones((2, size), np.float32) * [[1], [0]], np.zeros(2, np.float32))
        nodes = [c.Input((2,)), join((0, 0)), c.Relu((1,)), replace(last, weight=last.weight.astype(np.float32))]
        return float(products(bounds.prepare(build(nodes)), np.array([[1.0, -1.0]]), norm)[0])

    wide, narrow = (np.linalg.norm(np.ones(n), ord=DUAL[norm]) for n in (4, 2))
    joined = {"Linf": 1.0, "L2": math.sqrt(2), "L1": 2.0}[norm]
    assert twice(c.Concat, 4) == pytest.approx(wide * joined, rel=1e-12)
    assert twice(c.Concat, 4) >= wide * joined
    assert twice(c.Add, 2) == pytest.approx(narrow * 2, rel=1e-12)
    assert twice(c.Add, 2) >= narrow * 2
    for kind, slope in ((c.Sigmoid, 0.25), (c.Tanh, 1.0), (lambda i: c.LeakyRelu(i, 0.5), 1.0)):
        chain = build([c.Input((2,)), kind((0,)), c.Linear((1,), eye, np.zeros(2, np.float32))])
        value = products(bounds.prepare(chain), np.array([[1.0, -1.0]]), norm)[0]
        assert value == pytest.approx(slope * narrow, rel=1e-12)
        assert value >= slope * narrow


@pytest.mark.parametrize("norm", NORMS)
def test_branches_of_different_constants_join_as_their_norm_says(norm: c.Norm) -> None:
    triple = c.Scale((0,), np.full(2, 3.0, np.float32))
    form = np.array([[1.0, -1.0]])

    def last(source: int, size: int) -> c.Linear:
        weight = np.stack([np.ones(size), np.zeros(size)]).astype(np.float32)
        return c.Linear((source,), weight, np.zeros(2, np.float32))

    beside = [c.Input((2,)), triple, c.Concat((0, 1)), c.Relu((2,)), last(3, 4)]
    joined = {"Linf": 3.0, "L2": math.sqrt(10), "L1": 4.0}[norm] * np.linalg.norm(np.ones(4), ord=DUAL[norm])
    found = products(bounds.prepare(build(beside)), form, norm)[0]
    assert joined * (1 - 1e-15) <= found <= joined * (1 + 1e-9)
    apart = [c.Input((2,)), triple, c.Relu((0,)), c.Relu((1,)), c.Add((2, 3)), last(4, 2)]
    total = 4 * np.linalg.norm(np.ones(2), ord=DUAL[norm])
    found = products(bounds.prepare(build(apart)), form, norm)[0]
    assert total * (1 - 1e-15) <= found <= total * (1 + 1e-9)


def test_rotations_have_norm_one_in_l2_though_their_sums_are_larger() -> None:
    g = np.random.default_rng(0)
    turn = np.linalg.qr(g.normal(size=(4, 4)))[0].astype(np.float32)
    kernel = c.Conv2d((0,), turn[:, :, None, None], np.zeros(4, np.float32), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    dense = bounds.prepare(build([c.Input((4,)), c.Linear((0,), turn, np.zeros(4, np.float32))])).layers[1]
    spatial = bounds.prepare(head(g, [c.Input((4, 2, 2)), kernel], 16)).layers[1]
    exact = float(np.linalg.norm(turn.astype(np.float64), 2))
    for mapping in (dense, spatial):
        assert isinstance(mapping, Affine)
        assert exact * (1 - 1e-14) <= mapping.operator_norm("L2") <= 1 + 1e-6  # of float32 numbers
        assert mapping.operator_norm("Linf") > 1.2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_operator_norms_are_never_below_the_unrolled_matrix(
    norm: c.Norm, stride: tuple[int, int], dilation: tuple[int, int], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = np.random.default_rng(0)
    # a positive kernel makes overlapping windows add up: the bound is nearly attained
    kernel = np.ones((4, 2 // groups, 3, 2), np.float32) + 0.1 * array(g, 4, 2 // groups, 3, 2)
    conv = c.Conv2d((0,), kernel, np.zeros(4, np.float32), stride, (4, 3, 4, 3), dilation, groups)
    size = math.prod(PlainModule(build([c.Input((2, 9, 8)), conv, c.Flatten((1,))]))(torch.zeros(1, 2, 9, 8)).shape)
    network = head(g, [c.Input((2, 9, 8)), conv], size)
    basis = torch.eye(2 * 9 * 8, dtype=torch.float64).reshape(-1, 2, 9, 8)
    matrix = PlainModule(network).double().values(basis)[1].flatten(1).T.numpy()
    exact = np.linalg.norm(matrix, ord=ORDER[norm])
    mapping = bounds.prepare(network).layers[1]
    assert isinstance(mapping, Affine)
    found = mapping.operator_norm(norm)
    assert exact * (1 - 1e-12) <= found
    assert found <= exact * (1 + 1e-9)
    if norm == "L2":  # by frequencies, as on large images
        monkeypatch.setattr(conv2d, "MAX_ROWS", 0)
        assert exact * (1 - 1e-12) <= mapping.operator_norm("L2") <= exact * 1.2
        monkeypatch.setattr(spectra, "MAX_PRODUCTS", 0)  # by patches
        assert exact * (1 - 1e-12) <= mapping.operator_norm("L2") <= exact * 1.3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_norms_by_frequencies_are_never_below_the_unrolled_matrix(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    g = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    groups, kernel, (per_group, out) = data.draw(st.integers(1, 2)), pair(1, 3), pair(1, 3)
    sliding = Sliding(kernel, pair(1, 3), pair(0, 3) + pair(0, 3), pair(1, 2))
    image = (5 + data.draw(st.integers(0, 4)), 6)
    weight = array(g, groups * out, per_group, *kernel)
    node = c.Conv2d(
        (0,), weight, np.zeros(groups * out, np.float32), sliding.stride, sliding.padding, sliding.dilation, groups
    )
    shape = (groups * per_group, *image)
    layer = conv2d.Conv2d(node, [shape])
    units = np.eye(math.prod(shape)).reshape(-1, *shape)
    exact = np.linalg.norm([layer.apply(unit).ravel() for unit in units], 2)
    found = convolution_norm(layer.weight, sliding, image, sliding.counts(shape, "test"))
    assert found is not None
    assert exact * (1 - 1e-13) <= found
    other = by_frequencies(node, image, sliding.counts(shape, "test"))  # type: ignore[arg-type]
    assert other is not None
    assert other * (1 - 1e-12) <= found <= other * (1 + 1e-9)


def test_taps_that_meet_different_pixels_of_every_stride_are_kept_apart() -> None:
    """The difference of two pixels, of the norm sqrt(2): one window on a single place of either axis."""
    weight = np.zeros((1, 1, 2, 3, 1))
    weight[0, 0, 0, 2], weight[0, 0, 1, 0] = 1, -1
    found = convolution_norm(weight, Sliding((2, 3), (2, 3), (0, 0, 0, 0)), (2, 3), (1, 1))
    assert found is not None
    assert math.sqrt(2) <= found <= math.sqrt(2) * (1 + 1e-9)


def test_what_the_cosines_of_frequencies_and_their_sums_round_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).normal(size=(1, 4, 3, 3, 4))
    given = (weight, Sliding((3, 3), (1, 1), (1, 1, 1, 1)), (12, 12), (12, 12))
    found, circle = convolution_norm(*given), spectra.circle(14 * 14)
    monkeypatch.setattr(spectra, "circle", lambda _: (circle[0], circle[1], circle[2] + 1e-3))
    more, size = convolution_norm(*given), float(np.abs(weight).sum())
    assert found is not None
    assert more is not None
    assert more - found == pytest.approx(2e-3 * size, rel=1e-6)
    monkeypatch.setattr(spectra, "circle", lambda _: circle)
    monkeypatch.setattr(spectra, "spectral_norm", lambda _: 0.0)
    assert convolution_norm(*given) >= 2 * (circle[2] + 9 * 2.0**-52) * size  # type: ignore[operator]
    assert (np.abs(circle[0] - np.cos(2 * np.pi * np.arange(196) / 196)) <= circle[2] + 2.0**-50).all()
    assert 0 < circle[2] < 2.0**-48


def test_the_largest_norm_of_all_parts_and_the_wider_of_two_radii_count(monkeypatch: pytest.MonkeyPatch) -> None:
    given = (np.ones((1, 1, 1, 2, 1)), Sliding((1, 2), (1, 1), (0, 1, 0, 0)), (1, 8), (1, 8))
    whole = convolution_norm(*given)
    assert whole is not None
    monkeypatch.setattr(spectra, "CHUNK", 1)
    assert convolution_norm(*given) == pytest.approx(whole, rel=1e-9)
    for wide in (0, 1):
        radii = iter([0.25 * (k == wide) for k in range(2)])

        def enclose(_: object, angles: np.ndarray, radii: Iterator[float] = radii) -> tuple[np.ndarray, np.ndarray]:
            radius = next(radii) * (angles == 0)
            return -radius, radius

        monkeypatch.setattr(spectra, "enclose", enclose)
        assert spectra.circle.__wrapped__(5)[2] >= 0.25


def test_images_of_too_many_places_are_left_to_other_bounds() -> None:
    weight = np.ones((1, 1, 1, 1, 1))
    assert convolution_norm(weight, Sliding((1, 1), (1, 1), (0, 0, 0, 0)), (2**9, 2**8), (2**9, 2**8)) is None


def test_blocks_too_large_to_travel_together_travel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a convolution of 4,200 channels to 1,024 on one pixel: fewer frequencies than parts asked for."""
    given = (np.ones((1, 2, 1, 1, 3)), Sliding((1, 1), (1, 1), (0, 0, 0, 0)), (1, 1), (1, 1))
    monkeypatch.setattr(spectra, "CHUNK", 2)
    assert convolution_norm(*given) == pytest.approx(math.sqrt(6), rel=1e-9)


def test_ten_delta_orthogonal_layers_of_64_channels_are_1_lipschitz_within_a_thousandth() -> None:
    """A rotation of channels at the centre tap: each layer's norm is 1, and its patches overlap nine times."""
    g = np.random.default_rng(0)
    nodes: list[c.Node] = [c.Input((64, 5, 5))]
    for _ in range(10):
        kernel = np.zeros((64, 64, 3, 3), np.float32)
        kernel[:, :, 1, 1] = np.linalg.qr(g.normal(size=(64, 64)))[0]
        nodes.append(c.Conv2d((len(nodes) - 1,), kernel, np.zeros(64, np.float32), (1, 1), (1, 1, 1, 1), (1, 1), 1))
        nodes.append(c.Relu((len(nodes) - 1,)))
    pick = np.zeros((2, 64 * 25), np.float32)
    pick[[0, 1], [0, 1]] = 1.0
    net = build([*nodes, c.Flatten((20,)), c.Linear((21,), pick, np.zeros(2, np.float32))])
    found = products(bounds.prepare(net), np.array([[1.0, -1.0]]), "L2")[0]
    assert math.sqrt(2) * 0.999 <= found <= math.sqrt(2) * 1.001


@pytest.mark.parametrize("norm", NORMS)
def test_overlapping_pools_count_a_cell_once_per_window(norm: c.Norm) -> None:
    g = np.random.default_rng(0)
    pool = c.MaxPool2d((0,), (3, 3), (1, 2), (0, 0, 0, 0))
    network = head(g, [c.Input((1, 5, 5)), pool], 6)
    ones = build([*network.nodes[:-1], replace(network.nodes[-1], weight=np.ones((3, 6), np.float32))])  # type: ignore[type-var]
    # three times two windows hold the centre cell: the gradient there is 6 in one coordinate
    found = products(bounds.prepare(ones), np.array([[1.0, 0.0, 0.0]]), norm)[0]
    assert found >= 6
    assert found == pytest.approx(6.0, rel=1e-9)


# ---------------------------------------------------------------- spectral norms


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1e-30, 1.0, 1e20]))
def test_spectral_norms_are_never_below_the_singular_value_and_close_to_it(
    seed: int, rows: int, columns: int, size: float
) -> None:
    g = np.random.default_rng(seed)
    matrix = size * g.normal(size=(rows, columns)) * np.exp(g.normal(size=(rows, 1)))
    exact = float(np.linalg.norm(matrix, 2))
    found = spectral_norm(matrix)
    assert exact * (1 - 1e-14) <= found <= exact * (1 + 1e-10)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_spectral_norms_known_exactly_are_not_undercut(n: int) -> None:
    assert n <= spectral_norm(np.ones((n, n))) <= n * (1 + 1e-9)
    assert 3.0 <= spectral_norm(3 * np.eye(n, n + 1)) <= 3.0 * (1 + 1e-10)
    assert 0 <= spectral_norm(np.zeros((n, 2))) <= 1e-70


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999999, 2.0])
@pytest.mark.parametrize("factor", [np.zeros_like, lambda m: 0.3 * np.ones_like(m), lambda m: np.full_like(m, 1e3)])
def test_a_wrong_eigenvalue_or_factor_only_loosens_the_bound(
    share: float, factor: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frobenius' norm, which counts where it is less, left out: ten equal singular values."""
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))[0]
    eigenvalues = np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda m: share * eigenvalues(m))
    monkeypatch.setattr(np.linalg, "cholesky", factor)
    assert spectral_norm(matrix) >= 1 - 1e-14


def test_a_factor_that_is_off_in_one_row_alone_loosens_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda _: np.array([1.0, 1.0]))
    monkeypatch.setattr(np.linalg, "cholesky", np.zeros_like)
    assert spectral_norm(np.diag([10.0, 1.0])) >= 10


def test_any_order_in_which_the_products_add_up_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """n u |F| |F'| and n u |A| |A'|, where what is left of either is little: orthogonal rows and columns of signs."""
    unit, signs = Fraction(1, 2**53), np.ones((1, 1))
    for _ in range(6):
        signs = np.block([[signs, signs], [signs, -signs]])
    first, others = signs[:, :2] / 8, signs / 8
    others[:, :2] = 0.0
    monkeypatch.setattr(norms, "ABOVE", 1.0)
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda _: np.ones(64))
    monkeypatch.setattr(np.linalg, "cholesky", lambda _: others)  # I - A A', exactly
    sizes = Fraction(float((np.abs(others) @ np.abs(others).T).sum(axis=1).max()))
    assert Fraction(spectral_norm(first @ first.T)) ** 2 >= 1 + 64 * unit * sizes
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda _: np.zeros(2))
    monkeypatch.setattr(np.linalg, "cholesky", np.zeros_like)
    rows = np.tile(signs[:2], 8)  # 512 columns
    assert Fraction(spectral_norm(rows)) ** 2 >= 512 * (1 + 2 * 512 * unit)
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda _: np.zeros(64))  # what is left adds up in any order, too
    assert Fraction(spectral_norm(np.eye(64))) ** 2 >= 1 + 2 * 64 * unit


def test_errors_of_the_products_are_charged() -> None:
    """Rows whose product cancels: what is lost to rounding is far more than what is left."""
    big = 2.0**40
    matrix = np.array([[big, 1.0], [big, -1.0]])
    found = spectral_norm(np.concatenate([matrix, -matrix[:1]]))
    exact = math.sqrt(3 * big**2 + 2)  # at least the norm of A applied to the first axis
    assert found >= math.sqrt(3) * big
    assert found <= exact * (1 + 1e-10)


def test_matrices_too_large_to_square_have_their_frobenius_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "MAX_SQUARED", 3)
    matrix = np.random.default_rng(0).normal(size=(5, 4))
    exact = float(np.linalg.norm(matrix))
    assert exact <= spectral_norm(matrix) <= exact * (1 + 1e-12)
    assert spectral_norm(matrix[:3]) < np.linalg.norm(matrix[:3])


# ---------------------------------------------------------------- the rule


def case_and_claim(norm: c.Norm, **change: object) -> tuple[Case, Claim]:
    network = mlp(3)
    inputs = np.random.default_rng(0).normal(size=(50, 4)) * 3
    z = PlainModule(network).double()(torch.from_numpy(inputs)).sort(dim=1).values
    x = inputs[int((z[:, -1] - z[:, -2]).argmax())].astype(np.float32)
    case = Case(bounds.prepare(network), None, x)
    predicted = int(PlainModule(network).double()(torch.from_numpy(x)[None].double()).argmax())
    given: dict = {
        "norm": norm, "radius": 1e-3, "alpha": 0.9, "temperature": 1.0, "predicted": predicted, "class_of": "robust",
        "domain": None, "semantics": "real", "robust": network.sha256, "standard": None,
        "input": array_sha256(x), "smoothing": None,
    }  # fmt: skip
    return case, Claim(**(given | change))


def evidence(case: Case, claim: Claim, factor: float = 1.0, theorem: str = "4a") -> LayerLipschitz:
    constants = global_constants(case.robust, claim.predicted, claim.norm)
    return LayerLipschitz(theorem, tuple(v * factor for v in constants))  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "theorem"), list(itertools.product(NORMS, ("3.5", "4a"))))
def test_constants_at_least_the_derived_ones_are_accepted_and_smaller_ones_rejected(norm: c.Norm, theorem: str) -> None:
    case, claim = case_and_claim(norm)
    assert layer_lipschitz(claim, evidence(case, claim, 1.0, theorem), case) == frozenset()
    assert layer_lipschitz(claim, evidence(case, claim, 1.01, theorem), case) == frozenset()
    with pytest.raises(RejectedError, match="is below the proven bound"):
        layer_lipschitz(claim, evidence(case, claim, 1 - 1e-12, theorem), case)
    with pytest.raises(RejectedError, match="does not reach"):
        layer_lipschitz(claim, evidence(case, claim, 1e9, theorem), case)


@pytest.mark.parametrize("rival", [0, 1])
def test_every_rival_of_a_claim_needs_its_constant(rival: int) -> None:
    case, claim = case_and_claim("L2")
    j = [i for i in range(3) if i != claim.predicted][rival]
    good = evidence(case, claim)
    forged = tuple(v * (1 - 1e-9) if i == j else v for i, v in enumerate(good.constants))
    with pytest.raises(RejectedError, match=f"class {j}"):
        layer_lipschitz(claim, replace(good, constants=forged), case)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"radius": 50.0}, "margin"),
        ({"alpha": 0.5}, "margin"),
        ({"temperature": 1e-6}, "margin"),
        ({"semantics": "float32"}, "semantics"),
        ({"class_of": "mix"}, "class_of"),
        ({"norm": "Linf"}, "constants"),
    ],
)
def test_a_changed_claim_is_rejected(change: dict, step: str) -> None:
    case, claim = case_and_claim("L1")
    good = evidence(case, claim)
    assert layer_lipschitz(claim, good, case) == frozenset()
    with pytest.raises(RejectedError) as error:
        prove("lipschitz_layers", replace(claim, **change), good, case)
    assert error.value.step == step


def test_networks_of_many_cells_have_products_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = bounds.prepare(every_layer(4))
    forms = np.array([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    cells = sum(math.prod(prepared.shapes[k]) for k in (2, 3, 4, 12))  # the inputs of its nonlinear nodes
    both = np.array(global_constants(prepared, 0, "L1"))[1:]
    alone = products(prepared, forms, "L1")
    assert (both < alone).all()
    for limit, expected in ((cells, both), (cells - 1, alone)):
        monkeypatch.setattr(layer_norms, "MAX_CELLS", limit)
        global_constants.cache_clear()
        assert np.array(global_constants(prepared, 0, "L1"))[1:] == pytest.approx(expected, rel=1e-12)
    global_constants.cache_clear()


def test_norms_of_long_rows_cover_every_order_of_summation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of n terms may lose n half units, roots of them half as many."""
    n, unit = 4000, 2.0**-53
    row = np.random.default_rng(0).uniform(1, 2, (1, n)).astype(np.float32)
    net = build([c.Input((n,)), c.Linear((0,), np.vstack([row, row]), np.zeros(2, np.float32))])
    mapping = bounds.prepare(net).layers[1]
    assert isinstance(mapping, Affine)
    total = float(row.astype(np.float64).sum())
    assert mapping.operator_norm("Linf") >= total * (1 + 0.9 * n * unit)
    ones = np.ones((2, n))
    assert spectral_norm(ones) >= math.sqrt(2 * n) * (1 + 0.45 * n * unit)
    assert spectral_norm(ones) <= math.sqrt(2 * n) * (1 + 1e-9)
    signs = np.outer([1.0, -1.0, 0.0], np.resize([1.0, -1.0, 0.0], 3 * n))  # sums cancel; zero rows
    assert spectral_norm(signs) >= math.sqrt(4 * n) * (1 + 0.45 * 2 * n * unit)
    monkeypatch.setattr(norms, "MAX_SQUARED", 1)  # by Frobenius
    assert spectral_norm(ones) >= math.sqrt(2 * n) * (1 + 0.45 * n * unit)


def test_numbers_are_rounded_up() -> None:
    assert float_up(0.1) > 0.1
    assert float_up(0.0) > 0.0

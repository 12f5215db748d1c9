"""LipSDP: what its multipliers prove and what they do not, against exact difference quotients."""

from __future__ import annotations

import base64
import math

import exact_network as en
import hostile as ho
import numpy as np
import pytest
from flint import arb, arb_mat, fmpq

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import lipsdp
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz
from verifiers.network.module import build

F32 = np.float32


ANY_KINDS = tuple(k for k in dict.fromkeys(en.IMAGE_KINDS + en.VECTOR_KINDS) if k not in ("max", "product"))


def array(values: object) -> c.Float32Array:
    return np.array(values, dtype=F32)


def test_a_max_pool_that_no_logit_sees_does_not_stand_in_for_the_logits():
    # the pool has more inputs than outputs: the rows of its input would be read as those of d_j
    nodes = [
        c.Input((1, 2, 2)),
        c.Scale((0,), array([[[1e-6]]])),
        c.MaxPool2d((1,), (2, 2), (1, 1), (0, 0, 0, 0)),
        c.Flatten((0,)),
        c.Linear((3,), array([[1, 0, 0, 0], [0, 0, 0, 0]]), array([3, 0])),
    ]
    x = np.zeros((1, 2, 2), F32)
    case = Case(bounds.prepare(build(nodes)), None, x)
    multipliers = base64.b64encode(np.ones((2, 1), "<f4").tobytes()).decode()
    found = ho.verdict(case, "lipschitz_global", GlobalLipschitz("4a", (0.0, 1e-5), multipliers), radius=1000.0)
    assert isinstance(found, c.Rejected), "d_1 falls by 1000 within the ball"


def joined_network(rng: np.random.Generator) -> c.PlainNetwork:
    """Any layers but pooling; activations also at the end, used twice, beside nodes of no use."""
    nodes = list(en.random_network(rng, int(rng.integers(1, 6)), ANY_KINDS).nodes)
    last = len(nodes) - 1
    tails: list[list[c.Node]] = [
        [],
        [c.Relu((last,))],
        [c.Tanh((last,)), c.Add((last, last + 1))],
        [c.Sigmoid((last,)), c.LeakyRelu((last + 1,), 0.2), c.Concat((last + 1, last + 1, last))],
        [c.Tanh((last,)), c.Scale((last,), array(3.0)), c.Relu((last + 2,))],
    ]
    return build([*nodes, *tails[int(rng.integers(len(tails)))]])


def least_proven(prepared: bounds.Prepared, multipliers: np.ndarray) -> float | None:
    """Of one constant for every d_j, y = 0."""

    def proven(constant: float) -> bool:
        try:
            lipsdp.need_constants(prepared, 0, np.array([0.0, *[constant] * (len(multipliers) - 1)]), multipliers)
        except c.RejectedError:
            return False
        return True

    low, high = 1e-3, 1e9
    if not proven(high):
        return None
    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if proven(middle) else (middle, high)
    return high


def steepest(network: c.PlainNetwork, rng: np.random.Generator) -> fmpq:
    """The largest difference quotient found, exactly: along gradients of d_1, over a tiny step."""
    step, found = fmpq(1, 2**120), fmpq(0)
    for size in (0.1, 1.0, 5.0):
        point = en.exact(rng.normal(size=network.input_shape) * size)
        base = en.exact_values(network, point)[-1]
        moves = np.eye(point.size, dtype=object).reshape(-1, *point.shape) * step
        rates = [(en.exact_values(network, point + m)[-1] - base) / step for m in moves]
        gradient = np.array([r[1] - r[0] for r in rates]).reshape(point.shape)
        unit = gradient / (en.root((gradient * gradient).sum()) + fmpq(1, 2**290))
        z = en.exact_values(network, point + unit * step)[-1] - base
        found = max(found, abs(z[1] - z[0]) / step)
    return found


def test_multipliers_prove_no_constant_below_an_exact_difference_quotient():
    proven = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        network = joined_network(rng)
        prepared = bounds.prepare(network)
        count = sum(math.prod(prepared.shapes[k]) for k in lipsdp._activations(prepared))
        if not 0 < count <= 12 or math.prod(network.input_shape) > 12:
            continue
        spread = np.exp(rng.normal(size=(network.classes, count)) * rng.choice([0.0, 0.5]))
        least = [least_proven(prepared, spread * scale) for scale in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)]
        constants = [v for v in least if v is not None]
        if constants:
            rate = steepest(network, rng)
            assert rate <= en.rational(min(constants)), seed
            proven += rate > en.rational(min(constants) * 0.7)
    assert proven >= 3, "constants near the steepest slope"


def test_a_network_whose_map_is_huge_is_no_question_for_lipsdp(monkeypatch: pytest.MonkeyPatch):
    nodes = [c.Input((3,)), c.Linear((0,), np.ones((2, 3), F32), np.zeros(2, F32)), c.Relu((1,))]
    nodes.append(c.Linear((2,), np.ones((2, 2), F32), array([9, 0])))
    prepared = bounds.prepare(build(nodes))
    multipliers, constants = np.ones((2, 2), F32), np.array([0.0, 1e6])
    monkeypatch.setattr(lipsdp, "MAX_ENTRIES", 2 * 3)  # two neurons, three inputs
    lipsdp.need_constants(prepared, 0, constants, multipliers)
    monkeypatch.setattr(lipsdp, "MAX_ENTRIES", 2 * 3 - 1)
    with pytest.raises(c.RejectedError, match="too large"):
        lipsdp.need_constants(prepared, 0, constants, multipliers)


def test_a_node_that_nothing_uses_adds_nothing_to_the_increments():
    eye, zero = np.eye(2, dtype=F32), np.zeros(2, F32)
    nodes = [c.Input((2,)), c.Linear((0,), eye, zero), c.Relu((1,)), c.Linear((0,), 9 * eye, zero),
             c.Linear((2,), 3 * eye, zero)]  # fmt: skip
    prepared = bounds.prepare(build(nodes))
    found = lipsdp._increments(prepared, 4, np.eye(2))
    assert found.neurons.centre == pytest.approx(3 * np.eye(2))
    assert (np.abs(found.inputs.centre) <= 1e-12).all(), "the rest of a ReLU's increment is all w"


def leaky_net(rng: np.random.Generator, slope: float) -> tuple[c.PlainNetwork, list[np.ndarray]]:
    """3 inputs, 4 and 2 LeakyReLU cells, 3 classes; and its weights."""
    weights = [rng.normal(size=shape).astype(F32) for shape in ((4, 3), (2, 4), (3, 2))]
    nodes: list[c.Node] = [c.Input((3,))]
    for k, weight in enumerate(weights):
        nodes.append(c.Linear((len(nodes) - 1,), weight, np.zeros(len(weight), F32)))
        if k < 2:
            nodes.append(c.LeakyRelu((len(nodes) - 1,), slope))
    return build(nodes), [w.astype(float) for w in weights]


def test_the_matrix_inequality_is_the_one_of_the_docstring(monkeypatch: pytest.MonkeyPatch):
    """N = L^2 [[2T - TB - B'T, D'], [D, 1]] - E E', E = [-TA; C], assembled here from the weights by hand."""
    a, y = 0.25, 1
    net, (first, second, third) = leaky_net(np.random.default_rng(0), a)
    seen: list[np.ndarray] = []

    def record(matrix: arb_mat) -> bool:
        size = matrix.nrows()
        seen.append(np.array([float(v.mid()) for v in matrix.entries()]).reshape(size, size))
        return True

    monkeypatch.setattr(lipsdp, "positive_definite", record)
    multipliers, constants = np.random.default_rng(1).uniform(0.1, 1, (3, 6)), np.array([3.0, 0.0, 5.0])
    lipsdp.need_constants(bounds.prepare(net), y, constants, multipliers)
    inputs = np.concatenate([first, a * second @ first])
    feed = np.zeros((6, 6))
    feed[4:, :4] = (1 - a) * second
    for j, found in zip((0, 2), seen, strict=True):
        form = third[j] - third[y]
        t = np.diag(multipliers[j])
        of_inputs = a * a * form @ second @ first
        of_cells = np.concatenate([a * (1 - a) * form @ second, (1 - a) * form])
        top = np.concatenate([2 * t - t @ feed - feed.T @ t, of_cells[:, None]], axis=1)
        block = np.concatenate([top, np.append(of_cells, 1.0)[None]])
        e = np.concatenate([-t @ inputs, of_inputs[None]])
        assert found == pytest.approx(constants[j] ** 2 * block - e @ e.T, abs=1e-12)


def test_multipliers_out_of_range_or_for_too_many_cells_are_rejected(monkeypatch: pytest.MonkeyPatch):
    net, _ = leaky_net(np.random.default_rng(0), 0.5)
    prepared = bounds.prepare(net)

    def encoded(*values: float) -> str:
        return base64.b64encode(np.resize(np.array(values, "<f4"), 18).tobytes()).decode()

    assert (lipsdp._multipliers(encoded(0.0, 1.0), prepared) == np.resize([0.0, 1.0], (3, 6))).all()
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(c.RejectedError, match="multipliers"):
            lipsdp._multipliers(encoded(1.0, bad), prepared)
    monkeypatch.setattr(lipsdp, "MAX_NEURONS", 6)
    lipsdp._multipliers(encoded(1.0), prepared)
    monkeypatch.setattr(lipsdp, "MAX_NEURONS", 5)
    with pytest.raises(c.RejectedError, match="activations"):
        lipsdp._multipliers(encoded(1.0), prepared)
    linear = build([c.Input((2,)), c.Linear((0,), np.eye(2, dtype=F32), np.zeros(2, F32))])
    with pytest.raises(c.RejectedError, match="activations"):
        lipsdp._multipliers("", bounds.prepare(linear))


def test_only_surely_positive_definite_matrices_pass():
    assert lipsdp.positive_definite(arb_mat([[2, 1], [1, 2]]))
    for entries in ([[1, 2], [2, 1]], [[0, 0], [0, 1]], [[-1, 0], [0, 1]], [[1, 1], [1, 1]]):
        assert not lipsdp.positive_definite(arb_mat(entries))
    assert not lipsdp.positive_definite(arb_mat([[arb(2), arb(1, 1.5)], [arb(1, 1.5), arb(2)]])), "may be [[2, 2.5], …"


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("size", "proven"), [(0.9, False), (0.4, True)])
def test_what_proposes_a_factor_cannot_prove_a_matrix_that_is_not_definite(
    sign: int, size: float, proven: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[[1, v, v], [v, 1, v], [v, v, 1]] has the eigenvalues 1 - v and 1 + 2 v; here the factor is said to be 1,
    so that only what outweighs the rest of its row, whatever the signs, is proven."""
    monkeypatch.setattr(np.linalg, "cholesky", lambda matrix: np.eye(len(matrix)))
    v = sign * size
    matrix = arb_mat(3, 3, [arb(1 if row == column else v) for row in range(3) for column in range(3)])
    assert lipsdp.positive_definite(matrix) == proven

"""Attacks on the judge by a hostile reader of its code: false claims, and claims that hold by less than a rounding."""

from __future__ import annotations

import base64
import math
import tracemalloc
import zlib
from pathlib import Path

import exact_network as en
import hostile as ho
import numpy as np
import pytest
from flint import fmpq

from proofs_check import certificate as c
from proofs_check import run
from proofs_check.kernel import bounds
from proofs_check.kernel.layers import unit_rows, widen
from proofs_check.reading import folder, parse
from proofs_check.reading.shapes import output_shape
from proofs_check.rules import smoothing
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import lipsdp
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz
from verifiers.network.module import build

F32 = np.float32
ANY_KINDS = tuple(k for k in dict.fromkeys(en.IMAGE_KINDS + en.VECTOR_KINDS) if k != "max")


def array(values: object) -> c.Float32Array:
    return np.array(values, dtype=F32)


# ---------------------------------------------------------------- LipSDP


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


# ---------------------------------------------------------------- what a small file must not be able to cost


def test_bets_are_few_because_each_costs_a_logarithm_per_threshold():
    levels = tuple((k + 1) / 64 for k in range(64))
    counts = (tuple(range(1000, 936, -1)),)
    smoothing._need_mean(smoothing.Mean(levels, counts, (0.5,) * 64, 0.5, 0.01), 1000)
    with pytest.raises(c.RejectedError, match="at most 64 bets"):
        smoothing._need_mean(smoothing.Mean(levels, counts, (0.5,) * 65, 0.5, 0.01), 1000)


def test_a_network_of_a_million_classes_is_covered_without_counting_them():
    padded = [c.Input((2,)), c.Pad((0,), (0,), (2**20,), 0.0)]
    case = Case(bounds.prepare(build(padded)), None, np.zeros(2, F32))
    tracemalloc.start()
    with pytest.raises(c.RejectedError, match="rivals of 0"):
        smoothing._need_cover(ho.claim_of(case), case, [(1,)])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("named", [(0, 2), (1, 1), (1, 3), (-1, 1), (0, 1, 2), (1, 2, 3), (-1, 1, 2)])
def test_groups_name_the_rivals_and_nobody_else(named: tuple[int, ...]):
    case = Case(bounds.prepare(build([c.Input((3,)), c.Flatten((0,))])), None, np.zeros(3, F32))
    smoothing._need_cover(ho.claim_of(case), case, [(1,), (2,)])
    with pytest.raises(c.RejectedError, match="rivals of 0"):
        smoothing._need_cover(ho.claim_of(case), case, [named])


def test_one_network_of_alpha_is_kept_at_a_time(tmp_path: Path):
    (tmp_path / "networks").mkdir()
    networks = [build([c.Input((2,)), c.Linear((0,), k * np.eye(2, dtype=F32), np.zeros(2, F32))]) for k in range(1, 4)]
    case = Case(bounds.prepare(networks[0]), None, np.zeros(2, F32))
    bench = run.Bench(tmp_path, case.robust, None)
    for network in networks:
        (tmp_path / "networks" / f"{network.sha256}.safetensors").write_bytes(network.data)
        named = c.Adaptive(c.InputAlpha(network.sha256, 0.5, 1.0), None)
        found = bench.alpha(ho.claim_of(case, adaptive=named))
        assert found is not None
        assert found.network.sha256 == network.sha256
        assert found is bench.alpha(ho.claim_of(case, adaptive=named)), "read once"
        assert len(bench.alphas) == 1


def test_a_witness_is_not_unpacked_beyond_a_fixed_size(monkeypatch: pytest.MonkeyPatch):
    wide = build([c.Input((2,)), c.Pad((0,), (0,), (2**16,), 0.0), c.Relu((1,)), c.Slice((2,), (0,), (200,), (1,))])
    monkeypatch.setattr(bounds, "MAX_WITNESS", 2**17)
    assert len(bounds.witness(zlib.compress(bytes(2**16 + 2)), wide).slopes) == 1
    with pytest.raises(c.RejectedError, match="at most 131072, got 131073"):
        bounds.witness(zlib.compress(bytes((2**16 + 2) * 201)), wide)


def test_json_that_would_fill_the_memory_is_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = build([c.Input((2,)), c.Flatten((0,))])
    monkeypatch.setattr(parse, "MAX_HEADER", 100)
    with pytest.raises(c.MalformedError, match="more than 100"):
        parse.network(network.data)
    with (tmp_path / "run.json").open("wb") as stream:
        stream.truncate(folder.MAX_LINE + 1)
    with pytest.raises(c.MalformedError, match="larger than 67108864 bytes"):
        folder.header(tmp_path)


# ---------------------------------------------------------------- bounds


LINEAR = tuple(k for k in ho.PLAIN_KINDS if k not in ("relu", "leaky", "max", "residual"))


def extremes(rows: en.Exact, ball: bounds.Ball) -> list[fmpq]:
    """Of each row's form over the part of an l_inf ball in its domain."""
    center, radius = en.exact(ball.center).ravel(), en.rational(ball.radius)
    low, high = map(en.rational, ball.domain or (-1e30, 1e30))
    at = [en.each(lambda v, s=s: min(max(v + s * radius, low), high), center) for s in (1, -1)]
    return [sum((a * at[0 if a > 0 else 1][n] for n, a in enumerate(row)), fmpq(0)) for row in rows]


@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_exact_extremes_of_linear_networks_stay_inside_their_bounds(start: int):
    for seed in range(100 * start, 100 * start + 100):
        rng = np.random.default_rng(seed)
        nodes = en.random_network(rng, int(rng.integers(1, 6)), LINEAR).nodes
        network = build([ho._spoiled_node(rng, n) if rng.integers(4) == 0 else n for n in nodes])
        x = (rng.normal(size=network.input_shape) * rng.choice([1, 1e-40, 1e15])).astype(F32)
        domain = (float(x.min()), float(x.max()) + 1e-9) if rng.integers(2) else None
        ball = bounds.Ball(x, float(rng.choice([0, 1e-320, 1e-12, 0.3])), "Linf", domain)
        try:
            lower, upper = bounds.difference_bounds(bounds.prepare(network), ball, 0, None)
        except c.RejectedError:
            continue
        basis = [en.exact(e.reshape(x.shape)) for e in [np.zeros(x.size), *np.eye(x.size)]]
        origin, *images = [z - z[0] for z in (en.exact_values(network, e)[-1] for e in basis)]
        rows = np.stack([image - origin for image in images], axis=1)[1:]
        highest, lowest = extremes(rows, ball), [-v for v in extremes(-rows, ball)]
        for j in range(1, network.classes):
            assert en.rational(lower[j]) <= lowest[j - 1] + origin[j], (seed, j)
            assert highest[j - 1] + origin[j] <= en.rational(upper[j]), (seed, j)


def image_network(rng: np.random.Generator) -> c.PlainNetwork:
    """Images large enough that windows stay windows."""
    shape: tuple[int, ...] = (int(rng.integers(1, 3)), *(int(n) for n in rng.integers(6, 15, 2)))
    nodes: list[c.Node] = [c.Input(shape)]
    made: list[tuple[int, ...]] = [shape]
    for _ in range(int(rng.integers(3, 9))):
        kind = str(rng.choice([k for k in en.IMAGE_KINDS if k not in ("sigmoid", "tanh")]))
        layer = en._layer(rng, kind, nodes, made)
        grown = list(made)
        try:
            for node in layer:
                grown.append(output_shape(node, [grown[i] for i in getattr(node, "inputs", ())], "here"))
        except c.MalformedError:
            continue
        if max(math.prod(s) for s in grown) <= 600:
            nodes, made = [*nodes, *layer], grown
    last = len(nodes) - 1
    weight = en.weights(rng, 2, math.prod(made[-1]))
    return build([*nodes, c.Flatten((last,)), c.Linear((last + 1,), weight, np.zeros(2, F32))])


def test_windows_and_whole_images_of_rows_reach_the_same_bounds():
    windowed = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        network = image_network(rng)
        prepared = bounds.prepare(network)
        values = bounds.value_bounds(prepared, en.random_ball(rng, network.input_shape), None)
        for k in range(1, len(network.nodes) - 2):
            if prepared.maps[k] is None:
                continue
            shape, picked = prepared.shapes[k], rng.integers(0, math.prod(prepared.shapes[k]), 6)
            channel, y, x = np.unravel_index(picked, shape)
            rows = unit_rows(shape, np.stack([y, x, channel], axis=1))
            rows.values[3:] *= -1
            windowed += rows.corner is not None
            found = [bounds._descend(values, k, r, None, False) for r in (rows, widen(rows, shape))]
            scale = 1 + float(values.magnitude(k).max())
            assert np.abs(found[0] - found[1]).max() <= 1e-9 * scale, (seed, k, type(network.nodes[k]).__name__)
    assert windowed > 300

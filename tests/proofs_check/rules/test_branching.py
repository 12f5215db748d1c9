"""Trees of splits: what they prove beyond one pass, that every bound in a leaf is exact-arithmetic sound, forgeries."""

from __future__ import annotations

import base64
import dataclasses
import struct
import zlib
from collections.abc import Callable

import exact_network as en
import hostile as ho
import numpy as np
import pytest
from small_networks import NORMS, mlp

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.kernel.parts import part, with_hints
from proofs_check.rules.case import Case
from proofs_check.rules.margin import trees
from proofs_check.rules.margin.branching import BranchedMargin, _leaf_proves
from proofs_check.rules.margin.differences import Differences, differences, rivals
from proofs_check.rules.margin.exponential import exponential_misses
from proofs_check.rules.margin.rule import NetworkMargin, box_proves
from proofs_check.rules.margin.trees import ANEW_LEAF, LEAF, MAX_DEPTH, REBOUNDED_LEAF, Leaf, Side
from proofs_check.witness import SHARED_ROW
from verifiers.network.module import build

ALPHA = 0.75
LEAVES = (LEAF, REBOUNDED_LEAF, ANEW_LEAF)


def sign_split(column: int) -> bytes:
    return b"\x02" + struct.pack("<I", column)


def difference_split(j: int, at: float) -> bytes:
    return b"\x03" + struct.pack("<Id", j, at)


def leaf(slopes: bytes, multipliers: list[float] | np.ndarray, kind: int = 1) -> bytes:
    return bytes([kind]) + slopes + np.asarray(multipliers, dtype="<f4").tobytes()


def encoded(nodes: list[bytes] | bytes) -> str:
    return base64.b64encode(zlib.compress(b"".join(nodes) if isinstance(nodes, list) else nodes)).decode()


def grow(found: Differences, rival: int, claim: c.Claim, path: list[Side]) -> list[bytes]:
    """A tree without multipliers: unstable neurons in order, then the rival's d at the middle of its interval."""
    n = found.values.prepared.slope_start[-1]
    if _leaf_proves(found, rival, claim, Leaf(tuple(path), np.zeros(n), np.zeros(len(path)), REBOUNDED_LEAF)):
        return [leaf(bytes(n), np.zeros(len(path)))]
    taken = {side.index for side in path if not side.difference}
    here = part(found.values, [(s.index, s.sign) for s in path if not s.difference], False)
    assert here is not None
    inputs = [i for node in here.prepared.network.nodes if isinstance(node, c.Relu) for i in node.inputs]
    low, high = (np.concatenate([v[i].ravel() for i in inputs]) for v in (here.lower, here.upper))
    unstable = [k for k in range(n) if k not in taken and low[k] < 0 < high[k]]
    if unstable:
        side, split = Side(False, unstable[0], 0.0), sign_split(unstable[0])
    else:
        ends = [s.at for s in path if s.difference]
        at = float(np.mean([max([*ends, found.lower[rival]]), found.upper[rival]])) if len(ends) < 6 else np.nan
        if np.isnan(at):
            raise ValueError("not proven")
        side, split = Side(True, rival, at), difference_split(rival, at)
    return [
        split,
        *grow(found, rival, claim, [*path, side]),
        *grow(found, rival, claim, [*path, dataclasses.replace(side, sign=-1.0)]),
    ]


def trees_of(case: Case, claim: c.Claim) -> dict[int, list[bytes]]:
    """Of the rivals that are not proven without one. Raises ValueError where `grow` does not prove them."""
    found = differences(case.robust, None, case, claim)
    unproven = [i for i in rivals(claim, len(found.upper)) if not box_proves(found.upper, i, claim)]
    return {i: grow(found, i, claim, []) for i in exponential_misses(found, unproven, claim)}


def evidence(case: Case, trees: dict[int, list[bytes]]) -> BranchedMargin:
    return BranchedMargin(None, tuple(encoded(trees[j]) if j in trees else None
                                      for j in range(case.robust.network.classes)))  # fmt: skip


def accepted(case: Case, claim: c.Claim, offered: BranchedMargin) -> bool:
    return isinstance(ho.verdict(case, "branched_margin", offered, **fields(claim)), c.Accepted)


def fields(claim: c.Claim) -> dict[str, object]:
    names = ("norm", "radius", "alpha", "temperature", "predicted", "domain", "class_of", "semantics")
    return {name: getattr(claim, name) for name in names}


def case_of(seed: int, widths: tuple[int, ...] = (4, 6, 5, 3)) -> tuple[Case, int]:
    """A small net and an input, and h's class there."""
    net = mlp(seed, widths)
    x = np.random.default_rng(seed).random(widths[0], dtype=np.float32)
    logits = [float(v) for v in en.exact_values(net, en.exact(x))[-1]]
    return Case(bounds.prepare(net), None, x), logits.index(max(logits))


def limits(seed: int, norm: c.Norm = "Linf") -> tuple[Case, c.Claim] | None:
    """A claim that one pass does not prove and `grow` does, if a grid of radii has one."""
    case, y = case_of(seed)
    for radius in np.geomspace(0.01, 0.6, 24):
        claim = ho.claim_of(case, norm=norm, radius=float(radius), alpha=ALPHA, predicted=y, temperature=2.0)
        if isinstance(ho.verdict(case, "network_margin", NetworkMargin(None), **fields(claim)), c.Accepted):
            continue
        try:
            return (case, claim) if trees_of(case, claim) else None
        except (ValueError, c.RejectedError):
            return None
    return None


@pytest.fixture(scope="module")
def proven() -> tuple[Case, c.Claim, int, list[bytes]]:
    """A case, a claim, one rival, and its tree of at least four leaves."""
    for seed in range(200):
        found = limits(seed)
        if found is not None:
            trees = trees_of(*found)
            ((rival, nodes), *more) = trees.items()
            if not more and len(nodes) >= 7:
                return *found, rival, nodes
    raise AssertionError("no seed gives such a case")


def test_a_tree_proves_what_one_pass_does_not():
    gained = 0
    for seed in range(30):
        for norm in NORMS:
            found = limits(seed, norm)
            if found is not None:
                assert accepted(*found, evidence(found[0], trees_of(*found)))
                gained += 1
    assert gained >= 8


# ---------------------------------------------------------------- bounds on a part of the ball, in exact arithmetic


def signs_at(values: list[en.Exact], prepared: bounds.Prepared, columns: np.ndarray) -> list[tuple[int, float]]:
    """The signs of these neurons at a point: a part that holds it."""
    flat = np.concatenate(
        [
            values[node.inputs[0]].ravel()
            for node in prepared.network.nodes
            if isinstance(node, c.Relu | c.LeakyRelu)
        ]
    )  # fmt: skip
    return [(int(k), 1.0 if flat[k] >= 0 else -1.0) for k in columns]


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_values_and_functionals_are_bounded_on_the_part(seed: int, anew: bool):
    rng = np.random.default_rng(seed)
    while True:
        net = en.random_network(rng, int(rng.integers(2, 8)))
        prepared = bounds.prepare(net)
        if (n := prepared.slope_start[-1]) > 0:
            break
    ball = en.random_ball(rng, net.input_shape)
    values = bounds.value_bounds(prepared, ball, None)
    directions = [rng.normal(size=net.input_shape) for _ in range(6)]
    every = [(p, en.exact_values(net, p)) for p in en.points(rng, ball, directions)]
    for _, at in every[:4]:
        columns = rng.integers(0, n, size=int(rng.integers(1, 6)))  # some repeat
        signs = signs_at(at, prepared, columns)
        here = part(values, signs, anew)
        assert here is not None
        multipliers = rng.choice([0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30], len(signs)) * rng.uniform(size=len(signs))
        hinted = with_hints(here, rng.uniform(size=n), signs, multipliers)
        forms = rng.normal(size=(1, net.classes)) * 2.0 ** rng.integers(-30, 30)
        upper = bounds.functionals(hinted, forms, [SHARED_ROW])[0]
        lower_d, upper_d = bounds.differences(here, 0)
        inside = 0
        for _, other in every:
            if signs_at(other, prepared, columns) != signs:
                continue
            inside += 1
            for k, value in enumerate(other):
                flat = value.ravel()
                assert all(v >= en.rational(b) for v, b in zip(flat, here.lower[k].ravel(), strict=True))
                assert all(v <= en.rational(b) for v, b in zip(flat, here.upper[k].ravel(), strict=True))
            logits = other[-1]
            exact = sum((en.rational(f) * z for f, z in zip(forms[0], logits, strict=True)), en.ZERO)
            assert exact <= en.rational(upper)
            for j, z in enumerate(logits):
                assert en.rational(lower_d[j]) <= z - logits[0] <= en.rational(upper_d[j])
        assert inside


@pytest.mark.parametrize("anew", [False, True])
def test_contradicting_signs_leave_a_part_of_measure_zero_on_which_any_multiplier_is_sound(anew: bool):
    net = mlp(3, (1, 1, 2))
    prepared = bounds.prepare(net)
    weight, bias = float(net.nodes[1].weight[0, 0]), float(net.nodes[1].bias[0])  # type: ignore[union-attr]
    kink = np.array([-bias / weight], dtype=np.float32)
    values = bounds.value_bounds(prepared, bounds.Ball(kink, 1.0, "Linf", None), None)
    signs = [(0, 1.0), (0, -1.0)]
    here = part(values, signs, anew)
    assert here is not None
    assert here.lower[1].item() == 0.0 == here.upper[1].item()
    x = -en.exact(net.nodes[1].bias) / en.exact(net.nodes[1].weight)[0]  # type: ignore[union-attr]
    z = en.exact_values(net, x)[-1]
    for multipliers in ([3.0, 1e20], [1e20, 3.0], [0.0, 0.0]):
        hinted = with_hints(here, np.ones(1), signs, np.array(multipliers))
        upper = bounds.functionals(hinted, np.array([[1.0, -1.0]]), [SHARED_ROW])[0]
        assert z[0] - z[1] <= en.rational(upper)


def test_bounds_made_anew_are_tighter_and_prove_leaves_that_cut_ones_do_not():
    """On nets of two hidden layers, of which the first is split."""
    tighter = more = 0
    for seed in range(40):
        case, y = case_of(seed, (4, 8, 8, 3))
        rng, n = np.random.default_rng(seed), case.robust.slope_start[-1]
        claim = ho.claim_of(case, norm="L2", radius=0.5, alpha=ALPHA, predicted=y, temperature=2.0)
        found = differences(case.robust, None, case, claim)
        unstable = np.flatnonzero((found.values.lower[1] < 0).ravel() & (found.values.upper[1] > 0).ravel())
        sides = [Side(False, int(k), 0.0, float(rng.choice([-1.0, 1.0]))) for k in unstable[:6]]
        cut, anew = (part(found.values, [(s.index, s.sign) for s in sides], kind) for kind in (False, True))
        assert cut is not None
        assert anew is not None
        for k in range(len(cut.lower)):
            assert (anew.lower[k] >= cut.lower[k]).all()
            assert (anew.upper[k] <= cut.upper[k]).all()
        tighter += bool((anew.upper[3] - anew.lower[3]).sum() < (cut.upper[3] - cut.lower[3]).sum())
        for rival in rivals(claim, 3):
            asked = Leaf(tuple(sides), np.zeros(n), np.zeros(len(sides)), REBOUNDED_LEAF)
            kinds = (asked, dataclasses.replace(asked, kind=ANEW_LEAF))
            again, everything = (_leaf_proves(found, rival, claim, leaf) for leaf in kinds)
            assert everything or not again
            more += everything and not again
    assert tighter >= 30
    assert more >= 3


def test_a_part_that_only_bounds_made_anew_show_to_be_empty_needs_no_proof():
    """relu(x) - 1/2 >= 0 where x <= 0."""
    one, both = np.ones((1, 1), dtype=np.float32), np.float32([[0.0], [1.0]])
    nodes = [
        c.Input((1,)),
        c.Linear((0,), one, np.float32([0.0])),
        c.Relu((1,)),
        c.Linear((2,), one, np.float32([-0.5])),
    ]
    net = build([*nodes, c.Relu((3,)), c.Linear((4,), both, np.float32([0.0, -1.0]))])
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.zeros(1, np.float32), 1.0, "Linf", None), None)
    assert part(values, [(0, -1.0), (1, 1.0)], False) is not None
    assert part(values, [(0, -1.0), (1, 1.0)], True) is None
    assert part(values, [(0, 1.0), (1, 1.0)], True) is not None


def test_a_part_is_empty_where_a_neuron_that_was_split_cannot_have_its_sign():
    """relu(x) - relu(x) - 1/2 >= 0 where x >= 0, which intervals of the two terms do not exclude."""
    ones = np.ones((2, 1), dtype=np.float32)
    nodes = [
        c.Input((1,)),
        c.Linear((0,), ones, np.zeros(2, dtype=np.float32)),
        c.Relu((1,)),
        c.Linear((2,), np.float32([[1.0, -1.0]]), np.float32([-0.5])),
        c.Relu((3,)),
        c.Linear((4,), np.float32([[0.0], [1.0]]), np.float32([0.0, -1.0])),
    ]
    prepared = bounds.prepare(build(nodes))
    for upside_down in (1.0, -1.0):
        values = bounds.value_bounds(prepared, bounds.Ball(np.zeros(1, np.float32), 1.0, "Linf", None), None)
        positive = [(0, upside_down), (1, upside_down)]
        assert part(values, [*positive, (2, 1.0)], False) is not None
        assert part(values, [*positive, (2, 1.0)], True) is None
        assert part(values, [*positive, (2, -1.0)], True) is not None


# ---------------------------------------------------------------- no false claim


def random_tree(rng: ho.Rng, columns: int, classes: int, y: int, depth: int, path: int = 0) -> list[bytes]:
    if depth == 0 or rng.uniform() < 0.2:
        multipliers = rng.choice([0.0, 1e-3, 1.0, 1e2, 1e30], path) * rng.uniform(size=path)
        return [leaf(rng.bytes(columns), multipliers, int(rng.choice(LEAVES)))]
    split = sign_split(int(rng.integers(columns)))
    if rng.uniform() < 0.4:
        j = int(rng.choice([j for j in range(classes) if j != y]))
        split = difference_split(j, float(rng.normal() * rng.choice([0.1, 1.0, 10.0])))
    below = [random_tree(rng, columns, classes, y, depth - 1, path + 1) for _ in range(2)]
    return [split, *below[0], *below[1]]


def refuted_claim(seed: int) -> tuple[Case, c.Claim] | None:
    """A claim on the smallest ball of a grid at a corner of which it is false."""
    rng, (case, y) = np.random.default_rng(seed), case_of(seed)
    for radius in np.geomspace(0.01, 3.0, 30):
        claim = ho.claim_of(case, norm="Linf", radius=float(radius), alpha=ALPHA, predicted=y, temperature=2.0)
        points = [en.exact(case.input) + en.exact(s * float(radius)) for s in rng.choice([-1.0, 1.0], (24, 4))]
        if any(ho.refuted(claim, case.robust.network, None, p) for p in points):
            return case, claim
    return None


def test_no_tree_proves_a_claim_that_a_point_refutes():
    """Many leaves of such trees are proven, never all."""
    refuted = [(seed, found) for seed in range(24) if (found := refuted_claim(seed)) is not None]
    assert len(refuted) >= 12
    for seed, (case, claim) in refuted:
        rng, n = np.random.default_rng(seed), case.robust.slope_start[-1]
        for _ in range(20):
            rivals_of = [j for j in range(3) if j != claim.predicted]
            trees = {j: random_tree(rng, n, 3, claim.predicted, int(rng.integers(1, 6))) for j in rivals_of}
            assert not accepted(case, claim, evidence(case, trees))


def test_the_trees_of_weaker_rivals_do_not_prove_what_the_strongest_refutes():
    """Each speaks only of points at which its rival is the strongest: none of those at which the claim is false."""
    tried = 0
    for seed in range(24):
        if (found := refuted_claim(seed)) is None:
            continue
        case, claim = found
        n, bound = case.robust.slope_start[-1], differences(case.robust, None, case, claim)
        for rival in rivals(claim, 3):
            nodes = [leaf(bytes(n), [], 0)]
            alone = _leaf_proves(bound, rival, claim, Leaf((), np.zeros(n), np.zeros(0), LEAF))
            assert not accepted(case, claim, evidence(case, {rival: nodes}))
            tried += alone
    assert tried


def test_a_leaf_that_is_proven_holds_no_point_that_refutes_the_claim_by_its_rival():
    """In exact arithmetic, at corners of balls on which the claim is false; leaves of random sides around them."""
    points = proven = 0
    for seed in range(24):
        if (found := refuted_claim(seed)) is None:
            continue
        case, claim = found
        rng, n, y = np.random.default_rng(seed), case.robust.slope_start[-1], claim.predicted
        bound = differences(case.robust, None, case, claim)
        for corner in rng.choice([-1.0, 1.0], (16, 4)):
            x = en.exact(case.input) + en.exact(corner * claim.radius)
            if not ho.refuted(claim, case.robust.network, None, x):
                continue
            points += 1
            at = en.exact_values(case.robust.network, x)
            d = at[-1] - at[-1][y]
            strongest = max(rivals(claim, 3), key=lambda j: d[j])
            for _ in range(40):
                rival = int(rng.choice(rivals(claim, 3)))
                sides = [Side(False, k, 0.0, s) for k, s in signs_at(at, case.robust, rng.integers(0, n, 2))]
                cut = float(rng.normal())
                sides.append(Side(True, rival, cut, 1.0 if d[rival] >= en.rational(cut) else -1.0))
                multipliers, kind = rng.uniform(size=3) * rng.choice([0.0, 0.1, 1.0]), int(rng.choice(LEAVES))
                holds = _leaf_proves(bound, rival, claim, Leaf(tuple(sides), rng.uniform(size=n), multipliers, kind))
                assert not (holds and rival == strongest)
                proven += holds
    assert points >= 12
    assert proven >= 12


def test_a_leaf_that_holds_a_tie_is_not_proven():
    """d_1 = x, at alpha = 1, where x <= 0: the margin of the mix is not above 0 at 0."""
    net = build([c.Input((1,)), c.Linear((0,), np.float32([[0.0], [1.0]]), np.zeros(2, np.float32))])
    case = Case(bounds.prepare(net), None, np.zeros(1, np.float32))
    claim = ho.claim_of(case, norm="Linf", radius=1.0, alpha=1.0, predicted=0)
    found = differences(case.robust, None, case, claim)
    for at, proves in ((0.0, False), (-1e-9, True)):
        below = Leaf((Side(True, 1, at, -1.0),), np.zeros(0), np.zeros(1), LEAF)
        assert _leaf_proves(found, 1, claim, below) == proves


# ---------------------------------------------------------------- forgeries

Nodes = list[bytes]


def first_leaf(nodes: Nodes) -> int:
    return next(k for k, node in enumerate(nodes) if node[0] < 2)


def with_multiplier(value: float) -> Callable[[Nodes], bytes]:
    def forged(nodes: Nodes) -> bytes:
        k = first_leaf(nodes)
        return b"".join([*nodes[:k], nodes[k][:-4] + np.array([value], "<f4").tobytes(), *nodes[k + 1 :]])

    return forged


FORGED: dict[str, Callable[[Nodes], bytes]] = {
    "a missing last leaf": lambda nodes: b"".join(nodes[:-1]),
    "a missing first leaf": lambda nodes: b"".join([*nodes[: first_leaf(nodes)], *nodes[first_leaf(nodes) + 1 :]]),
    "one side only": lambda nodes: b"".join(nodes[: first_leaf(nodes) + 1]),
    "no split": lambda nodes: nodes[-1][: len(nodes[-1]) - 4 * ((len(nodes[-1]) - 12) // 4)],
    "nothing": lambda nodes: b"",
    "a byte more": lambda nodes: b"".join(nodes) + b"\x00",
    "a tree more": lambda nodes: b"".join(nodes) * 2,
    "a byte less": lambda nodes: b"".join(nodes)[:-1],
    "an unknown node": lambda nodes: b"\x05" + b"".join(nodes),
    "a neuron there is not": lambda nodes: sign_split(11) + b"".join(nodes) * 2,
    "the last neuron number": lambda nodes: sign_split(2**32 - 1) + b"".join(nodes) * 2,
    "a class there is not": lambda nodes: difference_split(3, 0.0) + b"".join(nodes) * 2,
    "a split at NaN": lambda nodes: difference_split(1, np.nan) + b"".join(nodes) * 2,
    "a split at infinity": lambda nodes: difference_split(1, np.inf) + b"".join(nodes) * 2,
    "a negative multiplier": with_multiplier(-1e-30),
    "a multiplier that is not a number": with_multiplier(np.nan),
    "an infinite multiplier": with_multiplier(np.inf),
    "too deep": lambda nodes: sign_split(0) * (MAX_DEPTH + 1),
    "endless": lambda nodes: sign_split(0) * 10**6,
}


@pytest.mark.parametrize("name", sorted(FORGED))
def test_a_forged_tree_is_rejected(name: str, proven: tuple[Case, c.Claim, int, list[bytes]]):
    case, claim, rival, nodes = proven
    assert accepted(case, claim, evidence(case, {rival: nodes}))
    found = ho.verdict(case, "branched_margin", evidence(case, {rival: [FORGED[name](nodes)]}), **fields(claim))
    assert isinstance(found, c.Rejected)
    assert found.step in ("tree", "margin")


def test_a_split_on_the_predicted_class_is_rejected(proven: tuple[Case, c.Claim, int, list[bytes]]):
    case, claim, rival, nodes = proven
    forged = [difference_split(claim.predicted, 0.0), *nodes, *nodes]
    assert not accepted(case, claim, evidence(case, {rival: forged}))


def test_leaves_of_other_places_prove_nothing(proven: tuple[Case, c.Claim, int, list[bytes]]):
    """One leaf for both sides, the tree of another split, and of another rival."""
    case, claim, rival, nodes = proven
    used = {struct.unpack("<I", node[1:])[0] for node in nodes if node[0] == 2}
    stable = next(k for k in range(11) if k not in used)
    altered = [sign_split(stable) if node[0] == 2 else node for node in nodes]
    assert not accepted(case, claim, evidence(case, {rival: altered}))
    other = next(j for j in range(3) if j not in (rival, claim.predicted))
    assert not accepted(case, claim, evidence(case, {other: nodes}))
    assert not accepted(case, claim, evidence(case, {rival: nodes, claim.predicted: nodes}))


def test_a_claim_of_a_larger_ball_or_another_input_is_not_proven(proven: tuple[Case, c.Claim, int, list[bytes]]):
    case, claim, rival, nodes = proven
    offered = evidence(case, {rival: nodes})
    assert not accepted(case, dataclasses.replace(claim, radius=2 * claim.radius), offered)
    assert not accepted(case, dataclasses.replace(claim, alpha=0.5), offered)
    assert not accepted(case, dataclasses.replace(claim, semantics="float32"), offered)
    assert not accepted(dataclasses.replace(case, input=case.input[::-1].copy()), claim, offered)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 100])
def test_one_entry_per_class(count: int, proven: tuple[Case, c.Claim, int, list[bytes]]):
    case, claim, rival, nodes = proven
    assert not accepted(case, claim, BranchedMargin(None, (encoded(nodes),) * count))
    del rival


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_stream_is_rejected(seed: int, proven: tuple[Case, c.Claim, int, list[bytes]]):
    case, claim, rival, nodes = proven
    rng = np.random.default_rng(seed)
    data = zlib.compress(b"".join(nodes))
    cut, more = data[: int(rng.integers(len(data)))], data + rng.bytes(1 + int(rng.integers(5000)))
    flipped = bytearray(data)
    flipped[int(rng.integers(2, len(data)))] ^= 1 << int(rng.integers(8))
    for forged in (cut, more, data + data, bytes(flipped), b"".join(nodes)):
        trees = tuple(base64.b64encode(forged).decode() if j == rival else None for j in range(3))
        found = ho.verdict(case, "branched_margin", BranchedMargin(None, trees), **fields(claim))
        assert (isinstance(found, c.Rejected) and found.step == "tree") or bytes(flipped) == forged
        assert not isinstance(found, c.Accepted) or forged == bytes(flipped)


def test_text_that_is_not_base64_is_rejected(proven: tuple[Case, c.Claim, int, list[bytes]]):
    case, claim, rival, _ = proven
    for text in ("é", "===", "AAA"):
        trees = tuple(text if j == rival else None for j in range(3))
        assert isinstance(ho.verdict(case, "branched_margin", BranchedMargin(None, trees), **fields(claim)), c.Rejected)


def test_a_stream_that_unfolds_without_end_is_cut(proven: tuple[Case, c.Claim, int, list[bytes]]):
    """A gigabyte of zeros in a megabyte: leaves at the root, of which the first must be proven and is not."""
    case, claim, rival, _ = proven
    bomb = zlib.compress(bytes(2**26))
    trees = tuple(base64.b64encode(bomb).decode() if j == rival else None for j in range(3))
    assert isinstance(ho.verdict(case, "branched_margin", BranchedMargin(None, trees), **fields(claim)), c.Rejected)


def test_a_tree_of_more_leaves_than_are_judged_is_rejected(
    proven: tuple[Case, c.Claim, int, list[bytes]], monkeypatch: pytest.MonkeyPatch
):
    case, claim, rival, nodes = proven
    count = sum(node[0] in LEAVES for node in nodes)
    monkeypatch.setattr(trees, "MAX_LEAVES", count)
    assert accepted(case, claim, evidence(case, {rival: nodes}))
    monkeypatch.setattr(trees, "MAX_LEAVES", count - 1)
    found = ho.verdict(case, "branched_margin", evidence(case, {rival: nodes}), **fields(claim))
    assert isinstance(found, c.Rejected)
    assert found.reason == f"has more than {count - 1} leaves"

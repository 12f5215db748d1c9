"""Trees that split g as well as h: what they prove beyond the pair form, no false claim, forgeries."""

from __future__ import annotations

import base64
import dataclasses
import functools
import itertools
import json
import struct
import zlib

import exact_network as en
import hostile as ho
import numpy as np
import pytest
from small_networks import mlp

from certmix.models.model import Model
from certmix.provers.certify import certify
from certmix.provers.judging import check
from certmix.records.outcomes import Certified
from certmix.settings import Settings
from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.rules.case import Case
from proofs_check.rules.margin.branching import BranchedPair, _leaf_proves, beside
from proofs_check.rules.margin.differences import differences, rivals
from proofs_check.rules.margin.trees import ANEW_LEAF, LEAF, REBOUNDED_LEAF, Leaf, Side
from verifiers.network.module import PlainModule

LEAVES = (LEAF, REBOUNDED_LEAF, ANEW_LEAF)
CLASSES, COLUMNS = 3, 2 * (6 + 5)
FIELDS = ("norm", "radius", "alpha", "temperature", "predicted", "domain", "class_of", "semantics", "standard")


def model(network: c.PlainNetwork) -> Model:
    return Model(PlainModule(network).eval(), network, network.classes, network.input_shape, "made for this test", 0.0)


def case_of(seed: int, alpha: float, temperature: float) -> tuple[Case, int]:
    """Two small nets, an input, and the mix's class there."""
    g, h = mlp(100 + seed, (4, 6, 5, CLASSES)), mlp(seed, (4, 6, 5, CLASSES))
    x = np.random.default_rng(seed).random(4, dtype=np.float32)
    z_g, z_h = (np.array([float(v) for v in en.exact_values(net, en.exact(x))[-1]]) for net in (g, h))
    p_g, p_h = (np.exp(z) / np.exp(z).sum() for z in (z_g, temperature * z_h))
    return Case(bounds.prepare(h), bounds.prepare(g), x), int(((1 - alpha) * p_g + alpha * p_h).argmax())


def claim_of(case: Case, **fields: object) -> c.Claim:
    assert case.standard is not None
    return ho.claim_of(case, norm="Linf", class_of="mix", standard=case.standard.network.sha256, **fields)


def accepted(case: Case, claim: c.Claim, offered: BranchedPair) -> bool:
    given = {name: getattr(claim, name) for name in FIELDS}
    return isinstance(ho.verdict(case, "branched_pair", offered, **given), c.Accepted)


def encoded(nodes: bytes) -> str:
    return base64.b64encode(zlib.compress(nodes)).decode()


def random_tree(rng: ho.Rng, y: int, depth: int, path: int = 0) -> bytes:
    if depth == 0 or rng.uniform() < 0.2:
        multipliers = rng.choice([0.0, 1e-3, 1.0, 1e2, 1e30], path) * rng.uniform(size=path)
        return bytes([int(rng.choice(LEAVES))]) + rng.bytes(COLUMNS) + multipliers.astype("<f4").tobytes()
    split = struct.pack("<BI", 2, int(rng.integers(COLUMNS)))
    if rng.uniform() < 0.4:
        j = int(rng.choice([j for j in range(2 * CLASSES) if j % CLASSES != y]))
        split = struct.pack("<BId", 3, j, float(rng.normal() * rng.choice([0.1, 1.0, 10.0])))
    return split + random_tree(rng, y, depth - 1, path + 1) + random_tree(rng, y, depth - 1, path + 1)


def trees_of(rng: ho.Rng, y: int, depth: int) -> BranchedPair:
    return BranchedPair(None, tuple(None if j == y else encoded(random_tree(rng, y, depth)) for j in range(CLASSES)))


def refuted(seed: int) -> tuple[Case, c.Claim, list[en.Exact]] | None:
    """A claim on the smallest ball of a grid at a corner of which it is false, and these corners."""
    rng = np.random.default_rng(seed)
    alpha, temperature = float(rng.choice([0.3, 0.5, 0.75])), float(rng.choice([0.5, 2.0]))
    case, y = case_of(seed, alpha, temperature)
    assert case.standard is not None
    for radius in np.geomspace(0.01, 3.0, 24):
        claim = claim_of(case, radius=float(radius), alpha=alpha, predicted=y, temperature=temperature)
        points = [en.exact(case.input) + en.exact(s * float(radius)) for s in rng.choice([-1.0, 1.0], (24, 4))]
        false = [p for p in points if ho.refuted(claim, case.robust.network, case.standard.network, p)]
        if false:
            return case, claim, false
    return None


def test_no_trees_prove_a_claim_that_a_point_refutes():
    found = [(seed, one) for seed in range(12) if (one := refuted(seed)) is not None]
    assert len(found) >= 8
    for seed, (case, claim, _) in found:
        rng = np.random.default_rng(seed)
        for _ in range(4):
            assert not accepted(case, claim, trees_of(rng, claim.predicted, int(rng.integers(0, 6))))


def test_a_leaf_that_is_proven_holds_no_point_that_refutes_the_claim():
    """In exact arithmetic; leaves of random sides around such points, of the rival that is h's strongest there."""
    points = proven = held = 0
    for seed in range(10):
        if (found := refuted(seed)) is None:
            continue
        case, claim, corners = found
        assert case.standard is not None
        rng, y = np.random.default_rng(seed), claim.predicted
        on_ball = differences(beside(case.standard, case.robust), None, case, claim, networks=2)
        for x in corners[:4]:
            points += 1
            z = [en.exact_values(net.network, x)[-1] for net in (case.standard, case.robust)]
            d = np.concatenate([v - v[y] for v in z])
            strongest = max(rivals(claim, CLASSES), key=lambda j, d=d: d[CLASSES + j])
            for _ in range(30):
                rival = int(rng.choice(rivals(claim, CLASSES)))
                sides = []
                for j in rng.choice([j for j in range(2 * CLASSES) if j % CLASSES != y], 3):
                    cut = float(d[j].p) / float(d[j].q) + float(rng.normal()) * float(rng.choice([0.01, 1.0]))
                    sides.append(Side(True, int(j), cut, 1.0 if d[j] >= en.rational(cut) else -1.0))
                multipliers = rng.uniform(size=3) * rng.choice([0.0, 0.1, 1.0])
                leaf = Leaf(tuple(sides), rng.uniform(size=COLUMNS), multipliers, int(rng.choice(LEAVES)))
                holds = _leaf_proves(on_ball, rival, claim, leaf)
                assert not (holds and rival == strongest)
                proven += holds
                held += rival == strongest
    assert points >= 12
    assert proven >= 24
    assert held >= 100


def test_the_least_margin_of_g_over_all_open_rivals_is_what_counts():
    """Linear networks on which the largest would prove what is false at a corner."""
    g, h = mlp(1434, (2, 3)), mlp(1334, (2, 3))
    x = np.random.default_rng(1334).random(2, dtype=np.float32)
    case = Case(bounds.prepare(h), bounds.prepare(g), x)
    fields = {"radius": 0.8, "alpha": 0.5, "temperature": 0.5}
    claims = [claim_of(case, predicted=y, **fields) for y in range(CLASSES)]
    corners = [en.exact(x) + en.exact(np.array(s) * 0.8) for s in itertools.product((-1.0, 0.0, 1.0), repeat=2)]
    centre = en.exact(x)
    (claim,) = [claim for claim in claims if not ho.refuted(claim, h, g, centre)]
    assert any(ho.refuted(claim, h, g, point) for point in corners)
    found = differences(beside(bounds.prepare(g), case.robust), None, case, claim, networks=2)
    for kind in LEAVES:
        leaf = Leaf((), np.zeros(0), np.zeros(0), kind)
        assert not all(_leaf_proves(found, i, claim, leaf) for i in rivals(claim, CLASSES))


# ---------------------------------------------------------------- what branching finds


# alpha, norm, seed, a radius that the pair form does not prove
BEYOND: list[tuple[float, c.Norm, int, float]] = [
    (0.75, "Linf", 3, 0.122), (0.75, "Linf", 5, 0.1093), (0.4, "L2", 3, 0.1549), (0.3, "L1", 6, 0.1375),
]  # fmt: skip


@functools.cache
def proof(alpha: float, norm: c.Norm, seed: int, radius: float) -> tuple[Case, c.Claim, BranchedPair]:
    """What branching proves of it."""
    case, _ = case_of(seed, alpha, 2.0)
    assert case.standard is not None
    g, h = (model(net.network) for net in (case.standard, case.robust))
    settings = Settings(alpha, norm, radius, temperature=2.0, attack_steps=0, curves=False, use_standard=True)
    (plain,) = certify(g, h, case.input[None], settings=settings)
    assert not isinstance(plain, Certified)
    (branched,) = certify(g, h, case.input[None], settings=dataclasses.replace(settings, branch_parts=100))
    assert isinstance(branched, Certified)
    assert isinstance(check(branched), c.Accepted)
    evidence = json.loads(branched.line)["evidence"]
    assert evidence.pop("rule") == "branched_pair"
    fields = {"radius": radius, "alpha": alpha, "predicted": branched.predicted, "temperature": 2.0}
    claim = dataclasses.replace(claim_of(case, **fields), norm=norm, domain=(0.0, 1.0))
    return case, claim, BranchedPair(evidence["witness"], tuple(evidence["trees"]))


@pytest.mark.parametrize("asked", BEYOND, ids=str)
def test_trees_prove_what_the_pair_form_does_not(asked: tuple[float, c.Norm, int, float]):
    case, claim, offered = proof(*asked)
    assert accepted(case, claim, offered)
    y = claim.predicted
    other = next(j for j in rivals(claim, CLASSES))
    for trees in (
        tuple(None if j == other else tree for j, tree in enumerate(offered.trees)),
        tuple(offered.trees[other] if j == y else tree for j, tree in enumerate(offered.trees)),
        offered.trees[:2],
        (*offered.trees, None),
    ):
        assert not accepted(case, claim, BranchedPair(offered.witness, trees))
    assert not accepted(case, dataclasses.replace(claim, radius=8 * claim.radius), offered)
    assert not accepted(case, dataclasses.replace(claim, predicted=(y + 1) % CLASSES), offered)
    assert not accepted(dataclasses.replace(case, g=None), claim, offered)
    assert not accepted(case, dataclasses.replace(claim, standard=None), offered)
    assert not accepted(case, dataclasses.replace(claim, semantics="float32"), offered)


@pytest.mark.parametrize("own", [0, CLASSES])
def test_a_split_on_the_class_itself_is_rejected(own: int):
    case, claim, offered = proof(*BEYOND[0])
    rival = next(j for j in rivals(claim, CLASSES))
    tree = offered.trees[rival]
    assert tree is not None
    nodes = zlib.decompress(base64.b64decode(tree))
    forged = encoded(struct.pack("<BId", 3, own + claim.predicted, 0.0) + nodes * 2)
    trees = tuple(forged if j == rival else t for j, t in enumerate(offered.trees))
    found = ho.verdict(case, "branched_pair", BranchedPair(offered.witness, trees), **{
        name: getattr(claim, name) for name in FIELDS})  # fmt: skip
    assert isinstance(found, c.Rejected)
    assert "splits d_" in found.reason


def test_the_class_of_h_is_asked_for_where_the_claim_names_it():
    case, claim, offered = proof(*BEYOND[2])
    z = [float(v) for v in en.exact_values(case.robust.network, en.exact(case.input))[-1]]
    assert accepted(case, dataclasses.replace(claim, class_of="robust"), offered) == (np.argmax(z) == claim.predicted)


def test_the_class_of_h_is_not_that_of_the_mix_where_g_decides():
    """On balls so small that a tree of one leaf proves the mix's class."""
    leaf = encoded(bytes([LEAF]) + bytes(COLUMNS))
    decided = 0
    for seed in range(40):
        case, y = case_of(seed, 0.3, 0.5)
        z = [float(v) for v in en.exact_values(case.robust.network, en.exact(case.input))[-1]]
        if np.argmax(z) == y:
            continue
        claim = claim_of(case, radius=1e-5, alpha=0.3, predicted=y, temperature=0.5)
        offered = BranchedPair(None, tuple(None if j == y else leaf for j in range(CLASSES)))
        assert not accepted(case, dataclasses.replace(claim, class_of="robust"), offered)
        decided += accepted(case, claim, offered)
    assert decided >= 3

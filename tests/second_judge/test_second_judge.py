"""Two judges of one format: what one accepts the other proves, and exact evaluation refutes neither."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import zlib
from pathlib import Path

import exact_network as en
import hostile as ho
import numpy as np
import pytest
import second_judge as sj
import small_networks as sn
from flint import arb, ctx, fmpq

from certmix.models.model import Model
from certmix.provers.certify import certify
from certmix.records.outcomes import Certified
from certmix.reports.explained.lines import code_lines
from certmix.settings import Settings
from proofs_check import certificate as c
from proofs_check.kernel.bounds import prepare
from proofs_check.rules.case import Case
from proofs_check.rules.margin.rule import NetworkMargin
from verifiers.network.module import PlainModule, build

STORED = Path(__file__).resolve().parent.parent / "proofs_check"
MARGIN_RUNS = ("margin_linf", "margin_l2", "margin_l1", "margin_temperature", "branched")
# rejected/: of these the second judge knows the rule; the others belong to rules that it has not
FORGED = [
    "larger_radius", "smaller_alpha", "half_alpha", "other_norm", "other_temperature", "other_robust_network",
    "other_input", "domain_without_input", "garbage_witness", "smoothed", "branched_missing_leaf",
]  # fmt: skip
FORGED_TREES = sorted(p.name for p in (STORED / "rejected").iterdir() if p.name.startswith("branched"))
BROKEN = (sj.NotProvenError, IndexError, ValueError, struct.error, zlib.error)


def proven(folder: Path, indices: set[int] | None = None) -> int:
    """How many lines the second judge proves; it raises at the first that it does not."""
    count = 0
    for claim, net, center in sj.read(folder):
        if indices is None or claim["index"] in indices:
            sj.prove(claim, net, center)
            count += 1
    print(f"{folder.name}: {count} lines proven by the second judge")
    return count


@pytest.mark.parametrize(("run", "indices"), [("margin_linf", {0, 1}), ("margin_l2", {0}), ("branched", {1, 2})])
def test_some_lines_that_the_judge_accepts_are_proven_by_the_second(run: str, indices: set[int]):
    assert proven(STORED / "accepted" / run, indices) == len(indices)


@pytest.mark.slow
@pytest.mark.parametrize("run", MARGIN_RUNS)
def test_all_lines_that_the_judge_accepts_are_proven_by_the_second(run: str):
    assert proven(STORED / "accepted" / run) >= 3


@pytest.mark.parametrize("run", FORGED)
def test_a_forged_line_is_proven_by_neither(run: str):
    with pytest.raises(BROKEN):
        proven(STORED / "rejected" / run)


@pytest.mark.slow
@pytest.mark.parametrize("run", FORGED_TREES)
def test_a_forged_tree_is_proven_by_neither(run: str):
    with pytest.raises(BROKEN):
        proven(STORED / "rejected" / run)


def test_it_stays_small_enough_to_be_read():
    assert len(code_lines(Path(sj.__file__))) < 250


# ---------------------------------------------------------------- random networks, both judges and the truth


def claim_of(case: Case, norm: c.Norm, radius: float, predicted: int, alpha: float, temperature: float) -> dict:
    return {
        "norm": norm, "radius": radius, "alpha": alpha, "temperature": temperature, "predicted": predicted,
        "class_of": "robust", "domain": [-0.25, 1.25], "semantics": "real", "smoothing": None, "adaptive": None,
        "evidence": {"rule": "network_margin", "witness": None},
    }  # fmt: skip


def moved(seed: int) -> c.PlainNetwork:
    """With cells in another order, repeated and scaled, and two paths that join."""
    g = np.random.default_rng(seed)
    order = g.integers(0, 3, 6).astype(np.int32)
    return build([
        c.Input((3,)), c.Linear((0,), sn.array(g, 3, 3), sn.array(g, 3)), c.Gather((1,), order), c.Relu((2,)),
        c.Scale((2,), sn.array(g, 6)), c.Relu((4,)), c.Add((3, 5)), c.Linear((6,), sn.array(g, 3, 6), sn.array(g, 3)),
    ])  # fmt: skip


def worst_points(net: sj.Network, x: np.ndarray, claim: dict, rng: np.random.Generator) -> list[np.ndarray]:
    """Exact points of the ball within its domain, that the slope of each d_i where it ends leads to."""
    points = []
    for i in range(len(net.logits)):
        point = x.astype(np.float64)
        for _ in range(4):
            slope = gradient(net, point, net.logits[i] - net.logits[claim["predicted"]])
            size = claim["radius"] * (1 - 1e-12)
            if claim["norm"] == "Linf":
                step = np.sign(slope) * size
            elif claim["norm"] == "L2":
                step = slope / max(float(np.linalg.norm(slope)), 1e-30) * size
            else:
                step = np.where(np.arange(len(slope)) == abs(slope).argmax(), np.sign(slope) * size, 0.0)
            point = np.clip(x + step, *claim["domain"])
            points.append(point)
    points += [np.clip(x + (p - x) * rng.uniform(), *claim["domain"]) for p in points[:4]]
    return [en.exact(p) for p in points]


def gradient(net: sj.Network, point: np.ndarray, form: np.ndarray) -> np.ndarray:
    """Of a form on the variables, in the linear piece that the point lies in."""
    variables, slopes = np.array([1.0, *point]), np.vstack([np.zeros(len(point)), np.eye(len(point))])
    for pre in net.pre:
        weights = pre[:, : len(variables)].astype(float)
        value = weights @ variables
        slopes = np.vstack([slopes, (value > 0)[:, None] * (weights @ slopes)])
        variables = np.array([*variables, *np.maximum(value, 0)])
    return form.astype(float) @ slopes


def tried(seed: int, norm: c.Norm, radius: float) -> tuple[bool, bool, bool]:
    """(accepted by the judge, proven by the second, refuted at a point)."""
    rng = np.random.default_rng(seed)
    network = moved(seed) if seed % 4 == 3 else sn.mlp(seed, (3, 5, 4, 3))
    case = Case(prepare(network), None, rng.random(3, dtype=np.float32))
    net, x = sj.read_network(case.robust.network.data), case.input
    logits = [float(v) for v in en.exact_values(case.robust.network, en.exact(x))[-1]]
    alpha, temperature = float(rng.uniform(0.55, 0.95)), float(rng.choice([0.5, 1.0, 3.0]))
    claim = claim_of(case, norm, radius, int(np.argmax(logits)), alpha, temperature)
    stated = ho.claim_of(case, domain=(-0.25, 1.25), **{k: claim[k] for k in ("norm", "radius", "alpha", "temperature",
                                                                            "predicted")})  # fmt: skip
    verdict = ho.verdict(case, "network_margin", NetworkMargin(None), **{k: getattr(stated, k) for k in (
        "norm", "radius", "alpha", "temperature", "predicted", "domain")})  # fmt: skip
    try:
        sj.prove(claim, net, sj.q(x))
        second = True
    except sj.NotProvenError:
        second = False
    refuted = any(ho.refuted(stated, case.robust.network, None, p) for p in worst_points(net, x, claim, rng))
    return isinstance(verdict, c.Accepted), second, refuted


@pytest.mark.parametrize("norm", sn.NORMS)
def test_exact_evaluation_refutes_no_claim_that_either_accepts(norm: c.Norm):
    no_judge_is_refuted(norm, 16)


@pytest.mark.slow
@pytest.mark.parametrize("norm", sn.NORMS)
def test_exact_evaluation_refutes_none_of_many_claims(norm: c.Norm):
    no_judge_is_refuted(norm, 400)


def no_judge_is_refuted(norm: c.Norm, count: int) -> None:
    found = [tried(seed, norm, radius) for seed in range(count) for radius in (0.01, 0.06, 0.2)]
    accepted, proven, refuted = (sum(column) for column in zip(*found, strict=True))
    words = f"the judge accepts {accepted}, the second proves {proven}, points refute {refuted}"
    print(f"{norm}: of {len(found)} claims {words}")
    assert not any((first or second) and refuted for first, second, refuted in found)
    # neither all nor nothing: both judges accept some, and points refute some
    assert min(accepted, proven, refuted) >= count / 4
    # nearly the same bounds: no more than a few claims lie between the judges
    assert sum(first != second for first, second, _ in found) <= len(found) / 10


@pytest.mark.parametrize("seed", [7, 13])
def test_a_tree_whose_leaves_bound_neurons_anew_is_proven_by_both(seed: int):
    """Of a net of two hidden layers, at a radius that one pass does not prove."""
    net, x = sn.mlp(seed, (3, 8, 8, 3)), np.random.default_rng(seed).random((1, 3), dtype=np.float32)
    h = Model(PlainModule(net).eval(), net, net.classes, net.input_shape, "made for this test", 0.0)
    settings = Settings(0.75, "L2", 0.311, temperature=5.0, attack_steps=0, curves=False, branch_parts=200)
    (found,) = certify(h, h, x, settings=settings)
    assert isinstance(found, Certified)
    claim = json.loads(found.line) | {"class_of": "mix"}  # y is the mix's class, too
    trees = [tree for tree in claim["evidence"]["trees"] if tree is not None]
    assert 4 in [kind for tree in trees for kind, *_ in sj.leaves(tree, 16)]
    sj.prove(claim, sj.read_network(net.data), sj.q(x[0]))
    larger = claim | {"radius": 0.4}
    with pytest.raises(sj.NotProvenError):
        sj.prove(larger, sj.read_network(net.data), sj.q(x[0]))


# alpha, norm, seed, a radius that needs trees
PAIRS: list[tuple[float, c.Norm, int, float]] = [
    (0.75, "Linf", 3, 0.122), (0.4, "L2", 3, 0.1549), (0.3, "L1", 6, 0.1375),
]  # fmt: skip


@pytest.mark.parametrize(("alpha", "norm", "seed", "radius"), PAIRS)
def test_trees_over_both_networks_are_proven_by_both(alpha: float, norm: c.Norm, seed: int, radius: float):
    nets = [sn.mlp(seed + first, (4, 6, 5, 3)) for first in (100, 0)]
    g, h = (Model(PlainModule(n).eval(), n, n.classes, n.input_shape, "made for this test", 0.0) for n in nets)
    x = np.random.default_rng(seed).random((1, 4), dtype=np.float32)
    settings = Settings(alpha, norm, radius, temperature=2.0, attack_steps=0, curves=False, use_standard=True)
    (found,) = certify(g, h, x, settings=dataclasses.replace(settings, branch_parts=100))
    assert isinstance(found, Certified)
    claim = json.loads(found.line)
    assert claim["evidence"]["rule"] == "branched_pair"
    both, center = sj.read_network(*(n.data for n in nets)), sj.q(x[0])
    sj.prove(claim, both, center)
    trees = claim["evidence"]["trees"]
    rival = next(j for j, tree in enumerate(trees) if tree is not None)
    without = {"trees": [None if j == rival else tree for j, tree in enumerate(trees)]}
    changes = {"radius": 8 * radius}, {"evidence": claim["evidence"] | without}, {"semantics": "float32"}
    for changed in changes:
        with pytest.raises(sj.NotProvenError):
            sj.prove(claim | changed, both, center)


# ---------------------------------------------------------------- its own arithmetic


@pytest.mark.parametrize("t", [0, 1, -1, 3.7, -60.5, 25, 0.5, -0.5, 1e-9, -1e-30, 80.25])
def test_its_exponential_is_above_the_true_one_and_near(t: float):
    with ctx.workprec(600):
        upper, exact = arb(sj.exp_upper(sj.q([t])[0])), arb(t).exp()
        assert upper > exact
        assert upper < exact + arb(max(1.0, math.exp(t))) * arb(2) ** -100


@pytest.mark.parametrize("norm", sn.NORMS)
def test_its_largest_value_of_a_form_is_no_smaller_than_at_any_point(norm: c.Norm):
    rng = np.random.default_rng(3)
    for _ in range(40):
        x, form = rng.integers(0, 9, 3) / 8, rng.integers(-9, 10, 3)
        domain = [0.0, 1.0] if rng.integers(2) else None
        box = (-sj.BEYOND, sj.BEYOND) if domain is None else sj.q(domain)
        ball = sj.Bounds(sj.Network(sj.q(np.eye(4)), []), sj.q(x), fmpq(1, 2), norm, box)
        most = ball.largest(sj.q(form))
        for step in np.ndindex(9, 9, 9):
            delta = (np.array(step) - 4) / 8
            inside = np.linalg.norm(delta, sn.ORDER[norm]) <= 0.5 and (
                domain is None or ((x + delta >= 0) & (x + delta <= 1)).all()
            )
            assert not inside or sj.q([form @ (x + delta)])[0] <= most

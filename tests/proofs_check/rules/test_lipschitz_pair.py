"""Pairs by Lipschitz constants: margins of both networks, of either sign; forgeries of each part of the evidence."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flint import arb

from proofs_check import certificate as c
from proofs_check.certificate import Claim, RejectedError
from proofs_check.kernel import bounds
from proofs_check.kernel.jacobian import difference_constants
from proofs_check.reading.parse import array_sha256
from proofs_check.rules import prove
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.joint import joint_margin
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz, global_constants
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz, need_constants
from proofs_check.rules.lipschitz.pair import PairLipschitz, Side, _side
from proofs_check.rules.lipschitz.rule import LocalLipschitz
from proofs_check.rules.margin.differences import Box
from proofs_check.rules.margin.rule import margin_lower
from verifiers.network.module import PlainModule, build
from verifiers.norms import NORMS
from verifiers.perturbation import Balls

F32 = np.float32
X = np.array([1.5, 0.4, 0.3, -0.2], F32)


def scaled(gains: list[float], offsets: list[float]) -> c.PlainNetwork:
    """Logits that are multiples of the inputs, moved."""
    return build([c.Input((4,)), c.Linear((0,), np.diag(gains).astype(F32), np.array(offsets, F32))])


H, G = scaled([1.0] * 4, [0.0] * 4), scaled([3.0] * 4, [0.0, 4.2, 0.0, 0.0])  # g takes class 1 for better, h class 0
CASE = Case(bounds.prepare(H), bounds.prepare(G), X)
LINEAR = LayerLipschitz("4a", tuple(global_constants(CASE.robust, 0, "L2")))


def claim_of(**change: object) -> Claim:
    given: dict = {
        "norm": "L2", "radius": 0.02, "alpha": 0.8, "temperature": 6.0, "predicted": 0, "class_of": "mix",
        "domain": None, "semantics": "real", "robust": H.sha256, "standard": G.sha256, "input": array_sha256(X),
        "smoothing": None,
    }  # fmt: skip
    return Claim(**(given | change))


def probabilities(x: np.ndarray, claim: Claim) -> tuple[np.ndarray, np.ndarray]:
    """h's and g's."""
    z = x @ np.eye(4), 3.0 * x + [0.0, 4.2, 0.0, 0.0]
    e = [np.exp(t * (v - v.max())) for t, v in zip((claim.temperature, 1.0), z, strict=True)]
    return e[0] / e[0].sum(), e[1] / e[1].sum()


def boxes(claim: Claim, theorem: str = "4a") -> list[Side]:
    """Of h and of g, from constants as they are derived."""
    sides: list[Side] = []
    for prepared, temperature in ((CASE.robust, claim.temperature), (CASE.standard, 1.0)):
        assert prepared is not None
        moved = np.array(global_constants(prepared, 0, "L2")) * claim.radius
        lower, upper = bounds.difference_bounds(prepared, CASE.point(claim), 0, None)
        reach = arb(temperature * (3.0 if temperature == 1 else 1.0) * (1 + 1e-6) * claim.radius)
        on_ball = Box(lower - moved, upper + moved)
        sides.append(Side(temperature, Box(lower, upper), on_ball, reach if theorem == "4b" else None))
    return sides


def largest_margin(side: Side, rival: int, y: int = 0) -> float:
    low, high = -1.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if side.exceeds(y, rival, middle) else (low, middle)
    return low - 1e-7


def evidence_of(claim: Claim, theorem: str = "4a") -> PairLipschitz:
    margins = [tuple(0.0 if i == 0 else largest_margin(s, i) for i in range(4)) for s in boxes(claim, theorem)]
    of_g = tuple(global_constants(CASE.standard, 0, "L2"))  # type: ignore[arg-type]
    return PairLipschitz(LayerLipschitz(theorem, LINEAR.constants), LayerLipschitz(theorem, of_g), *margins)  # type: ignore[arg-type]


def accepted(claim: Claim, evidence: PairLipschitz) -> bool:
    try:
        return prove("lipschitz_pair", claim, evidence, CASE) == frozenset()
    except RejectedError as error:
        return error.step != "margin"


@pytest.mark.parametrize(
    ("alpha", "theorem"), [(0.2, "4a"), (0.35, "4a"), (0.8, "4a"), (1.0, "4a"), (0.35, "4b"), (0.8, "4b")]
)
def test_within_the_largest_accepted_radius_no_point_changes_the_mix(alpha: float, theorem: str) -> None:
    def claim(radius: float) -> Claim:
        of_y = claim_of(alpha=alpha, radius=radius)
        h, g = probabilities(X.astype(float), of_y)
        assert int(((1 - alpha) * g + alpha * h).argmax()) == (0 if alpha > 0.25 else 1)
        return of_y

    if alpha < 0.25:  # the mix's class is 1 there, and 0 is that of h alone
        assert not accepted(claim(0.0), evidence_of(claim(0.0), theorem))
        return
    low, high = 0.0, 2.0
    for _ in range(9):
        middle = (low + high) / 2
        good = accepted(claim(middle), evidence_of(claim(middle), "4a"))
        low, high = (middle, high) if good else (low, middle)
    assert low > 0.02
    if theorem == "4b":  # more radius by one constant of all logits
        assert accepted(claim(1.02 * low), evidence_of(claim(1.02 * low), theorem))
        low *= 1.02
    rng = np.random.default_rng(0)
    directions = [*(np.eye(4)[1:] - np.eye(4)[0]), *rng.normal(size=(400, 4))]
    for d in directions:
        h, g = probabilities(X + d / np.linalg.norm(d) * low, claim(low))
        assert int(((1 - alpha) * g + alpha * h).argmax()) == 0


def test_alpha_may_be_anything() -> None:
    other = replace(CASE, g=CASE.h)  # g as h: class 0 for both
    small = claim_of(radius=1e-3, standard=H.sha256, temperature=1.0)
    (side, _) = boxes(small)
    margins = tuple(0.0 if i == 0 else largest_margin(side, i) for i in range(4))
    for alpha in (0.0, 0.2, 0.5, 1.0):
        claim = replace(small, alpha=alpha)
        assert prove("lipschitz_pair", claim, PairLipschitz(LINEAR, LINEAR, margins, margins), other) == frozenset()


CLAIM = claim_of()
GOOD = evidence_of(CLAIM)


def test_the_evidence_at_hand_is_accepted_with_anchored_constants_too() -> None:
    assert accepted(CLAIM, GOOD)
    anchored = replace(GOOD, robust=LocalLipschitz("4a", tuple(1.0001 * v for v in LINEAR.constants), None))
    assert accepted(claim_of(radius=0.019), anchored)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"robust_margins": tuple(m + 1e-2 for m in GOOD.robust_margins)}, "margin"),
        ({"standard_margins": tuple(m + 1e-2 for m in GOOD.standard_margins)}, "margin"),
        ({"robust_margins": (-0.9,) * 4}, "margin"),
        ({"standard_margins": (-1e300,) * 4}, "margin"),
        ({"robust_margins": GOOD.robust_margins[:3]}, "margins"),
        ({"standard_margins": (*GOOD.standard_margins, 0.0)}, "margins"),
        ({"robust": LayerLipschitz("3.5", LINEAR.constants)}, "theorem"),
        ({"robust": LayerLipschitz("4a", tuple(0.99 * v for v in LINEAR.constants))}, "constants"),
        ({"standard": LayerLipschitz("4a", LINEAR.constants)}, "constants"),
        ({"standard": LocalLipschitz("4a", LINEAR.constants, None)}, "constants"),
        ({"standard": GlobalLipschitz("4a", LINEAR.constants, "")}, "multipliers"),
        ({"robust": LayerLipschitz("4a", (0.0, *[float("nan")] * 3))}, "constants"),
        ({"robust_margins": (float("nan"),) * 4}, "margin"),
        ({"robust_margins": (float("inf"),) * 4}, "margin"),
        ({"robust_margins": (1.0,) * 4}, "margin"),
        ({"robust_margins": (-1.0,) * 4, "standard_margins": (1.0,) * 4}, "margin"),
        ({"standard_margins": GOOD.robust_margins}, "margin"),  # h's temperature is not g's
    ],
)
def test_a_forged_part_is_rejected(change: dict, step: str) -> None:
    with pytest.raises(RejectedError) as error:
        prove("lipschitz_pair", CLAIM, replace(GOOD, **change), CASE)
    assert error.value.step == step


def test_margins_that_cancel_are_not_enough() -> None:
    cancelling = replace(GOOD, robust_margins=(0.25,) * 4, standard_margins=(-0.25,) * 4)
    with pytest.raises(RejectedError, match="stated margins are not enough"):
        prove("lipschitz_pair", replace(CLAIM, alpha=0.5), cancelling, CASE)


def test_a_joint_constant_proves_the_margin_it_reaches_and_no_other() -> None:
    nowhere = Box(np.array([0.0, -1e3]), np.array([0.0, 1e3]))
    side = Side(1.0, Box(np.array([0.0, -2.0]), np.array([0.0, -2.0])), nowhere, arb(0.1))
    assert side.exceeds(0, 1, 0.5)
    assert not side.exceeds(0, 1, 0.99)
    assert not replace(side, reach=None).exceeds(0, 1, 0.5)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"radius": 1.0}, "margin"),
        ({"alpha": 0.2}, "margin"),
        ({"predicted": 1}, "constants"),
        ({"temperature": 0.1}, "margin"),
        ({"semantics": "float32"}, "semantics"),
        ({"standard": None}, "standard"),
        ({"norm": "Linf"}, "constants"),
        ({"adaptive": c.Adaptive(c.InputAlpha(None, 0.8, 0.9), None)}, "adaptive"),
        ({"smoothing": c.Smoothing(0.1, "soft", 0.01)}, "smoothing"),
    ],
)
def test_another_claim_is_rejected(change: dict, step: str) -> None:
    with pytest.raises(RejectedError) as error:
        prove("lipschitz_pair", replace(CLAIM, **change), GOOD, CASE)
    assert error.value.step == step


def test_the_robust_class_is_checked_where_it_is_claimed() -> None:
    assert prove("lipschitz_pair", replace(CLAIM, class_of="robust"), GOOD, CASE) == frozenset()
    swapped = Case(CASE.standard, CASE.h, X)  # type: ignore[arg-type]
    of_g = LayerLipschitz("4a", tuple(global_constants(CASE.standard, 0, "L2")))  # type: ignore[arg-type]
    claim = claim_of(alpha=0.2, temperature=1.0, robust=G.sha256, standard=H.sha256, class_of="robust")
    with pytest.raises(RejectedError, match="strict argmax"):
        prove("lipschitz_pair", claim, PairLipschitz(of_g, LINEAR, (0.0,) * 4, (0.0,) * 4), swapped)


def test_one_constant_of_all_logits_is_for_l2_alone() -> None:
    for norm in ("Linf", "L1"):
        claim = claim_of(norm=norm)
        layers = [LayerLipschitz("4a", tuple(global_constants(p, 0, norm))) for p in (CASE.h, CASE.g)]  # type: ignore[arg-type]
        low = PairLipschitz(*layers, GOOD.robust_margins, GOOD.standard_margins)
        with pytest.raises(RejectedError) as error:
            prove("lipschitz_pair", claim, replace(low, robust=replace(layers[0], theorem="4b")), CASE)
        assert error.value.step == "theorem"


def test_constants_of_one_network_or_of_a_smaller_ball_prove_nothing_of_another() -> None:
    h, g = two_layers(1, 3), two_layers(2, 3, 3.0)
    case, far = Case(bounds.prepare(h), bounds.prepare(g), X[:3]), 3.0
    assert case.standard is not None
    claim = claim_of(robust=h.sha256, standard=g.sha256, input=array_sha256(X[:3]), radius=far)
    kinds = [kinds_of(p, case, claim) for p in (case.robust, case.standard)]
    small = [kinds_of(p, case, replace(claim, radius=1e-3))["local"] for p in (case.robust, case.standard)]
    free = (-1.0,) * 3  # what is looked at before margins
    for name in ("layers", "global"):
        right = PairLipschitz(kinds[0][name], kinds[1][name], free, free)
        assert _step(claim, right, case) == "margin"
        assert _step(claim, replace(right, standard=right.robust), case) == "constants"
    assert _step(claim, PairLipschitz(kinds[0]["local"], kinds[1]["local"], free, free), case) == "margin"
    assert _step(claim, PairLipschitz(small[0], kinds[1]["local"], free, free), case) == "constants"
    assert _step(claim, PairLipschitz(kinds[0]["local"], small[1], free, free), case) == "constants"


def _step(claim: Claim, evidence: PairLipschitz, case: Case) -> str:
    with pytest.raises(RejectedError) as error:
        prove("lipschitz_pair", claim, evidence, case)
    return error.value.step


def two_layers(seed: int, classes: int, scale: float = 1.0) -> c.PlainNetwork:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(4, 3)), scale * rng.normal(size=(classes, 4))
    linear = [(w.astype(F32), rng.normal(size=len(w)).astype(F32)) for w in (first, second)]
    return build([c.Input((3,)), c.Linear((0,), *linear[0]), c.Relu((1,)), c.Linear((2,), *linear[1])])


def kinds_of(prepared: bounds.Prepared, case: Case, claim: Claim) -> dict:
    """Evidence about one network as it can be had."""
    y, classes = claim.predicted, prepared.network.classes
    values = bounds.value_bounds(prepared, case.ball(claim), None)
    layers = tuple(global_constants(prepared, y, claim.norm))
    proven = [GlobalLipschitz("4a", (), "")]
    for size, scale in itertools.product((1.0, 1.5, 2.5, 4.0), np.geomspace(1, 1000, 10)):
        stated = tuple(0.0 if j == y else size * max(layers) for j in range(classes))
        multipliers = np.full((classes, 4), scale, "<f4")
        with contextlib.suppress(RejectedError):
            need_constants(prepared, y, np.array(stated), multipliers)
            proven.append(GlobalLipschitz("4a", stated, base64.b64encode(multipliers.tobytes()).decode()))
            break
    return {
        "layers": LayerLipschitz("4a", layers),
        "joint": LayerLipschitz("4b", layers),
        "local": LocalLipschitz("4a", tuple(difference_constants(values, y).tolist()), None),
        "global": proven[-1],
    }


@pytest.mark.parametrize("seed", range(8))
def test_no_point_within_the_largest_accepted_radius_changes_the_mix_of_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, norm = int(rng.integers(2, 5)), ("L2", "Linf", "L1")[seed % 3]
    h, g = two_layers(10 + seed, classes), two_layers(20 + seed, classes)
    x, domain = rng.normal(size=3).astype(F32), [None, (-3.0, 3.0)][seed % 2]
    alpha, temperature = float(rng.uniform()), float(rng.uniform(0.5, 3))
    case, nets = Case(bounds.prepare(h), bounds.prepare(g), x), [PlainModule(n).double() for n in (h, g)]

    def mix(at: torch.Tensor) -> torch.Tensor:
        of_h, of_g = nets[0](at), nets[1](at)
        return (1 - alpha) * torch.softmax(of_g, 1) + alpha * torch.softmax(temperature * of_h, 1)

    y = int(mix(torch.from_numpy(x[None]).double()).argmax())
    names = ["layers", "local", "global", *(["joint"] if norm == "L2" else [])]
    kinds = [str(rng.choice(names)) for _ in range(2)]

    def largest(radius: float) -> bool:
        claim = claim_of(
            norm=norm, radius=radius, alpha=alpha, temperature=temperature, predicted=y, domain=domain,
            robust=h.sha256, standard=g.sha256, input=array_sha256(x),
        )  # fmt: skip
        evidence = [kinds_of(p, case, claim)[k] for p, k in zip((case.robust, case.standard), kinds, strict=True)]
        sides = [_side(claim, e, p, case, t) for e, p, t in
                 zip(evidence, (case.robust, case.standard), (temperature, 1.0), strict=True)]  # fmt: skip
        margins = [tuple(0.0 if i == y else largest_margin(s, i, y) for i in range(classes)) for s in sides]
        try:
            return prove("lipschitz_pair", claim, PairLipschitz(*evidence, *margins), case) == frozenset()
        except RejectedError as error:
            if error.step != "margin":
                raise
            return False

    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if largest(middle) else (low, middle)
    assert low > 0
    of_y = smallest_margin(mix, Balls(torch.from_numpy(x).double().expand(64, -1), _full(low), norm, domain), y)
    assert of_y > 0, kinds


def _full(radius: float) -> torch.Tensor:
    return torch.full((64,), radius, dtype=torch.float64)


def smallest_margin(mix: Callable[[torch.Tensor], torch.Tensor], balls: Balls, y: int) -> float:
    """Of class y over the balls, by gradient descent from random points of them."""
    lp, boxed, least = NORMS[balls.norm], balls.boxed(torch.float64), 1.0
    low, high = boxed.lower - boxed.center, boxed.upper - boxed.center
    offsets = torch.randn(boxed.center.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    offsets = offsets * balls.radius[:, None]
    for k in range(60):
        offsets = lp.closest(offsets, low, high, balls.radius).requires_grad_()
        p = mix(boxed.center + offsets)
        own = torch.nn.functional.one_hot(torch.full((len(p),), y), p.shape[1]).bool()
        margins = p[:, y] - p.masked_fill(own, -1.0).amax(dim=1)
        least = min(least, float(margins.detach().min()))
        (gradient,) = torch.autograd.grad(margins.sum(), offsets)
        step = balls.radius[:, None] * 0.5 / (1 + k / 4)
        offsets = (offsets - step * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-30)).detach()
    return least


@pytest.mark.parametrize("seed", range(6))
def test_no_logits_within_reach_have_a_smaller_margin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = (5, 2, 5, 3, 5, 5)[seed]
    z = rng.normal(0, 1, classes)
    y, rival = 0, int(rng.integers(1, classes))
    reach, temperature = float(rng.exponential(0.7)), float(rng.uniform(0.5, 3))
    at_x = Box(z - z[y], z - z[y])
    low, high = -1.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        proven = joint_margin(at_x, y, rival, middle, temperature, arb(temperature * reach))
        low, high = (middle, high) if proven else (low, middle)
    step, least = np.eye(classes)[rival] - np.eye(classes)[y], 1.0
    for k in range(300):
        at = z + step / max(np.linalg.norm(step), 1e-12) * reach
        p = np.exp(temperature * (at - at.max()))
        p /= p.sum()
        least = min(least, p[y] - p[rival])
        gradient = p * (p[y] - p[rival])
        gradient[y] -= p[y]
        gradient[rival] += p[rival]
        step = gradient if k % 60 else rng.normal(size=classes)
    assert low <= least + 1e-9
    moved = reach * np.sqrt(2)
    box = margin_lower(Box(at_x.lower - moved, at_x.upper + moved), rival, temperature, y)
    assert low >= float(box.mid()) - 1e-4 or low > least - 0.05

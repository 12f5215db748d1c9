"""`--method lipschitz --use-standard`: constants of both networks, the mix's own class, any alpha."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from certmix.models.model import Model, from_module
from certmix.provers.certify import prove
from certmix.provers.judging import check
from certmix.provers.problem import ProverProblem
from certmix.provers.session import open_session
from certmix.records.outcomes import Abstained, Certified, Falsified, Reason
from certmix.settings import Settings
from proofs_check.certificate import Accepted
from verifiers.network.module import PlainModule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the ONNX exporter


def model(seed: int, orthogonal: bool, scale: float) -> Model:
    """Orthogonal layers, which one constant of all logits serves; or any, with more neurons than LipSDP takes."""
    torch.manual_seed(seed)
    width = 6 if orthogonal else 260
    first, last = nn.Linear(6, width), nn.Linear(width, 3)
    if orthogonal:
        nn.init.orthogonal_(first.weight)
        nn.init.orthogonal_(last.weight)
    with torch.no_grad():
        last.weight *= scale
    return from_module(nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).eval(), (1, 2, 3))


STANDARD, ROBUST = model(1, False, 8.0), model(2, True, 6.0)


def outcomes(robust: Model, standard: Model, count: int = 6, **change: object) -> tuple[torch.Tensor, list]:
    x = torch.rand((6, 1, 2, 3), generator=torch.Generator().manual_seed(3))[:count]
    given: dict = {"alpha": 0.6, "norm": "L2", "method": "lipschitz", "use_standard": True, "attack_steps": 0} | change
    problem = ProverProblem(standard, robust, x, tuple(range(count)), (0,) * count, Settings(**given))
    return x, prove(problem, open_session(problem))


@pytest.mark.parametrize(("norm", "alpha"), [("L2", 0.3), ("Linf", 0.0), ("Linf", 0.6)])
def test_the_mixs_class_is_certified_at_any_alpha_and_no_point_of_the_ball_changes_it(norm: str, alpha: float) -> None:
    x, found = outcomes(ROBUST, STANDARD, alpha=alpha, norm=norm, temperature=2.0)
    certified = [(k, o) for k, o in enumerate(found) if isinstance(o, Certified)]
    assert len(certified) >= 4
    rng = torch.Generator().manual_seed(0)
    for k, outcome in certified:
        assert check(outcome) == Accepted(frozenset())
        assert outcome.class_of == "mix"
        assert json.loads(outcome.line)["evidence"]["rule"] == "lipschitz_pair"
        assert outcome.radius >= 0.98 * outcome.proposed_radius > 0
        move = torch.randn((300, 1, 2, 3), generator=rng, dtype=torch.float64)
        if norm == "L2":
            move /= move.flatten(1).norm(dim=1)[:, None, None, None]
        near = (x[k].double() + outcome.radius * (move if norm == "L2" else move.sign())).clamp(0, 1)
        g, h = (PlainModule(m.require_network()).double()(near) for m in (STANDARD, ROBUST))
        mix = (1 - alpha) * torch.softmax(g, 1) + alpha * torch.softmax(2.0 * h, 1)
        assert bool((mix.argmax(dim=1) == outcome.predicted).all())


def test_each_network_brings_the_constants_that_serve_it() -> None:
    _, found = outcomes(ROBUST, ROBUST, 4, alpha=0.4)
    evidence = [json.loads(o.line)["evidence"] for o in found if isinstance(o, Certified)]
    assert evidence
    assert {side["theorem"] for e in evidence for side in (e["robust"], e["standard"])} >= {"4b"}
    _, found = outcomes(STANDARD, ROBUST, 2, alpha=0.4)
    evidence = [json.loads(o.line)["evidence"] for o in found if isinstance(o, Certified)]
    assert evidence
    assert all("witness" in e["robust"] for e in evidence)  # anchored constants: layers' are far larger


def test_a_fixed_radius_is_decided() -> None:
    _, found = outcomes(ROBUST, STANDARD)
    radii = sorted(o.radius if isinstance(o, Certified) else 0.0 for o in found)
    _, below = outcomes(ROBUST, STANDARD, radius=radii[2] * 0.9)
    _, above = outcomes(ROBUST, STANDARD, radius=radii[-1] * 2)
    assert sum(isinstance(o, Certified) for o in below) >= 4
    assert all(isinstance(o, Abstained) and o.reason == Reason.RADIUS_NOT_REACHED for o in above)


@pytest.mark.parametrize("change", [{"semantics": "float32"}, {"evidence": "engine"}])
def test_what_no_theorem_covers_is_refused(change: dict) -> None:
    _, found = outcomes(ROBUST, STANDARD, **change)
    assert {o.reason for o in found if isinstance(o, Abstained)} == {Reason.NO_THEOREM}
    assert not any(isinstance(o, Certified) for o in found)


class Squares(nn.Module):
    """Of no constant that holds everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x.flatten(1)) ** 2)


@pytest.mark.parametrize("domain", [(0.0, 1.0), None])
def test_a_network_without_constants_that_hold_everywhere_brings_local_ones(domain: tuple | None) -> None:
    torch.manual_seed(4)
    squares = from_module(Squares().eval(), (1, 2, 3))
    _, found = outcomes(ROBUST, squares, 3, domain=domain, alpha=0.5)
    certified = [o for o in found if isinstance(o, Certified)]
    assert len(certified) == 3
    assert all("witness" in json.loads(o.line)["evidence"]["standard"] for o in certified)


def test_attacks_inside_the_balls_change_nothing() -> None:
    _, found = outcomes(ROBUST, STANDARD, 3, alpha=0.5, temperature=2.0, attack_steps=20)
    assert not [o for o in found if isinstance(o, Falsified)]
    reached = [o.radius / o.attack.radius for o in found if isinstance(o, Certified) and o.attack is not None]
    assert reached
    assert max(reached) > 0.5, "balls near the attacks"

"""What a search keeps of the radii it tried: used where it holds, and never by what is handed to the judge."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import certmix
from certmix.provers.judging import judge_session
from certmix.provers.margin.engine_oracle import EngineOracle
from certmix.provers.margin.oracle import MarginBound
from certmix.provers.margin.prover import MarginProver
from certmix.provers.problem import ProverProblem
from certmix.provers.session import EngineSession
from certmix.records.outcomes import Outcome
from certmix.settings import Settings
from proofs_check.certificate import Norm
from verifiers.crown.engine import Crown

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
COUNT = 6


def problem(norm: Norm) -> ProverProblem:
    standard, robust = (certmix.load_model(DIGITS / f"{name}.onnx") for name in ("standard", "robust"))
    inputs = torch.from_numpy(certmix.load_data(DIGITS / "audit.npz", COUNT).inputs)
    return ProverProblem(standard, robust, inputs, tuple(range(COUNT)), (-1,) * COUNT, Settings(0.75, norm=norm))


class Watched(EngineOracle):
    """Keeps every answer, by whether it was for the judge: (inputs, radii, slack)."""

    def __init__(self, own: ProverProblem, predicted: Tensor, session: EngineSession) -> None:
        super().__init__(own, predicted, session)
        self.answers: dict[bool, list[tuple[Tensor, Tensor, Tensor]]] = {False: [], True: []}

    def bound(self, inputs: Tensor, radii: Tensor, witness: bool) -> MarginBound:
        answer = super().bound(inputs, radii, witness)
        self.answers[witness].append((inputs, radii.clone(), answer.slack))
        return answer


@pytest.fixture(scope="module", params=["Linf", "L2"])
def searched(request: pytest.FixtureRequest) -> tuple[Watched, list[Outcome]]:
    """A oracle after a whole search, and its outcomes."""
    own, made = problem(request.param), list[Watched]()

    def oracle(own: ProverProblem, predicted: Tensor) -> Watched:
        made.append(Watched(own, predicted, EngineSession(Crown(steps=4))))
        return made[-1]

    assert own.standard.network is not None
    outcomes = MarginProver(own, judge_session(own.network, own.standard.network), oracle).prove()
    (last,) = made
    return last, outcomes


def test_every_input_is_certified_just_below_a_radius_that_failed(searched: tuple[Watched, list[Outcome]]):
    oracle, outcomes = searched
    for batch_index, outcome in enumerate(outcomes):
        assert isinstance(outcome, certmix.Certified)
        assert outcome.radius < oracle.memory.failed[batch_index].radius <= outcome.radius * 1.1


def test_what_is_handed_to_the_judge_does_not_depend_on_what_failed(searched: tuple[Watched, list[Outcome]]):
    oracle, outcomes = searched
    radii = torch.tensor([o.radius for o in outcomes if isinstance(o, certmix.Certified)], dtype=torch.float64)
    fresh = EngineOracle(oracle.problem, oracle.predicted, oracle.session)
    fresh.memory.latest.update(oracle.memory.latest)
    fresh.memory.certified.update(oracle.memory.certified)
    ours, theirs = (b.bound(torch.arange(COUNT), radii, True) for b in (oracle, fresh))
    assert torch.equal(ours.robust.upper, theirs.robust.upper)
    assert torch.equal(ours.slack, theirs.slack)


def test_an_answer_of_the_search_holds_at_sampled_points(searched: tuple[Watched, list[Outcome]]):
    """Wherever the search says that a radius passes, h's margin exceeds the required one at points of the ball."""
    oracle, _ = searched
    g = torch.Generator().manual_seed(0)
    own = oracle.problem
    for inputs, radii, slack in oracle.answers[False]:
        for batch_index, radius in zip(inputs[slack > 0].tolist(), radii[slack > 0].tolist(), strict=True):
            direction = torch.randn(20, *own.inputs.shape[1:], generator=g)
            unit = direction.sign() if own.settings.norm == "Linf" else direction / direction.flatten(1).norm(dim=1)[0]
            x = (own.inputs[batch_index] + 0.99 * radius * unit).clamp(0, 1)
            p = torch.softmax(own.robust.module(x), 1)
            y = int(oracle.predicted[batch_index])
            rival = p.clone()
            rival[:, y] = -1
            assert (p[:, y] - rival.amax(1) > 1 / 3).all()


def test_memory_holds_only_below_the_radius_that_failed(searched: tuple[Watched, list[Outcome]]):
    memory = searched[0].memory
    inputs = torch.arange(COUNT)
    radii = torch.tensor([memory.failed[batch_index].radius for batch_index in range(COUNT)], dtype=torch.float64)
    assert memory.failed_above(inputs, radii * 0.9).all()
    assert not memory.failed_above(inputs, radii).any()
    assert memory.failed_at(inputs, radii).all()
    assert not memory.constraints(inputs, radii * 1.1, True).values
    radii[0] *= 1.1
    for lower, upper in memory.constraints(inputs, radii, False).values.values():
        assert torch.isneginf(lower[0]).all()
        assert torch.isposinf(upper[0]).all()
        assert torch.isfinite(lower[1:]).all()


def test_a_radius_hardly_depends_on_the_rest_of_the_batch(searched: tuple[Watched, list[Outcome]]):
    """Rounding differs with the batch, and gradient steps make more of it."""
    oracle, outcomes = searched
    own = oracle.problem
    for part in (slice(0, 1), slice(2, 5)):
        count = len(own.inputs[part])
        few = ProverProblem(
            own.standard, own.robust, own.inputs[part], tuple(range(count)), (-1,) * count, own.settings
        )
        found = MarginProver(
            few,
            judge_session(few.network, few.standard.network),
            lambda o, predicted: Watched(o, predicted, oracle.session),
        ).prove()
        for one, other in zip(found, outcomes[part], strict=True):
            assert isinstance(one, certmix.Certified)
            assert isinstance(other, certmix.Certified)
            assert one.radius == pytest.approx(other.radius, rel=0.01)

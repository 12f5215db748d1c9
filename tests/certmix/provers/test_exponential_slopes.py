"""Slopes of the exponential passes: whether a pass was run is said by `ran`, never by the slopes' values."""

from pathlib import Path

import torch

import certmix
from certmix.provers.margin.exponential_head import ExponentialResult, ExponentialSlopes, Head
from certmix.provers.margin.memory import RadiusMemory
from certmix.records.bound_archive import ExponentialPasses
from proofs_check.certificate import PlainNetwork
from verifiers.crown.engine import Crown
from verifiers.engine import Answer, MarginQuery

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"


def answer() -> Answer:
    """Of one digit, with tuned slopes."""
    network: PlainNetwork = certmix.load_model(DIGITS / "robust.onnx").require_network()
    inputs = torch.from_numpy(certmix.load_data(DIGITS / "audit.npz", 1).inputs)
    radius = torch.tensor([0.02], dtype=torch.float64)
    engine = Crown(steps=1)
    query = MarginQuery(network, inputs, "Linf", radius, (0.0, 1.0), torch.tensor([0]))
    return engine.answer(engine.prepare(network), query.query())


def test_slopes_of_a_pass_that_tuned_all_of_them_to_zero_are_not_replaced_by_the_boxs() -> None:
    tuned_to_zero = ExponentialSlopes(torch.zeros(1, 2, 3), torch.tensor([[True, False]]))
    box = torch.ones(1, 2, 3)
    assert tuned_to_zero.filled(box).tolist() == [[[0.0] * 3, [1.0] * 3]]
    assert tuned_to_zero.of_input(0, box[0]).tolist() == [[0.0] * 3, [1.0] * 3]


def test_a_search_starts_from_the_slopes_that_passes_ended_with_and_elsewhere_from_the_boxs() -> None:
    found = answer()
    slopes = found.slopes()
    assert slopes is not None
    ran = torch.zeros(slopes.shape[:2], dtype=torch.bool)
    ran[0, 3] = True
    empty = torch.zeros(0)
    passes = ExponentialPasses(empty.long(), empty.long(), empty[:, None], empty)
    result = ExponentialResult(passes, ExponentialSlopes(torch.zeros_like(slopes), ran))
    memory = RadiusMemory()
    yes = torch.ones(1, dtype=torch.bool)
    memory.keep_slopes(torch.tensor([7]), found, Head(empty, empty, empty[:, None], result), yes, yes)
    (kept,) = memory.slopes(torch.tensor([7]), True)
    assert kept is not None
    assert slopes[0, 3].any()
    assert not kept.exponential[3].any()
    others = [j for j in range(len(kept.box)) if j != 3]
    assert torch.equal(kept.exponential[others], kept.box[others])
    assert torch.equal(kept.box, slopes[0])

"""Branch and bound on small nets: parts cover, many inputs in one batch, budgets, and searches that go on from others.

The question here is the plain one, d_q < 0 on the ball, so that the truth can be sampled.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
from small_networks import mlp
from torch import Tensor

from proofs_check.certificate import PlainNetwork
from verifiers.branching.parts import Leaf, Majorant, MajorantOf, Side
from verifiers.branching.search import Branching, Budget, Found, Open, _root, _whole_ball
from verifiers.engine import EngineError, MarginQuery
from verifiers.network.module import PlainModule

INPUTS, WIDTHS = 3, (3, 8, 6, 3)
SMALL = Budget(60.0, 40)


def linear(lower: Tensor, upper: Tensor, predicted: Tensor, question: Tensor) -> Majorant:
    """d_q < 0, which is linear as it is."""
    one = torch.nn.functional.one_hot(question, upper.shape[1]).double()
    zeros = torch.zeros_like(upper)
    return Majorant(one, zeros[:, 0], (one * upper).sum(1), zeros, (lower + upper) / 2, zeros[:, 0] + 1)


def query(network: PlainNetwork, seed: int, radius: float) -> MarginQuery:
    x = torch.rand(INPUTS, *network.input_shape, generator=torch.Generator().manual_seed(seed))
    radii = torch.full((INPUTS,), radius, dtype=torch.float64)
    return MarginQuery(network, x, "Linf", radii, (0.0, 1.0), PlainModule(network)(x).argmax(1))


def search(asked: MarginQuery, budget: Budget = SMALL, **more: object) -> list[Found]:
    """Every rival of every input is asked about."""
    engine = Branching(parts=8)
    answer = engine.answer(engine.prepare(asked.network), asked.query())
    questions = [[j for j in range(asked.network.classes) if j != y] for y in asked.predicted.tolist()]
    return engine.search(answer, asked.predicted, questions, linear, budget, **more)  # type: ignore[arg-type]


def samples(asked: MarginQuery, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points of ball k, the inputs of all their ReLUs in a row, and d."""
    n = asked.inputs[k].numel()
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)))
    inside = torch.rand(400, n, generator=torch.Generator().manual_seed(k)) * 2 - 1
    points = (asked.inputs[k] + float(asked.radius[k]) * torch.cat([corners, inside])).clamp(0, 1).double()
    values, linear_layers = points, [m for m in asked.network.nodes if hasattr(m, "weight")]
    before: list[Tensor] = []
    for node in linear_layers:
        values = values @ torch.tensor(node.weight).double().T + torch.tensor(node.bias).double()
        before.append(values)
        values = values.relu()
    return points, torch.cat(before[:-1], 1), before[-1] - before[-1][:, asked.predicted[k], None]


def holds(leaf: Leaf, neurons: Tensor, d: Tensor) -> Tensor:
    """Which points lie in this part."""
    inside = torch.ones(len(d), dtype=torch.bool)
    for side in leaf.path:
        value = d[:, side.index] if side.difference else neurons[:, side.index]
        inside &= side.sign * (value - side.at) >= 0
    return inside


@functools.cache
def hard() -> tuple[MarginQuery, list[Found]]:
    """A batch of which something is proven by splitting, and something is false."""
    for seed in (30, 33, 27):
        asked = query(mlp(seed, WIDTHS), seed, 0.15 if seed == 30 else 0.25)
        found = search(asked)
        if any(f.proven and f.parts > 3 for f in found) and not all(f.proven for f in found):
            return asked, found
    raise AssertionError("no seed gives such a batch")


def test_leaves_and_open_parts_cover_the_ball_and_leaves_are_true():
    asked, found = hard()
    for k, one in enumerate(found):
        _, neurons, d = samples(asked, k)
        for question, parts in one.partition().items():
            covered = torch.stack([holds(leaf, neurons, d) for leaf in parts]).any(0)
            assert covered.all()
            for leaf in one.leaves[question]:
                assert (d[holds(leaf, neurons, d), question] < 0).all()


def test_an_input_is_decided_alike_alone_and_beside_others():
    asked, found = hard()
    for k, beside in enumerate(found):
        one = slice(k, k + 1)
        alone = dataclasses.replace(
            asked, inputs=asked.inputs[one], radius=asked.radius[one], predicted=asked.predicted[one]
        )
        (result,) = search(alone)
        assert result.proven == beside.proven


def test_bounds_of_a_part_depend_on_no_part_beside_it():
    """Else a part would be proven here whose proof the judge, who reads it alone, cannot repeat."""
    engine, sure = Branching(parts=8), 0
    for seed in range(20):
        asked = query(mlp(seed, (3, 12, 12, 3)), seed, 0.4)
        answer = engine.answer(engine.prepare(asked.network), asked.query())
        root, rng = _root(answer, asked.predicted, 0), np.random.default_rng(seed)
        columns = root.net.columns[root.net.columns >= 0].numpy()
        leaves = [_whole_ball(root, 0)]
        for _ in range(12):
            leaf = leaves[0]
            for column in rng.choice(columns, min(6, len(columns)), replace=False).tolist():
                leaf = leaf.split(Side(False, column, 0.0, int(rng.choice([-1, 1]))))
            leaves.append(leaf)
        together = root.neurons_anew(root.parts([0] * len(leaves), leaves))
        for b, leaf in enumerate(leaves):
            alone = root.neurons_anew(root.parts([0], [leaf]))
            assert torch.allclose(alone.low[0], together.low[b], rtol=0, atol=1e-9)
            assert torch.allclose(alone.high[0], together.high[b], rtol=0, atol=1e-9)
            assert bool(alone.empty) == bool(together.empty[b])
            sure += bool((together.low[b] >= 0).any())
    assert sure > 100


def test_a_search_goes_on_from_the_parts_of_another_at_a_smaller_radius():
    asked, found = hard()
    smaller = dataclasses.replace(asked, radius=asked.radius * 0.98)
    first = search(smaller)
    k = next(k for k, f in enumerate(found) if f.proven and f.parts > 3)
    partitions = [one.partition() for one in first]
    after = search(asked, start=partitions)[k]
    assert after.proven
    paths = {leaf.path for leaves in partitions[k].values() for leaf in leaves}
    for leaves in after.leaves.values():
        assert all(any(leaf.path[: len(p)] == p for p in paths) for leaf in leaves)


def test_no_part_is_split_once_the_budget_is_spent():
    asked, _ = hard()
    for budget in (Budget(0.0), Budget(60.0, 1)):
        for one in search(asked, budget):
            assert one.parts == one.bounded == WIDTHS[-1] - 1
    ticks = itertools.count()
    for one in search(asked, Budget(6.0, clock=lambda: float(next(ticks)))):
        assert one.proven or one.point is not None or 6 <= one.seconds <= 12


def test_a_point_that_ends_a_search_lies_in_the_ball_and_answers_no():
    met = 0
    for norm, order in (("Linf", torch.inf), ("L2", 2), ("L1", 1)):
        for seed in (27, 30, 33):
            asked = dataclasses.replace(query(mlp(seed, WIDTHS), seed, 0.5), norm=norm)  # type: ignore[arg-type]
            for k, one in enumerate(search(asked)):
                if one.point is None:
                    continue
                met += 1
                offset = one.point - asked.inputs[k].double()
                assert torch.linalg.vector_norm(offset, order) <= float(asked.radius[k]) + 1e-9
                assert ((one.point >= 0) & (one.point <= 1)).all()
                assert not one.proven
                logits = PlainModule(asked.network).double()(one.point[None])[0]
                assert float(logits[list(one.leaves)].max()) > float(logits[asked.predicted[k]])
    assert met >= 6


def test_a_listener_hears_how_far_each_input_has_come():
    asked, found = hard()
    heard: dict[int, list[Found]] = {k: [] for k in range(INPUTS)}
    search(asked, listener=lambda k, so_far: heard[k].append(so_far))
    for k, one in enumerate(found):
        spent = [so_far.bounded for so_far in heard[k]]
        assert spent == sorted(set(spent))
        if heard[k]:
            assert heard[k][-1].proven == one.proven


@pytest.mark.parametrize("parts", [1, 3, 64])
def test_how_many_parts_are_bounded_at_once_does_not_change_what_is_proven(parts: int):
    asked, found = hard()
    k = next(k for k, f in enumerate(found) if f.proven and f.parts > 3)
    engine = Branching(parts=parts)
    answer = engine.answer(engine.prepare(asked.network), asked.query())
    questions = [list(one.leaves) if i == k else [] for i, one in enumerate(found)]
    assert engine.search(answer, asked.predicted, questions, linear, SMALL)[k].proven


class Short(Branching):
    """Memory for three parts at once."""

    room = 3

    def _bounded(self, majorant_of: MajorantOf, chunk: list[Open]) -> list[Leaf | Open]:
        if len(chunk) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super()._bounded(majorant_of, chunk)


def test_a_batch_that_memory_does_not_hold_is_halved(monkeypatch: pytest.MonkeyPatch):
    asked, found = hard()
    k = next(k for k, f in enumerate(found) if f.proven and f.parts > 3)
    engine = Short(parts=8)
    answer = engine.answer(engine.prepare(asked.network), asked.query())
    questions = [list(one.leaves) if i == k else [] for i, one in enumerate(found)]
    assert engine.search(answer, asked.predicted, questions, linear, SMALL)[k].proven
    monkeypatch.setattr(Short, "room", 0)
    with pytest.raises(EngineError, match="memory"):
        engine.search(answer, asked.predicted, questions, linear, SMALL)


def test_parts_to_start_from_that_the_budget_does_not_reach_stay_open():
    asked, found = hard()
    partitions = [one.partition() for one in found]
    again = search(asked, Budget(60.0, 1), start=partitions)
    for before, after in zip(found, again, strict=True):
        assert after.parts == before.parts
        assert after.bounded <= max(8, WIDTHS[-1] - 1)
    assert any(one.bounded < one.parts for one in again)

"""Branching as a product: the largest radius pushed on within a budget, and over interruptions."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import mlp

from certmix.commands.terminal import pursuit
from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix
from certmix.models.model import Model
from certmix.provers.certify import certify_adaptive, prove
from certmix.provers.judging import check
from certmix.provers.margin import pursuit as module
from certmix.provers.margin.branching import branch
from certmix.provers.problem import ProverProblem, Pursued
from certmix.provers.session import open_session
from certmix.records.lines import _sealed
from certmix.records.outcomes import Abstained, Certified, Outcome, Reason
from certmix.records.unfinished import Desk, Unfinished
from certmix.settings import Settings
from proofs_check.certificate import Accepted, PlainNetwork, Scale, Transform
from verifiers.branching.parts import Anew, Leaf, Side
from verifiers.branching.search import Branching, Budget
from verifiers.engine import EngineError
from verifiers.network.module import PlainModule, build

WIDTHS = (4, 12, 10, 3)
PARTS = 60
SETTINGS = Settings(0.75, temperature=8.0, attack_steps=0, curves=False, branch_parts=PARTS)


def model(seed: int) -> Model:
    network = mlp(seed, WIDTHS)
    return Model(PlainModule(network).eval(), network, network.classes, network.input_shape, "made for this test", 0.0)


def problem(settings: Settings, desk: Desk | None = None, tell: Callable[[Pursued], None] | None = None, seed: int = 3):
    x = torch.from_numpy(np.random.default_rng(seed).random((1, 4), dtype=np.float32))
    return ProverProblem(model(seed + 100), model(seed), x, (7,), (0,), settings, None, desk, tell)


def outcome(settings: Settings, desk: Desk | None = None, tell: Callable[[Pursued], None] | None = None) -> Outcome:
    asked = problem(settings, desk, tell)
    (found,) = prove(asked, open_session(asked))
    return found


@pytest.fixture(scope="module")
def without() -> Certified:
    found = outcome(dataclasses.replace(SETTINGS, branch_parts=0))
    assert isinstance(found, Certified)
    return found


@pytest.fixture(scope="module")
def pushed() -> Certified:
    found = outcome(SETTINGS)
    assert isinstance(found, Certified)
    return found


def test_a_largest_radius_is_pushed_on_and_the_judge_accepts_it(without: Certified, pushed: Certified):
    assert pushed.radius > 1.02 * without.radius
    assert json.loads(pushed.line)["evidence"]["rule"] == "branched_margin"
    assert isinstance(check(pushed), Accepted)


def test_a_budget_in_parts_gives_the_same_bytes_again(pushed: Certified):
    again = outcome(SETTINGS)
    assert isinstance(again, Certified)
    assert again.line == pushed.line


@pytest.mark.parametrize("budget", [{"branch_parts": 1}, {"branch": 1e-9}, {"branch": 0.0, "branch_parts": 0}])
def test_hardly_any_budget_leaves_what_bounds_certify(budget: dict[str, float], without: Certified):
    found = outcome(dataclasses.replace(SETTINGS, **({"branch_parts": 0} | budget)))  # type: ignore[arg-type]
    assert isinstance(found, Certified)
    assert found.radius >= without.radius


class StopError(Exception):
    """An interruption."""


def interrupted(desk: Desk) -> Unfinished:
    """What the desk holds after a session that ends as soon as it has certified a radius by branching."""

    def stop(how: Pursued) -> None:
        if desk.read(7).line is not None:
            raise StopError

    with pytest.raises(StopError):
        outcome(SETTINGS, desk, stop)
    return desk.read(7)


def test_an_interrupted_run_goes_on_from_the_best_radius_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    desk = Desk(tmp_path)
    kept = interrupted(desk)
    assert kept.line is not None
    radius = json.loads(kept.line)["radius"]
    tried = list[float]()
    attempt = module.Pursuit._attempt

    def noted(self: module.Pursuit, trial: float, *rest: object) -> object:
        tried.append(trial)
        return attempt(self, trial, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Pursuit, "_attempt", noted)
    found = outcome(SETTINGS, desk)
    assert isinstance(found, Certified)
    assert found.radius >= radius
    assert tried
    assert min(tried) > radius
    assert kept.parts < desk.read(7).parts <= PARTS + 2 * len(tried)
    desk.clear([7])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["no json", '{"seconds": 1, "what": 2}'])
def test_what_an_interruption_damaged_is_done_again(tmp_path: Path, damage: str, pushed: Certified):
    desk = Desk(tmp_path)
    desk.write(7, Unfinished())
    (path,) = (tmp_path / "unfinished").iterdir()
    path.write_text(damage)
    found = outcome(SETTINGS, desk)
    assert isinstance(found, Certified)
    assert found.line == pushed.line


def test_what_is_kept_is_judged_again(tmp_path: Path, pushed: Certified, without: Certified):
    """A radius that the kept proof does not prove; the budget is spent, so nothing is added to it."""
    desk, line = Desk(tmp_path), json.loads(pushed.line)
    line["radius"] = 4 * pushed.radius
    desk.write(7, Unfinished(parts=PARTS, line=_sealed({n: v for n, v in line.items() if n != "sha256"}).decode()))
    found = outcome(SETTINGS, desk)
    assert isinstance(found, Certified)
    assert found.radius < 4 * pushed.radius * 0.95
    assert isinstance(check(found), Accepted)
    desk.write(7, Unfinished(parts=PARTS, line=pushed.line.decode()))
    found = outcome(SETTINGS, desk)
    assert isinstance(found, Certified)
    assert found.line == pushed.line


def test_a_radius_that_was_left_open_is_not_searched_again(tmp_path: Path, pushed: Certified):
    desk, fixed = Desk(tmp_path), dataclasses.replace(SETTINGS, radius=0.99 * pushed.radius, branch_parts=1)
    first = outcome(fixed, desk)
    assert isinstance(first, Abstained)
    assert "branching for 1 parts left" in first.advice

    def told(_: Pursued) -> None:
        raise AssertionError("searched again")

    again = outcome(fixed, desk, told)
    assert isinstance(again, Abstained)
    assert (again.advice, again.reason) == (first.advice, Reason.RADIUS_NOT_REACHED)


def test_a_point_where_the_margin_is_too_small_ends_the_search(pushed: Certified):
    radius = 2 * pushed.radius
    found = outcome(dataclasses.replace(SETTINGS, radius=radius))
    assert isinstance(found, Abstained)
    assert found.reason is Reason.RADIUS_NOT_REACHED
    assert "no bounds of it alone certify that" in found.advice
    margin = float(found.advice.split("falls to ")[1].split(" ")[0])
    assert -1 <= margin < 1 / 3
    if found.attack is not None:
        assert found.attack.radius <= radius


def test_a_search_that_meets_a_point_where_the_mix_errs_calls_the_input_attackable():
    seen = set[str]()
    for seed in range(3, 9):
        asked = problem(dataclasses.replace(SETTINGS, radius=0.9), seed=seed)
        (found,) = prove(asked, open_session(asked))
        if isinstance(found, Abstained) and found.attack is not None:
            seen.add(found.verdict)
            logits = asked.mix(torch.from_numpy(found.attack.point)[None])[0]
            assert int(logits.argmax()) != found.attack.predicted
            assert np.abs(found.attack.point - asked.inputs[0].numpy()).max() <= 0.9
    assert seen == {"attackable"}


def test_an_engine_that_fails_takes_nothing_away(without: Certified, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object) -> object:
        raise EngineError("out of order")

    monkeypatch.setattr(module, "branch", failing)
    found = outcome(SETTINGS)
    assert isinstance(found, Certified)
    assert found.line == without.line
    decided = outcome(dataclasses.replace(SETTINGS, radius=1.05 * without.radius))
    assert isinstance(decided, Abstained)
    assert (decided.reason, decided.advice) == (Reason.ENGINE_FAILED, "out of order")


NO_MEMORY = (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: 1 byte"))


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__)
def test_where_memory_runs_out_fewer_parts_are_bounded_at_once(error: Exception, without: Certified, monkeypatch: Any):
    """Memory for three parts at once, then for none."""
    fits, asked = [3], list[int]()

    def scarce(engine: Branching, *rest: Any) -> Any:
        asked.append(engine.parts)
        if engine.parts > fits[0]:
            raise error
        return branch(engine, *rest)

    monkeypatch.setattr(module, "branch", scarce)
    found = outcome(SETTINGS)
    assert isinstance(found, Certified)
    assert found.radius > 1.02 * without.radius
    assert asked[:6] == [64, 32, 16, 8, 4, 2]
    assert set(asked[6:]) <= {2}
    fits[0] = 0
    decided = outcome(dataclasses.replace(SETTINGS, radius=1.05 * without.radius))
    assert isinstance(decided, Abstained)
    assert decided.reason is Reason.ENGINE_FAILED
    assert "ran out of memory with one part at once" in decided.advice


def test_another_fault_is_no_want_of_memory(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> object:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(module, "branch", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        outcome(SETTINGS)


def test_progress_says_parts_and_what_is_left(pushed: Certified):
    told = list[Pursued]()
    outcome(dataclasses.replace(SETTINGS, branch=1e3), None, told.append)
    assert told
    assert all(0 <= how.proven <= how.parts and how.index == 7 and how.lack >= 0 for how in told)
    left = [how.seconds for how in told]
    assert all(seconds is not None and 0 < seconds < 1e3 for seconds in left)
    assert left == sorted(left, reverse=True)  # type: ignore[type-var]
    assert pursuit(Pursued(3, 0.25, 5, 8, 0.12, 12.4)) == (
        "input 3 at radius 0.25: 5 of 8 parts proven, the worst lacks 0.12, 12 s left"
    )
    assert pursuit(Pursued(3, 0.5, 5, 8, 0.5, None)).endswith("lacks 0.5")


def test_splits_that_a_proof_does_not_need_are_not_written(without: Certified):
    """A ball that needs no split, cut in eight beforehand; and all of the eight parts are proven."""
    asked = problem(SETTINGS)
    session, sides = open_session(asked), [Side(False, column, 0.0, 1) for column in (0, 3, 14)]
    ways = itertools.product(*((side, side.other()) for side in sides))
    flat = np.zeros(22, dtype=np.uint8), np.zeros(3, dtype=np.float32)
    eighths = [Leaf(path, Anew.NOTHING, *flat) for path in ways]
    query = module.Pursuit(asked, session, 0, without.predicted)._query(
        session.branching.network, 1.01 * without.radius
    )
    rivals = [j for j in range(3) if j != without.predicted]
    start = dict.fromkeys(rivals, eighths)
    search = session.branching
    found = branch(search.engine, search.state, query, SETTINGS, Budget(60.0), start).found
    assert found.proven
    assert found.leaves
    for leaves in found.leaves.values():
        assert 1 <= len(leaves) < 8
        shares = sum((Fraction(1, 2 ** len(leaf.path)) for leaf in leaves), Fraction(0))
        assert shares == 1  # they cover the ball, once
    kept = [leaf.path for leaves in found.leaves.values() for leaf in leaves]
    assert all(len({side.index for side in path}) == len(path) for path in kept)


def test_adaptive_mixes_are_not_branched_on():
    asked = problem(SETTINGS)
    with pytest.raises(UsageError, match="branch"):
        certify_adaptive(
            asked.standard, asked.robust, asked.inputs, AdaptiveMix(0.75, transform=Transform(0.0, 1.0, True)), SETTINGS
        )


# ---------------------------------------------------------------- with bounds of g, too

WITH_G = dataclasses.replace(SETTINGS, use_standard=True, branch_parts=2 * PARTS)


def wild(network: PlainNetwork, factor: float) -> Model:
    """The network with logits so many times as large: bounds of them say nothing."""
    scaled = build([*network.nodes, Scale((len(network.nodes) - 1,), np.full(network.classes, factor, np.float32))])
    return Model(PlainModule(scaled).eval(), scaled, scaled.classes, scaled.input_shape, "made for this test", 0.0)


class Noted(Desk):
    """A desk that remembers all that was kept on it."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        object.__setattr__(self, "states", list[Unfinished]())

    def write(self, index: int, value: Unfinished) -> None:
        self.states.append(value)  # type: ignore[attr-defined]
        super().write(index, value)


def rule(line: bytes | str | None) -> str:
    assert line is not None
    return json.loads(line)["evidence"]["rule"]


def both(factor: float, settings: Settings, desk: Desk | None = None) -> Certified:
    asked = problem(settings, desk)
    assert asked.standard.network is not None
    asked = dataclasses.replace(asked, standard=wild(asked.standard.network, factor))
    (found,) = prove(asked, open_session(asked))
    assert isinstance(found, Certified)
    assert found.class_of == "mix"
    assert isinstance(check(found), Accepted)
    return found


@pytest.mark.parametrize("factor", [0.05, 1e4])
def test_h_alone_is_branched_on_before_g_is_bounded_too(factor: float, pushed: Certified, tmp_path: Path):
    """With half of the budget; with all of it where g is too wild for bounds of it to say anything."""
    desk = Noted(tmp_path)
    found = both(factor, WITH_G, desk)
    states: list[Unfinished] = desk.states  # type: ignore[attr-defined]
    alone = [state for state in states if not state.with_standard]
    assert states[: len(alone)] == alone
    first = next(state for state in states if state.parts >= PARTS)
    assert first in alone
    assert rule(first.line) == "branched_margin"
    assert json.loads(first.line or "")["radius"] > 0.98 * pushed.radius
    assert (alone == states) == (factor > 1)
    assert states[-1].parts >= 2 * PARTS
    assert found.radius > (1.05 if factor > 1 else 0.98) * pushed.radius


def test_bounds_with_g_certify_no_less_than_those_of_h_alone(without: Certified):
    found = both(1e4, dataclasses.replace(WITH_G, branch_parts=0))
    assert found.radius >= 0.999 * without.radius
    assert rule(found.line) == rule(without.line) == "network_margin"


def test_the_second_half_goes_on_with_g_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    desk, tried = Desk(tmp_path), list[bool]()
    desk.write(7, Unfinished(parts=PARTS, with_standard=True))
    attempt = module.Pursuit._attempt

    def noted(self: module.Pursuit, *rest: Any) -> object:
        tried.append(self.state.with_standard)
        return attempt(self, *rest)

    monkeypatch.setattr(module.Pursuit, "_attempt", noted)
    assert rule(both(1.0, WITH_G, desk).line) == "branched_pair"
    assert set(tried) == {True}


@pytest.mark.parametrize(("alpha", "radius", "expected"), [(0.6, 0.3, "branched_margin"), (0.52, 0.4, "branched_pair")])
def test_at_a_fixed_radius_g_is_bounded_where_h_alone_does_not_do(alpha: float, radius: float, expected: str):
    """With h itself as g: at alpha = .52 branching meets a point where h's margin is too small."""
    asked = problem(dataclasses.replace(WITH_G, alpha=alpha, radius=radius))
    asked = dataclasses.replace(asked, standard=asked.robust)
    (found,) = prove(asked, open_session(asked))
    assert isinstance(found, Certified)
    assert (found.class_of, rule(found.line)) == ("mix", expected)
    assert isinstance(check(found), Accepted)


def test_where_h_alone_is_refuted_in_the_second_half_g_is_bounded_after_all(monkeypatch: pytest.MonkeyPatch):
    """The first search does not meet the point that the second meets, and g's bounds look as if they said nothing."""
    attempt, first = module.Pursuit._attempt, iter([True])

    def blind(self: module.Pursuit, radius: float, share: float) -> module.Branched:
        found = attempt(self, radius, share)
        return (
            dataclasses.replace(found, found=dataclasses.replace(found.found, point=None)) if next(first, 0) else found
        )

    monkeypatch.setattr(module.Pursuit, "_attempt", blind)
    monkeypatch.setattr(module.Pursuit, "_standard_says_something", lambda *_: False)
    asked = problem(dataclasses.replace(WITH_G, alpha=0.52, radius=0.4, branch_parts=6 * PARTS))
    asked = dataclasses.replace(asked, standard=asked.robust)
    (found,) = prove(asked, open_session(asked))
    assert isinstance(found, Certified)
    assert rule(found.line) == "branched_pair"

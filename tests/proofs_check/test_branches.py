"""The judge's corners: what happens at the end of a stream, in a worker process, to a node that nothing uses."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import runpy
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from flint import arb, arb_mat, ctx

from proofs_check import __main__ as command
from proofs_check import certificate as c
from proofs_check import judge, run
from proofs_check.kernel import bounds
from proofs_check.reading import folder, parse, shapes
from proofs_check.rules import EVIDENCE, RULES, Rule, prove, smoothing
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import lipsdp
from proofs_check.rules.margin.rule import NetworkMargin, PairMargin
from verifiers.network.module import build

HERE = Path(__file__).resolve().parent
ACCEPTED = HERE / "accepted" / "margin_linf"
F32 = np.float32


def test_a_run_without_its_lines_is_malformed(tmp_path: Path):
    with pytest.raises(c.MalformedError, match="cannot be read"):
        list(folder.lines(tmp_path))


def test_a_constant_with_more_axes_than_its_input_does_not_fit():
    node = c.Shift((0,), np.ones((1, 3), dtype=F32))
    with pytest.raises(c.MalformedError, match="does not fit"):
        shapes.output_shape(node, [(3,)], "here")


def test_a_worker_process_judges_as_the_main_one_does():
    header = folder.header(ACCEPTED)
    run._start(ACCEPTED)
    here = run.bench(ACCEPTED, header)
    tasks = list(run.tasks(ACCEPTED, header))
    assert [run._work(*task) for task in tasks] == [here.judge(*task) for task in tasks]
    assert {run._work(*task).state for task in tasks} >= {"accepted"}


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (c.RejectedError("network", "exceeds 2^200"), 1, "rejected network: exceeds 2^200"),
        (MemoryError("no more"), 1, "rejected memory"),
        (c.MalformedError("line 3", "is not JSON"), 2, "malformed line 3: is not JSON"),
    ],
)
def test_a_run_that_breaks_off_says_why(error: Exception, code: int, word: str, capsys: pytest.CaptureFixture[str]):
    def broken() -> Iterator[NoReturn]:
        raise error
        yield

    assert command.summarise(broken(), False) == code
    assert word in capsys.readouterr().out


def test_a_number_of_jobs_below_one_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        command.main([str(ACCEPTED), "--jobs", "0"])
    assert caught.value.code == 2
    assert "--jobs must be >= 1, got 0" in capsys.readouterr().err


def test_the_module_runs_as_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["proofs_check", str(ACCEPTED)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(command.__file__), run_name="__main__")
    assert caught.value.code == 0
    assert "accepted" in capsys.readouterr().out


def test_a_node_that_nothing_uses_adds_nothing_to_the_increments():
    eye, zero = np.eye(2, dtype=F32), np.zeros(2, F32)
    nodes = [c.Input((2,)), c.Linear((0,), eye, zero), c.Relu((1,)), c.Linear((0,), 9 * eye, zero),
             c.Linear((2,), 3 * eye, zero)]  # fmt: skip
    prepared = bounds.prepare(build(nodes))
    found = lipsdp._increments(prepared, 4, np.eye(2))
    assert found.neurons.centre == pytest.approx(3 * np.eye(2))
    assert (np.abs(found.inputs.centre) <= 1e-12).all(), "the rest of a ReLU's increment is all w"


def first_line(path: Path) -> tuple[run.Bench, bytes, folder.Row]:
    header = folder.header(path)
    _, line, row = next(iter(run.tasks(path, header)))
    assert row is not None
    return run.bench(path, header), line, row


def test_a_file_that_is_not_there_is_malformed(tmp_path: Path):
    with pytest.raises(c.MalformedError, match="cannot be read"):
        folder.header(tmp_path)


def test_two_processes_give_the_verdicts_of_one():
    assert list(run.results(ACCEPTED, 2)) == list(run.results(ACCEPTED, 1))


def test_verdicts_come_in_the_order_of_many_lines(monkeypatch: pytest.MonkeyPatch):
    """More lines than may wait for two processes at a time."""
    once = list(run.tasks(ACCEPTED, folder.header(ACCEPTED)))
    monkeypatch.setattr(run, "tasks", lambda *_: iter(once * 6))
    assert list(run.results(ACCEPTED, 2)) == list(run.results(ACCEPTED, 1))


def test_a_line_without_an_input_or_of_another_label_is_malformed():
    bench, line, row = first_line(ACCEPTED)
    assert bench.judge(1, line, row).state == "accepted"
    assert bench.judge(1, line, None).reason == "index 0 is out of order"
    assert bench.judge(2, line, row).reason == "index 0 is out of order"
    other = bench.judge(1, line, folder.Row(row.value, row.label + 1))
    assert (other.state, other.step) == ("malformed", "line 1")


def test_a_network_of_alpha_out_of_range_is_rejected(monkeypatch: pytest.MonkeyPatch):
    bench, line, row = first_line(HERE / "accepted" / "adaptive_network")

    def out_of_range(_: c.Claim) -> NoReturn:
        raise c.RejectedError("network", "exceeds 2^200")

    monkeypatch.setattr(bench, "alpha", out_of_range)
    found = bench.judge(1, line, row)
    assert (found.state, found.step) == ("rejected", "network")


def test_the_network_of_alpha_must_be_at_hand():
    bench, line, row = first_line(HERE / "accepted" / "adaptive_network")
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)
    case = Case(bench.robust, bench.standard, row.value, None)
    verdict = judge.check(found, case)
    assert isinstance(verdict, c.Rejected)
    assert verdict.step == "alpha"
    with pytest.raises(c.RejectedError, match="not at hand"):
        prove(found.rule, found.claim, found.evidence, case)


def test_a_proof_that_does_not_fit_in_memory_is_rejected(monkeypatch: pytest.MonkeyPatch):
    bench, line, row = first_line(ACCEPTED)
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)

    def too_large(*_: object) -> NoReturn:
        raise MemoryError("1 TiB")

    monkeypatch.setitem(RULES, found.rule, Rule(type(found.evidence), too_large))
    assert judge.check(found, Case(bench.robust, bench.standard, row.value)) == c.Rejected(
        "memory", "the proof does not fit: 1 TiB"
    )


def test_a_network_of_alpha_that_does_not_fit_in_memory_ends_no_run(monkeypatch: pytest.MonkeyPatch):
    bench, line, row = first_line(ACCEPTED)

    def too_large(*_: object) -> NoReturn:
        raise MemoryError("1 TiB")

    monkeypatch.setattr(bench, "alpha", too_large)
    found = bench.judge(1, line, row)
    assert (found.state, found.step, found.reason) == ("rejected", "memory", "a network does not fit: 1 TiB")


def test_there_is_nothing_to_judge_in_a_line_that_certifies_nothing():
    record = {"format": c.FORMAT, "index": 0, "label": 0, "method": "margin", "outcome": "abstained", "class_of": "mix",
              "alpha": 0.9, "norm": "Linf", "radius": None, "predicted": 0, "reason": "too weak", "advice": "",
              "counterexample": None, "confirmed": False}  # fmt: skip
    line = parse.seal(json.dumps(record)[:-1].encode())
    net = build([c.Input((2,)), c.Linear((0,), np.eye(2, dtype=F32), np.zeros(2, F32))])
    with pytest.raises(c.MalformedError, match="nothing to judge"):
        judge.check_bytes(line, net, None, np.zeros(2, F32))


def test_a_network_out_of_range_is_rejected_before_its_line():
    _, line, _ = first_line(ACCEPTED)
    norm = c.BatchNorm((0,), np.full(2, 2.0**100, F32), *[np.zeros(2, F32)] * 3, epsilon=5e-324)
    found = judge.check_bytes(line, build([c.Input((2,)), norm]), None, np.zeros(2, F32))
    assert isinstance(found, c.Rejected)
    assert found.step == "network"


def adaptive() -> tuple[run.Bench, parse.Certificate, folder.Row, bounds.Prepared]:
    bench, line, row = first_line(HERE / "accepted" / "adaptive_network")
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)
    alpha = bench.alpha(found.claim)
    assert alpha is not None
    return bench, found, row, alpha


def test_only_a_rule_that_knows_adaptive_mixes_judges_one():
    bench, found, row, alpha = adaptive()
    case = Case(bench.robust, bench.standard, row.value, alpha)
    assert isinstance(judge.check(found, case), c.Accepted)
    for rule, evidence in (("network_margin", NetworkMargin(None)), ("pair_margin", PairMargin(None, None))):
        verdict = judge.check(dataclasses.replace(found, rule=rule, evidence=evidence), case)
        assert isinstance(verdict, c.Rejected)
        assert verdict.step == "adaptive"


@pytest.mark.parametrize("name", ["adaptive_clamp", "adaptive_cube", "adaptive_declared", "adaptive_network"])
def test_an_adaptive_mix_needs_a_network_of_alpha_only_if_it_names_one(name: str):
    bench, line, row = first_line(HERE / "accepted" / name)
    assert bench.judge(1, line, row).state == "accepted"


def test_the_network_of_alpha_is_the_one_named_and_fits():
    bench, found, row, alpha = adaptive()
    shape = alpha.network.input_shape
    size = int(np.prod(shape))
    flat: list[c.Node] = [c.Input(shape)] if len(shape) == 1 else [c.Input(shape), c.Flatten((0,))]
    three = build([*flat, c.Linear((len(flat) - 1,), np.zeros((3, size), F32), np.zeros(3, F32))])
    wide = build([c.Input((size + 1,)), c.Linear((0,), np.zeros((2, size + 1), F32), np.zeros(2, F32))])
    assert found.claim.adaptive is not None
    assert found.claim.adaptive.alpha is not None
    cases = (
        (bench.robust.network, None, "another network"),
        (three, three, "must have 2 logits, has 3"),
        (wide, wide, "other inputs"),
    )
    for network, named, reason in cases:
        claim = found.claim
        if named is not None:
            declared = dataclasses.replace(found.claim.adaptive.alpha, network=named.sha256)
            claim = dataclasses.replace(claim, adaptive=dataclasses.replace(found.claim.adaptive, alpha=declared))
        case = Case(bench.robust, bench.standard, row.value, bounds.prepare(network))
        verdict = judge.check(dataclasses.replace(found, claim=claim), case)
        assert isinstance(verdict, c.Rejected)
        assert verdict.step == "alpha"
        assert reason in verdict.reason


def leaky_net(rng: np.random.Generator, slope: float) -> tuple[c.PlainNetwork, list[np.ndarray]]:
    """3 inputs, 4 and 2 LeakyReLU cells, 3 classes; and its weights."""
    weights = [rng.normal(size=shape).astype(F32) for shape in ((4, 3), (2, 4), (3, 2))]
    nodes: list[c.Node] = [c.Input((3,))]
    for k, weight in enumerate(weights):
        nodes.append(c.Linear((len(nodes) - 1,), weight, np.zeros(len(weight), F32)))
        if k < 2:
            nodes.append(c.LeakyRelu((len(nodes) - 1,), slope))
    return build(nodes), [w.astype(float) for w in weights]


def test_the_matrix_inequality_is_the_one_of_the_docstring(monkeypatch: pytest.MonkeyPatch):
    """N = L^2 [[2T - TB - B'T, D'], [D, 1]] - E E', E = [-TA; C], assembled here from the weights by hand."""
    a, y = 0.25, 1
    net, (first, second, third) = leaky_net(np.random.default_rng(0), a)
    seen: list[np.ndarray] = []

    def record(matrix: arb_mat) -> bool:
        size = matrix.nrows()
        seen.append(np.array([float(v.mid()) for v in matrix.entries()]).reshape(size, size))
        return True

    monkeypatch.setattr(lipsdp, "positive_definite", record)
    multipliers, constants = np.random.default_rng(1).uniform(0.1, 1, (3, 6)), np.array([3.0, 0.0, 5.0])
    lipsdp.need_constants(bounds.prepare(net), y, constants, multipliers)
    inputs = np.concatenate([first, a * second @ first])
    feed = np.zeros((6, 6))
    feed[4:, :4] = (1 - a) * second
    for j, found in zip((0, 2), seen, strict=True):
        form = third[j] - third[y]
        t = np.diag(multipliers[j])
        of_inputs = a * a * form @ second @ first
        of_cells = np.concatenate([a * (1 - a) * form @ second, (1 - a) * form])
        top = np.concatenate([2 * t - t @ feed - feed.T @ t, of_cells[:, None]], axis=1)
        block = np.concatenate([top, np.append(of_cells, 1.0)[None]])
        e = np.concatenate([-t @ inputs, of_inputs[None]])
        assert found == pytest.approx(constants[j] ** 2 * block - e @ e.T, abs=1e-12)


def test_multipliers_out_of_range_or_for_too_many_cells_are_rejected(monkeypatch: pytest.MonkeyPatch):
    net, _ = leaky_net(np.random.default_rng(0), 0.5)
    prepared = bounds.prepare(net)

    def encoded(*values: float) -> str:
        return base64.b64encode(np.resize(np.array(values, "<f4"), 18).tobytes()).decode()

    assert (lipsdp._multipliers(encoded(0.0, 1.0), prepared) == np.resize([0.0, 1.0], (3, 6))).all()
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(c.RejectedError, match="multipliers"):
            lipsdp._multipliers(encoded(1.0, bad), prepared)
    monkeypatch.setattr(lipsdp, "MAX_NEURONS", 6)
    lipsdp._multipliers(encoded(1.0), prepared)
    monkeypatch.setattr(lipsdp, "MAX_NEURONS", 5)
    with pytest.raises(c.RejectedError, match="activations"):
        lipsdp._multipliers(encoded(1.0), prepared)
    linear = build([c.Input((2,)), c.Linear((0,), np.eye(2, dtype=F32), np.zeros(2, F32))])
    with pytest.raises(c.RejectedError, match="activations"):
        lipsdp._multipliers("", bounds.prepare(linear))


def test_only_surely_positive_definite_matrices_pass():
    assert lipsdp.positive_definite(arb_mat([[2, 1], [1, 2]]))
    for entries in ([[1, 2], [2, 1]], [[0, 0], [0, 1]], [[-1, 0], [0, 1]], [[1, 1], [1, 1]]):
        assert not lipsdp.positive_definite(arb_mat(entries))
    assert not lipsdp.positive_definite(arb_mat([[arb(2), arb(1, 1.5)], [arb(1, 1.5), arb(2)]])), "may be [[2, 2.5], …"


# ---------------------------------------------------------------- counts and confidence (smoothing)


def proves(count: int, draws: int, lower: float, share: float) -> bool:
    try:
        smoothing._need_tail(count, draws, lower, share)
    except c.RejectedError:
        return False
    return True


def exact_tail(count: int, draws: int, p: float) -> Fraction:
    q = Fraction(p)
    return sum((math.comb(draws, k) * q**k * (1 - q) ** (draws - k) for k in range(count, draws + 1)), Fraction(0))


def test_a_lower_bound_is_proven_exactly_up_to_clopper_and_pearsons():
    rng = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(300):
        draws = int(rng.integers(1, 40))
        count, lower = int(rng.integers(1, draws + 1)), float(rng.uniform())
        tail = exact_tail(count, draws, lower)
        for share in (float(tail) * (1 - 1e-9), float(tail) * (1 + 1e-9), 0.01):
            expected = tail <= Fraction(share)
            assert proves(count, draws, lower, share) == expected
            seen[expected] += 1
    assert min(seen.values()) > 200


@pytest.mark.parametrize(
    ("count", "lower", "fine"),
    [(0, 0.0, True), (5, 0.0, True), (10, 0.0, True), (0, 0.1, False), (0, 5e-324, False), (10, 1.0, False),
     (10, 1.5, False), (5, -0.1, False), (10, 0.1, True)],
)  # fmt: skip
def test_a_bound_of_a_probability_lies_in_zero_to_one_and_zero_needs_no_draw(count: int, lower: float, fine: bool):
    assert proves(count, 10, lower, 0.5) == fine


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_the_cheap_tail_bound_is_above_the_exact_tail(p: float):
    for count in range(1, 31):
        with ctx.workprec(128):
            bound = smoothing._tail_up(count, 30, p)
            exact = exact_tail(count, 30, p)
            assert not bound < arb(exact.numerator) / exact.denominator


def test_counts_fit_thresholds_and_draws():
    assert smoothing._totals((0.0, 1.0), ((4, 4), (6, 0)), 10, -1.0) == [10, 4]
    wrong = [
        ((), ((),), "thresholds"),
        ((0.5, 1.5), ((1, 1),), "thresholds"),
        ((0.5, 0.5), ((1, 1),), "thresholds"),
        ((-1.0, 0.5), ((1, 1),), "thresholds"),
        ((0.0, 1.0), (), "counts"),
        ((0.0, 1.0), ((4, 4), (6,)), "counts"),
        ((0.0, 1.0), ((4, 5),), "counts"),
        ((0.0, 1.0), ((4, -1),), "counts"),
        ((0.0, 1.0), ((4, 4), (7, 0)), "counts"),
    ]
    for thresholds, counts, step in wrong:
        with pytest.raises(c.RejectedError) as caught:
            smoothing._totals(thresholds, counts, 10, -1.0)
        assert caught.value.step == step


@pytest.mark.parametrize("lower", [0.0, 1.0, -0.5, 1.5])
def test_a_mean_bet_on_lies_strictly_inside_zero_to_one(lower: float):
    with pytest.raises(c.RejectedError, match="not inside"):
        smoothing._need_mean(smoothing.Mean((1.0,), ((10,),), (0.5,), lower, 0.5), 10)


def test_a_group_without_classes_covers_nobody():
    bench, _, row = first_line(ACCEPTED)
    case = Case(bench.robust, bench.standard, row.value)
    rivals = tuple(i for i in range(bench.robust.network.classes) if i != 0)
    claim = dataclasses.replace(parse_claim(), predicted=0)
    smoothing._need_cover(claim, case, [rivals])
    for groups in ([], [rivals, ()], [()], [rivals[:-1]], [(0, *rivals)]):
        with pytest.raises(c.RejectedError, match="rivals"):
            smoothing._need_cover(claim, case, groups)


def parse_claim() -> c.Claim:
    found = parse.line(first_line(ACCEPTED)[1], EVIDENCE)
    assert isinstance(found, parse.Certificate)
    return found.claim


@pytest.mark.parametrize(("count", "lower"), [(0, 0.1), (0, 5e-324), (10, 1.0), (10, 1.5), (5, -0.1)])
def test_what_is_no_bound_of_a_probability_is_called_so(count: int, lower: float):
    with pytest.raises(c.RejectedError, match="is not a probability below 1, or from no draw"):
        smoothing._need_tail(count, 10, lower, 0.5)


@pytest.mark.parametrize("bets", [(0.0,), (2.0,), (4.0,), (0.5, -0.5), (0.5, 2.0)])
def test_a_bet_must_be_positive_and_leave_something(bets: tuple[float, ...]):
    """At lower 1/2 a stake of 2 loses everything on a draw of 0."""
    with pytest.raises(c.RejectedError, match="risks ruin"):
        smoothing._need_mean(smoothing.Mean((1.0,), ((10,),), bets, 0.5, 0.5), 10)


@pytest.mark.parametrize(("samples", "fine"), [(0, False), (1, True), (2**40, True), (2**40 + 1, False)])
def test_a_look_has_between_one_and_2_to_the_40_draws(samples: int, fine: bool):
    asked = c.Smoothing(1.0, "soft", 0.01)
    sample = smoothing.Sample(0, 0, "float32", (smoothing.Look(samples, 0.01),), 0, 0.0)
    if fine:
        assert smoothing._need_split(asked, sample, [Fraction(1, 1000)]) == samples
        return
    with pytest.raises(c.RejectedError, match="2\\^40"):
        smoothing._need_split(asked, sample, [Fraction(1, 1000)])


def test_a_probability_of_zero_sinks_to_zero():
    assert smoothing._sunk(arb(0), arb(1)) == 0
    assert smoothing._sunk(arb(0.5), arb(0)) < 0.5 + 1e-12
    assert smoothing._sunk(arb(0.5), arb(1)) < 0.16


def test_a_smoothing_rule_is_about_smoothed_classifiers():
    bench, _, row = first_line(ACCEPTED)
    with pytest.raises(c.RejectedError, match="no smoothed classifier"):
        smoothing._scope(parse_claim(), Case(bench.robust, bench.standard, row.value))

"""A claim is judged against the networks it names, and only by a rule that is about such claims."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from stored_cases import ACCEPTED, first_line

from proofs_check import certificate as c
from proofs_check import judge, run
from proofs_check.kernel import bounds
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE, prove
from proofs_check.rules.case import Case
from proofs_check.rules.margin.rule import NetworkMargin, PairMargin
from verifiers.network.module import build

HERE = Path(__file__).resolve().parent


F32 = np.float32


def test_the_network_of_alpha_must_be_at_hand():
    session, line, row = first_line(HERE / "accepted" / "adaptive_network")
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)
    case = Case(session.robust, session.standard, row.value, None)
    verdict = judge.check(found, case)
    assert isinstance(verdict, c.Rejected)
    assert verdict.step == "alpha"
    with pytest.raises(c.RejectedError, match="not at hand"):
        prove(found.rule, found.claim, found.evidence, case)


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


def adaptive() -> tuple[run.ProcessJudge, parse.Certificate, folder.Row, bounds.Prepared]:
    session, line, row = first_line(HERE / "accepted" / "adaptive_network")
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)
    alpha = session.alpha(found.claim)
    assert alpha is not None
    return session, found, row, alpha


def test_only_a_rule_that_knows_adaptive_mixes_judges_one():
    session, found, row, alpha = adaptive()
    case = Case(session.robust, session.standard, row.value, alpha)
    assert isinstance(judge.check(found, case), c.Accepted)
    for rule, evidence in (("network_margin", NetworkMargin(None)), ("pair_margin", PairMargin(None, None))):
        verdict = judge.check(dataclasses.replace(found, rule=rule, evidence=evidence), case)
        assert isinstance(verdict, c.Rejected)
        assert verdict.step == "adaptive"


def test_the_network_of_alpha_is_the_one_named_and_fits():
    session, found, row, alpha = adaptive()
    shape = alpha.network.input_shape
    size = int(np.prod(shape))
    flat: list[c.Node] = [c.Input(shape)] if len(shape) == 1 else [c.Input(shape), c.Flatten((0,))]
    three = build([*flat, c.Linear((len(flat) - 1,), np.zeros((3, size), F32), np.zeros(3, F32))])
    wide = build([c.Input((size + 1,)), c.Linear((0,), np.zeros((2, size + 1), F32), np.zeros(2, F32))])
    assert found.claim.adaptive is not None
    assert found.claim.adaptive.alpha is not None
    cases = (
        (session.robust.network, None, "another network"),
        (three, three, "must have 2 logits, has 3"),
        (wide, wide, "other inputs"),
    )
    for network, named, reason in cases:
        claim = found.claim
        if named is not None:
            declared = dataclasses.replace(found.claim.adaptive.alpha, network=named.sha256)
            claim = dataclasses.replace(claim, adaptive=dataclasses.replace(found.claim.adaptive, alpha=declared))
        case = Case(session.robust, session.standard, row.value, bounds.prepare(network))
        verdict = judge.check(dataclasses.replace(found, claim=claim), case)
        assert isinstance(verdict, c.Rejected)
        assert verdict.step == "alpha"
        assert reason in verdict.reason

"""A run as a whole: its networks, worker processes, order, memory, ends of streams."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NoReturn

import hostile as ho
import numpy as np
import pytest
from stored_cases import ACCEPTED, first_line

from proofs_check import certificate as c
from proofs_check import judge, run
from proofs_check.kernel import bounds
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE, RULES, Rule
from proofs_check.rules.case import Case
from verifiers.network.module import build

F32 = np.float32


def test_one_network_of_alpha_is_kept_at_a_time(tmp_path: Path):
    (tmp_path / "networks").mkdir()
    networks = [build([c.Input((2,)), c.Linear((0,), k * np.eye(2, dtype=F32), np.zeros(2, F32))]) for k in range(1, 4)]
    case = Case(bounds.prepare(networks[0]), None, np.zeros(2, F32))
    session = run.ProcessJudge(functools.partial(folder.network, tmp_path), case.robust, None)
    for network in networks:
        (tmp_path / "networks" / f"{network.sha256}.safetensors").write_bytes(network.data)
        named = c.Adaptive(c.InputAlpha(network.sha256, 0.5, 1.0), None)
        found = session.alpha(ho.claim_of(case, adaptive=named))
        assert found is not None
        assert found.network.sha256 == network.sha256
        assert found is session.alpha(ho.claim_of(case, adaptive=named)), "read once"
        assert len(session.alphas) == 1


HERE = Path(__file__).resolve().parent


def test_a_worker_process_judges_as_the_main_one_does():
    opened = run.Run(ACCEPTED)
    run._start(ACCEPTED, opened.header)
    here = run.open_judge(ACCEPTED, opened.header)
    tasks = list(opened.tasks())
    assert [run._work(*task) for task in tasks] == [here.measured(*task) for task in tasks]
    assert {run._work(*task).state for task in tasks} >= {"accepted"}


def test_two_processes_give_the_verdicts_of_one():
    assert list(run.Run(ACCEPTED).results(2)) == list(run.Run(ACCEPTED).results(1))


def test_verdicts_come_in_the_order_of_many_lines(monkeypatch: pytest.MonkeyPatch):
    """More lines than may wait for two processes at a time."""
    once = list(run.Run(ACCEPTED).tasks())
    monkeypatch.setattr(run.Run, "tasks", lambda _: iter(once * 6))
    assert list(run.Run(ACCEPTED).results(2)) == list(run.Run(ACCEPTED).results(1))


def test_a_line_without_an_input_or_of_another_label_is_malformed():
    session, line, row = first_line(ACCEPTED)
    assert session.judge(0, line, row).state == "accepted"
    assert session.judge(0, line, None).reason == "index 0 is out of order, or there is no such input"
    assert session.judge(1, line, row).reason == "index 0 is out of order, or there is no such input"
    other = session.judge(0, line, folder.Row(row.value, row.label + 1))
    assert (other.state, other.step) == ("malformed", "input 0")


def test_a_network_of_alpha_that_is_not_there_makes_its_line_malformed(tmp_path: Path):
    session, line, row = first_line(HERE / "accepted" / "adaptive_network")
    session.networks = functools.partial(folder.network, tmp_path)
    found = session.judge(0, line, row)
    assert (found.state, found.line) == ("malformed", None)
    assert found.step is not None
    assert found.step.endswith(".safetensors")


def test_a_network_of_alpha_out_of_range_is_rejected(monkeypatch: pytest.MonkeyPatch):
    session, line, row = first_line(HERE / "accepted" / "adaptive_network")

    def out_of_range(_: c.Claim) -> NoReturn:
        raise c.RejectedError("network", "exceeds 2^200")

    monkeypatch.setattr(session, "alpha", out_of_range)
    found = session.judge(0, line, row)
    assert (found.state, found.step) == ("rejected", "network")


def test_a_proof_that_does_not_fit_in_memory_is_rejected(monkeypatch: pytest.MonkeyPatch):
    session, line, row = first_line(ACCEPTED)
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)

    def too_large(*_: object) -> NoReturn:
        raise MemoryError("1 TiB")

    monkeypatch.setitem(RULES, found.rule, Rule(type(found.evidence), too_large))
    assert judge.check(found, Case(session.robust, session.standard, row.value)) == c.Rejected(
        "memory", "the proof does not fit: 1 TiB"
    )


def test_a_network_of_alpha_that_does_not_fit_in_memory_ends_no_run(monkeypatch: pytest.MonkeyPatch):
    session, line, row = first_line(ACCEPTED)

    def too_large(*_: object) -> NoReturn:
        raise MemoryError("1 TiB")

    monkeypatch.setattr(session, "alpha", too_large)
    found = session.judge(0, line, row)
    assert (found.state, found.step, found.reason) == ("rejected", "memory", "a network does not fit: 1 TiB")


@pytest.mark.parametrize("name", ["adaptive_clamp", "adaptive_cube", "adaptive_declared", "adaptive_network"])
def test_an_adaptive_mix_needs_a_network_of_alpha_only_if_it_names_one(name: str):
    session, line, row = first_line(HERE / "accepted" / name)
    assert session.judge(0, line, row).state == "accepted"

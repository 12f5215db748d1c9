"""The command: exit codes, options, and what it prints of hostile folders."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from every_rule import H, X, a_run, abstained, claim_of, ones, out_of_range
from stored_cases import ACCEPTED

from certmix.records.lines import certificate_line
from proofs_check import __main__ as command
from proofs_check import certificate as c
from proofs_check.rules.margin.rule import NetworkMargin


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


def test_a_run_of_a_network_out_of_range_is_rejected_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    network = out_of_range()
    line = certificate_line(0, 0, "margin", claim_of(network, ones(2)), "network_margin", NetworkMargin(None))
    assert command.main([str(a_run(tmp_path, network, [line], ones(2)))]) == 1
    assert "rejected network: " in capsys.readouterr().out


def test_a_reason_cannot_pass_for_a_verdict_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    forged = "x\naccepted  line 2: radius 9.0 by network_margin\r\x1b[2K"
    assert command.main([str(a_run(tmp_path, H, [abstained(forged)], X))]) == 0
    shown = capsys.readouterr().out
    assert not any(text.startswith("accepted") for text in shown.splitlines())
    assert "\x1b" not in shown


def test_a_reason_that_cannot_be_printed_is_malformed(tmp_path: Path):
    assert command.main([str(a_run(tmp_path, H, [abstained("\ud800")], X))]) == 2

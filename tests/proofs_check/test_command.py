"""The command: exit codes, options, and what it prints of hostile folders."""

from __future__ import annotations

import argparse
import decimal
import io
import json
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import pytest
from every_rule import H, X, a_run, abstained, claim_of, ones, out_of_range
from hypothesis import given
from hypothesis import strategies as st
from stored_cases import ACCEPTED

from certmix.records.lines import certificate_line
from proofs_check import __main__ as command
from proofs_check import certificate as c
from proofs_check.reading import parse
from proofs_check.rules.margin.rule import NetworkMargin
from proofs_check.run import Run
from proofs_check.words import down


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (c.RejectedError("network", "exceeds 2^200"), 1, "rejected network: exceeds 2^200"),
        (MemoryError("no more"), 1, "rejected memory"),
        (c.MalformedError("input 3", "is not JSON"), 2, "malformed input 3: is not JSON"),
        (BrokenProcessPool("killed"), 1, "rejected memory: a process of the judge was ended"),
    ],
)
def test_a_run_that_breaks_off_says_why(
    error: Exception, code: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(_: Run) -> Iterator[NoReturn]:
        raise error
        yield

    monkeypatch.setattr(Run, "tasks", broken)
    assert command.main([str(ACCEPTED), "--jobs", "2"]) == code
    assert word in capsys.readouterr().out
    assert command.main([str(ACCEPTED), "--jobs", "2", "--json"]) == code
    *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["problem"]["reason"]


def test_an_interrupted_judge_says_nothing_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(_: Run) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "tasks", interrupted)
    assert command.main([str(ACCEPTED)]) == 130
    assert capsys.readouterr().out == ""


def test_where_its_reader_has_left_the_command_ends_as_by_the_signal(monkeypatch: pytest.MonkeyPatch):
    said: list[tuple[int, int]] = []

    def left(_: argparse.Namespace) -> NoReturn:
        raise BrokenPipeError

    monkeypatch.setattr(command, "judge", left)
    monkeypatch.setattr(os, "dup2", lambda old, new: said.append((os.fstat(old).st_rdev, new)))
    assert command.main([str(ACCEPTED)]) == 128 + signal.SIGPIPE
    assert said == [(os.stat(os.devnull).st_rdev, 1)]


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
    forged = "x\naccepted  input 2: class 1, radius 9.0\r\x1b[2K"
    assert command.main([str(a_run(tmp_path, H, [abstained(forged)], X)), "--verbose"]) == 0
    shown = capsys.readouterr().out
    assert not any(text.startswith("accepted") for text in shown.splitlines())
    assert "\x1b" not in shown


def test_a_reason_that_cannot_be_printed_is_malformed(tmp_path: Path):
    assert command.main([str(a_run(tmp_path, H, [abstained("\ud800")], X))]) == 2


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "certificates.jsonl").read_bytes().splitlines()]


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    """Of four certificates one claims too much, and one is of another label."""
    folder = tmp_path / "run"
    shutil.copytree(ACCEPTED, folder)
    lines = lines_of(folder)
    lines[1]["radius"], lines[2]["label"] = 3.0, 1 - lines[2]["label"]
    sealed = [seal({n: v for n, v in line.items() if n != "sha256"}) for line in lines]
    (folder / "certificates.jsonl").write_bytes(b"".join(line + b"\n" for line in sealed))
    return folder


def seal(value: dict[str, Any]) -> bytes:
    return parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1])


def test_what_is_not_accepted_is_named_by_its_input_and_the_rest_is_counted(
    refused: Path, capsys: pytest.CaptureFixture[str]
):
    assert command.main([str(refused)]) == 2
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("rejected  input 1: ")
    assert second.startswith("malformed input 2: label ")
    assert rest[0] == "Certified: 2 of 4 inputs, 2 of them as the label's class."
    assert rest[-2:] == ["2 accepted, 1 rejected, 1 malformed", "assumptions: none beyond exact export"]


def test_quiet_and_verbose_say_less_and_more(refused: Path, capsys: pytest.CaptureFixture[str]):
    said: dict[str, list[str]] = {}
    for option in ("--quiet", "--verbose"):
        assert command.main([str(refused), option]) == 2
        said[option] = capsys.readouterr().out.splitlines()
    assert said["--quiet"][0].startswith("Certified: ")
    assert said["--verbose"][4:] == said["--quiet"]
    assert [text.split(":")[0] for text in said["--verbose"][:4]] == [
        "accepted  input 0", "rejected  input 1", "malformed input 2", "accepted  input 3",
    ]  # fmt: skip
    size = len((refused / "certificates.jsonl").read_bytes().splitlines()[0])
    assert re.search(rf"; {size} bytes, judged in \d+\.\d\d s$", said["--verbose"][0])


def test_the_objects_hold_all_that_a_page_needs(refused: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main([str(refused), "--json"]) == 2
    *found, run = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    lines = lines_of(refused)
    assert [n["index"] for n in found] == [0, 1, 2, 3]
    assert [n["state"] for n in found] == ["accepted", "rejected", "malformed", "accepted"]
    assert [n["bytes"] for n in found] == [len(b) for b in (refused / "certificates.jsonl").read_bytes().splitlines()]
    for verdict, line in zip(found, lines, strict=True):
        if verdict["state"] != "malformed":
            names = ("label", "predicted", "class_of", "alpha", "radius", "method")
            assert [verdict[n] for n in names] == [line[n] for n in names]
            assert verdict["rule"] == line["evidence"]["rule"]
            assert 0 <= Fraction(line["radius"]) - Fraction(verdict["radius_down"]) < Fraction(line["radius"]) / 10**15
    accepted = [lines[k] for k in (0, 3)]
    shared = ("norm", "alpha", "temperature", "class_of", "domain", "semantics", "robust", "standard", "smoothing")
    assert {n: run["claim"][n] for n in shared} == {n: accepted[0][n] for n in shared}
    assert run["claim"]["radii"] == sorted(line["radius"] for line in accepted)
    assert run["claim"]["radius"] is None
    assert not {"predicted", "input"} & set(run["claim"])
    assert (run["count"], run["correct"], run["problem"]) == (4, 2, None)
    assert run["summary"] == {"accepted": 2, "rejected": 1, "malformed": 1, "abstained": 0, "falsified": 0}
    for name in ("run.json", "certificates.jsonl"):
        assert run["digests"][name] == sha256((refused / name).read_bytes()).hexdigest()
    header = json.loads((refused / "run.json").read_bytes())
    assert all(run["digests"][n] == header[n] for n in ("dataset", "robust", "standard"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("margin_linf", ("Linf radius of its certificate (0.0581665 to 0.0759277)", "alpha = 0.75 and T = 1.0")),
        ("margin_float32", ("within Linf radius 0.003 of the input", "as computed in IEEE float32")),
        (
            "margin_temperature",
            ("alpha = 0.6 and T = 4.0", "every coordinate in [0.0, 1.0]", "it is the one that h gives the input"),
        ),
        ("pair", ("it is the one that the mix gives the input", "g is the network 7900")),
        ("engine_trusted", ("Assumed by 4 of them: bounds were taken from an engine and not re-derived.",)),
        (
            "smoothing_hard",
            ("it is the one that the smoothed h gives", "softmax(T h) is replaced by the mean of its one-hot"),
        ),
        ("smoothing_soft", ("standard deviation 0.05", "probability at most 0.001", "were not recounted.")),
        ("adaptive_clamp", ("alpha softmax(T M(h))", "M(z) is max(z + 0.5, 0)^2.0")),
        ("adaptive_cube", ("M(z) is sign(z + 0.0) |z + 0.0|^3.0",)),
        (
            "adaptive_network",
            ("(1 - a(x)) softmax(g) + a(x) softmax(T h) with T = 1.0", "a(x) is given by the network"),
        ),
        ("adaptive_declared", ("a(x) is any function between 0.75 and 1.0",)),
    ],
)
def test_the_claim_is_said_in_words(name: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert command.main([str(ACCEPTED.parent / name), "--quiet"]) == 0
    text = capsys.readouterr().out
    for part in words:
        assert part in text
    assert ("M(" in text) == (name in ("adaptive_clamp", "adaptive_cube"))
    assert ("float32" in text) == (name == "margin_float32")
    assert ("smoothed" in text) == name.startswith("smoothing")


def test_nothing_accepted_is_no_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = a_run(tmp_path, H, [abstained("none")], X)
    assert command.main([str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "Certified: none of 1 inputs.",
        "0 accepted, 0 rejected, 1 abstained",
    ]
    assert command.main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["claim"] is None


@given(st.floats(min_value=0, allow_infinity=False, allow_nan=False), st.integers(1, 17))
def test_a_displayed_radius_is_never_above_the_proven_one(value: float, digits: int):
    shown = Fraction(decimal.Decimal(down(value, digits)))
    assert shown <= Fraction(value)
    assert (Fraction(value) - shown) * 10 ** (digits - 1) <= Fraction(value)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_to_a_terminal_and_wiped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for options, shown in (([], True), (["--quiet"], False), (["--verbose"], True)):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert command.main([str(ACCEPTED), *options]) == 0
        assert ("judging #######" in terminal.getvalue()) == shown
        assert terminal.getvalue().endswith("\r\x1b[K") == shown
    assert "judging" not in capsys.readouterr().out

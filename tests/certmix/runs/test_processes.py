"""Tasks in several processes: the bytes of one, whatever dies on the way; and what memory cannot hold, in halves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pretender import TASKS, offspring, pretender, why
from small_runs import audit, contents

from certmix.errors import UsageError
from certmix.runs.attempts import WorkerError
from certmix.runs.audit import Audit
from certmix.runs.batches import here
from certmix.runs.processes import Processes
from certmix.runs.store import FINAL


@pytest.fixture
def some(digits: Path, tmp_path: Path) -> Audit:
    return audit(digits, tmp_path / "unused")


def test_two_processes_write_the_run_of_one(digits: Path, tmp_path: Path):
    assert audit(digits, tmp_path / "here").run() == 0
    assert audit(digits, tmp_path / "there", Processes(2)).run() == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert FINAL in contents(tmp_path / "here")


def test_an_input_that_kills_is_said_to_and_the_others_are_proven(some: Audit):
    said = why(Processes(1)(pretender(some, fault="kill"), TASKS))
    assert said.pop(3) == "the process that proves it ended by SIGKILL, as where memory runs out"
    assert said == {n: f"pretended with {k}" for n, k in ((0, 2), (1, 2), (2, 1), (4, 1))}


def test_a_process_that_is_killed_leaves_no_trace(some: Audit, tmp_path: Path):
    said = why(Processes(1)(pretender(some, fault="kill", once=tmp_path / "killed"), TASKS))
    assert (tmp_path / "killed").exists()
    assert list(map(said.get, range(5))) == [f"pretended with {n}" for n in (2, 2, 2, 2, 1)]


@pytest.mark.parametrize(("fault", "error", "text"), [
    ("usage", UsageError, "input 3 is odd"),
    ("bug", WorkerError, "ZeroDivisionError: deep inside"),
    ("unborn", WorkerError, "ended with exit code 1 before it could begin"),
])  # fmt: skip
def test_what_is_wrong_in_a_process_is_raised_here(some: Audit, fault: str, error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        list(Processes(1)(pretender(some, fault=fault), TASKS))


@pytest.mark.parametrize("execute", [here, Processes(1)], ids=["here", "elsewhere"])
def test_memory_that_runs_out_halves_a_batch_until_an_input_is_left_alone(some: Audit, execute: Any):
    said = why(execute(pretender(some, fault="memory", least=2), TASKS))
    assert list(map(said.get, range(5))) == [f"pretended with {n}" for n in (2, 2, 1, 1, 1)]


def test_an_input_too_large_for_memory_is_said_to_be(some: Audit):
    said = why(here(pretender(some, fault="memory"), TASKS))
    assert "memory runs out on this input alone" in said.pop(3)
    assert said == {n: f"pretended with {k}" for n, k in ((0, 2), (1, 2), (2, 1), (4, 1))}


def test_another_error_is_raised_here_too(some: Audit):
    with pytest.raises(ZeroDivisionError):
        list(here(pretender(some, fault="bug"), TASKS))


def test_a_run_that_is_told_to_stop_says_how_to_go_on_and_leaves_no_process(digits: Path, tmp_path: Path):
    words = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx"), "--alpha", "0.75"]
    words += ["--data", str(digits / "audit.npz"), "--branch", "100", "--jobs", "2", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "certmix", "audit", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 120
        while len(children := list(offspring(process.pid))) < 2:  # and the interpreter's tracker of resources
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "run the same command again to go on" in said
    while any(Path(f"/proc/{child}").exists() for child in children):  # as soon as they notice
        assert time.monotonic() < deadline + 60
        time.sleep(0.05)

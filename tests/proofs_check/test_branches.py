"""The judge's corners: what happens at the end of a stream, in a worker process, to a node that nothing uses."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from proofs_check import __main__ as command
from proofs_check import bounds, folder, run, shapes
from proofs_check import certificate as c
from proofs_check.rules import lipsdp
from verifiers.plain import build

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

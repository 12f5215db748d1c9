"""A run is a function of its tasks, and tells what it does (test_processes.py: in other processes)."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from small_runs import Recorder, audit

from certmix.runs.batches import Task, Worker
from certmix.runs.listener import After, Before, SoFar


def test_a_worker_travels_without_what_it_prepared(digits: Path, tmp_path: Path):
    of = audit(digits, tmp_path)
    worker = Worker(of.standard, of.robust, of.data.inputs, of.data.labels, of.settings, of.prover)
    first = worker(Task(0, 1))
    assert worker.prepared
    again = pickle.loads(pickle.dumps(worker))
    assert not again.prepared
    assert again(Task(0, 1)).lines == first.lines


def test_a_run_tells_its_listener_and_prints_nothing(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recorder = Recorder()
    assert audit(digits, tmp_path / "run", listener=recorder).run() == 0
    before, *progress, after = recorder.heard
    assert isinstance(before, Before)
    assert before.inputs == 5
    assert progress == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert isinstance(after, After)
    assert after.certified + (after.attackable or 0) + (after.open or 0) == 5
    assert recorder.so_far == SoFar(after.certified, after.attackable or 0, after.open or 0)
    assert capsys.readouterr().out == ""

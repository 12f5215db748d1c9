"""A run is a function of its tasks: executed in another process it writes the same bytes; and it tells what it does."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from certmix.data.dataset import load_data
from certmix.models.model import load_model
from certmix.runs.audit import Audit
from certmix.runs.batches import Batch, Executor, Task, Worker, here
from certmix.runs.listener import After, Before, Listener
from certmix.runs.store import FINAL, Store
from certmix.settings import Settings


class Recorder(Listener):
    """Remembers everything that it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def before(self, found: Before) -> None:
        self.heard.append(found)

    def progress(self, done: int, total: int) -> None:
        self.heard.append((done, total))

    def after(self, found: After) -> None:
        self.heard.append(found)


def audit(digits: Path, out: Path, execute: Executor = here, listener: Listener | None = None) -> Audit:
    standard, robust = (load_model(digits / f"{name}.onnx") for name in ("standard", "robust"))
    settings = Settings(alpha=0.75, batch_size=2, tolerance=0.1, optimise=1, attack_steps=2)
    data = load_data(digits / "audit.npz", 5)
    return Audit(standard, robust, data, settings, Store(out), execute=execute, listener=listener or Listener())


def elsewhere(work: Callable[[Task], Batch], tasks: Iterable[Task]) -> Iterator[Batch]:
    """In a process that shares nothing with this one; every task takes its worker along."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield from pool.map(work, tasks)


def contents(out: Path) -> dict[str, bytes]:
    told = ("audit.json", "provenance.json")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name not in told}


def test_tasks_executed_in_another_process_write_the_same_run(digits: Path, tmp_path: Path):
    assert audit(digits, tmp_path / "here").run() == 0
    assert audit(digits, tmp_path / "there", elsewhere).run() == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert FINAL in contents(tmp_path / "here")


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
    assert capsys.readouterr().out == ""

"""A small audit of the bundled digits, as tests of runs make it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from certmix.data.dataset import load_data
from certmix.models.model import load_model
from certmix.runs.audit import Audit
from certmix.runs.batches import Executor, here
from certmix.runs.listener import After, Before, Listener, SoFar
from certmix.runs.store import Store
from certmix.settings import Settings


class Recorder(Listener):
    """Remembers everything that it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.so_far: SoFar | None = None

    def before(self, found: Before) -> None:
        self.heard.append(found)

    def progress(self, done: int, total: int, so_far: SoFar | None = None) -> None:
        assert so_far is None or sum(dataclasses.astuple(so_far)) <= done
        self.heard.append((done, total))
        self.so_far = so_far

    def after(self, found: After) -> None:
        self.heard.append(found)


def audit(digits: Path, out: Path, execute: Executor = here, listener: Listener | None = None) -> Audit:
    standard, robust = (load_model(digits / f"{name}.onnx") for name in ("standard", "robust"))
    settings = Settings(alpha=0.75, batch_size=2, tolerance=0.1, optimise=1, attack_steps=2)
    data = load_data(digits / "audit.npz", 5)
    return Audit(standard, robust, data, settings, Store(out), execute=execute, listener=listener or Listener())


def contents(out: Path) -> dict[str, bytes]:
    told = ("audit.json", "provenance.json")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name not in told}

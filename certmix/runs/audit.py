"""One run over a dataset: proven batch by batch, written as it goes, resumed where it was interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from certmix.data import doubts
from certmix.data.dataset import Dataset
from certmix.mixing.adaptive import AdaptiveMix
from certmix.models.faithfulness import Faithfulness
from certmix.models.model import Model, about_probabilities
from certmix.models.onnx.ends import Asked
from certmix.provers.certify import Prover, prove
from certmix.provers.problem import named
from certmix.provers.smoothing.evaluation import mix_predictions
from certmix.records import attack_archive
from certmix.records.bound_archive import ArchiveWriter
from certmix.records.unfinished import Desk
from certmix.runs import provenance
from certmix.runs.batches import Executor, Refuted, Task, Worker, here
from certmix.runs.cross_check import CrossCheck, cross_check
from certmix.runs.listener import After, Before, Listener, SoFar
from certmix.runs.provenance import Provenance
from certmix.runs.shards import WHOLE, Part, Shard, cut, gaps
from certmix.runs.store import ENDS, LABELS, OPAQUE, Store, Writer, dataset_sha256
from certmix.settings import BEST, Settings
from proofs_check.reading.parse import RunHeader

SMOOTHING_BATCH = 4  # inputs between two savings: each takes all its draws
RECORD = "audit.json"
SUMS, COST = ("seconds", "inputs"), "largest_relative_cost_of_judging"  # of a record
EVALUATION_DRAWS = 1_000  # behind the printed clean accuracy of a smoothed mix


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
    """One run over a dataset. prover: what answers for a batch of inputs. adaptive: the mix that settings.adaptive is
    about. provenance: is recorded beside the run, if it is known. listener: is told how it goes. execute: runs the
    tasks. shard: what of the inputs to prove; the run is finished once all are there.

    Results depend on the settings, batch_size and threads among them, and on the processor; not on where a run was
    interrupted: batches begin at multiples of their size, and one that is not whole is proven again.
    """

    standard: Model
    robust: Model
    data: Dataset
    settings: Settings
    store: Store
    prover: Prover = prove
    adaptive: AdaptiveMix | None = None
    provenance: Provenance | None = None
    listener: Listener = dataclasses.field(default_factory=Listener)
    execute: Executor = here
    shard: Part = WHOLE

    def run(self) -> int:
        """Prove, write, finish; the exit code."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.settings.threads)
        try:
            with self.store.locked():
                return self._run()
        finally:
            self.listener.stopped()
            torch.set_num_threads(threads)

    def _run(self) -> int:
        of_alpha = None if self.adaptive is None else self.adaptive.network
        networks = [n for n in (self.standard.network, self.robust.network, of_alpha) if n is not None]
        inputs = np.ascontiguousarray(self.data.inputs, dtype=np.float32)
        self._worker().problem(Task(0, 1))  # misuse shows before anything is written
        kept = [m.onnx for m in (self.standard, self.robust) if m.network is None and m.onnx is not None]
        self.store.open(self.header(), networks, inputs, self.data.labels, kept)
        done, damaged = self.store.done(self._batch_size())
        tasks = self._tasks(done)
        if self.provenance is not None:
            sessions = provenance.sessions(self.store.path)
            self.store.write_json(provenance.NAME, [*sessions, provenance.session(self.provenance)])
        faithfulness = {
            name: m.compared_at(inputs) for name, m in (("standard", self.standard), ("robust", self.robust))
        }
        clean = self._clean()
        self.listener.before(self._before(clean, faithfulness, damaged))
        started = time.monotonic()
        proposed = self._certify(tasks)
        seconds, compared = time.monotonic() - started, self._compared()
        record = self._record(seconds, tasks, proposed, clean, faithfulness)
        if compared is not None:
            record["cross_check"] = dataclasses.asdict(compared)
        self.store.write_json(RECORD, record)
        after, refuted = self._after(tasks, proposed, compared)
        if after.missing == 0:
            self.store.finish()
        self.listener.after(after)
        return 1 if refuted else 0

    def header(self) -> RunHeader:
        problem = self._worker().problem(Task(0, 1))
        standard, robust = problem.stated_standard, problem.stated
        kept = {} if self.standard.onnx is None else {OPAQUE: hashlib.sha256(self.standard.onnx).hexdigest()}
        return RunHeader(
            standard=None if standard is None else named(standard),
            robust=named(robust),
            dataset=dataset_sha256(self.data.inputs, self.data.labels),
            count=len(self.data.inputs),
            settings={
                **dataclasses.asdict(self.settings),
                **kept,
                **self._ends(),
                **({} if self.data.labels_named is None else {LABELS: self.data.labels_named}),
                "standard": self.standard.source,
                "robust": self.robust.source,
                "standard_faithfulness": self.standard.faithfulness,
                "robust_faithfulness": self.robust.faithfulness,
                "certmix": importlib.metadata.version("certmix"),
                "torch": torch.__version__,
            },
        )

    def _ends(self) -> dict[str, Any]:
        """What was asked of the models' ends, if anything was."""
        asked = {"standard": self.standard.end, "robust": self.robust.end}
        found = {role: dataclasses.asdict(end) for role, end in asked.items() if end != Asked()}
        return {ENDS: found} if found else {}

    def _worker(self) -> Worker:
        inputs = np.ascontiguousarray(self.data.inputs, dtype=np.float32)
        run = self.standard, self.robust, inputs, self.data.labels, self.settings, self.prover
        return Worker(*run, Desk(self.store.path), self.listener.pursued, self.adaptive)

    def _mine(self) -> range:
        return self.shard.inputs(len(self.data.inputs), self._batch_size())

    def _tasks(self, done: Sequence[Shard]) -> list[Task]:
        """What of this shard is left to prove, in batches."""
        mine, size = self._mine(), self._batch_size()
        left = (range(max(g.start, mine.start), min(g.stop, mine.stop)) for g in gaps(done, len(self.data.inputs)))
        return [Task(part.start, part.stop) for inputs in left for part in cut(inputs, size)]

    def _certify(self, tasks: list[Task]) -> list[tuple[float, float]]:
        """Certify the inputs of the tasks; pairs (proposed, judged) of radii."""
        total, left = len(self._mine()), sum(map(len, tasks))
        radii: list[tuple[float, float]] = []
        archive, write = ArchiveWriter(), Writer(self.store, Desk(self.store.path).clear)
        so_far = SoFar()
        self.listener.progress(total - left, total, so_far)
        try:
            for batch in self.execute(self._worker(), tasks):
                for index, bound in batch.bounds:
                    archive(index, bound)
                archive.write(self.store.path, batch.task.start)
                attack_archive.write(self.store.path, batch.task.start, batch.attacks)
                write(batch.task.start, batch.lines)
                for refuted in batch.refuted:
                    self.listener.refuted(refuted.index, refuted.advice, self._saved(refuted))
                radii += batch.radii
                left -= len(batch.task)
                so_far = so_far.after(len(batch.radii), batch.attackable, len(batch.task))
                self.listener.progress(total - left, total, so_far)
        finally:
            write.flush()
        return radii

    def _batch_size(self) -> int:
        size = self.settings.batch_size
        return min(size, SMOOTHING_BATCH) if self.settings.method == "smoothing" else size

    def _saved(self, refuted: Refuted) -> Path:
        """The file, beside the run, with everything needed to reproduce a refuted certificate."""
        folder = self.store.path / "refuted"
        folder.mkdir(exist_ok=True)
        path = folder / f"{refuted.index}.npz"
        np.savez(path, input=refuted.input, counterexample=refuted.counterexample)
        return path

    def _clean(self) -> dict[str, list[int]]:
        """Classes (N,) that g, h and their mix give to the inputs; h as it is, without smoothing."""
        x = torch.from_numpy(np.ascontiguousarray(self.data.inputs, dtype=np.float32))
        mix = self._worker().problem(Task(0, 1)).mix
        models = {"standard": self.standard.module, "robust": self.robust.module, "mix": mix}
        return {name: predictions(model, x) for name, model in models.items()}

    def _before(self, clean: dict[str, list[int]], faithfulness: dict[str, Faithfulness], damaged: list[str]) -> Before:
        """Accuracies, and what looks like a mistake: known before the hours that proving may take."""
        n, shares = len(self.data), doubts.accuracies(clean, self.data)
        inputs = torch.from_numpy(np.ascontiguousarray(self.data.inputs, dtype=np.float32))
        models = {m.named(role): m.module for role, m in (("standard", self.standard), ("robust", self.robust))}
        texts = (
            *damaged,
            *about_probabilities(models, inputs),
            *_about_faithfulness(faithfulness),
            *doubts.about_accuracy(shares, n, self.robust.classes),
            *doubts.about_range(self.data, self.settings.domain),
        )
        models = {"standard": self.standard, "robust": self.robust}
        notes = [f"{m.named(role)} {m.note}" for role, m in models.items() if m.note is not None]
        g, h = self.standard, self.robust
        notes += [] if g.onnx is None else [f"{g.named('standard')} {g.values_only}"]
        notes += [] if h.network is not None else [f"{h.named('robust')} runs in onnxruntime ({h.no_network})"]
        return Before(n, shares, self.settings.method == "smoothing", texts, tuple(notes))

    def _record(
        self,
        seconds: float,
        tasks: list[Task],
        radii: list[tuple[float, float]],
        clean: dict[str, list[int]],
        faithfulness: dict[str, Faithfulness],
    ) -> dict[str, Any]:
        classes: dict[str, Any] = dict(clean)
        if self.settings.method == "smoothing":  # h is the smoothed one: the deployable mix estimates it by draws
            classes["robust, not smoothed"], classes["mix, not smoothed"] = classes.pop("robust"), classes.pop("mix")
            mine = self._mine()
            worker = dataclasses.replace(self._worker(), settings=self._settings_here())
            problem = worker.problem(Task(mine.start, mine.stop))
            drawn: list[int | None] = [None] * len(self.data.inputs)  # of other shards' inputs they know
            drawn[mine.start : mine.stop] = mix_predictions(problem, EVALUATION_DRAWS).tolist()
            classes["mix"] = drawn
        record = {
            "seconds": seconds,
            "inputs": sum(map(len, tasks)),
            COST: _cost(radii),
            "predictions": classes,
            "faithfulness": {name: dataclasses.asdict(f) for name, f in faithfulness.items()},
        }
        return together(self.store.read_json(RECORD), record)

    def _compared(self) -> CrossCheck | None:
        """What a second engine says of a sample of the certified balls, where one is to be asked."""
        if self.settings.engine != BEST or self.settings.method == "smoothing":
            return None
        certified = [
            (int(r["index"]), float(r["radius"]), int(r["predicted"]))
            for r in self.store.lines()
            if r["outcome"] == "certified"
        ]
        return cross_check(self.robust.require_network(), self.data.inputs, certified, self._settings_here())

    def _settings_here(self) -> Settings:
        """With a device that this machine has; those that prove may have others."""
        try:
            torch.empty(0, device=self.settings.device)
        except (RuntimeError, AssertionError):
            return dataclasses.replace(self.settings, device="cpu")
        return self.settings

    def _after(
        self, tasks: list[Task], radii: list[tuple[float, float]], compared: CrossCheck | None
    ) -> tuple[After, bool]:
        """What the run came to, and whether an attack that is confirmed left a certified class."""
        n, session, attacks = len(self.data.inputs), sum(map(len, tasks)), attack_archive.read(self.store.path)
        ends, refuted = Counter[str](), False
        for line in self.store.lines():
            attackable = line["outcome"] == "abstained" and line["index"] in attacks
            ends["attackable" if attackable else line["outcome"]] += 1
            refuted |= line["outcome"] == "falsified" and line["confirmed"]
        attacked = self.settings.attack_steps > 0 and self.settings.method != "smoothing"
        after = After(
            path=self.store.path,
            inputs=n,
            missing=n - ends.total(),
            certified=ends["certified"],
            resumed=session < len(self._mine()),
            session=session,
            proven=len(radii),
            attackable=ends["attackable"] if attacked else None,
            open=ends["abstained"] if attacked else None,
            cost=_cost(radii) if radii and self.settings.radius is None else None,
            compared=compared,
        )
        return after, refuted


def together(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """The record of a run proven in two sessions, or in two folders: what either says, seconds and inputs added up."""
    if one is None or not one.keys() >= {*SUMS, COST, "predictions"}:  # none, or of an earlier version
        return other
    if not other.keys() >= {*SUMS, COST, "predictions"}:
        return one
    classes = {
        name: [b if a is None else a for a, b in zip(one["predictions"][name], found, strict=True)]
        for name, found in other["predictions"].items()
    }
    sums = {name: one[name] + other[name] for name in SUMS}
    return {**one, **other, **sums, COST: max(one[COST], other[COST]), "predictions": classes}


def _cost(radii: list[tuple[float, float]]) -> float:
    return max(((p - r) / p for p, r in radii if p > 0), default=0.0)


def _about_faithfulness(found: dict[str, Faithfulness]) -> list[str]:
    """A sentence for each model whose plain network predicts otherwise than it does at some input."""
    return [
        f"{name}: at {len(f.class_differs)} inputs, the first {f.class_differs[0]}, the model as given predicts "
        "another class than its plain network, which the certificates speak of"
        for name, f in found.items()
        if f.class_differs
    ]


def predictions(model: torch.nn.Module, inputs: torch.Tensor, batch: int = 256) -> list[int]:
    """Predicted classes, in float32, without gradients."""
    with torch.no_grad():
        return [int(c) for i in range(0, len(inputs), batch) for c in model(inputs[i : i + batch]).argmax(dim=1)]

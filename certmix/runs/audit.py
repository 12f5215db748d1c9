"""One run over a dataset: proven batch by batch, written as it goes, resumed where it was interrupted."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from certmix.data import doubts
from certmix.data.dataset import Dataset
from certmix.formatting import percent_nearest, ratio, upper
from certmix.mixing.mixed import MixedClassifier
from certmix.models.faithfulness import Faithfulness
from certmix.models.model import Model, about_probabilities
from certmix.provers.certify import Prover, prove
from certmix.provers.problem import Archiver, Problem
from certmix.provers.session import open_session
from certmix.provers.smoothing.evaluation import mix_predictions
from certmix.records import attack_archive
from certmix.records.bound_archive import ArchiveWriter
from certmix.records.lines import record_line
from certmix.records.outcomes import Attack, Certified, Falsified, Outcome
from certmix.runs import provenance
from certmix.runs.provenance import Provenance
from certmix.runs.store import Store, dataset_sha256
from certmix.settings import Settings
from proofs_check.certificate import PlainNetwork
from proofs_check.reading.parse import RunHeader

SMOOTHING_BATCH = 4  # inputs between two savings: each takes all its draws
EVALUATION_DRAWS = 1_000  # behind the printed clean accuracy of a smoothed mix


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
    """One run over a dataset. prover: what answers for a batch of inputs. mix: the classifier whose clean predictions
    are recorded; None: the mix of the settings. more_networks: what else the certificates speak of. provenance: is
    recorded beside the run, if it is known.

    Results depend on the settings, batch_size and threads among them, and on the processor; not on where a run was
    interrupted: batches begin at multiples of their size, and one that is not whole is proven again.
    """

    standard: Model
    robust: Model
    data: Dataset
    settings: Settings
    store: Store
    prover: Prover = prove
    mix: torch.nn.Module | None = None
    more_networks: tuple[PlainNetwork, ...] = ()
    provenance: Provenance | None = None

    def run(self) -> int:
        """Prove, write, finish; the exit code."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.settings.threads)
        try:
            with self.store.locked():
                return self._run()
        finally:
            torch.set_num_threads(threads)

    def _run(self) -> int:
        models = (self.standard.network, self.robust.network)
        networks = [n for n in (*models, *self.more_networks) if n is not None]
        inputs = np.ascontiguousarray(self.data.inputs, dtype=np.float32)
        self._problem(0, 1)  # misuse shows before anything is written
        done = self.store.open(self.header(), networks, inputs, self.data.labels)
        if done < len(inputs):
            done -= done % self._batch_size()
            self.store.keep_first(done)
        if self.provenance is not None:
            known = provenance.sessions(self.store.path)
            self.store.write_json(provenance.NAME, [*known, provenance.session(self.provenance)])
        faithfulness = {
            name: m.compared_at(inputs) for name, m in (("standard", self.standard), ("robust", self.robust))
        }
        clean = self._clean()
        self._say_before(clean, faithfulness)
        started = time.monotonic()
        proposed = self._certify_from(done)
        self.store.write_json(
            "audit.json", self._record(time.monotonic() - started, done, proposed, clean, faithfulness)
        )
        hits = [r for r in self.store.lines() if r["outcome"] == "falsified"]
        self.store.finish()
        self._summary(done, proposed)
        return 1 if any(r["confirmed"] for r in hits) else 0

    def header(self) -> RunHeader:
        standard, robust = self.standard.network, self.robust.require_network()
        return RunHeader(
            standard=None if standard is None else standard.sha256,
            robust=robust.sha256,
            dataset=dataset_sha256(self.data.inputs, self.data.labels),
            count=len(self.data.inputs),
            settings={
                **dataclasses.asdict(self.settings),
                "standard": self.standard.source,
                "robust": self.robust.source,
                "standard_faithfulness": self.standard.faithfulness,
                "robust_faithfulness": self.robust.faithfulness,
                "certmix": importlib.metadata.version("certmix"),
                "torch": torch.__version__,
            },
        )

    def _problem(self, start: int, stop: int, archive: Archiver | None = None) -> Problem:
        indices = tuple(range(start, min(stop, len(self.data.inputs))))
        labels = tuple(int(self.data.labels[i]) for i in indices)
        inputs = torch.from_numpy(np.ascontiguousarray(self.data.inputs[start:stop], dtype=np.float32))
        return Problem(self.standard, self.robust, inputs, indices, labels, self.settings, archive)

    def _certify_from(self, done: int) -> list[tuple[float, float]]:
        """Certify inputs done, done + 1, …; pairs (proposed, judged) of radii."""
        total, size = len(self.data.inputs), self._batch_size()
        first = self._problem(done, done + 1) if done < total else None
        session = None if first is None else open_session(first)
        radii: list[tuple[float, float]] = []
        archive = ArchiveWriter()
        columns = (TextColumn("certifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=total, completed=done)
            for start in range(done, total, size):
                problem = self._problem(start, start + size, archive if self.settings.curves else None)
                if session is None:
                    raise TypeError("excluded: there is an input left")
                outcomes = self.prover(problem, session)
                archive.write(self.store.path, start)
                attack_archive.write(self.store.path, start, _attacks(problem, outcomes))
                self.store.append(_line(problem, k, outcome) for k, outcome in enumerate(outcomes))
                self._report_refuted(problem, outcomes)
                radii += [(o.proposed_radius, o.radius) for o in outcomes if isinstance(o, Certified)]
                progress.update(task, completed=min(start + size, total))
        return radii

    def _batch_size(self) -> int:
        size = self.settings.batch_size
        return min(size, SMOOTHING_BATCH) if self.settings.method == "smoothing" else size

    def _report_refuted(self, problem: Problem, outcomes: list[Outcome]) -> None:
        """Everything needed to reproduce a refuted certificate, beside the run and on the terminal."""
        for k, outcome in enumerate(outcomes):
            if isinstance(outcome, Falsified):
                folder = self.store.path / "refuted"
                folder.mkdir(exist_ok=True)
                path = folder / f"{problem.indices[k]}.npz"
                np.savez(path, input=problem.input(k), counterexample=outcome.counterexample)
                print(f"REFUTED: input {problem.indices[k]}: {outcome.advice}; reproduce with {path}")

    def _clean(self) -> dict[str, list[int]]:
        """Classes (N,) that g, h and their mix give to the inputs; h as it is, without smoothing."""
        x = torch.from_numpy(np.ascontiguousarray(self.data.inputs, dtype=np.float32))
        pair, s = (self.standard.module, self.robust.module), self.settings
        mix = MixedClassifier(*pair, s.alpha, s.temperature) if self.mix is None else self.mix
        models = {"standard": pair[0], "robust": pair[1], "mix": mix}
        return {name: predictions(model, x) for name, model in models.items()}

    def _say_before(self, clean: dict[str, list[int]], faithfulness: dict[str, Faithfulness]) -> None:
        """Accuracies, and on standard error what looks like a mistake: before the hours that proving may take."""
        n, found = len(self.data), doubts.accuracies(clean, self.data)
        plain = ", not smoothed" if self.settings.method == "smoothing" else ""
        shown = ", ".join(f"{name} {percent_nearest(*ratio(share))} %" for name, share in found.items())
        print(f"accuracy on the {n} inputs{plain}: {shown}", flush=True)
        inputs = torch.from_numpy(np.ascontiguousarray(self.data.inputs, dtype=np.float32))
        models = {m.named(role): m.module for role, m in (("standard", self.standard), ("robust", self.robust))}
        for text in (
            *about_probabilities(models, inputs),
            *_about_faithfulness(faithfulness),
            *doubts.about_accuracy(found, n, self.robust.classes),
            *doubts.about_range(self.data, self.settings.domain),
        ):
            print(f"WARNING: {text}", file=sys.stderr)

    def _record(
        self,
        seconds: float,
        done: int,
        radii: list[tuple[float, float]],
        clean: dict[str, list[int]],
        faithfulness: dict[str, Faithfulness],
    ) -> dict[str, Any]:
        found = dict(clean)
        if self.settings.method == "smoothing":  # h is the smoothed one: the deployable mix estimates it by draws
            found["robust, not smoothed"], found["mix, not smoothed"] = found.pop("robust"), found.pop("mix")
            whole = self._problem(0, len(self.data.inputs))
            found["mix"] = mix_predictions(whole, EVALUATION_DRAWS).tolist()
        return {
            "seconds": seconds,
            "resumed_at": done,
            "largest_relative_cost_of_judging": _cost(radii),
            "predictions": found,
            "faithfulness": {name: dataclasses.asdict(f) for name, f in faithfulness.items()},
        }

    def _summary(self, done: int, radii: list[tuple[float, float]]) -> None:
        n = len(self.data.inputs)
        lines = self.store.lines()
        certified = sum(r["outcome"] == "certified" for r in lines)
        attacked = attack_archive.read(self.store.path)
        resumed = f" ({len(radii)} of the {n - done} proven in this session)" if done else ""
        print(f"{certified} of {n} inputs certified{resumed}: {self.store.path}")
        attackable = sum(r["outcome"] == "abstained" and r["index"] in attacked for r in lines)
        refuted = sum(r["outcome"] == "falsified" for r in lines)
        if certified < n and self.settings.attack_steps and self.settings.method != "smoothing":
            rest = n - certified - attackable - refuted
            print(f"of the others {attackable} are attackable (a confirmed attack), {rest} are open")
        if radii and self.settings.radius is None:
            print(f"largest relative part of a proposed radius that the judge did not accept: {upper(_cost(radii), 3)}")
        print(f"next: certmix check {self.store.path}; certmix report {self.store.path}")


def _cost(radii: list[tuple[float, float]]) -> float:
    return max(((p - r) / p for p, r in radii if p > 0), default=0.0)


def _attacks(problem: Problem, outcomes: list[Outcome]) -> dict[int, Attack]:
    found = zip(problem.indices, outcomes, strict=True)
    return {i: o.attack for i, o in found if not isinstance(o, Falsified) and o.attack is not None}


def _about_faithfulness(found: dict[str, Faithfulness]) -> list[str]:
    """A sentence for each model whose plain network predicts otherwise than it does at some input."""
    return [
        f"{name}: at {len(f.class_differs)} inputs, the first {f.class_differs[0]}, the model as given predicts "
        "another class than its plain network, which the certificates speak of"
        for name, f in found.items()
        if f.class_differs
    ]


def _line(problem: Problem, k: int, outcome: Outcome) -> bytes:
    if isinstance(outcome, Certified):
        return outcome.line
    return record_line(problem.indices[k], problem.labels[k], outcome)


def predictions(model: torch.nn.Module, inputs: torch.Tensor, batch: int = 256) -> list[int]:
    """Predicted classes, in float32, without gradients."""
    with torch.no_grad():
        return [int(c) for i in range(0, len(inputs), batch) for c in model(inputs[i : i + batch]).argmax(dim=1)]

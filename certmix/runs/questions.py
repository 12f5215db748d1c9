"""Several questions about the same models and inputs: a run in a folder of its own for each, in an order in which what
one has bounded serves the next.

A bound on a ball holds in every smaller one, and bounds of h's logits depend on no alpha (docs/maths.md 7). So of each
norm the largest radius comes first, and of each radius the smallest alpha; what the bounds kept so far settle is not
bounded anew, and the judge judges it all the same.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from certmix.formatting import exact
from certmix.provers.certify import Prover, prove
from certmix.provers.limits import with_attacks
from certmix.provers.margin.oracle import MarginOracle
from certmix.provers.margin.prover import MarginProver, prove_margin
from certmix.provers.problem import ProverProblem
from certmix.provers.refute import refute
from certmix.provers.session import Session
from certmix.records import attack_archive, bound_archive
from certmix.records.outcomes import Certified, Outcome
from certmix.runs.from_curves import StoredMargins, StoredOracle
from certmix.runs.store import Store
from certmix.settings import Settings

NAME = "questions.json"  # the table, beside the runs


def folder_of(settings: Settings) -> str:
    """The name of a question's folder."""
    radius = "largest" if settings.radius is None else exact(settings.radius)
    return f"{settings.norm}-{radius}-alpha-{exact(settings.alpha)}"


def ordered(asked: Sequence[Settings]) -> list[Settings]:
    """The questions in the order in which each profits most from those before it; norms as they are given."""
    norms = list(dict.fromkeys(s.norm for s in asked))
    return sorted(asked, key=lambda s: (norms.index(s.norm), -(s.radius or 0.0), s.alpha))


def prover(settings: Settings, answered: Sequence[tuple[Settings, Path]]) -> Prover:
    """What answers a question after others, each with its finished run. A largest radius is looked for anew: stored
    bounds know the radii that another search has visited."""
    if settings.radius is None or settings.method != "margin" or settings.use_standard:
        return prove
    same = dataclasses.replace(settings, radius=0.0, alpha=1.0)
    serving = [
        folder
        for s, folder in answered
        if dataclasses.replace(s, radius=0.0, alpha=1.0) == same
        and s.radius is not None
        and s.radius >= settings.radius
        and (folder / bound_archive.FOLDER).is_dir()
    ]
    if not serving:
        return prove
    archive = bound_archive.read(*serving)
    return Remembering(StoredMargins(archive, archive.margins(settings.temperature)))


@dataclass(frozen=True, eq=False)
class Remembering:
    """A prover (certmix.provers.certify.Prover) that bounds anew only what stored bounds leave open.

    Ensures: every input that the margin prover alone certifies is certified.
    """

    stored: StoredMargins

    def __call__(self, problem: ProverProblem, session: Session) -> list[Outcome]:
        def make_oracle(problem: ProverProblem, predicted: Tensor) -> MarginOracle:
            return StoredOracle(problem, predicted, self.stored)

        outcomes = MarginProver(problem, session.judge, make_oracle).prove()
        left = [k for k, outcome in enumerate(outcomes) if not isinstance(outcome, Certified)]
        if left:
            for k, outcome in zip(left, prove_margin(_part(problem, left), session), strict=True):
                outcomes[k] = outcome
        return with_attacks(problem, refute(problem, outcomes))


def _part(problem: ProverProblem, positions: Sequence[int]) -> ProverProblem:
    """The problem about these inputs of its batch alone."""
    return dataclasses.replace(
        problem,
        inputs=problem.inputs[torch.tensor(positions)],
        indices=tuple(problem.indices[k] for k in positions),
        labels=tuple(problem.labels[k] for k in positions),
    )


@dataclass(frozen=True)
class Answer:
    """A line of the table. inputs: of the run; certified, correct: as its lines say, the second of the label's class;
    attackable: without certificate, by a confirmed attack."""

    folder: str
    norm: str
    radius: float | None
    alpha: float
    inputs: int
    certified: int
    correct: int
    attackable: int


def answer(settings: Settings, folder: Path) -> Answer:
    """What became of a question, by its finished run."""
    attacks, found = attack_archive.read(folder), Counter[str]()
    for line in Store(folder).lines():
        certified = line["outcome"] == "certified"
        found["inputs"] += 1
        found["certified"] += certified
        found["correct"] += certified and line["predicted"] == line["label"]
        found["attackable"] += line["outcome"] == "abstained" and line["index"] in attacks
    counts = (found[name] for name in ("inputs", "certified", "correct", "attackable"))
    return Answer(folder.name, settings.norm, settings.radius, settings.alpha, *counts)

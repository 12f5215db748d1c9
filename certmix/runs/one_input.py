"""One input of a finished run: its line judged again, and what other methods would certify."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from certmix.errors import UsageError
from certmix.provers.certify import prove
from certmix.provers.problem import ProverProblem
from certmix.provers.session import open_session
from certmix.records.outcomes import Method, Outcome
from certmix.records.trees import TreeSize, size_of
from certmix.runs.finished import OpenedRun
from certmix.runs.store import FINAL
from proofs_check import judge
from proofs_check.certificate import Accepted, Claim, MalformedError, ModelFile, PlainNetwork, Verdict
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.margin.branching import BranchedMargin, BranchedPair
from proofs_check.witness import slope_starts

OTHERS: tuple[Method, ...] = ("margin", "lipschitz")  # smoothing speaks of another classifier, whose h is smoothed


@dataclass(frozen=True, eq=False)
class JudgedLine:
    """The line about one input. verdict: None where it claims nothing, or is malformed, which `trouble` then says.
    size: its bytes. seconds: that judging it took. trees: those of an accepted branched margin."""

    line: parse.Certificate | parse.NotCertified | None
    verdict: Verdict | None
    trouble: str = ""
    size: int = 0
    seconds: float = 0.0
    trees: tuple[TreeSize, ...] = ()


def judged_line(path: Path, run: OpenedRun, index: int) -> JudgedLine:
    """The line about input `index` of the run in `path`, judged here. Raises UsageError: no such input."""
    if not 0 <= index < len(run.data):
        raise UsageError(f"{path} holds inputs 0 to {len(run.data) - 1}, there is no {index}")
    lines = (path / FINAL).read_bytes().splitlines()
    try:
        if index >= len(lines):
            raise MalformedError(FINAL, f"holds {len(lines)} lines")
        line = parse.line(lines[index], EVIDENCE, f"input {index}")
        if line.index != index:
            raise MalformedError(f"input {index}", f"its line is about input {line.index}")
        if not isinstance(line, parse.Certificate):
            return JudgedLine(line, None)
        alpha = _alpha(path, line.claim)
    except MalformedError as error:
        return JudgedLine(None, None, str(error))
    g, claimed = run.standard, line.claim.standard
    standard = None if g is None else g.file if isinstance(claimed, ModelFile) else g.network
    value = run.data.inputs[index]
    robust, started = run.robust.require_stated(), time.perf_counter()
    verdict = judge.check_bytes(lines[index], robust, standard, value, alpha)
    seconds, sizes = time.perf_counter() - started, tuple[TreeSize, ...]()
    if isinstance(line.evidence, BranchedMargin | BranchedPair) and isinstance(verdict, Accepted):
        columns = slope_starts(run.robust.require_network())[-1]
        if isinstance(line.evidence, BranchedPair) and isinstance(standard, PlainNetwork):
            columns += slope_starts(standard)[-1]
        sizes = tuple(size_of(tree, columns) for tree in line.evidence.trees if tree is not None)
    return JudgedLine(line, verdict, "", len(lines[index]), seconds, sizes)


def _alpha(path: Path, claim: Claim) -> PlainNetwork | None:
    return None if claim.alpha_network is None else folder.network(path, claim.alpha_network)


def by_other_methods(run: OpenedRun, index: int) -> dict[Method, Outcome | str]:
    """What each method that the run did not use makes of input `index`, with the run's other settings; a text where it
    cannot be asked. Empty for runs of which no other method speaks."""
    s, standard = run.settings, run.standard
    if s.method in ("smoothing", "adaptive") or standard is None:
        return {}
    inputs = torch.from_numpy(run.data.inputs[index : index + 1])
    outcomes: dict[Method, Outcome | str] = {}
    for method in OTHERS:
        if method == s.method:
            continue
        try:
            method_settings = dataclasses.replace(
                s, method=method, curves=False, attack_steps=0, branch=0.0, branch_parts=0
            )
            problem = ProverProblem(
                standard, run.robust, inputs, (index,), (int(run.data.labels[index]),), method_settings
            )
            outcomes[method] = prove(problem, open_session(problem))[0]
        except UsageError as error:
            outcomes[method] = str(error)
    return outcomes

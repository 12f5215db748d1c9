"""One certificate explained on one screen: the claim, the chain of steps, the theorems, the lines that it rests on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType

from certmix.errors import UsageError
from certmix.formatting import exact, lower
from certmix.reports.explained.chains import CHAINS, SUMMARIES, WATCHED
from certmix.reports.explained.lines import FileLines, files_of
from certmix.reports.explained.observed import JUDGE, Observed, observed
from proofs_check.__main__ import describe, printable
from proofs_check.certificate import Claim, MalformedError
from proofs_check.kernel.bounds import Prepared
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE
from proofs_check.run import ProcessJudge, Result, Run, open_judge
from proofs_check.theorems.statements import STATEMENTS, Statement

WIDTH = 80
PASS = "kernel/bounds.py _descend"  # what rests on the lines of a network's nodes
MOST_OF_PATH = 40
MARGIN = 11  # columns before what is said of a heading


def judged(path: Path, index: int | None) -> tuple[Result, ProcessJudge, Observed]:
    """The line about input `index` (None: the first that claims something) judged as `proofs_check` would, and what
    the judge went through. Raises MalformedError and RejectedError of the folder, UsageError where there is no such
    line."""
    run = Run(path)
    if index is not None and not 0 <= index < run.header.count:
        raise UsageError(f"{path} holds inputs 0 to {run.header.count - 1}, there is no {index}")
    folder.need_dataset(path, run.header)
    for place, data, row in run.tasks():
        if place == index or (index is None and _claims(data)):
            with observed(WATCHED, SUMMARIES) as seen:
                judge = open_judge(path, run.header)
                result = judge.measured(place, data, row)
            return result, judge, seen
    raise UsageError(f"{path}: no input is certified, there is nothing to explain")


def _claims(data: bytes) -> bool:
    try:
        return isinstance(parse.line(data, EVIDENCE), parse.Certificate)
    except MalformedError:
        return True  # judged, and said to be


def explain(path: Path, index: int | None) -> tuple[int, list[str]]:
    """(exit code of `certmix check`, lines of text) about one line."""
    result, judge, seen = judged(path, index)
    if result.state != "accepted" or not isinstance(result.line, parse.Certificate):
        return {"rejected": 1, "malformed": 2}.get(result.state, 0), [describe(result)]
    rests = ", ".join(result.assumptions) or "none beyond exact export"
    claim = result.line.claim
    said = [
        *_item(f"input {result.index}", f"of {_end(printable(str(path)))}: accepted; assumptions: {rests}"),
        *_item("claim", _claim(claim)),
        *_item("rule", result.line.rule),
    ]
    evidence = _line_with_evidence(path, result)
    chain = CHAINS[result.line.rule](evidence, seen.root)
    for what, found in chain.steps:
        said += _item(what, found)
    said += _aligned(chain.rows)
    networks = [n for n in (judge.robust, judge.standard, *judge.alphas.values()) if isinstance(n, Prepared)]
    kinds = {kind.__name__ for n in networks for layer in n.layers for kind in type(layer).__mro__}
    used = [s for s in STATEMENTS if rests_on(s, result.line.rule, kinds, seen.ran)]
    said += ["theorems, by section of the maths page; each proven by z3 (docs/trust.md)"]
    said += dict.fromkeys(line for s in used for line in _item(f"  {s.section}", s.text, 6))  # what two say, once
    return 0, [*said, *_files(files_of(seen.ran))]


def _line_with_evidence(path: Path, result: Result) -> parse.Certificate:
    """The judge's results leave the evidence out."""
    data = next(d for place, d in enumerate(folder.lines(path)) if place == result.index)
    line = parse.line(data, EVIDENCE)
    if not isinstance(line, parse.Certificate):
        raise TypeError("excluded: this line was judged")
    return line


def _claim(claim: Claim) -> str:
    within = f"{claim.norm} radius {lower(claim.radius)}"
    box = "" if claim.domain is None else f" and the box [{exact(claim.domain[0])}, {exact(claim.domain[1])}]"
    g = "any g" if claim.standard is None else "the run's g"
    owner = "h gives x" if claim.class_of == "robust" else "the mix gives x"
    mix = f"alpha {exact(claim.alpha)}, T {exact(claim.temperature)}"
    return f"the mix answers {claim.predicted}, the class {owner}, within {within}{box}; {mix}, {g}"


def rests_on(statement: Statement, rule: str, kinds: set[str], ran: Iterable[CodeType]) -> bool:
    """Whether a certificate of that rule, on networks of layers of these classes, for which these functions ran, rests
    on it."""
    names = {f"{code.co_filename.removeprefix(JUDGE)} {code.co_name}" for code in ran}
    bears = rule in statement.rules or (PASS in names and not kinds.isdisjoint(statement.layers))
    return bears and (statement.only is None or statement.only in names)


# ---------------------------------------------------------------- layout


def _end(path: str) -> str:
    """What fits of a path into two lines with what is said behind it."""
    return path if len(path) <= MOST_OF_PATH else f"...{path[3 - MOST_OF_PATH :]}"


def _item(what: str, text: str, margin: int = MARGIN) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{what:{margin - 1}s} ", subsequent_indent=" " * margin)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{w}s}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _files(found: list[FileLines]) -> list[str]:
    """Which of the judge's files a function ran in, with their lines of code; and how many of these did run."""
    said: list[str] = []
    for proves, what in ((True, "proves"), (False, "reads")):
        files = [f for f in found if f.proves == proves]
        total, ran = sum(f.lines for f in files), sum(len(f.ran) for f in files)
        rooms: dict[str, list[str]] = {}
        for f in files:
            room, _, name = f.file.removesuffix(".py").rpartition("/")
            rooms.setdefault(room, []).append(f"{name} {f.lines}")
        named = "; ".join(f"{room}: {', '.join(names)}" if room else ", ".join(names) for room, names in rooms.items())
        head = f"what {what}: {len(files)} files of {total} lines of code, {ran} of them in functions that ran"
        said += [head, *textwrap.wrap(named, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    return said

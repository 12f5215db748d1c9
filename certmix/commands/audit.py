"""Certify every input of a dataset: inside which radius can nothing change the mix's answer?

Writes a self-contained folder: one certificate (or the reason why there is none) per input, and all that
`certmix check` needs to re-derive them. Interrupted runs go on where they stopped when started again. With --jobs
several processes prove it, with the same result; with --ray a cluster does; with --shard several machines do, each on
its own, and `certmix merge` puts their folders together.

Where --radius, --norm or --alpha have several values, as in 1/255,2/255, every combination is a run in a folder of its
own in --out, and one table says what became of all; bounds that settle several questions are found once.

Exit 0: finished. 1: a certificate was refuted by an attack, which must not happen. 2: bad input. 3: finished, with
fewer inputs certified and correct than --fail-under asks for; lines that were there before are judged first.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from certmix.commands import adaptive, arguments, parsing
from certmix.commands.running import add_jobs, add_shard, add_telling, executor, listener
from certmix.errors import UsageError
from certmix.runs.provenance import GivenFile, Provenance
from certmix.runs.shards import WHOLE
from certmix.runs.store import Store

if TYPE_CHECKING:
    from certmix.runs.audit import Audit
    from certmix.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_certification(parser, many=True)
    adaptive.add_arguments(parser)
    parser.add_argument(
        "--out", type=parsing.file, metavar="DIR", help="folder to write; new, or that of the same run, interrupted"
    )
    add_jobs(parser)
    add_shard(parser)
    add_telling(parser)
    arguments.add_gate(parser)


def run(options: argparse.Namespace) -> int:
    from certmix.mixing.adaptive import checked
    from certmix.models.model import load_pair
    from certmix.runs.audit import Audit

    asked = [(arguments.settings(one, mix), mix) for one in _each(options) for mix in [adaptive.mix(one)]]
    out = Path(arguments.required(options, "out"))
    several, settings = len(asked) > 1, asked[0][0]
    arguments.gate(options.fail_under, 1, 1)  # misuse shows before anything runs
    if options.fail_under is not None and (several or options.shard != WHOLE):
        raise UsageError("--fail-under is about all inputs of one question: leave out --shard, and give one value each")
    if several and options.shard != WHOLE:
        raise UsageError("--shard is a part of one question: give one --radius, --norm and --alpha")
    told = listener(options)
    execute = executor(options, told)
    files = arguments.required(options, "standard"), arguments.required(options, "robust")
    data = arguments.data(options, settings.domain)
    if options.fail_under is not None:
        data.require_labels("--fail-under counts inputs certified as their label")
    counts = settings.method == "smoothing"  # and does not look into h
    standard, robust = load_pair(*files, data.inputs.shape[1:], not counts, arguments.ends(options), options.allow_code)
    data.require(robust.input_shape, robust.classes, settings.domain)
    for _, mix in asked:
        if mix is not None:
            checked(robust.input_shape, robust.classes, mix)
            adaptive.tried(mix, data.inputs)
    names = [n for n in ("standard", "robust", "alpha_network", "data") if getattr(options, n) is not None]
    origin = Provenance(
        parsing.spelled("audit", add_arguments, options),
        {name: GivenFile.of(getattr(options, name)) for name in names},
        len(data),
        data.available,
    )
    audits = [
        Audit(
            standard, robust, data, s, Store(out), adaptive=mix, provenance=origin, listener=told,
            execute=execute, shard=options.shard,
        )
        for s, mix in asked
    ]  # fmt: skip
    if several:
        return _answer(audits, out, options)
    resumed = Store(out).unfinished()
    return audits[0].run() or _gate(options, out, resumed)


def _each(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of each question."""
    names = "norm", "radius", "alpha"
    values = [v if isinstance(v := getattr(options, name), tuple) else (v,) for name in names]
    return [
        argparse.Namespace(**{**vars(options), **dict(zip(names, chosen, strict=True))})
        for chosen in itertools.product(*values)
    ]


def _gate(options: argparse.Namespace, out: Path, resumed: bool) -> int:
    """What --fail-under makes of the run. Lines that were there before are judged: somebody may have put them there."""
    if options.fail_under is None:
        return 0
    if resumed:
        from certmix.reports.judged import judged

        verdict = judged(out, options.jobs)
        if verdict.exit_code:
            print("\n".join(verdict.lines), file=sys.stderr)
            return verdict.exit_code
    lines = list(Store(out).lines())
    hits = [line["outcome"] == "certified" and line["predicted"] == line["label"] for line in lines]
    return arguments.gate(options.fail_under, sum(hits), len(lines))


def _answer(audits: Sequence[Audit], out: Path, options: argparse.Namespace) -> int:
    """Each question in its folder of `out`, and all in one table; the worst of the exit codes."""
    from rich.console import Console

    from certmix.reports.questions import show
    from certmix.runs import questions
    from certmix.runs.tune import finish

    if (out / "run.json").exists():
        raise UsageError(f"{out} holds the run of one question: choose another --out")
    asked = {questions.folder_of(audit.settings): audit for audit in audits}
    code = 0
    answered: list[tuple[Settings, Path]] = []
    for settings in questions.ordered([audit.settings for audit in audits]):
        name = questions.folder_of(settings)
        prover = questions.prover(settings, answered)
        code = max(code, finish(dataclasses.replace(asked[name], store=Store(out / name), prover=prover)))
        answered.append((settings, out / name))
    answers = [questions.answer(settings, folder) for settings, folder in answered]
    Store(out).write_json(questions.NAME, [dataclasses.asdict(a) for a in answers])
    if options.json:
        print(json.dumps({"event": "answers", "answers": [dataclasses.asdict(a) for a in answers]}), flush=True)
    elif not options.quiet:
        show(answers, Console())
    return code

"""Certify every input of a dataset: inside which radius can nothing change the mix's answer?

Writes a self-contained folder: one certificate (or the reason why there is none) per input, and all that
`certmix check` needs to re-derive them. Interrupted runs go on where they stopped when started again. With --jobs
several processes prove it, with the same result; with --ray a cluster does; with --shard several machines do, each on
its own, and `certmix merge` puts their folders together.

Exit 0: finished. 1: a certificate was refuted by an attack, which must not happen. 2: bad input. 3: finished, with
fewer inputs certified and correct than --fail-under asks for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from certmix.commands import adaptive, arguments, parsing
from certmix.commands.running import add_jobs, add_shard, add_telling, executor, listener
from certmix.runs.provenance import GivenFile, Provenance
from certmix.runs.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_certification(parser)
    adaptive.add_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="folder to write; new, or that of the same run, interrupted")
    add_jobs(parser)
    add_shard(parser)
    add_telling(parser)
    arguments.add_gate(parser)


def run(options: argparse.Namespace) -> int:
    from certmix.mixing.adaptive import checked
    from certmix.models.model import load_pair
    from certmix.runs.audit import Audit

    mix = adaptive.mix(options)
    settings = arguments.settings(options, mix)
    out = Path(arguments.required(options, "out"))
    arguments.gate(options.fail_under, 1, 1)  # misuse shows before anything runs
    told = listener(options)
    execute = executor(options, told)
    files = arguments.required(options, "standard"), arguments.required(options, "robust")
    data = arguments.data(options, settings.domain)
    if options.fail_under is not None:
        data.require_labels("--fail-under counts inputs certified as their label")
    counts = settings.method == "smoothing"  # and does not look into h
    standard, robust = load_pair(*files, data.inputs.shape[1:], not counts, arguments.ends(options), options.allow_code)
    data.require(robust.input_shape, robust.classes, settings.domain)
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
    code = Audit(
        standard, robust, data, settings, Store(out), adaptive=mix, provenance=origin, listener=told,
        execute=execute, shard=options.shard,
    ).run()  # fmt: skip
    lines = [(r["outcome"], r["predicted"] == r["label"]) for r in Store(out).lines()]
    return code or arguments.gate(options.fail_under, lines.count(("certified", True)), len(lines))

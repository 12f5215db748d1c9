"""What the ONNX files of a folder can be: g, h, or neither, and why.

g, the standard model, may have any operator: without plain network it runs in onnxruntime. h, the robust one, needs a
plain network, which is compared with onnxruntime; docs/operators.md lists its operators.

Exit 0: every file can be g. 1: some cannot. 2: bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from certmix.commands.parsing import file
from certmix.errors import UsageError
from certmix.formatting import percent_down, upper

if TYPE_CHECKING:
    from certmix.models.survey import Surveyed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=file, metavar="DIR", help="folder of ONNX files; those in folders below it, too")
    words = "of the inputs, without the batch axis, for files that leave it open, e.g. 3,224,224"
    parser.add_argument("--input-shape", type=shape, metavar="N[,N…]", help=words)
    parser.add_argument("--json", action="store_true", help="one JSON array, an object for each file")


def shape(text: str) -> tuple[int, ...]:
    """Positive integers with commas between."""
    sizes = tuple(int(part) for part in text.split(","))
    if any(n < 1 for n in sizes):
        raise argparse.ArgumentTypeError(f"must be positive integers such as 3,32,32, got {text!r}")
    return sizes


def run(options: argparse.Namespace) -> int:
    from certmix.models.survey import survey

    folder = Path(options.folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give a folder of ONNX models")
    found: list[Surveyed] = []
    for each in survey(folder, options.input_shape):
        found.append(each)
        if not options.json:
            print(words(each), flush=True)
    if options.json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
    else:
        counts = sum(each.standard is not None for each in found), sum(each.robust for each in found)
        g, h = (f"{count} ({percent_down(count, len(found))} %)" for count in counts)
        print(f"of {len(found)} files {g} can be g, {h} can be h")
    return 0 if all(each.standard is not None for each in found) else 1


def words(of: Surveyed) -> str:
    """One line for a file."""
    if of.standard is None:
        return f"{of.file}: neither g nor h: {of.why}"
    ends = f"{of.file}: {of.input_shape} -> {of.classes} classes"
    if of.robust and of.difference is not None:
        return f"{ends}: g, h (differs from onnxruntime by {upper(of.difference, 2)} at most, as far as seen)"
    return f"{ends}: g in {of.standard}; not h: {of.why}"

"""Is this installation fit to certify and to judge? Versions, devices, extras, the arithmetic that the judge relies on.

Exit 0: it is (a line marked - is about something optional). 2: a line marked x says what is wrong, and the way out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

MARKS = {"ok": "+", "note": "-", "wrong": "x"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a JSON object a line")


def run(options: argparse.Namespace) -> int:
    import certmix
    from certmix.installation import arithmetic, machine, packages

    rooms = {"packages": packages, "machine": machine, "arithmetic of the judge": arithmetic}
    wrong = 0
    if not options.json:
        print(f"certmix {certmix.__version__}")
    for name, room in rooms.items():
        found = room.findings()
        wrong += sum(finding.state == "wrong" for finding in found)
        if options.json:
            print("\n".join(json.dumps({"part": name, **dataclasses.asdict(finding)}) for finding in found))
            continue
        print(f"\n{name}")
        for finding in found:
            print(f"  {MARKS[finding.state]} {finding.of}: {finding.found}")
            if finding.way_out:
                print(f"      {finding.way_out}")
    if not options.json:
        print(f"\n{wrong} of these must be mended" if wrong else "\nnothing is wrong")
    return 2 if wrong else 0

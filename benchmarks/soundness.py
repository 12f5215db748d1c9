"""Figures of the soundness suite.

    python benchmarks/soundness.py nightly [--budget 30m] [--only METHOD …]   certmix's own methods, attacked points
    python benchmarks/soundness.py bugs [--examples 75] [--only BUG …]       which law kills which planted bug
    python benchmarks/soundness.py auto_lirpa [--budget 1m]                  auto_LiRPA's own bounds under the suite

Each writes benchmarks/results/soundness_NAME.json; `bugs` also rewrites the table in docs/soundness-suite.md, of whose
rows those that --only leaves out stay as they were measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from certmix.testing.adapters import auto_lirpa, certmix_methods, certmix_smoothing
from certmix.testing.laws import laws_of
from certmix.testing.protocol import Certifier, certifier
from certmix.testing.runner import SuiteReport, run, run_law
from certmix.testing.words import line, seconds

ROOT = Path(__file__).parent
sys.path.append(str(ROOT.parent / "tests"))
TABLE = ROOT.parent / "docs" / "soundness-suite.md"
START, END = "<!-- planted bugs: written by benchmarks/soundness.py bugs -->", "<!-- end of planted bugs -->"

PATIENCE = 600.0  # seconds for the examples of one law, which count by their number: also on a busy machine

OWN: dict[str, Callable[..., Any]] = {
    "margin": certmix_methods.margin,
    "margin_with_standard": certmix_methods.margin_with_standard,
    "margin_at_radius": certmix_methods.margin_at_radius,
    "lipschitz": certmix_methods.lipschitz,
    "lipschitz_at_radius": certmix_methods.lipschitz_at_radius,
    "smoothing": certmix_smoothing.certify,
    "smoothing_from_votes": certmix_smoothing.from_votes,
}

AUTO_LIRPA: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "logits_ibp": (auto_lirpa.logits_ibp, ("Linf", "L2", "L3")),
    "logits_crown": (auto_lirpa.logits_crown, ("Linf", "L2", "L3")),
    "probabilities_ibp": (auto_lirpa.probabilities_ibp, ("Linf", "L2")),
    "probabilities_crown": (auto_lirpa.probabilities_crown, ("Linf", "L2")),
    "probabilities_expanded_ibp": (auto_lirpa.probabilities_expanded_ibp, ("Linf", "L2")),
}


def summary(report: SuiteReport) -> dict[str, Any]:
    """The report as JSON-able figures."""
    return {
        "exit_code": report.exit_code,
        "points": report.points,
        "laws": {
            r.law.name: {
                "status": r.status, "examples": r.examples, "claims": r.claims, "points": r.points,
                "crashes": r.crashes, "crash": r.crash, "evidence": r.broken.evidence if r.broken else None,
            }
            for r in report.results
        },
    }  # fmt: skip


def suite(name: str, subject: Certifier, budget: float, seed: int) -> dict[str, Any]:
    """Run and print one certifier's report."""
    print(f"\n{name} (protocol {subject.protocol}, norms {', '.join(subject.norms)})", flush=True)
    start = time.monotonic()
    report = run(subject, budget, seed, progress=lambda result: print(line(result), flush=True))
    print(f"exit {report.exit_code}, {report.points} points attacked, {time.monotonic() - start:.0f} s", flush=True)
    return summary(report) | {"seconds": round(time.monotonic() - start, 1)}


def nightly(budget: float, seed: int, only: list[str]) -> dict[str, Any]:
    """certmix's own methods: zero broken laws, at least a million attacked points at full length."""
    results = {name: suite(name, certifier(f, name), budget / len(only or OWN), seed) for name, f in OWN.items()
               if not only or name in only}  # fmt: skip
    points = sum(r["points"] for r in results.values())
    print(f"\n{points} points attacked in all, exit codes {[r['exit_code'] for r in results.values()]}")
    return results


def upstream(budget: float, seed: int, only: list[str]) -> dict[str, Any]:
    """auto_LiRPA's bounds, forgiven relative errors of 1e-6 (it does not round outward)."""
    chosen = {name: entry for name, entry in AUTO_LIRPA.items() if not only or name in only}
    return {
        name: suite(name, certifier(f, name, norms=norms, tolerance=1e-6), budget / len(chosen), seed)
        for name, (f, norms) in chosen.items()
    }


def kills(subject: Certifier, examples: int, seed: int, kind: str = "soundness") -> dict[str, int]:
    """Law -> how many examples it needed, for each law that kills the certifier within `examples`."""
    found = {}
    for law in laws_of(subject.protocol):
        if law.kind == kind and (not law.needs or subject.takes(law.needs)):
            result = run_law(law, subject, PATIENCE, seed, 0.0, most_examples=examples)
            if result.broken is not None:
                found[law.name] = result.examples
    return found


def bugs(examples: int, seed: int, only: list[str]) -> dict[str, Any]:
    """The kill table; rewrites the documentation's."""
    from planted_certifiers.bugs import BLEMISHES, BUGS  # beside the tests, on the path since this file was read

    stored = json.loads((ROOT / "results" / "soundness_bugs.json").read_text()) if only else {}
    table: dict[str, Any] = {}
    for kind, entries in (("soundness", BUGS), ("quality", BLEMISHES)):
        for name, bug in entries.items():
            if only and name not in only:
                table[name] = stored[name]
                continue
            subject = certifier(bug.certifier, name, bug.protocol)
            table[name] = {"what": bug.what, "protocol": subject.protocol, "kind": kind,
                           "killed_by": kills(subject, examples, seed, kind)}  # fmt: skip
            print(f"{name:34} {subject.protocol:13} {table[name]['killed_by'] or 'ALIVE'}", flush=True)
    alive = [name for name, entry in table.items() if not entry["killed_by"]]
    print(f"{len(table) - len(alive)} of {len(table)} killed; alive: {alive}")
    rewrite(table)
    return table


def rewrite(table: dict[str, Any]) -> None:
    """Put the table between its two marks in the documentation, the four quickest laws of each bug."""
    rows = ["| planted bug | protocol | what is wrong | killed by (examples needed) |", "|---|---|---|---|"]
    for name, entry in table.items():
        quickest = sorted(entry["killed_by"].items(), key=lambda item: item[1])
        killers = ", ".join(f"{law} ({count})" for law, count in quickest[:4])
        killers += f", and {len(quickest) - 4} more" if len(quickest) > 4 else ""
        rows.append(f"| `{name}` | {entry['protocol']} | {entry['what'].replace('|', '&#124;')} | {killers} |")
    text = TABLE.read_text()
    before, after = text[: text.index(START) + len(START)], text[text.index(END) :]
    TABLE.write_text(before + "\n\n" + "\n".join(rows) + "\n\n" + after)


def main() -> None:
    """Parse, run, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("nightly", "bugs", "auto_lirpa"))
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--examples", type=int, default=75)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "bugs":
        result = bugs(arguments.examples, arguments.seed, arguments.only)
    else:
        work = nightly if arguments.what == "nightly" else upstream
        result = work(seconds(arguments.budget), arguments.seed, arguments.only)
    folder = ROOT / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"soundness_{arguments.what}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

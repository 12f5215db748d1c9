"""Mutation testing of the judge: every small edit of its arithmetic must be caught by a test.

    python benchmarks/mutation.py [FILE ...] [--jobs N] [--minutes M] [--state FOLDER] [--again]

Works in a copy of the repository, in the system's temporary folder or in FOLDER, where a later run goes on. Writes
benchmarks/results/mutation.json (figures and every survivor) and docs/mutation.md. Reasons why a survivor is harmless
stand in benchmarks/mutation_reasons.json as [pattern, reason] pairs; a survivor without one is a missing test, and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from common import RESULTS, ROOT, save
from mutants import mutants
from mutating import Loop

REASONS = ROOT / "benchmarks" / "mutation_reasons.json"
TABLE = ROOT / "docs" / "mutation.md"
COPIED = (
    "proofs_check",
    "verifiers",
    "certmix",
    "tests/proofs_check",
    "tests/second_judge",
    "docs",
    "examples",
    "benchmarks",
    "Makefile",
    "README.md",
    *(f"tests/{p.name}" for p in sorted((ROOT / "tests").glob("*.py"))),
    "pyproject.toml",
)
MUTATED = ("judge.py", "witness.py", "kernel/**/*.py", "rules/**/*.py")  # of proofs_check: what proves
TESTED = ("tests/proofs_check", "tests/second_judge")
BESIDE = ("test_imports", "test_theorems", "test_lines", "test_command", "test_folder")  # tests that run no such line
FIRST = (  # what margins of linear, convolutional and ReLU networks rest on, with branching: tried before the others
    *("judge.py", "witness.py", "rules/margin/", "rules/case.py"),
    *(
        f"kernel/{name}.py"
        for name in ("bounds", "linear_forms", "parts", "rounding", "relaxations", "norms", "windows")
    ),
    *(f"kernel/layers/{name}.py" for name in ("layer", "affine", "linear", "conv2d", "relu", "add", "input")),
)
EARLIER = "an earlier run"  # what killed a mutant of which nothing else is known
BY_HAND = "by_hand.json"  # in the folder of --state, {mutant: test}: what was seen to fail with it, applied by hand
HAND = "by hand: "  # so the names of these tests begin
BUDGET = 8.0  # seconds of tests for a mutant
EXPECTED = 5  # times less time is spent on a mutant for which a reason to survive is known
SEED = 19  # of the order in which mutants are tried


def targets() -> list[str]:
    return sorted({str(p.relative_to(ROOT)) for pattern in MUTATED for p in (ROOT / "proofs_check").glob(pattern)})


def copy(target: Path) -> None:
    for name in COPIED:
        source, to = ROOT / name, target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to)


# ---------------------------------------------------------------- a run


def inside(folder: Path, options: argparse.Namespace) -> int:
    """In the copy: pytest collects the judge's tests, and the loop runs the plan instead of them."""
    root = folder / "repo"
    arguments = ["-s", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist", "-c", str(root / "pyproject.toml")]
    ignored = [f"--ignore-glob=*/{name}*" for name in BESIDE]
    return int(pytest.main([*arguments, *ignored, *TESTED], plugins=[Loop(root, folder, options)]))


def run(plan: list[tuple[str, str]], expected: set[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Records of the mutants of the plan that were tried, some perhaps earlier, where `--state` names a folder.
    expected: to survive, for a reason that is known: tried for less time."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folder = (options.state or Path(name)).resolve()
        folder.mkdir(exist_ok=True)
        if not (folder / "repo").exists():
            copy(folder / "repo")
        results = folder / "results.jsonl"
        results.touch()
        known = {record["key"] for record in map(json.loads, results.read_text().splitlines())}
        seconds = [(*m, options.budget / (EXPECTED if m[1] in expected else 1)) for m in plan if m[1] not in known]
        (folder / "plan.json").write_text(json.dumps(seconds))
        arguments = [sys.executable, __file__, "--inside", folder, "--until", time.time() + 60 * options.minutes]
        arguments += [f"--{option}={getattr(options, option)}" for option in ("jobs", "dearest")]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        here = {"PYTHONPATH": str(folder / "repo"), "PYTHONDONTWRITEBYTECODE": "1", **threads}
        done = subprocess.run([str(a) for a in arguments], cwd=folder / "repo", env={**os.environ, **here}, check=False)
        if done.returncode:
            sys.exit(f"the tests of the mutants ended with {done.returncode}")
        wanted, by_hand = {key for _, key in plan}, load(folder / BY_HAND)
        records = [r for r in map(json.loads, results.read_text().splitlines()) if r["key"] in wanted]
        for record in records:
            if record["outcome"] == "passed" and record["key"] in by_hand:
                record["outcome"] = f"killed by {HAND}{by_hand[record['key']]}"
        return records


# ---------------------------------------------------------------- figures


def load(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


def figures(path: str, records: list[dict[str, Any]], old: dict[str, Any]) -> dict[str, Any]:
    """Of one file; `old`: its earlier figures, whose survivors were run again. tried: how many of its mutants were."""
    by = Counter(r["outcome"].removeprefix("killed by ") for r in records if r["outcome"] != "passed")
    by.update(old.get("killed_by", {}))
    survivors = {r["key"] for r in records if r["outcome"] == "passed"}
    survivors |= set(old.get("survivors", ())) - {r["key"] for r in records}
    tried = by.total() + len(survivors)
    return {
        "mutants": len({m.key() for m in mutants(ROOT, path)}),
        "tried": tried,
        "killed_by": dict(by),
        "survivors": sorted(survivors),
    }


def reasons_of(keys: Iterable[str], paths: Iterable[str], known: list[list[str]]) -> dict[str, str]:
    """Mutant -> the first of [pattern, reason] whose pattern is found in "OPERATOR | KEY"."""
    operators = {m.key(): m.operator for path in paths for m in mutants(ROOT, path)}
    found: dict[str, str] = {}
    for key in keys:
        label = f"{operators.get(key, 'gone')} | {key}"
        match = next((text for pattern, text in known if re.search(pattern, label)), None)
        if match is not None:
            found[key] = match
    return found


def _merged(earlier: int) -> list[str]:
    """What must be said of a table in which verdicts of an earlier state of the judge stand."""
    if not earlier:
        return []
    return [f"Of those killed, {earlier} were at an earlier state of the judge, and count where file, function and",
            "line are the same today: what was tried in the two together is no random sample."]  # fmt: skip


def table(files: dict[str, Any], reasons: dict[str, str]) -> str:
    tried, of = (sum(f[name] for f in files.values()) for name in ("tried", "mutants"))
    earlier = sum(f["killed_by"].get(EARLIER, 0) for f in files.values())
    seen = sum(n for f in files.values() for test, n in f["killed_by"].items() if test.startswith(HAND))
    left_out = "" if tried == of else ", the others came to no verdict"
    rows = ["# Mutation testing of the judge", "", __doc__.split("\n\n")[0].split("\n")[0], "",
            "Operators: error term set to zero, a term or a condition removed, directed rounding removed or swapped,",
            "minimum and maximum swapped, strictness of a comparison changed, a check removed, a constant halved,",
            "a sign flipped. `make mutation` repeats it; figures in `benchmarks/results/mutation.json`.", "",
            f"**{tried} of {of} mutants were tried**{left_out}. They are taken in a",
            f"random order (seed {SEED}), first those of",
            "files that margins of linear, convolutional and ReLU networks rest on; a mutant counts as surviving where",
            "all quick cases of tests that run its line pass, at most eight of a test and",
            f"{BUDGET:g} seconds of them ({BUDGET / EXPECTED:g} where a reason was known).",
            f"With {seen} of the others a test was seen to fail by hand: one that the run had no time for, or that was",
            "written since.", *_merged(earlier), "",
            "| file | mutants | tried | killed | survivors | of these without a reason |", "|---|---|---|---|---|---|",
            ]  # fmt: skip
    sums = Counter[str]()
    for path, f in sorted(files.items()):
        left, unknown = len(f["survivors"]), sum(key not in reasons for key in f["survivors"])
        rows.append(f"| {path} | {f['mutants']} | {f['tried']} | {f['tried'] - left} | {left} | {unknown} |")
        sums.update(mutants=f["mutants"], tried=f["tried"], left=left, unknown=unknown)
    of_all = sums["mutants"], sums["tried"], sums["tried"] - sums["left"], sums["left"], sums["unknown"]
    rows += ["| all | " + " | ".join(map(str, of_all)) + " |", "", "## Survivors", ""]
    for _, f in sorted(files.items()):
        for key in f["survivors"]:
            place, edit = key.split(": ", 1)
            before, after = edit.split(" => ", 1)
            where = f"{place.removeprefix('proofs_check/')}: `{before}` → `{after}`"
            rows.append(f"- {where}: {reasons.get(key, 'MISSING TEST')}")
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", help="files of proofs_check, such as kernel/bounds.py (default: all)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=600, help="begin no mutant later than that (default 600)")
    parser.add_argument("--again", action="store_true", help="run only the survivors recorded last time")
    parser.add_argument("--table", action="store_true", help="run nothing: write the page from the recorded figures")
    parser.add_argument("--dearest", type=float, default=2, help="leave out cases of more seconds (default 2)")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help=f"seconds of tests for a mutant (default {BUDGET:g})"
    )
    parser.add_argument("--state", type=Path, help="folder to keep copy and results in, and to go on from")
    for hidden, kind in (("--inside", Path), ("--until", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return inside(options.inside, options)
    paths = [f"proofs_check/{name}" for name in options.files] or targets()
    recorded = {p: f for p, f in load(RESULTS / "mutation.json").get("figures", {}).items() if p in targets()}
    old = {p: recorded.get(p, {}) if options.again else {} for p in paths}
    plan = [(p, m.key()) for p in paths for m in mutants(ROOT, p) if not options.again or m.key() in
            old[p].get("survivors", ())]  # fmt: skip
    plan = list(dict.fromkeys(plan))
    random.Random(SEED).shuffle(plan)
    plan.sort(key=lambda m: not m[0].startswith(tuple(f"proofs_check/{name}" for name in FIRST)))
    started = time.monotonic()
    known = load(REASONS) or []
    expected = set(reasons_of([key for _, key in plan], paths, known))
    records = [] if options.table else run(plan, expected, options)
    for path in () if options.table else paths:
        recorded[path] = figures(path, [r for r in records if r["path"] == path], old[path])
    save("mutation", recorded)
    reasons = reasons_of([key for f in recorded.values() for key in f["survivors"]], recorded, known)
    TABLE.write_text(table(recorded, reasons))
    left = [key for f in recorded.values() for key in f["survivors"] if key not in reasons]
    print(*left, f"{len(records)} mutants tried, {len(left)} survivors without a reason, "
          f"{time.monotonic() - started:.0f} s", sep="\n")  # fmt: skip
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

"""Mutation testing of the judge: every small edit of its arithmetic must be caught by a test.

    python benchmarks/mutation.py [FILE ...] [--jobs N] [--again]

Works in copies of the repository under the system's temporary folder. Writes benchmarks/results/mutation.json
(figures and every survivor, merged file by file) and docs/mutation.md. Reasons why a survivor is harmless stand in
benchmarks/mutation_reasons.json; a survivor without one is a missing test, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, save
from mutants import Mutant, mutants

REASONS = ROOT / "benchmarks" / "mutation_reasons.json"
TABLE = ROOT / "docs" / "mutation.md"
COPIED = ("proofs_check", "verifiers", "certmix", "tests/proofs_check", "pyproject.toml")
CPU_SECONDS = 200
BOUNDS = ("mutants", "network_maps", "bounds", "bounds_attacks", "float32_error", "exponential", "rule_lipschitz")
RULES = ("mutants", "judge", "exponential", "rule_lipschitz", "rule_smoothing", "float32_error")
TESTS = {
    "rounding.py": ("mutants", "rounding", "rule_smoothing", "bounds_attacks", "bounds", "exponential"),
    "network.py": BOUNDS,
    "relaxations.py": BOUNDS,
    "bounds.py": (*BOUNDS, "judge"),
    "float32.py": ("mutants", "float32_error", "judge"),
    "jacobian.py": ("mutants", "rule_lipschitz"),
    "judge.py": ("mutants", "judge", "rule_smoothing"),
    "rules/case.py": RULES,
    "rules/differences.py": RULES,
    "rules/exponential.py": RULES,
    "rules/margin.py": RULES,
    "rules/lipschitz.py": RULES,
    "rules/lipsdp.py": ("mutants", "rule_lipschitz", "judge"),
    "rules/smoothing.py": ("mutants", "rule_smoothing", "judge"),
}


def copy(target: Path) -> None:
    for name in COPIED:
        source, to = ROOT / name, target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to)


# ---------------------------------------------------------------- one process per mutant, forked from a warm one


def preload() -> None:
    """Import what the tests import, except what is mutated and what imports that."""
    import hypothesis
    import numpy
    import pytest
    import torch
    from hypothesis.extra import numpy as _  # noqa: F401

    with contextlib.suppress(ImportError):
        import auto_LiRPA  # noqa: F401  # type: ignore[import-not-found]
    torch.set_num_threads(1)
    assert numpy, pytest
    assert not any(name.startswith(("proofs_check", "verifiers", "certmix")) for name in sys.modules)
    hypothesis.settings.register_profile("mutation", database=None, derandomize=True, max_examples=30)
    hypothesis.settings.load_profile("mutation")


def tested(folder: Path, names: tuple[str, ...], log: Path) -> str:
    """Run the tests in a child process: "passed", "killed by TEST", "killed by signal N", "killed by time"."""
    child = os.fork()
    if child == 0:
        os._exit(_child(folder, names, log))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "killed by time" if number in (signal.SIGXCPU, signal.SIGKILL) else f"killed by signal {number}"
    if os.WEXITSTATUS(status) == 0:
        return "passed"
    found = re.search(r"^(?:FAILED|ERROR) \S*?(test_\w+)\.py(?:::(\w+))?", log.read_text(errors="replace"), re.M)
    return f"killed by {found[1]}::{found[2] or ''}" if found else "killed by a crash"


def _child(folder: Path, names: tuple[str, ...], log: Path) -> int:
    """Files one by one: the first is the quickest, and most mutants go no further."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    quiet = ["-x", "-q", "--tb=line", "-rfE", "-p", "no:cacheprovider", "-p", "no:certmix", "-p", "no:xdist"]
    for name in names:
        file = f"tests/proofs_check/test_{name}.py"
        code = int(pytest.main([*quiet, file])) if Path(file).exists() else 0
        if code:
            break
    sys.stdout.flush()
    return code


def judged(folder: Path, mutant: Mutant, names: tuple[str, ...], log: Path) -> str:
    path = folder / mutant.path
    source = path.read_bytes()
    for cached in Path(sys.pycache_prefix or "").rglob(f"{path.stem}.*.pyc"):
        if "proofs_check" in cached.parts and "tests" not in cached.parts:
            cached.unlink()
    path.write_bytes(mutant.apply(source))
    try:
        return tested(folder, names, log)
    finally:
        path.write_bytes(source)


def worker(number: int, jobs: int, folder: Path, plan: dict[str, list[str] | None], depth: int) -> None:
    """Every `jobs`-th mutant of the planned files; one line of JSON each to folder/results.jsonl."""
    sys.pycache_prefix = str(folder / "cache")
    sys.path = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    copy(folder / "repo")
    log = folder / "log"
    preload()
    every = tuple(dict.fromkeys(n for path in plan for n in names_of(path, depth)))
    found = tested(folder / "repo", every, log)
    if found != "passed":
        sys.exit(f"the tests fail without any mutation: {found}\n{log.read_text()[-3000:]}")
    sys.dont_write_bytecode = True
    with (folder / "results.jsonl").open("w") as out:
        for path, wanted in plan.items():
            chosen = [m for m in mutants(folder / "repo", path) if wanted is None or m.key() in wanted]
            for mutant in chosen[number::jobs]:
                started = time.monotonic()
                outcome = judged(folder / "repo", mutant, names_of(path, depth), log)
                record = {"path": path, "key": mutant.key(), "operator": mutant.operator, "outcome": outcome,
                          "seconds": round(time.monotonic() - started, 1)}  # fmt: skip
                out.write(json.dumps(record) + "\n")
                out.flush()


def names_of(path: str, depth: int) -> tuple[str, ...]:
    return TESTS[path.removeprefix("proofs_check/")][:depth]


def run(plan: dict[str, list[str] | None], jobs: int, depth: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folders = [Path(name) / str(n) for n in range(jobs)]
        running: list[subprocess.Popen[bytes]] = []
        for n, folder in enumerate(folders):
            folder.mkdir()
            (folder / "plan.json").write_text(json.dumps(plan))
            arguments = [sys.executable, __file__, "--worker", n, "--jobs", jobs, "--folder", folder, "--depth", depth]
            threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            running.append(subprocess.Popen([str(a) for a in arguments], cwd=folder, env={**os.environ, **threads}))
        codes = [process.wait() for process in running]
        if any(codes):
            sys.exit(1)
        lines = [line for folder in folders for line in (folder / "results.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines]


# ---------------------------------------------------------------- figures


def load(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


def merged(records: list[dict[str, Any]], old: dict[str, Any] | None) -> dict[str, Any]:
    """Figures of one file; `old`: the survivors' earlier figures, when only they were run again."""
    survivors = sorted(r["key"] for r in records if r["outcome"] == "passed")
    mutations = len(records) if old is None else old["mutants"]
    by = Counter(r["outcome"].split("::")[0].removeprefix("killed by ") for r in records if r["outcome"] != "passed")
    if old is not None:
        by.update(old["killed_by"])
    return {"mutants": mutations, "killed": mutations - len(survivors), "killed_by": dict(by), "survivors": survivors}


def table(files: dict[str, Any], reasons: dict[str, str]) -> str:
    rows = ["# Mutation testing of the judge", "", __doc__.split("\n\n")[0].split("\n")[0], "",
            "Operators: error term set to zero, a term or a condition removed, directed rounding removed or swapped,",
            "minimum and maximum swapped, strictness of a comparison changed, a check removed, a constant halved,",
            "a sign flipped. `make mutation` repeats it; figures in `benchmarks/results/mutation.json`.", "",
            "| file | mutants | killed | survivors | of these without a reason |", "|---|---|---|---|---|"]  # fmt: skip
    for path, f in sorted(files.items()):
        unknown = sum(key not in reasons for key in f["survivors"])
        rows.append(f"| {path} | {f['mutants']} | {f['killed']} | {len(f['survivors'])} | {unknown} |")
    total, killed = (sum(f[name] for f in files.values()) for name in ("mutants", "killed"))
    rows += [f"| all | {total} | {killed} | {total - killed} | |", "", "## Survivors", ""]
    for _, f in sorted(files.items()):
        for key in f["survivors"]:
            place, edit = key.split(": ", 1)
            before, after = edit.split(" => ", 1)
            where = f"{place.removeprefix('proofs_check/')}: `{before}` → `{after}`"
            rows.append(f"- {where}: {reasons.get(key, 'MISSING TEST')}")
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", help="files of proofs_check, such as bounds.py (default: all)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="run only the survivors recorded last time")
    parser.add_argument("--depth", type=int, default=99, help="use only the first so many test files")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.worker, options.jobs, options.folder, load(options.folder / "plan.json"), options.depth)
        return 0
    recorded = load(RESULTS / "mutation.json").get("figures", {})
    paths = [f"proofs_check/{name}" for name in options.files or TESTS]
    old = {p: recorded[p] if options.again and p in recorded else None for p in paths}
    started = time.monotonic()
    records = run({p: None if o is None else o["survivors"] for p, o in old.items()}, options.jobs, options.depth)
    for path in paths:
        recorded[path] = merged([r for r in records if r["path"] == path], old[path])
        print(f"{path}: {recorded[path]['killed']} of {recorded[path]['mutants']} killed")
    save("mutation", recorded)
    reasons = load(REASONS)
    TABLE.write_text(table(recorded, reasons))
    left = [key for f in recorded.values() for key in f["survivors"] if key not in reasons]
    print(*left, f"{len(left)} survivors without a reason, {time.monotonic() - started:.0f} s", sep="\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

"""Mutation testing of the judge: every small edit of its arithmetic must be caught by a test.

    python benchmarks/mutation.py [FILE ...] [--jobs N] [--minutes M] [--again]

Works in copies of the repository under the system's temporary folder. Writes benchmarks/results/mutation.json
(figures and every survivor) and docs/mutation.md. Reasons why a survivor is harmless stand in
benchmarks/mutation_reasons.json as [pattern, reason] pairs; a survivor without one is a missing test,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from common import RESULTS, ROOT, save
from mutants import Mutant, mutants

REASONS = ROOT / "benchmarks" / "mutation_reasons.json"
TABLE = ROOT / "docs" / "mutation.md"
COPIED = (
    "proofs_check",
    "verifiers",
    "certmix",
    "tests/proofs_check",
    *(f"tests/{p.name}" for p in sorted((ROOT / "tests").glob("*.py"))),
    "pyproject.toml",
)
CPU_SECONDS = 200
CASES = 6  # of a test over random seeds: what only a later one would notice counts as a survivor
MUTATED = ("judge.py", "witness.py", "kernel/**/*.py", "rules/**/*.py")  # of proofs_check: what proves
TESTED = ("test_[jt]*.py", "test_forgeries.py", "test_hostile_networks.py", "kernel/test_*.py", "rules/test_*.py")
LEFT_OUT = ("test_theorems.py",)  # of tests/proofs_check: no line of the judge is run by it
SEED = 19  # of the order in which mutants are tried


def targets() -> list[str]:
    return sorted({str(p.relative_to(ROOT)) for pattern in MUTATED for p in (ROOT / "proofs_check").glob(pattern)})


def test_files() -> list[str]:
    """ "kernel/bounds" for kernel/test_bounds.py of tests/proofs_check."""
    root = ROOT / "tests" / "proofs_check"
    found = {p for pattern in TESTED for p in root.glob(pattern) if p.name not in LEFT_OUT}
    return sorted(str(p.relative_to(root).with_name(p.stem.removeprefix("test_"))) for p in found)


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


def _spread(cases: list[Any]) -> list[Any]:
    """At most CASES of them, evenly spread."""
    return [cases[i * len(cases) // min(CASES, len(cases))] for i in range(min(CASES, len(cases)))]


@dataclass(frozen=True)
class Test:
    """One test function: the judge's functions it runs through ("FILE NAME"), and how long it takes."""

    file: str
    name: str
    reached: frozenset[str]
    seconds: float


def in_child(folder: Path, log: Path, work: Callable[[], int]) -> str:
    """Run `work` in a forked process: "passed", "killed by TEST", "killed by signal N", "killed by time"."""
    log.write_text("")
    child = os.fork()
    if child == 0:
        try:
            os._exit(_prepared(folder, log, work))
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "killed by time" if number in (signal.SIGXCPU, signal.SIGKILL) else f"killed by signal {number}"
    if os.WEXITSTATUS(status) == 0:
        return "passed"
    found = re.findall(r"^failed (\w+)$", log.read_text(errors="replace"), re.M)
    return f"killed by {found[-1] if found else 'the import of a test'}"


def _prepared(folder: Path, log: Path, work: Callable[[], int]) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "tests"), str(folder / "tests" / "proofs_check")]
    warnings.simplefilter("ignore")
    return work()


def passes(test: Callable[..., None], name: str) -> bool:
    try:
        _call(test)
    except TooDear:
        raise
    except BaseException:  # noqa: BLE001  # pytest's own failures are no Exceptions
        traceback.print_exc(limit=-3)
        print(f"failed {name}", flush=True)
        return False
    return True


def load_tests(file: str) -> ModuleType:
    """The module of "kernel/bounds": kernel/test_bounds.py of tests/proofs_check, below the current folder."""
    folder, _, name = file.rpartition("/")
    path = Path("tests", "proofs_check", folder, f"test_{name}.py")
    spec = importlib.util.spec_from_file_location(f"{folder}.test_{name}" if folder else f"test_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    if spec.name not in sys.modules:
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


def run_tests(tests: list[Test]) -> int:
    """Without pytest's start, in this process, until one fails."""
    for test in tests:
        module = load_tests(test.file)
        if not passes(getattr(module, test.name), test.name):
            return 1
    return 0


class TooDear(BaseException):
    """A test that takes longer than any that is used."""


def survey(dearest: float, out: Path) -> int:
    """Run every test on the unmutated judge; leave what each one reaches and how long it takes, of those that are not
    too dear."""
    found: list[dict[str, Any]] = []
    reached: set[CodeType] = set()

    def give_up(*_: Any) -> None:
        raise TooDear

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            reached.add(frame.f_code)

    signal.signal(signal.SIGPROF, give_up)
    for file in test_files():
        module = load_tests(file)
        for name, test in vars(module).items():
            if not name.startswith("test_") or not callable(test):
                continue
            reached.clear()
            started = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, 2 * dearest)  # noting calls takes time, too
            sys.setprofile(note)
            try:
                fine = passes(test, name)
            except TooDear:
                continue
            finally:
                sys.setprofile(None)
                signal.setitimer(signal.ITIMER_PROF, 0)
            if not fine:
                return 1
            places = sorted({_place(code) for code in reached if "/proofs_check/" in code.co_filename})
            found.append({"file": file, "name": name, "reached": places, "seconds": time.process_time() - started})
    out.write_text(json.dumps(found))
    return 0


def _place(code: CodeType) -> str:
    """FILE FUNCTION as Mutant names them."""
    path = code.co_filename.rpartition("/repo/")[2]
    return f"{path} {'.'.join(part for part in code.co_qualname.split('.') if not part.startswith('<'))}"


def relevant(tests: list[Test], mutant: Mutant, kills: Counter[str], budget: float) -> list[Test]:
    """Those that reach the mutated function, the likeliest killer first, the quickest next, of so many seconds in all;
    for a mutant outside functions, those that reach its file."""
    place = f"{mutant.path} {mutant.function}"
    outside = not re.match(r"[a-z_]", mutant.function.rpartition(".")[2])
    found = [t for t in tests if place in t.reached or (outside and any(r.startswith(mutant.path) for r in t.reached))]
    found.sort(key=lambda t: (-kills[t.name], t.seconds))
    spent = itertools.accumulate(t.seconds for t in found)
    return [t for t, total in zip(found, spent, strict=True) if total <= budget]


def _call(test: Callable[..., None]) -> None:
    """Every case of one test; slow ones and those that need other fixtures are left out."""
    import pytest

    marks = getattr(test, "pytestmark", [])
    tables: list[list[dict[str, Any]]] = []
    for mark in marks:
        if mark.name == "slow":
            return
        if mark.name == "parametrize":
            names = mark.args[0].replace(" ", "").split(",") if isinstance(mark.args[0], str) else list(mark.args[0])
            rows = [row.values if type(row).__name__ == "ParameterSet" else (row,) if len(names) == 1 else row
                    for row in mark.args[1]]  # fmt: skip
            tables.append([dict(zip(names, row, strict=True)) for row in rows])
    given = {name for table in tables for name in table[0]}
    wanted = set(inspect.signature(test).parameters) - given
    if wanted - {"monkeypatch", "tmp_path"}:
        return
    cases = list(itertools.product(*tables))
    for rows in _spread(cases) if "seed" in given else cases:
        with (
            contextlib.suppress(pytest.skip.Exception),
            pytest.MonkeyPatch.context() as patch,
            tempfile.TemporaryDirectory() as name,
        ):
            fixtures = {"monkeypatch": patch, "tmp_path": Path(name)}
            arguments = {key: value for row in rows for key, value in row.items()}
            test(**arguments, **{key: fixtures[key] for key in wanted})


def judged(folder: Path, mutant: Mutant, tests: list[Test], log: Path) -> str:
    path = folder / mutant.path
    source = path.read_bytes()
    for cached in Path(sys.pycache_prefix or "").rglob(f"{path.stem}.*.pyc"):
        if "proofs_check" in cached.parts and "tests" not in cached.parts:
            cached.unlink()
    path.write_bytes(mutant.apply(source))
    try:
        return in_child(folder, log, lambda: run_tests(tests))
    finally:
        path.write_bytes(source)


def worker(options: argparse.Namespace) -> None:
    """Every `jobs`-th mutant of the plan, until time is up; one line of JSON each to folder/results.jsonl."""
    folder, number = options.folder, options.worker
    sys.pycache_prefix = str(folder / "cache")
    sys.path = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    repo, log = folder / "repo", folder / "log"
    copy(repo)
    preload()
    found = in_child(repo, log, lambda: survey(options.dearest, folder / "tests.json"))
    if found != "passed":
        sys.exit(f"the tests fail without any mutation: {found}\n{log.read_text()[-3000:]}")
    tests = [Test(t["file"], t["name"], frozenset(t["reached"]), t["seconds"]) for t in load(folder / "tests.json")]
    sys.dont_write_bytecode = True
    plan: list[tuple[str, str]] = load(folder / "plan.json")
    every = {path: {m.key(): m for m in mutants(repo, path)} for path in {path for path, _ in plan}}
    kills: dict[str, Counter[str]] = {path: Counter() for path in every}
    with (folder / "results.jsonl").open("w") as out:
        for path, key in plan[number :: options.jobs]:
            started, mutant = time.monotonic(), every[path][key]
            if started > options.until:
                break
            outcome = judged(repo, mutant, relevant(tests, mutant, kills[path], options.budget), log)
            kills[path][outcome.removeprefix("killed by ")] += 1
            record = {"path": path, "key": key, "operator": mutant.operator, "outcome": outcome,
                      "seconds": round(time.monotonic() - started, 1)}  # fmt: skip
            out.write(json.dumps(record) + "\n")
            out.flush()


def run(plan: list[tuple[str, str]], options: argparse.Namespace) -> list[dict[str, Any]]:
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folders = [Path(name) / str(n) for n in range(options.jobs)]
        running: list[subprocess.Popen[bytes]] = []
        for n, folder in enumerate(folders):
            folder.mkdir()
            (folder / "plan.json").write_text(json.dumps(plan))
            arguments = [sys.executable, __file__, "--worker", n, "--folder", folder, "--until", until]
            arguments += [f"--{option}={getattr(options, option)}" for option in ("jobs", "dearest", "budget")]
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


def reasons_of(files: dict[str, Any], known: list[list[str]]) -> dict[str, str]:
    """Survivor -> the first of [pattern, reason] whose pattern is found in "OPERATOR | KEY"."""
    operators = {m.key(): m.operator for path in files for m in mutants(ROOT, path)}
    found: dict[str, str] = {}
    for key in (key for f in files.values() for key in f["survivors"]):
        label = f"{operators.get(key, 'gone')} | {key}"
        match = next((text for pattern, text in known if re.search(pattern, label)), None)
        if match is not None:
            found[key] = match
    return found


def table(files: dict[str, Any], reasons: dict[str, str]) -> str:
    rows = ["# Mutation testing of the judge", "", __doc__.split("\n\n")[0].split("\n")[0], "",
            "Operators: error term set to zero, a term or a condition removed, directed rounding removed or swapped,",
            "minimum and maximum swapped, strictness of a comparison changed, a check removed, a constant halved,",
            "a sign flipped. `make mutation` repeats it; figures in `benchmarks/results/mutation.json`. Where not all",
            f"mutants were tried, those that were are the first of all files' in one random order (seed {SEED}).", "",
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
    parser.add_argument("--dearest", type=float, default=1.5, help="leave out tests of more seconds (default 1.5)")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests for a mutant (default 20)")
    for hidden in ("--worker", "--until"):
        parser.add_argument(hidden, type=int if hidden == "--worker" else float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options)
        return 0
    paths = [f"proofs_check/{name}" for name in options.files] or targets()
    recorded = {p: f for p, f in load(RESULTS / "mutation.json").get("figures", {}).items() if p in targets()}
    old = {p: recorded.get(p, {}) if options.again else {} for p in paths}
    plan = [(p, m.key()) for p in paths for m in mutants(ROOT, p) if not options.again or m.key() in
            old[p].get("survivors", ())]  # fmt: skip
    plan = list(dict.fromkeys(plan))
    random.Random(SEED).shuffle(plan)
    started = time.monotonic()
    records = [] if options.table else run(plan, options)
    for path in () if options.table else paths:
        recorded[path] = figures(path, [r for r in records if r["path"] == path], old[path])
    save("mutation", recorded)
    reasons = reasons_of(recorded, load(REASONS) or [])
    TABLE.write_text(table(recorded, reasons))
    left = [key for f in recorded.values() for key in f["survivors"] if key not in reasons]
    print(*left, f"{len(records)} mutants tried, {len(left)} survivors without a reason, "
          f"{time.monotonic() - started:.0f} s", sep="\n")  # fmt: skip
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

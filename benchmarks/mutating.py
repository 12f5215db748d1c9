"""Tests against mutants of the judge, in processes forked from one that has imported the judge and collected its tests.

In a child the code of the functions that a mutant changes is replaced where it stands, and tests run until one fails:
no import, so that a mutant costs what its tests cost. A mutant that changes what runs when a module is imported is
tried by importing everything anew in the child.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import importlib.machinery
import inspect
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import hypothesis
import pytest
import torch
from _pytest.runner import runtestprotocol
from mutants import Mutant, mutants

CASES, OF_SEEDS = 8, 4  # of a test, and of one over seeds: what only another would notice counts as a survivor
STARTING = re.compile("subprocess|--jobs")  # in the text of a test that starts processes, which no mutant reaches
EVERY = {"folder", "op", "rule"}  # parameters of tests that are used whole
STILL = 20  # seconds beyond its processor time after which a child is ended: it waits for a lock of its parent's
MEMORY = 16 * 2**30
OVERHEAD = 0.02  # seconds that a case costs besides its own
BROKEN = 99  # exit code of a child whose work raised
JUDGE = ("proofs_check", "verifiers", "certmix")


@dataclass(frozen=True)
class Case:
    """One case of a test: where the judge's lines that it runs stand, by file, and how long it takes."""

    item: str
    seconds: float
    lines: dict[str, list[int]]

    @property
    def test(self) -> str:
        return self.item.rpartition("::")[2].partition("[")[0]


def in_child(log: Path, seconds: float, work: Callable[[], int]) -> str:
    """Run `work` in a forked process: "passed", "killed by TEST", "killed by signal N", "killed by time"; "stuck" or
    "broken" are no verdicts."""
    log.write_text("")
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its parent
            signal.alarm(int(seconds) + STILL)
            faulthandler.register(signal.SIGUSR1)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 6))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            with log.open("w") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            os._exit(work())
        except BaseException:  # noqa: BLE001  # told in the log
            traceback.print_exc()
            sys.stdout.flush()
        finally:
            os._exit(BROKEN)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return "stuck"
        return "killed by time" if number in (signal.SIGXCPU, signal.SIGKILL) else f"killed by signal {number}"
    if os.WEXITSTATUS(status) == 0:
        return "passed"
    if os.WEXITSTATUS(status) == BROKEN:
        return "broken"
    found = re.findall(r"^failed (\w+)$", log.read_text(errors="replace"), re.M)
    return f"killed by {found[-1] if found else 'the import of a test'}"


def run(item: pytest.Item) -> bool:
    reports = runtestprotocol(item, log=False, nextitem=None)
    failed = any(report.failed for report in reports)
    if failed:
        print(*(report.longreprtext[-2000:] for report in reports), f"failed {item.originalname}", sep="\n", flush=True)  # type: ignore[attr-defined]
    return not failed


# ---------------------------------------------------------------- what tests reach


class TooDear(BaseException):
    """A case that takes longer than any that is used."""


def surveyed(root: Path, item: pytest.Item, dearest: float) -> Case | None:
    """None: it fails, is skipped, reaches nothing or takes longer."""
    seen = coverage.Coverage(data_file=None, include=[str(root / "proofs_check" / "*")], config_file=False)
    seen.set_option("run:disable_warnings", ["no-data-collected"])

    def give_up(*_: Any) -> None:
        raise TooDear

    signal.signal(signal.SIGPROF, give_up)
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, dearest)
    seen.start()
    try:
        fine = run(item)
    except TooDear:
        return None
    finally:
        seen.stop()
        signal.setitimer(signal.ITIMER_PROF, 0)
    data = seen.get_data()
    lines = {str(Path(f).relative_to(root)): sorted(data.lines(f) or []) for f in data.measured_files()}
    return Case(item.nodeid, time.process_time() - started, lines) if fine and any(lines.values()) else None


def made_once(items: Iterable[pytest.Item]) -> None:
    """What fixtures of modules give, made here by the unmutated judge instead of in every child."""
    every = {id(f): f for item in items for found in item._fixtureinfo.name2fixturedefs.values() for f in found}  # type: ignore[attr-defined]
    for fixture in every.values():
        if fixture.scope == "module" and not fixture.argnames and not inspect.isgeneratorfunction(fixture.func):
            value = fixture.func()
            fixture.func = lambda value=value: value


def spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of a test at most CASES cases, evenly spread, unless they are alike in nothing."""
    found: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        found[item.nodeid.partition("[")[0]].append(item)
    kept: list[pytest.Item] = []
    for cases in found.values():
        parameters = set(getattr(getattr(cases[0], "callspec", None), "params", {}))
        count = len(cases) if parameters & EVERY else min(OF_SEEDS if "seed" in parameters else CASES, len(cases))
        kept += [cases[i * len(cases) // count] for i in range(count)]
    return kept


def relevant(cases: list[Case], places: Callable[[Case], bool], kills: Counter[str], budget: float) -> list[Case]:
    """Cases that run the mutated line, of so many seconds in all: those first that are likeliest to fail for each
    second they take. kills: by test, of mutants nearby; a test's later cases find what its first missed less often."""
    count: Counter[str] = Counter()
    ranked: list[tuple[float, Case]] = []
    for case in sorted(filter(places, cases), key=lambda case: case.seconds):
        count[case.test] += 1
        ranked.append(((kills[case.test] + 0.5) / count[case.test] / (case.seconds + OVERHEAD), case))
    found: list[Case] = []
    spent = 0.0
    for _, case in sorted(ranked, key=lambda pair: -pair[0]):
        spent += case.seconds
        if spent > budget and found:
            break
        found.append(case)
    return found


# ---------------------------------------------------------------- mutants in the running process


def _own(code: CodeType) -> tuple[object, ...]:
    constants = tuple((type(v), repr(v)) for v in code.co_consts if not isinstance(v, CodeType))
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, constants


def changed(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The code objects that differ, and those around them: the inner ones travel among their constants."""
    inner = [[v for v in code.co_consts if isinstance(v, CodeType)] for code in (old, new)]
    below = [pair for a, b in zip(*inner, strict=False) for pair in changed(a, b)]
    if _own(old) != _own(new) or len(inner[0]) != len(inner[1]) or below:
        yield old, new
    yield from below


def replacements(mutant: Mutant, source: bytes) -> list[tuple[CodeType, CodeType]] | None:
    """Functions' code, old and new; None: the mutant changes what runs on import."""
    pairs = list(changed(*(compile(text, mutant.path, "exec") for text in (source, mutant.apply(source)))))
    on_import = [(a, b) for a, b in pairs if not a.co_flags & 2]  # no fast locals: modules and classes
    if any(_own(a) != _own(b) or len(a.co_consts) != len(b.co_consts) for a, b in on_import):
        return None
    found = [pair for pair in pairs if pair not in on_import]
    same_cells = all(len(a.co_freevars) == len(b.co_freevars) for a, b in found)
    return found if found and same_cells else None


def mutate(root: Path, path: str, codes: list[tuple[CodeType, CodeType]]) -> int:
    """Replace the code of every live function; returns of how many."""
    places = {(old.co_qualname, old.co_firstlineno): new for old, new in codes}
    live = [f for f in gc.get_objects() if isinstance(f, FunctionType) and f.__code__.co_filename == str(root / path)]
    found = 0
    for function in live:
        new = places.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if new is not None:
            function.__code__ = new.replace(co_filename=function.__code__.co_filename)
            found += 1
    return found


def anew(root: Path, mutant: Mutant, source: bytes, items: list[str]) -> int:
    """Import everything again with the mutated text, and run these tests."""
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> Any:
        path = self.get_filename(fullname)
        if path == str(root / mutant.path):
            return compile(mutant.apply(source), path, "exec")
        return original(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    for name, module in list(sys.modules.items()):
        if name.startswith(JUDGE) or str(getattr(module, "__file__", "")).startswith(str(root)):
            del sys.modules[name]

    class First:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                print(f"failed {report.nodeid.rpartition('::')[2].partition('[')[0]}", flush=True)

    return int(pytest.main(["-x", "-s", "-p", "no:cacheprovider", "-p", "no:certmix", *items], plugins=[First()]))


# ---------------------------------------------------------------- the loop


class Loop:
    """A pytest plugin that, instead of the tests, runs the plan of `folder` with them; results in results.jsonl."""

    def __init__(self, root: Path, folder: Path, options: Any) -> None:
        self.root, self.folder, self.options = root, folder, options

    def pytest_collection(self) -> None:
        hypothesis.settings.register_profile(
            "mutation", database=None, derandomize=True, max_examples=20, deadline=None
        )
        hypothesis.settings.load_profile("mutation")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            sys.exit("tests were not collected")
        torch.set_num_threads(1)
        here = [item for item in session.items if not STARTING.search(inspect.getsource(item.function))]  # type: ignore[attr-defined]
        self.items = {item.nodeid: item for item in spread(here)}
        made_once(self.items.values())
        self._in_parallel(self._survey)
        parts = [self.folder / f"tests{n}.jsonl" for n in range(self.options.jobs)]
        found = [Case(**json.loads(line)) for part in parts for line in part.read_text().splitlines()]
        self.cases = [case for case in found if case.item in self.items]
        print(f"{len(self.cases)} cases of {len({case.test for case in self.cases})} tests", flush=True)
        self._need_import_anew()
        self._in_parallel(self._work)
        return True

    def _need_import_anew(self) -> None:
        """Tests pass when everything is imported again without any mutation."""
        path, log = "proofs_check/judge.py", self.folder / "log"
        same = Mutant(path, "", 1, 1, "none", "", "", 0, 0, b"")
        items = [case.item for case in self.cases if case.lines.get(path)][:3]
        if in_child(log, 200, lambda: anew(self.root, same, (self.root / path).read_bytes(), items)) != "passed":
            sys.exit(f"unmutated and imported anew the judge fails: {log.read_text()[-3000:]}")

    def _in_parallel(self, work: Callable[[int], None]) -> None:
        children: list[int] = []
        for number in range(self.options.jobs):
            child = os.fork()
            if child == 0:
                try:
                    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
                    work(number)
                    os._exit(0)
                except BaseException:  # noqa: BLE001
                    traceback.print_exc()
                    sys.stderr.flush()
                finally:
                    os._exit(1)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            sys.exit("a process of the mutation tests ended early")

    def _survey(self, number: int) -> None:
        """Every case in a child of its own: none sees what an earlier one left in caches."""
        out = self.folder / f"tests{number}.jsonl"
        known = {json.loads(line)["item"] for line in out.read_text().splitlines()} if out.exists() else set()
        for item in [item for name, item in list(self.items.items())[number :: self.options.jobs] if name not in known]:

            def note(item: pytest.Item = item) -> int:
                case = surveyed(self.root, item, self.options.dearest)
                if case is None:
                    return 1
                with out.open("a") as stream:
                    stream.write(json.dumps(asdict(case)) + "\n")
                return 0

            if in_child(self.folder / f"log{number}", 3 * self.options.dearest, note) != "passed":
                with out.open("a") as stream:  # of no use, and not tried again
                    stream.write(json.dumps(asdict(Case(item.nodeid, 0.0, {}))) + "\n")

    def _work(self, number: int) -> None:
        log, results = self.folder / f"log{number}", self.folder / "results.jsonl"
        plan: list[tuple[str, str, float]] = json.loads((self.folder / "plan.json").read_text())
        every = {path: {m.key(): m for m in mutants(self.root, path)} for path in {path for path, *_ in plan}}
        kills: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # in a file; in one of its functions
        for path, key, budget in plan[number :: self.options.jobs]:
            if time.time() > self.options.until:
                return
            started, mutant = time.monotonic(), every[path][key]
            near = kills[path, ""] + kills[path, mutant.function] + kills[path, mutant.function]
            outcome, tried = self._tried(mutant, near, log, budget)
            if outcome in ("stuck", "broken"):
                print(f"{outcome}: {key}\n{log.read_text(errors='replace')[-2000:]}", flush=True)
                continue
            for place in ("", mutant.function):
                kills[path, place][outcome.removeprefix("killed by ")] += 1
            record = {"path": path, "key": key, "operator": mutant.operator, "outcome": outcome, "cases": tried,
                      "seconds": round(time.monotonic() - started, 2)}  # fmt: skip
            with results.open("a") as stream:
                stream.write(json.dumps(record) + "\n")

    def _tried(self, mutant: Mutant, kills: Counter[str], log: Path, budget: float) -> tuple[str, int]:
        path = mutant.path
        source = (self.root / path).read_bytes()
        codes = replacements(mutant, source)
        lines = set(range(mutant.line, mutant.last + 1))
        if codes is None:
            chosen = relevant(self.cases, lambda case: bool(case.lines.get(path)), kills, budget)
            items = [case.item for case in chosen]
            return in_child(log, 2 * budget + 60, lambda: anew(self.root, mutant, source, items)), len(items)
        chosen = relevant(self.cases, lambda case: not lines.isdisjoint(case.lines.get(path, ())), kills, budget)

        def work() -> int:
            if not mutate(self.root, path, codes):
                return anew(self.root, mutant, source, [case.item for case in chosen])
            return 0 if all(run(self.items[case.item]) for case in chosen) else 1

        return in_child(log, 2 * budget + 20, work), len(chosen)

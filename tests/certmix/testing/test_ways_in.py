"""The suite's doors: protocol checks, command line, pytest plugin, scripts of counterexamples."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_certifiers.bugs import BUGS, SOUND

from certmix.commands import soundness
from certmix.errors import UsageError
from certmix.testing import protocol
from certmix.testing.laws import laws_of
from certmix.testing.reproduce import script
from certmix.testing.runner import run_law
from certmix.testing.words import seconds

ROOT = Path(__file__).parents[3]
SUBJECTS = """
from planted_certifiers.bugs import BUGS, SOUND
lies = BUGS["diameter_reported"].certifier
good = SOUND["margin"]
def words(standard, robust, x, alpha): return ["far"] * len(x)
def short(standard, robust, x, alpha): return [None]
"""
LAW = "no_counterexample_by_sampling"
pytest_plugins = ["pytester"]
# an installed certmix has registered its plugin already; a bare checkout has not
PLUGIN = () if importlib.metadata.entry_points(group="pytest11", name="certmix") else ("-p", "certmix.testing.plugin")


@pytest.fixture
def subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module `subjects`, current and importable."""
    (tmp_path / "subjects.py").write_text(SUBJECTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("subjects", None)
    return tmp_path


def call(*words: str) -> int:
    """The subcommand as __main__ runs it."""
    parser = argparse.ArgumentParser()
    soundness.add_arguments(parser)
    return soundness.run(parser.parse_args(words))


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{folder}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("answer", ["far", 3.0, None, [1.0], ["far", None], [True, None], object()])
def test_an_answer_of_the_wrong_form_is_refused(answer: object) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.radii(answer, 2)


@pytest.mark.parametrize(
    "answer",
    [[1.0, None], (0.5, 2), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), [torch.tensor(1.0), np.float32(2)]],
)
def test_radii_come_as_numbers_arrays_or_tensors(answer: Any) -> None:
    assert all(r is None or isinstance(r, float) for r in protocol.radii(answer, 2))


@pytest.mark.parametrize(
    ("radius", "claims"),
    [(None, False), (0.0, False), (-1.0, False), (math.nan, False), (1e-9, True), (math.inf, True)],
)
def test_only_a_positive_radius_claims_something(radius: float | None, claims: bool) -> None:
    assert protocol.claimed(radius) is claims


@pytest.mark.parametrize("spec", ["nonsense", "no_such_module:f", "math:no_such_function", "math:pi", "certmix:"])
def test_a_certifier_that_cannot_be_loaded_is_named(spec: str) -> None:
    with pytest.raises(UsageError):
        protocol.load(spec)


def test_a_table_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(protocol.ProtocolError, match=r"\(2, 3\)"):
        protocol.table(np.zeros((3, 2)), (2, 3))


@pytest.mark.parametrize("text", ["0", "5 minutes", "-3", "", "m"])
def test_a_budget_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text)


def test_budgets_are_seconds_minutes_or_hours() -> None:
    assert [seconds(t) for t in ("90", "90s", "5m", "1h")] == [90, 90, 300, 3600]


def test_exit_codes_tell_lies_from_truth_from_nonsense(subjects: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--certifier", "subjects:good", "--budget", "1s", "--laws", LAW) == 0
    assert call("--certifier", "subjects:lies", "--budget", "4s", "--laws", LAW, "--out", "found") == 1
    assert "confirmed in exact arithmetic" in capsys.readouterr().out
    for name in ("words", "short", "absent"):
        with pytest.raises(UsageError):
            call("--certifier", f"subjects:{name}", "--budget", "1s")
    with pytest.raises(UsageError, match="no law is named"):
        call("--certifier", "subjects:good", "--laws", "no_such_law")


def test_the_script_of_a_counterexample_runs_and_shows_it(subjects: Path) -> None:
    assert call("--certifier", "subjects:lies", "--budget", "4s", "--laws", LAW, "--out", "found") == 1
    done = python(subjects, f"found/{LAW}.py")
    assert done.returncode == 1, done.stderr
    assert "at least as probable" in done.stdout
    mended = (subjects / "found" / f"{LAW}.py").read_text().replace("subjects:lies", "subjects:good")
    (subjects / "mended.py").write_text(mended)
    assert python(subjects, "mended.py").returncode == 0


def test_a_statistical_counterexample_is_a_script_too(subjects: Path) -> None:
    subject = protocol.certifier(BUGS["wald_interval"].certifier, "planted_certifiers.bugs:BUGS", "counts")
    result = run_law(laws_of("counts")[0], subject, 30.0, 0, 0.0)
    assert result.broken is not None
    text = script(subject, result.broken)
    compile(text, "counterexample.py", "exec")
    assert "VoteCase(" in text


def test_the_list_of_laws_needs_no_certifier(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--list") == 0
    assert LAW in capsys.readouterr().out


def test_the_plugin_is_inert_without_its_option_and_imports_no_torch(tmp_path: Path) -> None:
    text = "import sys, certmix.testing.plugin; sys.exit('torch' in sys.modules or 'hypothesis' in sys.modules)"
    assert python(tmp_path, "-c", text).returncode == 0
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    done = python(tmp_path, "-m", "pytest", *PLUGIN, "test_nothing.py")
    assert done.returncode == 0
    assert "1 passed" in done.stdout


def test_pytest_fails_a_lying_certifier_and_passes_a_good_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(subjects=SUBJECTS, test_nothing="def test_nothing(): pass")
    pytester.syspathinsert()
    base = (*PLUGIN, "--certmix-budget", "2s", "test_nothing.py", "--certmix-laws", f"{LAW},ties_are_not_certified")
    lying = pytester.runpytest_inprocess(*base, "--certmix-certifier", "subjects:lies")
    assert lying.ret == 1
    lying.stdout.fnmatch_lines(["*at least as probable*"])
    good = pytester.runpytest_inprocess(*base, "--certmix-certifier", "subjects:good")
    assert good.ret == 0
    good.assert_outcomes(passed=3)


def test_pytest_names_a_certifier_that_is_not_there(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(subjects=SUBJECTS)
    pytester.syspathinsert()
    absent = pytester.runpytest_inprocess(*PLUGIN, "--certmix-certifier", "subjects:absent")
    assert absent.ret == 4
    absent.stderr.fnmatch_lines(["*has no 'absent'*"])


def test_the_plain_python_api_is_enough() -> None:
    from certmix.testing import certifier, run

    report = run(certifier(SOUND["votes"]), budget=1.0)
    assert report.exit_code == 0
    assert report.points > 0

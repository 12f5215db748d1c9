"""What starts at once: help, versions, mistakes and the judge need no torch, nor anything else that is slow to load."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import certmix
from certmix.__main__ import COMMANDS, main
from certmix.commands.experiment import EXPERIMENTS
from certmix.experiments import accuracy_vs_alpha, certified_curves, confidence, tradeoff
from certmix.runs import shards

ACCEPTED = Path(__file__).parents[2] / "proofs_check" / "accepted" / "margin_linf"
HEAVY = ("torch", "scipy", "cvxpy", "onnx", "onnxruntime", "matplotlib", "rich", "hypothesis")
CODE = (
    "import sys\n"
    "from certmix.__main__ import main\n"
    "try:\n"
    "    code = main(sys.argv[1:])\n"
    "except SystemExit as stopped:\n"
    "    code = stopped.code\n"
    f"print('loaded:', *sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)\n"
    "sys.exit(code)\n"
)


BARE = f"import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n{CODE.partition(chr(10))[2]}"  # none of them is there


def started(*arguments: str, code: str = CODE) -> tuple[int, str, list[str]]:
    """Exit code, what was printed, and which heavy packages the process loaded."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    *errors, loaded = done.stderr.splitlines()
    return done.returncode, done.stdout + "\n".join(errors), loaded.split()[1:]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "usage: certmix COMMAND"),
        (("--help",), 0, "usage: certmix COMMAND"),
        (("--version",), 0, f"certmix {certmix.__version__}"),
        (("ceck",), 2, "unknown command 'ceck'"),
        (("check", "--help"), 0, "usage: certmix check"),
        (("check", "--jbos", "2"), 2, "see certmix check --help"),
        (("check", str(ACCEPTED)), 0, ""),
        (("check", str(ACCEPTED / "nothing")), 2, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_nothing_heavy_is_loaded_to_answer(arguments: tuple[str, ...], code: int, words: str):
    found, printed, loaded = started(*arguments)
    assert (found, loaded) == (code, [])
    assert words in printed


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_are_explained_and_refused_without_torch(command: str):
    code, printed, loaded = started(command, "--help")
    assert (code, loaded) == (0, [])
    assert f"usage: certmix {command}" in printed
    needed = {
        "sweep": ["run"],
        "replay": ["run"],
        "experiment": ["tradeoff"],
        "check": ["run"],
        "report": ["run"],
        "show": ["run", "0"],
        "export": ["run"],
        "merge": ["run"],
        "models": ["run"],
        "options": ["audit"],
        "completion": ["bash"],
    }
    needed |= {
        "lipschitz": ["--robust", "h", "--radius", "1"],
        "certify-log": ["h", "--noise-std", "1", "--alpha", "1"],
    }
    code, printed, loaded = started(command, *needed.get(command, []), "--apha", "0.6")
    assert (code, loaded) == (2, [])
    assert "unrecognized arguments: --apha 0.6" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 0, ""),
        (("--data", str(ACCEPTED / "inputs.npz")), 0, ""),
        (("--robust", "h.onnx"), 2, "certmix: onnx is not installed: pip install certmix brings all it needs"),
    ],
    ids=["alone", "own data", "own model"],
)
def test_check_needs_numpy_and_flint_only(arguments: tuple[str, ...], code: int, words: str):
    found, printed, _ = started("check", str(ACCEPTED), *arguments, code=BARE)
    assert found == code
    assert words in printed


def test_the_experiments_are_named_as_they_name_themselves():
    found = {module.NAME for module in (accuracy_vs_alpha, certified_curves, confidence, tradeoff)}
    assert set(EXPERIMENTS) == found


def test_importing_certmix_and_its_settings_loads_no_torch():
    code = "import sys, certmix; dir(certmix); certmix.Settings, certmix.UsageError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_names_of_the_package_are_those_it_hands_out():
    assert set(dir(certmix)) == set(certmix.__all__)
    assert all(getattr(certmix, name) is not None for name in certmix.__all__)


@pytest.mark.parametrize("words", [["certmix", "check"], ["proofs_check"]], ids=lambda words: words[0])
def test_a_reader_that_leaves_ends_the_command_without_a_word(words: list[str]):
    """As in `certmix check DIR --json | head -1`."""
    command = [sys.executable, "-m", *words, str(ACCEPTED), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_an_unfinished_run_is_not_judged_and_the_way_on_is_said(tmp_path: Path, capsys):
    (tmp_path / shards.FOLDER).mkdir()
    assert main(["check", str(tmp_path)]) == 2
    assert "holds an unfinished audit: run certmix audit again" in capsys.readouterr().err

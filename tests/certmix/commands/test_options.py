"""`certmix options COMMAND` is a configuration file: uncommented, it says what is so without it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from certmix.__main__ import COMMANDS, main
from certmix.commands import arguments
from certmix.commands.completion import SHELLS
from certmix.commands.options import CONFIGURED
from certmix.commands.parsing import Parser, parse
from certmix.errors import UsageError
from certmix.settings import Settings, SmoothingSettings, choices, option_of


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"certmix {command}", allow_abbrev=False)
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return parser


def test_every_command_with_a_configuration_file_is_known():
    assert set(CONFIGURED) == {c for c in COMMANDS if any(a.dest == "config" for a in parser_of(c)._actions)}


@pytest.mark.parametrize("command", CONFIGURED)
def test_the_defaults_read_back_as_they_are(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["options", command]) == 0
    printed = capsys.readouterr().out
    tomllib.loads(printed)
    lines = re.findall(r"^#([a-z0-9-]+ = .*)$", printed, flags=re.MULTILINE)
    assert len(lines) > 20
    assert max(map(len, printed.splitlines())) <= 120
    file = tmp_path / "all.toml"
    file.write_text("\n".join(line for line in lines if not line.endswith("# no default")))
    tomllib.loads("\n".join(lines))  # the placeholders, too, are TOML
    positional = ["tradeoff"] if command == "experiment" else []
    plain = vars(parse(parser_of(command), positional))
    configured = vars(parse(parser_of(command), [*positional, "--config", str(file)]))
    assert configured.pop("config") == str(file)
    del plain["config"]
    assert configured == plain


@pytest.mark.parametrize("command", CONFIGURED)
def test_every_option_stands_there_once(command: str, capsys: pytest.CaptureFixture[str]):
    main(["options", command])
    names = re.findall(r"^#([a-z0-9-]+) = ", capsys.readouterr().out, flags=re.MULTILINE)
    options = {a.option_strings[-1][2:] for a in parser_of(command)._actions if a.option_strings}
    assert sorted(names) == sorted(options - {"help", "config"})


def test_a_command_without_a_configuration_file_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["options", "check"]) == 2
    assert (
        "'check' takes no --config file: give one of audit, tune, smoothing-bounds, experiment"
        in capsys.readouterr().err
    )


def test_without_options_the_settings_are_their_own_defaults():
    options = parse(parser_of("audit"), ["--alpha", "0.75", "--device", "cpu"])
    assert arguments.settings(options) == Settings(alpha=0.75, engine="best")


# every field that an option says, and another value of it
OTHERS = {
    "alpha": ("0.9", 0.9), "norm": ("L2", "L2"), "radius": ("2/255", 2 / 255), "temperature": ("2", 2.0),
    "domain": ("0 255", (0.0, 255.0)), "method": ("lipschitz", "lipschitz"), "engine": ("crown", "crown"),
    "evidence": ("engine", "engine"), "semantics": ("float32", "float32"), "use_standard": (None, True),
    "optimise": ("3", 3), "tolerance": ("1/8", 0.125), "attack_steps": ("0", 0), "branch": ("1.5", 1.5),
    "branch_parts": ("7", 7), "curves": (None, False), "batch_size": ("4", 4), "device": ("meta", "meta"),
    "threads": ("2", 2), "seed": ("5", 5), "noise_std": ("0.25", 0.25), "samples": ("99", 99),
    "selection_samples": ("98", 98), "failure_probability": ("1/64", 1 / 64), "base": ("hard", "hard"),
    "bound": ("direct", "direct"), "looks": ("0.5,1", (0.5, 1.0)), "grid": ("15", 15), "draw_batch": ("6", 6),
    "precision": ("bfloat16", "bfloat16"),
}  # fmt: skip


def test_every_field_that_is_declared_as_an_option_is_tried_below():
    declared = {f.name for s in (Settings, SmoothingSettings) for f in dataclasses.fields(s) if option_of(f)}
    assert declared == set(OTHERS)
    assert {f.name for f in dataclasses.fields(Settings)} - declared == {"smoothing", "adaptive"}


@pytest.mark.parametrize("field", OTHERS)
def test_an_option_reaches_its_field_and_no_other(field: str, tmp_path: Path):
    """From the command line, and from a configuration file."""
    text, value = OTHERS[field]
    flag = f"--{'no-' if field == 'curves' else ''}{field.replace('_', '-')}"
    rest = [] if field == "alpha" else ["--alpha", "0.75"]
    rest += [] if field == "device" else ["--device", "cpu"]
    file = tmp_path / "audit.toml"
    said = "true" if text is None else f"[{text.replace(' ', ', ')}]" if " " in text else f'"{text}"'
    file.write_text(f"{flag.removeprefix('--')} = {said}\n")
    for words in ([flag, *(text or "").split()], ["--config", str(file)]):
        found = arguments.settings(parse(parser_of("audit"), [*words, *rest]))
        owner = found.smoothing if hasattr(found.smoothing, field) else found
        usual = Settings(alpha=0.75, engine="best")
        assert getattr(owner, field) == value
        assert {f.name: getattr(owner, f.name) for f in dataclasses.fields(owner) if f.name != field} == {
            f.name: getattr(usual.smoothing if owner is found.smoothing else usual, f.name)
            for f in dataclasses.fields(owner)
            if f.name != field
        }


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (f.name, v, w)
        for s in (Settings, SmoothingSettings)
        for f in dataclasses.fields(s)
        if (option := option_of(f)) is not None and f.name != "norm"
        for v, w in [
            *([("nonsense", f"{f.name} must be one of ")] if choices(s, f.name) else []),
            *([(option.least - 1, f"{f.name} must be >= {option.least}, got ")] if option.least is not None else []),
        ]
    ],
)
def test_what_is_declared_is_checked(field: str, value: object, words: str):
    of_settings = field in {f.name for f in dataclasses.fields(Settings)}
    made, given = (Settings, {"alpha": 0.75}) if of_settings else (SmoothingSettings, {})
    with pytest.raises(UsageError, match=re.escape(words)):
        made(**{**given, field: value})  # type: ignore[arg-type]


def test_paths_in_a_configuration_file_are_relative_to_it(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text(
        'log = "h.tsv"\nrun = ["a", "/b"]\nmatch-clean = "g.npz"\ndata = "d"\nlabels = "y"\ndomain = "F.csv"\n'
        'robust = "arch.py:build@w.safetensors"\n'
    )
    found = parse(parser_of("experiment"), ["certified-curves", "--config", str(file), "--standard", "s.onnx"])
    assert found.log == str(tmp_path / "h.tsv")
    assert found.run == (str(tmp_path / "a"), "/b")
    assert (found.match_clean, found.data) == (str(tmp_path / "g.npz"), str(tmp_path / "d"))
    assert (found.labels, found.domain) == ("y", (str(tmp_path / "F.csv"),))
    assert found.robust == f"{tmp_path / 'arch.py'}:build@{tmp_path / 'w.safetensors'}"
    assert found.standard == "s.onnx"  # of the command line: relative to where one is


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert command in printed
        for action in parser_of(command)._actions:
            assert all(o.removeprefix("--") in printed for o in action.option_strings if o.startswith("--"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("certmix swe", "sweep"),
        ("certmix audit --evid", "--evidence"),
        ("certmix audit --method smoo", "smoothing"),
        ("certmix check --standard gg", "gg.onnx"),
        ("certmix check r", "run"),
    ],
)
def test_bash_completes(line: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "gg.onnx").touch()
    (tmp_path / "run").mkdir()
    script = (
        f"source ./completion; COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; "
        'complete -p certmix > /dev/null && _shtab_certmix && printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found in done.stdout.split(), done.stderr

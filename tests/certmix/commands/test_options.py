"""`certmix options COMMAND` is a configuration file: uncommented, it says what is so without it."""

from __future__ import annotations

import argparse
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from certmix.__main__ import COMMANDS, main
from certmix.commands.options import CONFIGURED
from certmix.commands.parsing import Parser, parse


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

"""What a shell needs to complete certmix's commands, options, choices and files: put the output where it looks.

bash: ~/.local/share/bash-completion/completions/certmix; zsh: _certmix, in a folder of $fpath; tcsh: ~/.cshrc.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from certmix.commands import COMMANDS
from certmix.commands.parsing import BESIDE, Parser
from certmix.errors import UsageError

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell reads it")


def run(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise UsageError(f"shtab is not installed ({error}): pip install shtab") from error
    print(shtab.complete(whole(shtab.FILE, shtab.DIRECTORY), options.shell))
    return 0


def whole(file: Any, folder: Any) -> argparse.ArgumentParser:
    """The parser of all commands. file, folder: what marks an option that names one."""
    parser = Parser(prog="certmix", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="which it is")
    commands = parser.add_subparsers()
    for name, (module, about) in COMMANDS.items():
        command = commands.add_parser(name, help=about, allow_abbrev=False)
        importlib.import_module(module).add_arguments(command)
        for action in command._actions:
            if action.type is Path or action.type in BESIDE:
                action.complete = folder if action.metavar == "DIR" else file  # type: ignore[attr-defined]  # shtab's
    return parser

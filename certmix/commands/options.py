"""Every option of a command with its default, in the form of the file that --config takes.

Lines are commented out: remove the # of those that you change. `certmix options > audit.toml` begins a configuration.
"""

from __future__ import annotations

import argparse
import importlib
import json
import textwrap
from collections.abc import Iterator

from certmix.commands.parsing import Parser, texts
from certmix.errors import UsageError

CONFIGURED = ("audit", "tune", "smoothing-bounds", "experiment")  # the commands that take --config
WIDTH = 100
ELSEWHERE = ("help", "config")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = f"{', '.join(CONFIGURED)} (default audit)"
    parser.add_argument("command", nargs="?", default="audit", metavar="COMMAND", help=words)


def run(options: argparse.Namespace) -> int:
    if options.command not in CONFIGURED:
        raise UsageError(
            f"{options.command!r} takes no --config file: give one of {', '.join(CONFIGURED)}, "
            "or see certmix COMMAND --help"
        )
    module = importlib.import_module(f"certmix.commands.{options.command.replace('-', '_')}")
    parser = Parser(prog=f"certmix {options.command}", allow_abbrev=False)
    module.add_arguments(parser)
    print("\n".join(lines(options.command, parser)))
    return 0


def lines(command: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """TOML: of each option what it is, and `name = default`, in comments; without a default what it takes."""
    yield f"# certmix {command} --config THIS-FILE.toml     (paths are relative to this file)"
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.option_strings and a.dest not in ELSEWHERE]
        if actions:
            yield f"\n# ---- {group.title}"
        for action in actions:
            name = action.option_strings[-1].removeprefix("--")
            about = (action.help or "") % {"default": action.default, "prog": parser.prog}
            yield from (f"# {line}" for line in textwrap.wrap(about, WIDTH - 2))
            yield f"#{name} = {_value(action)}"


def _value(action: argparse.Action) -> str:
    """The default as TOML; where there is none, what the option takes."""
    value = action.default
    if value is None or value is argparse.SUPPRESS:
        taken = action.metavar or (action.choices and "|".join(map(str, action.choices))) or action.dest.upper()
        return f'"{" ".join(taken) if isinstance(taken, tuple) else taken}"  # no default'
    if action.nargs == 0:
        return "true" if value else "false"
    parts = value if isinstance(value, tuple) and action.nargs is not None else (value,)
    shown = [t if _number(v) else json.dumps(t) for v, t in zip(parts, texts(action, value), strict=True)]
    return shown[0] if action.nargs is None else f"[{', '.join(shown)}]"


def _number(value: object) -> bool:
    return isinstance(value, int | float)

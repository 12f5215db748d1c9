"""Command lines read and spelled out, and configuration files with the same names."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.models import sources
from certmix.settings import as_number


def file(text: str) -> str:
    """The type of an option that names a file or folder; in a configuration file relative to that file's folder."""
    return text


def model(text: str) -> str:
    """The type of an option that names a model: a file, or what `sources` reads."""
    return text


def file_or_name(text: str) -> str:
    """The type of an option that names an .npy file, or something else."""
    return text


def number_or_file(text: str) -> float | str:
    """A number, or else the name of a file."""
    try:
        return as_number(text)
    except UsageError:
        return text


# types of options that name files: what such a text means in a configuration file of that folder
BESIDE: dict[Any, Callable[[Path, str], Any]] = {
    file: lambda folder, text: os.fspath(folder / text),
    model: sources.beside,
    file_or_name: lambda folder, text: os.fspath(folder / text) if text.endswith(".npy") else text,
    number_or_file: lambda folder, text: os.fspath(folder / v) if isinstance(v := number_or_file(text), str) else v,
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors: one line, exit code 2."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse, taking defaults from --config FILE.toml where it is given; the command line has the last word."""
    _refuse_repeated(parser, arguments)
    first, _ = _config_only().parse_known_args(arguments)
    if first.config is not None:
        parser.set_defaults(**_from_file(parser, Path(first.config)))
    return parser.parse_intermixed_args(arguments)  # also `check DIR --explain 3`


def spelled(command: str, add: Callable[[argparse.ArgumentParser], None], options: argparse.Namespace) -> str:
    """The command line, as a shell reads it, that asks for `options` without a configuration file.

    add: what gives the command its arguments. Numbers are written so that they read back as they are.
    """
    parser = Parser()
    add(parser)
    words = ["certmix", command]
    for action in parser._actions:
        value = getattr(options, action.dest, None)
        if action.dest in ("help", "config") or value is None or value == action.default:
            continue
        if not action.option_strings:
            words.append(str(value))
        elif action.nargs == 0:
            words.append(action.option_strings[0])
        else:
            words += [action.option_strings[0], *texts(action, value)]
    return shlex.join(words)


def texts(action: argparse.Action, value: object) -> list[str]:
    """The words after an option that read back as `value`; one, unless it takes several."""
    given = [
        exact(v) if isinstance(v, float) else str(v) for v in (value if isinstance(value, list | tuple) else [value])
    ]
    return given if action.nargs is not None else [",".join(given) or "any"]


def _refuse_repeated(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Raises UsageError where an option is given twice: argparse would take the last in silence."""
    seen: dict[str, str] = {}
    for text in itertools.takewhile(lambda a: a != "--", arguments):
        action = parser._option_string_actions.get(text.split("=", 1)[0])
        if action is None:
            continue
        if action.dest in seen and action.dest != "help":
            raise UsageError(f"{text} comes after {seen[action.dest]}: give it once (see {parser.prog} --help)")
        seen[action.dest] = text


def _config_only() -> argparse.ArgumentParser:
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def _from_file(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", "config")}
    options: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in actions:
            raise UsageError(f"{path}: {key!r} is not known; known are {', '.join(sorted(actions))}")
        options[name] = _convert(actions[name], value, path, key)
    return options


def _convert(action: argparse.Action, value: Any, path: Path, key: str) -> Any:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {key} must be true or false, got {value!r}")
        return value
    try:
        if isinstance(value, list):
            return tuple(_read(action, v, path.parent) if callable(action.type) else v for v in value)
        converted = _read(action, value, path.parent)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise UsageError(f"{path}: {key}: {error}") from None
    if action.nargs == "+":
        return (converted,)
    if action.choices is not None and converted not in action.choices:
        raise UsageError(f"{path}: {key} must be one of {', '.join(map(str, action.choices))}, got {value!r}")
    return converted


def _read(action: argparse.Action, value: Any, folder: Path) -> Any:
    if action.type in BESIDE:
        return BESIDE[action.type](folder, str(value))
    return action.type(str(value)) if callable(action.type) else str(value)

"""Watching the judge: which of his functions ran, and what some of them were given and found.

Nothing of his is changed or called differently: the interpreter tells of every call (`sys.setprofile`). So the numbers
that are shown are those that the verdict rests on, and no line of his has to know that anybody looks.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import proofs_check

JUDGE = proofs_check.__file__.removesuffix("__init__.py")


@dataclass
class Call:
    """function: as it was asked for, "rules.margin.rule.box_proves". arguments: as they were when it began. inside: the
    watched calls made within it, unless a summary took their place. result: None also where it raised."""

    function: str
    arguments: Mapping[str, Any]
    inside: list[Call] = field(default_factory=lambda: [])
    result: Any = None

    def of(self, function: str) -> list[Call]:
        """The calls of a function made directly within this one."""
        return [c for c in self.inside if c.function == function]

    def all_of(self, function: str) -> list[Call]:
        """The same at any depth, in the order in which they began."""
        return [c for call in self.inside for c in ([call] if call.function == function else call.all_of(function))]


@dataclass
class Observed:
    """root: holds the outermost calls. ran: of every function of the judge that ran at all."""

    root: Call = field(default_factory=lambda: Call("", {}))
    ran: set[CodeType] = field(default_factory=lambda: set())


Summary = Callable[[Call], Any]  # what is kept of a call, as its result, in place of its arguments and inner calls


@contextmanager
def observed(functions: Iterable[str], summaries: Mapping[str, Summary]) -> Generator[Observed, None, None]:
    """Watch this thread. functions: names below proofs_check; one that is not there is an AttributeError."""
    watched = {_code(name): name for name in (*functions, *summaries)}
    seen = Observed()
    stack, started = [seen.root], dict[int, Call]()

    def note(frame: FrameType, event: str, result: Any) -> None:
        code = frame.f_code
        if event == "call":
            seen.ran.add(code)
            if code in watched:
                call = started[id(frame)] = Call(watched[code], _copied(frame.f_locals))
                stack[-1].inside.append(call)
                stack.append(call)
        elif event == "return" and id(frame) in started:
            call = started.pop(id(frame))
            stack.pop()
            call.result = result
            if call.function in summaries:
                call.result = summaries[call.function](call)
                call.arguments, call.inside = {}, []

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(before)
        seen.ran = {code for code in seen.ran if code.co_filename.startswith(JUDGE)}


def _code(name: str) -> CodeType:
    module, _, function = name.rpartition(".")
    return inspect.unwrap(getattr(importlib.import_module(f"proofs_check.{module}"), function)).__code__


def _copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Lists may be changed later by whom they belong to."""
    return {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}

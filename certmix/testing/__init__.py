"""A property-based soundness suite for anybody's certifier (docs/soundness-suite.md).

`certifier` describes a function to the suite, `load` finds one by name, `run` tries every law on it. Names are
imported on first use: the pytest plugin lives in this package and must not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certmix.testing.protocol import Certifier, ProtocolError, certifier, load
    from certmix.testing.reproduce import replay, script
    from certmix.testing.runner import LawResult, SuiteReport, run, run_law

__all__ = [
    "Certifier", "LawResult", "ProtocolError", "SuiteReport", "certifier", "load", "replay", "run", "run_law", "script",
]  # fmt: skip

_HOME = {
    **dict.fromkeys(("Certifier", "ProtocolError", "certifier", "load"), "protocol"),
    **dict.fromkeys(("replay", "script"), "reproduce"),
    **dict.fromkeys(("LawResult", "SuiteReport", "run", "run_law"), "runner"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

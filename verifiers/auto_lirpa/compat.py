"""Repairs that let auto_LiRPA 0.3 (the release on PyPI) run on today's torch and numpy.

0.3 was written for torch < 1.13. Nothing here stays patched: `importing()` and `tracing()` lend the missing names
for the duration of an import or of a graph conversion, and take them back. Upstream >= 0.7 needs neither.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch

from verifiers.engine import EngineError

REMEDY = "install it with: pip install --no-deps auto_LiRPA==0.3 tqdm appdirs pyyaml packaging"


def load() -> types.ModuleType:
    """The module auto_LiRPA, whichever version Python finds first. Raises EngineError where it cannot be imported."""
    if (loaded := sys.modules.get("auto_LiRPA")) is not None:
        return loaded
    try:
        with importing(), warnings.catch_warnings(record=True):
            return importlib.import_module("auto_LiRPA")
    except ModuleNotFoundError as error:
        if error.name != "auto_LiRPA":
            raise EngineError(f"auto_LiRPA needs the module {error.name}: {REMEDY}") from error
        raise EngineError(f"auto_LiRPA is not installed; {REMEDY}") from error
    except (ImportError, AttributeError) as error:
        raise EngineError(f"this auto_LiRPA does not work with torch {torch.__version__}: {error}; {REMEDY}") from error


def is_old(lirpa: types.ModuleType) -> bool:
    """Whether this is the 0.3 generation (0.4 renamed `intermediate_layer_bounds`)."""
    return "intermediate_layer_bounds" in lirpa.BoundedModule.compute_bounds.__code__.co_varnames


@contextlib.contextmanager
def importing() -> Generator[None]:
    """Names imported by 0.3 (numpy.lib.arraysetops.isin, torch.onnx.symbolic_helper._set_opset_version) and by
    upstream's plots (graphviz.Digraph, never called here)."""
    # the module itself: torch.onnx also has an attribute of this name, which is another module
    symbolic_helper = importlib.import_module("torch.onnx.symbolic_helper")
    with contextlib.ExitStack() as stack:
        stack.callback(sys.setrecursionlimit, sys.getrecursionlimit())  # both raise it to a million
        for name, attribute, value in (("numpy.lib.arraysetops", "isin", np.isin), ("graphviz", "Digraph", None)):
            if not _importable(name):
                sys.modules[name] = types.ModuleType(name)
                setattr(sys.modules[name], attribute, value)
                stack.callback(sys.modules.pop, name)
        if not hasattr(symbolic_helper, "_set_opset_version"):
            stack.enter_context(_lent(symbolic_helper, "_set_opset_version", _set_opset_version))
        yield


@contextlib.contextmanager
def tracing() -> Generator[None]:
    """Converting a module to 0.3's graph: indexable jit nodes, opset state put back afterwards."""
    exporter = _exporter_globals()
    before = (exporter.export_onnx_opset_version, exporter.autograd_inlining)
    try:
        exporter.autograd_inlining = False
        with _lent(torch._C.Node, "__getitem__", _attribute):  # pyright: ignore[reportPrivateUsage]
            yield
    finally:
        exporter.export_onnx_opset_version, exporter.autograd_inlining = before


def bounded_module(lirpa: types.ModuleType) -> Callable[..., Any]:
    """The class to build with: 0.3's own `_named_members` does not know torch's `remove_duplicate`."""
    if not is_old(lirpa):
        return lirpa.BoundedModule

    class Repaired(lirpa.BoundedModule):  # type: ignore[name-defined]
        def __init__(self, module: torch.nn.Module, example: torch.Tensor, options: dict[str, Any]) -> None:
            with tracing():
                super().__init__(module, example, options)

        def _named_members(
            self, get_members_fn: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
        ) -> Iterator[Any]:
            return super()._named_members(get_members_fn, prefix, recurse)

    return Repaired


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent that is no package
        return False


@contextlib.contextmanager
def _lent(owner: Any, name: str, value: Any) -> Generator[None]:
    missing = object()
    before = owner.__dict__.get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _exporter_globals() -> Any:
    from torch.onnx._internal.torchscript_exporter import _globals

    return _globals.GLOBALS


def _set_opset_version(version: int) -> None:
    _exporter_globals().export_onnx_opset_version = version


def _attribute(node: Any, name: str) -> Any:
    return getattr(node, node.kindOf(name))(name)

"""Classifiers in files of torch: a program (.pt2), a pickled module (.pt, .pth), or a state dict and the Python file
that builds its module.

Reading these runs code: that of the Python file, which its name asks for, and that which programs and pickles hold,
which nothing shows, and which is therefore to be allowed.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.models.onnx.folding import one_line
from certmix.models.sources import PICKLES, PROGRAM, SPELLING, Architecture, architecture, files

ALLOW = "--allow-code, in Python allow_code=True"
WRAPPED = ("state_dict", "model_state_dict")  # under which training scripts keep a state dict beside other things
PARALLEL = "module."  # before every name, where torch.nn.DataParallel was saved


def load_module(source: str | Path, allow_code: bool) -> nn.Module:
    """The module of a file of torch, in evaluation mode. allow_code: .pt2, .pt and .pth may be read.

    Raises UsageError: no such file, not allowed, not what its name says, weights that are not the architecture's.
    """
    for path in files(source):
        if not path.is_file():
            raise UsageError(f"{path}: no such file: give the path of a model, or {SPELLING}")
        if path.suffix in (PROGRAM, *PICKLES) and not allow_code:
            raise UsageError(
                f"{path}: reading a {path.suffix} file can run code that it holds: if you trust it, {ALLOW}"
            )
    named = architecture(source)
    if named is not None:
        return _built(named).eval()
    return _program(Path(source)) if Path(source).suffix == PROGRAM else _pickled(Path(source)).eval()


def _built(named: Architecture) -> nn.Module:
    module = _made(named)
    state = _state(named.weights)
    if all(name.startswith(PARALLEL) for name in state):
        state = {name.removeprefix(PARALLEL): value for name, value in state.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{named.weights}: is not of the module that {named.build} builds: {said[:300]}") from error
    return module


def _made(named: Architecture) -> nn.Module:
    """What the function builds. Modules beside the file can be imported by it."""
    name = f"certmix architecture {named.code.resolve()}"
    spec = importlib.util.spec_from_file_location(name, named.code)
    if spec is None or spec.loader is None:
        raise UsageError(f"{named.code}: is no Python file")
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code  # as an import does: dataclasses look themselves up there
    sys.path.insert(0, str(named.code.resolve().parent))
    try:
        spec.loader.exec_module(code)
        build = getattr(code, named.build, None)
        if not callable(build):
            raise UsageError(f"{named.code}: defines no function {named.build}: name the one that builds the module")
        module = build()
    except UsageError:
        raise
    except Exception as error:  # whatever somebody's code raises
        raise UsageError(f"{named.code}: {named.build}() fails: {type(error).__name__}: {one_line(error)}") from error
    finally:
        sys.path.remove(str(named.code.resolve().parent))
    if not isinstance(module, nn.Module):
        raise UsageError(f"{named.code}: {named.build}() gives {type(module).__name__}, needs a torch.nn.Module")
    return module


def _state(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a state dict by name; of a pickle read without running what it holds. Raises UsageError."""
    if path.suffix not in PICKLES:
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise UsageError(f"{path}: not a complete file of safetensors ({one_line(error)})") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"{path}: holds more than tensors, or is damaged: save module.state_dict() with safetensors.torch.save_file"
        ) from error
    inner = next((found[key] for key in WRAPPED if isinstance(found, dict) and key in found), found)
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise UsageError(f"{path}: holds {type(inner).__name__}, needs a state dict, by itself or under {WRAPPED[0]!r}")
    return inner


def _pickled(path: Path) -> nn.Module:
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs code, which raises what it likes
        what = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"{path}: cannot be unpickled ({what}): name its architecture, {SPELLING}") from error
    if not isinstance(found, nn.Module):
        raise UsageError(
            f"{path}: holds {type(found).__name__}, no module: name its architecture, arch.py:build@{path}"
        )
    return found


def _program(path: Path) -> nn.Module:
    """A program's module has no evaluation mode: it was exported in it, or not."""
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is not a program saved by torch.export.save: it is no zip archive")
    try:
        return torch.export.load(path).module()
    except (RuntimeError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise UsageError(f"{path} is not a program saved by torch.export.save: {one_line(error)}") from None

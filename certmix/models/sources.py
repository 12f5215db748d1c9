"""How a model is named: one file, or weights beside the Python file and the function in it that builds their module."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROGRAM, PICKLES = ".pt2", (".pt", ".pth")
SPELLING = "arch.py:build@weights.safetensors"


@dataclass(frozen=True)
class Architecture:
    """`code` defines a function `build` without arguments, whose module takes the state dict in `weights`."""

    code: Path
    build: str
    weights: Path

    def __str__(self) -> str:
        return f"{self.code}:{self.build}@{self.weights}"


def architecture(source: str | Path) -> Architecture | None:
    """Of a name spelled code.py:build@weights; None of any other."""
    found = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)@(.+)", str(source))
    return None if found is None else Architecture(Path(found[1]), found[2], Path(found[3]))


def files(source: str | Path) -> tuple[Path, ...]:
    """Those that a name stands for."""
    named = architecture(source)
    return (Path(source),) if named is None else (named.code, named.weights)


def beside(folder: Path, source: str) -> str:
    """The name as it is in a file of this folder, for who stands elsewhere."""
    named = architecture(source)
    if named is None:
        return str(folder / source)
    return str(Architecture(folder / named.code, named.build, folder / named.weights))


def of_torch(source: str | Path) -> bool:
    """Whether torch wrote it, and no ONNX file is meant."""
    return architecture(source) is not None or Path(source).suffix in (PROGRAM, *PICKLES)

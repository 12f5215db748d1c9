"""Which certmix this is, to the byte: processes of one run on several machines must be of the same."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("certmix", "proofs_check", "verifiers")


@cache
def sha256() -> str:
    """Of one line for each Python file of the three packages, as sha256sum prints them: of its sha256, two spaces and
    its path."""
    lines: list[str] = []
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed as files", name=package)
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{digest}  {path.relative_to(folder.parent).as_posix()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()

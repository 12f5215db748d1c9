"""A counterexample as a script that anybody can run, and what that script runs."""

from __future__ import annotations

import dataclasses
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certmix.testing.claims import ask
from certmix.testing.laws import LAWS
from certmix.testing.laws.law import Counterexample
from certmix.testing.laws.soundness import refuted
from certmix.testing.problem import Problem
from certmix.testing.protocol import Certifier, load
from proofs_check.certificate import PlainNetwork

HEAD = '''"""{law} is broken by {name}.

{evidence}

Run: python this_file.py   (exit 1: the counterexample stands, 0: it does not)
"""

from fractions import Fraction

import numpy as np

from certmix.testing.laws.statistics import BaseCase, VoteCase
from certmix.testing.problem import Problem
from certmix.testing.reproduce import replay
from proofs_check import certificate as c
from verifiers.network.module import build

'''


def script(certifier: Certifier, broken: Counterexample) -> str:
    """The counterexample as Python source. The certifier is named by `certifier.name` ("module:function")."""
    evidence = broken.evidence.replace("\\", "/").replace('"', "'")
    lines = [HEAD.format(law=broken.law, name=certifier.name, evidence=evidence)]
    example = broken.example
    if isinstance(example, Problem):
        lines += [f"robust = {_network(example.robust)}\n", f"standard = {_network(example.standard)}\n"]
        if broken.radius is not None:
            lines.append(f"# claimed radius {broken.radius!r} around input {broken.row}, norm {example.norm}\n")
    lines.append(f"example = {_fields(example)}\n")
    lines.append(f"point = {'None' if broken.point is None else _array(broken.point)}\n")
    lines.append(
        f"raise SystemExit(replay({certifier.name!r}, {certifier.protocol!r}, {broken.law!r}, example, "
        f"{broken.row!r}, point, tolerance={certifier.tolerance!r}))\n"
    )
    return "".join(lines)


def replay(
    spec: str,
    protocol: str,
    law: str,
    example: Any,
    row: int | None,
    point: NDArray[Any] | None,
    seed: int = 0,
    tolerance: float = 0.0,
) -> int:
    """Ask the certifier again; print what it says and whether the counterexample stands (1) or not (0).

    Raises UsageError where the certifier cannot be loaded.
    """
    sys.path.insert(0, str(Path.cwd()))
    certifier = load(spec, protocol, tolerance=tolerance)
    if isinstance(example, Problem) and row is not None and point is not None:
        claims = ask(certifier, example)
        print(f"claimed radius: {claims.radius[row]!r} ({example.norm})")
        broken = refuted(claims, row, point, law)
    else:
        (law_entry,) = [entry for entry in LAWS if entry.name == law]
        broken = law_entry.check(certifier, example, seed).broken
    print(f"{law}: {'holds here' if broken is None else broken.evidence}")
    return 0 if broken is None else 1


def _fields(value: Any) -> str:
    names = {field.name: _literal(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Problem):
        names |= {"robust": "robust", "standard": "standard"}
    return f"{type(value).__name__}({', '.join(f'{k}={v}' for k, v in names.items())})"


def _network(network: PlainNetwork) -> str:
    lines = []
    for node in network.nodes:
        parts = [f"{f.name}={_literal(getattr(node, f.name))}" for f in dataclasses.fields(node)]
        lines.append(f"    c.{type(node).__name__}({', '.join(parts)}),\n")
    return "build([\n" + "".join(lines) + "])"


def _literal(value: Any) -> str:
    if isinstance(value, PlainNetwork):
        return _network(value)
    return _array(value) if isinstance(value, np.ndarray) else repr(value)


def _array(array: NDArray[Any]) -> str:
    if array.dtype == object:
        entries = ", ".join(f"Fraction({v.numerator}, {v.denominator})" for v in map(Fraction, array.reshape(-1)))
        return f"np.array([{entries}], object).reshape({array.shape})"
    flat = ", ".join(repr(float(v)) for v in array.reshape(-1))
    return f"np.array([{flat}], np.{array.dtype}).reshape({array.shape})"

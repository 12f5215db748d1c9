"""Every bound of h's logit differences that a run met, kept beside it: what answers for all alphas and temperatures.

Untrusted side data, which the judge ignores: folder curves/ of a run, one compressed file per batch of inputs, written
before the batch's lines, so that an interrupted run lacks no curve of a line it has. Source: docs/maths.md 7.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certmix.errors import UsageError
from certmix.theorems.softmax_margin import StoredPass, margin_with_pass

FOLDER = "curves"
CELLS = 2**22  # of one chunk of the knapsack
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Passes:
    """Backward passes of the exponential form: coefficients . d <= reach on the ball.

    inputs: (R,) row each belongs to. rival: (R,). coefficients: (R, K) >= 0. reach: (R,).
    """

    inputs: Tensor
    rival: Tensor
    coefficients: Tensor
    reach: Tensor


@dataclass(frozen=True, eq=False)
class Observation:
    """What an engine found on the ball of one input: lower <= d_j = z_j - z_y <= upper, (K,) each, y = predicted.

    witness: the judge's hints that go with these bounds, or None.
    """

    radius: float
    predicted: int
    lower: Tensor
    upper: Tensor
    passes: Passes | None = None
    witness: bytes | None = None


@dataclass(frozen=True, eq=False)
class Curves:
    """M observations, by input and radius, one per (input, radius, predicted).

    index, predicted: (M,). radius: (M,). lower, upper: (M, K). passes: `inputs` are rows
    of the M. witness: per input, hints by the radius they are for.
    """

    index: Integers
    radius: Floats
    predicted: Integers
    lower: Floats
    upper: Floats
    passes: Passes
    witness: dict[int, dict[float, bytes]]

    def rows(self, index: int) -> Integers:
        """The observations of one input, by radius."""
        return np.flatnonzero(self.index == index)

    def hints(self, index: int, radius: float) -> bytes | None:
        """Those for the radius nearest to this one."""
        known = self.witness.get(index, {})
        return known[min(known, key=lambda r: abs(r - radius))] if known else None

    def margins(self, temperature: float) -> Floats:
        """(M,) lower bounds of min_i h_y - h_i on each ball; -1, true of any margin, where some rival may win.

        Source: (3a), and (3b) with the stored passes (docs/maths.md 7, knapsack).
        """
        result = np.full(len(self.index), -1.0)
        own = np.arange(self.upper.shape[1]) == self.predicted[:, None]
        rows = np.flatnonzero(((self.upper < 0) | own).all(axis=1))
        place, passes = self._pass_places()
        k = self.upper.shape[1]
        for part in _chunks(rows, max(1, CELLS // (k * k))):
            result[part] = _least_margins(self, part, place[part], passes, temperature)
        return result

    def _pass_places(self) -> tuple[Integers, StoredPass]:
        """(M, K) row of each rival's pass in the returned passes; the last one says nothing."""
        m, k = self.upper.shape
        place = np.full((m, k), len(self.passes.reach))
        place[self.passes.inputs.numpy(), self.passes.rival.numpy()] = np.arange(len(self.passes.reach))
        none = torch.zeros(1, k, dtype=torch.float64)
        whole = torch.full((1,), torch.inf, dtype=torch.float64)
        coefficients = torch.cat([self.passes.coefficients.reshape(-1, k), none])
        return place, StoredPass(coefficients, torch.cat([self.passes.reach, whole]))


def _chunks(rows: Integers, size: int) -> Iterator[Integers]:
    for i in range(0, len(rows), size):
        yield rows[i : i + size]


def _least_margins(curves: Curves, rows: Integers, place: Integers, passes: StoredPass, temperature: float) -> Floats:
    """(len(rows),) the least margin over rivals of observations whose upper bounds are all negative."""
    k = curves.upper.shape[1]
    predicted = curves.predicted[rows]
    rival = np.arange(k - 1) + (np.arange(k - 1) >= predicted[:, None])
    of = torch.from_numpy(np.take_along_axis(place, rival, 1).ravel())
    each = torch.from_numpy(rows).repeat_interleave(k - 1)
    lower, upper, y = (torch.from_numpy(a)[each] for a in (curves.lower, curves.upper, curves.predicted))
    stored = StoredPass(passes.coefficients[of], passes.reach[of])
    found = margin_with_pass(lower, upper, y, torch.from_numpy(rival.ravel()), temperature, stored)
    return found.reshape(len(rows), k - 1).min(dim=1).values.numpy()


# ---------------------------------------------------------------- collecting and keeping


class Collector:
    """Takes observations as a run meets them (`certmix.provers.problem.Recorder`), until they are written."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Observation]] = []

    def __call__(self, index: int, observation: Observation) -> None:
        self.seen.append((index, observation))

    def curves(self) -> Curves:
        """Everything so far. Requires: something was seen."""
        return merged(self.seen)

    def write(self, folder: Path, start: int) -> None:
        """Into the run `folder`, as the batch that begins at input `start`; forgets it. Nothing seen: no file."""
        if not self.seen:
            return
        (folder / FOLDER).mkdir(exist_ok=True)
        path = folder / FOLDER / f"{start:08d}.npz"
        part = path.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, **_arrays(self.curves()))  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(path)
        self.seen.clear()


def merged(seen: list[tuple[int, Observation]]) -> Curves:
    """One row per (index, radius, predicted): the intersection of what was found there, the latest passes and
    hints."""
    rows: dict[tuple[int, float, int], Observation] = {}
    witness: dict[int, dict[float, bytes]] = {}
    for index, new in seen:
        key = (index, new.radius, new.predicted)
        rows[key] = new if key not in rows else _both(rows[key], new)
        if new.witness is not None:
            witness.setdefault(index, {})[new.radius] = new.witness
    keys = sorted(rows)
    found = [rows[k] for k in keys]
    passes = [(n, o.passes) for n, o in enumerate(found) if o.passes is not None]
    k = len(found[0].upper)
    return Curves(
        np.array([k[0] for k in keys], dtype=np.int64),
        np.array([k[1] for k in keys], dtype=np.float64),
        np.array([k[2] for k in keys], dtype=np.int64),
        torch.stack([o.lower for o in found]).double().cpu().numpy(),
        torch.stack([o.upper for o in found]).double().cpu().numpy(),
        Passes(
            torch.cat([torch.full_like(p.rival, n).cpu() for n, p in passes] or [torch.zeros(0, dtype=torch.int64)]),
            torch.cat([p.rival.cpu() for _, p in passes] or [torch.zeros(0, dtype=torch.int64)]),
            torch.cat([p.coefficients.cpu() for _, p in passes] or [torch.zeros(0, k, dtype=torch.float64)]),
            torch.cat([p.reach.cpu() for _, p in passes] or [torch.zeros(0, dtype=torch.float64)]),
        ),
        witness,
    )


def _both(a: Observation, b: Observation) -> Observation:
    lower, upper = torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper)
    return Observation(a.radius, a.predicted, lower, upper, b.passes or a.passes, b.witness or a.witness)


def _arrays(curves: Curves) -> dict[str, NDArray[np.generic]]:
    hints = [(n, r, data) for n, known in sorted(curves.witness.items()) for r, data in sorted(known.items())]
    return {
        "index": curves.index,
        "radius": curves.radius,
        "predicted": curves.predicted,
        "lower": curves.lower,
        "upper": curves.upper,
        "pass_row": curves.passes.inputs.numpy(),
        "pass_rival": curves.passes.rival.numpy(),
        "pass_coefficients": curves.passes.coefficients.numpy(),
        "pass_reach": curves.passes.reach.numpy(),
        "witness_index": np.array([n for n, _, _ in hints], dtype=np.int64),
        "witness_radius": np.array([r for _, r, _ in hints], dtype=np.float64),
        "witness_length": np.array([len(data) for _, _, data in hints], dtype=np.int64),
        "witness_data": np.frombuffer(b"".join(data for _, _, data in hints), dtype=np.uint8),
    }


def read(folder: Path) -> Curves:
    """All curves of the run in `folder`. Raises UsageError where there are none, or they are damaged."""
    paths = sorted((folder / FOLDER).glob("*.npz"))
    if not paths:
        raise UsageError(
            f"{folder} holds no curves: they come with an audit by method margin; run certmix audit again, to a new "
            f"--out, without --no-curves"
        )
    seen: list[tuple[int, Observation]] = []
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as stored:
                seen += _observations({name: np.asarray(stored[name]) for name in stored.files})
        except (OSError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path} is damaged ({error}): remove {folder} and audit again") from error
    return merged(seen)


def _observations(arrays: dict[str, NDArray[Any]]) -> list[tuple[int, Observation]]:
    t = {name: torch.from_numpy(value) for name, value in arrays.items() if not name.startswith("witness")}
    ends = np.cumsum(arrays["witness_length"])
    data = arrays["witness_data"].tobytes()
    if len(ends) and int(ends[-1]) != len(data):
        raise ValueError("witness lengths do not fit")
    starts = ends - arrays["witness_length"]
    keys = zip(arrays["witness_index"].tolist(), arrays["witness_radius"].tolist(), strict=True)
    witness = {key: data[int(a) : int(b)] for key, a, b in zip(keys, starts, ends, strict=True)}
    result: list[tuple[int, Observation]] = []
    for row, index in enumerate(t["index"].tolist()):
        at = (t["pass_row"] == row).nonzero().squeeze(1)
        own = Passes(t["pass_row"][at], t["pass_rival"][at], t["pass_coefficients"][at], t["pass_reach"][at])
        passes = own if len(at) else None
        radius, predicted = float(t["radius"][row]), int(t["predicted"][row])
        hint = witness.get((index, radius))
        result.append((index, Observation(radius, predicted, t["lower"][row], t["upper"][row], passes, hint)))
    return result

"""The archive of bounds: all of h's logit differences that a run met, which answer for every alpha and temperature.

Untrusted side data, which the judge ignores: folder curves/ of a run, one compressed file per batch of inputs, written
before the batch's lines, so that an interrupted run lacks no bound of a line it has. Source: docs/maths.md 7.
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
from certmix.theorems.softmax_margin import PassBound, margin_with_pass

FOLDER = "curves"
MAX_CHUNK_ENTRIES = 2**22  # float64 numbers of one chunk of the knapsack
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ExponentialPasses:
    """Backward passes of the exponential form: coefficients . d <= upper_bound on the ball.

    inputs: (R,) position of the input each belongs to. rival: (R,). coefficients: (R, K) >= 0. upper_bound: (R,).
    """

    inputs: Tensor
    rival: Tensor
    coefficients: Tensor
    upper_bound: Tensor

    def of_input(self, k: int) -> ExponentialPasses | None:
        """Those of input k; None: it has none."""
        at = (self.inputs == k).nonzero().squeeze(1)
        if not len(at):
            return None
        return ExponentialPasses(self.inputs[at], self.rival[at], self.coefficients[at], self.upper_bound[at])


@dataclass(frozen=True, eq=False)
class ArchivedBound:
    """What an engine found on the ball of one input: lower <= d_j = z_j - z_y <= upper, (K,) each, y = predicted.

    witness: what the judge re-derives these bounds from, or None.
    """

    radius: float
    predicted: int
    lower: Tensor
    upper: Tensor
    passes: ExponentialPasses | None = None
    witness: bytes | None = None


@dataclass(frozen=True, eq=False)
class BoundArchive:
    """M archived bounds, by input and radius, one per (input, radius, predicted).

    index: (M,) of the input in the dataset. predicted, radius: (M,). lower, upper: (M, K). passes: `inputs` are
    positions among the M. witness: per input, by the radius it is for.
    """

    index: Integers
    radius: Floats
    predicted: Integers
    lower: Floats
    upper: Floats
    passes: ExponentialPasses
    witness: dict[int, dict[float, bytes]]

    def of_input(self, index: int) -> Integers:
        """Positions of the bounds of one input, by radius."""
        return np.flatnonzero(self.index == index)

    def nearest_witness(self, index: int, radius: float) -> bytes | None:
        """The one for the radius nearest to this one."""
        by_radius = self.witness.get(index, {})
        return by_radius[min(by_radius, key=lambda r: abs(r - radius))] if by_radius else None

    def margins(self, temperature: float) -> Floats:
        """(M,) lower bounds of min_i h_y - h_i on each ball; -1, true of any margin, where some rival may win.

        Source: (3a), and (3b) with the stored passes (docs/maths.md 7, knapsack).
        """
        result = np.full(len(self.index), -1.0)
        is_predicted = np.arange(self.upper.shape[1]) == self.predicted[:, None]
        no_rival_wins = np.flatnonzero(((self.upper < 0) | is_predicted).all(axis=1))
        pass_of_rival, passes = self._pass_of_rival()
        k = self.upper.shape[1]
        for chunk in _chunks(no_rival_wins, max(1, MAX_CHUNK_ENTRIES // (k * k))):
            result[chunk] = _least_margins(self, chunk, pass_of_rival[chunk], passes, temperature)
        return result

    def _pass_of_rival(self) -> tuple[Integers, PassBound]:
        """(M, K) position of each rival's pass in the returned passes; the last one says nothing."""
        m, k = self.upper.shape
        pass_of_rival = np.full((m, k), len(self.passes.upper_bound))
        pass_of_rival[self.passes.inputs.numpy(), self.passes.rival.numpy()] = np.arange(len(self.passes.upper_bound))
        zero = torch.zeros(1, k, dtype=torch.float64)
        unbounded = torch.full((1,), torch.inf, dtype=torch.float64)
        coefficients = torch.cat([self.passes.coefficients.reshape(-1, k), zero])
        return pass_of_rival, PassBound(coefficients, torch.cat([self.passes.upper_bound, unbounded]))


def _chunks(positions: Integers, size: int) -> Iterator[Integers]:
    for i in range(0, len(positions), size):
        yield positions[i : i + size]


def _least_margins(
    archive: BoundArchive, positions: Integers, pass_of_rival: Integers, passes: PassBound, temperature: float
) -> Floats:
    """(len(positions),) the least margin over rivals of archived bounds whose upper bounds are all negative."""
    k = archive.upper.shape[1]
    predicted = archive.predicted[positions]
    rival = np.arange(k - 1) + (np.arange(k - 1) >= predicted[:, None])
    chosen = torch.from_numpy(np.take_along_axis(pass_of_rival, rival, 1).ravel())
    repeated = torch.from_numpy(positions).repeat_interleave(k - 1)
    lower, upper, y = (torch.from_numpy(a)[repeated] for a in (archive.lower, archive.upper, archive.predicted))
    stored = PassBound(passes.coefficients[chosen], passes.upper_bound[chosen])
    margins = margin_with_pass(lower, upper, y, torch.from_numpy(rival.ravel()), temperature, stored)
    return margins.reshape(len(positions), k - 1).min(dim=1).values.numpy()


# ---------------------------------------------------------------- collecting and keeping


class ArchiveWriter:
    """Takes bounds as a run meets them (`certmix.provers.problem.Archiver`), until they are written."""

    def __init__(self) -> None:
        self.unwritten: list[tuple[int, ArchivedBound]] = []

    def __call__(self, index: int, bound: ArchivedBound) -> None:
        self.unwritten.append((index, bound))

    def archive(self) -> BoundArchive:
        """Everything not written yet. Requires: there is something."""
        return intersected(self.unwritten)

    def write(self, folder: Path, start: int) -> None:
        """Into the run `folder`, as the batch that begins at input `start`; forgets it. Nothing there: no file."""
        if not self.unwritten:
            return
        (folder / FOLDER).mkdir(exist_ok=True)
        path = folder / FOLDER / f"{start:08d}.npz"
        part = path.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, **_arrays(self.archive()))  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(path)
        self.unwritten.clear()


def intersected(bounds: list[tuple[int, ArchivedBound]]) -> BoundArchive:
    """One bound per (index, radius, predicted): the intersection of those there, the latest passes and witness."""
    by_key: dict[tuple[int, float, int], ArchivedBound] = {}
    witness: dict[int, dict[float, bytes]] = {}
    for index, new in bounds:
        key = (index, new.radius, new.predicted)
        by_key[key] = new if key not in by_key else _both(by_key[key], new)
        if new.witness is not None:
            witness.setdefault(index, {})[new.radius] = new.witness
    keys = sorted(by_key)
    ordered = [by_key[key] for key in keys]
    passes = [(n, o.passes) for n, o in enumerate(ordered) if o.passes is not None]
    k = len(ordered[0].upper)
    return BoundArchive(
        np.array([key[0] for key in keys], dtype=np.int64),
        np.array([key[1] for key in keys], dtype=np.float64),
        np.array([key[2] for key in keys], dtype=np.int64),
        torch.stack([o.lower for o in ordered]).double().cpu().numpy(),
        torch.stack([o.upper for o in ordered]).double().cpu().numpy(),
        ExponentialPasses(
            torch.cat([torch.full_like(p.rival, n).cpu() for n, p in passes] or [torch.zeros(0, dtype=torch.int64)]),
            torch.cat([p.rival.cpu() for _, p in passes] or [torch.zeros(0, dtype=torch.int64)]),
            torch.cat([p.coefficients.cpu() for _, p in passes] or [torch.zeros(0, k, dtype=torch.float64)]),
            torch.cat([p.upper_bound.cpu() for _, p in passes] or [torch.zeros(0, dtype=torch.float64)]),
        ),
        witness,
    )


def _both(a: ArchivedBound, b: ArchivedBound) -> ArchivedBound:
    lower, upper = torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper)
    return ArchivedBound(a.radius, a.predicted, lower, upper, b.passes or a.passes, b.witness or a.witness)


def _arrays(archive: BoundArchive) -> dict[str, NDArray[np.generic]]:
    witnesses = [
        (n, r, data) for n, by_radius in sorted(archive.witness.items()) for r, data in sorted(by_radius.items())
    ]
    return {
        "index": archive.index,
        "radius": archive.radius,
        "predicted": archive.predicted,
        "lower": archive.lower,
        "upper": archive.upper,
        "pass_row": archive.passes.inputs.numpy(),
        "pass_rival": archive.passes.rival.numpy(),
        "pass_coefficients": archive.passes.coefficients.numpy(),
        "pass_reach": archive.passes.upper_bound.numpy(),
        "witness_index": np.array([n for n, _, _ in witnesses], dtype=np.int64),
        "witness_radius": np.array([r for _, r, _ in witnesses], dtype=np.float64),
        "witness_length": np.array([len(data) for _, _, data in witnesses], dtype=np.int64),
        "witness_data": np.frombuffer(b"".join(data for _, _, data in witnesses), dtype=np.uint8),
    }


def read(folder: Path, *others: Path) -> BoundArchive:
    """The archive of the run in `folder`, with those of others about the same inputs. Raises UsageError where there is
    none, or it is damaged."""
    paths = [path for one in (folder, *others) for path in sorted((one / FOLDER).glob("*.npz"))]
    if not paths:
        raise UsageError(
            f"{folder} holds no curves: they come with an audit by method margin; run certmix audit again, to a new "
            f"--out, without --no-curves"
        )
    bounds: list[tuple[int, ArchivedBound]] = []
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as stored:
                bounds += _bounds({name: np.asarray(stored[name]) for name in stored.files})
        except (OSError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path} is damaged ({error}): remove {path.parent.parent} and audit again") from error
    return intersected(bounds)


def _bounds(arrays: dict[str, NDArray[Any]]) -> list[tuple[int, ArchivedBound]]:
    t = {name: torch.from_numpy(value) for name, value in arrays.items() if not name.startswith("witness")}
    ends = np.cumsum(arrays["witness_length"])
    data = arrays["witness_data"].tobytes()
    if len(ends) and int(ends[-1]) != len(data):
        raise ValueError("witness lengths do not fit")
    starts = ends - arrays["witness_length"]
    keys = zip(arrays["witness_index"].tolist(), arrays["witness_radius"].tolist(), strict=True)
    witness = {key: data[int(a) : int(b)] for key, a, b in zip(keys, starts, ends, strict=True)}
    passes = ExponentialPasses(t["pass_row"], t["pass_rival"], t["pass_coefficients"], t["pass_reach"])
    result: list[tuple[int, ArchivedBound]] = []
    for k, index in enumerate(t["index"].tolist()):
        radius, predicted = float(t["radius"][k]), int(t["predicted"][k])
        bound = ArchivedBound(
            radius, predicted, t["lower"][k], t["upper"][k], passes.of_input(k), witness.get((index, radius))
        )
        result.append((index, bound))
    return result

"""A second judge of margin certificates, written from proofs_check/FORMAT.md alone: exact rationals, no code in common.

Networks of linear, convolutional and ReLU nodes (and what only sums, scales or moves). Every value is a linear function
of the input and of the ReLUs before it, so a form goes back to the input by replacing one ReLU node after the other by
lines.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flint import fmpq

GRID = 2**160  # rationals that would grow are rounded outward to multiples of 1/GRID
ZERO = fmpq(0)
Rationals = Any  # numpy arrays of fmpq


class NotProvenError(Exception):
    """The claim may be true; this judge does not show it."""


def need(truth: object, why: str) -> None:
    if not truth:
        raise NotProvenError(why)


def q(array: Any) -> Rationals:
    """Doubles as the rationals they are."""
    return np.frompyfunc(lambda v: fmpq(*float(v).as_integer_ratio()), 1, 1)(np.asarray(array, dtype=object))


def exp_upper(t: fmpq) -> fmpq:
    """At least e^t: Taylor for |t| <= 1/2, then squared; rounded up all along."""
    halvings = max(0, int(t.numer().bit_length()) - int(t.denom().bit_length()) + 2)
    value = fmpq(1)
    for k in reversed(range(1, 40)):
        value = 1 + value * t / (k * 2**halvings)
    value += fmpq(1, 2**190)  # more than all further terms
    for _ in range(halvings):
        value = fmpq(int((value * value * GRID).ceil()), GRID)
    return value


# ---------------------------------------------------------------- the network, as linear functions of (1, x, ReLUs)


@dataclass(frozen=True)
class Network:
    """ReLU node k: its inputs are pre[k] (n, V) and its outputs the variables ranges[k]; logits (K, V)."""

    logits: Rationals
    pre: list[Rationals]
    ranges: list[tuple[int, int]]


def read_network(data: bytes) -> Network:
    header = json.loads(data[8 : 8 + (size := int.from_bytes(data[:8], "little"))])
    nodes = json.loads(header.pop("__metadata__")["graph"])
    tensors = {name: tensor(data[8 + size :], **v) for name, v in header.items()}
    shapes = [tuple(nodes[0]["shape"])]
    for node in nodes[1:]:  # values at zero give the shapes
        zeros = [np.zeros((*shapes[i], 1), dtype=object) for i in node["inputs"]]
        shapes.append((zeros[0] if node["op"] == "relu" else apply(node, tensors, zeros)).shape[:-1])
    counts = [math.prod(s) if n["op"] in ("input", "relu") else 0 for n, s in zip(nodes, shapes, strict=True)]
    starts, values, pre = np.cumsum([1, *counts]), list[Rationals](), list[Rationals]()
    variables = q(np.eye(starts[-1]))
    for node, shape, start, count in zip(nodes, shapes, starts, counts, strict=False):
        arguments = [values[i] for i in node.get("inputs", [])]
        if node["op"] == "relu":
            pre.append(arguments[0].reshape(count, -1))
        fresh = variables[start : start + count].reshape(*shape, -1) if count else None
        values.append(apply(node, tensors, arguments) if fresh is None else fresh)
    return Network(values[-1], pre, [(int(a), int(a) + n) for a, n in zip(starts, counts, strict=False) if n][1:])


def tensor(data: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> Any:
    raw = np.frombuffer(data[slice(*data_offsets)], {"F32": "<f4", "I32": "<i4"}[dtype]).reshape(shape)
    return q(raw) if dtype == "F32" else raw


def apply(node: dict[str, Any], tensors: dict[str, Any], args: list[Any]) -> Any:
    """A node's value; the last axis holds the coefficients of one linear function, the constant's first."""
    x = args[0]
    one = q(np.eye(1, x.shape[-1])[0])
    match node["op"]:
        case "linear":
            return tensors[node["weight"]] @ x + tensors[node["bias"]][:, None] * one
        case "conv2d":
            return convolution(node, tensors[node["weight"]], x) + tensors[node["bias"]][:, None, None, None] * one
        case "shift":
            return x + tensors[node["constant"]][..., None] * one
        case "scale":
            return x * tensors[node["constant"]][..., None]
        case "average_pool2d" if node["count_padding"]:
            mean = np.full((len(x), 1, *node["kernel"]), fmpq(1, math.prod(node["kernel"])))
            return convolution({**node, "dilation": (1, 1), "groups": len(x)}, mean, x)
        case "add":
            return args[0] + args[1]
        case "flatten" | "gather":
            cells = x.reshape(-1, x.shape[-1])
            return cells[tensors[node["index"]]] if "index" in node else cells
        case other:
            raise NotImplementedError(f"this judge does not know {other}")


def convolution(node: dict[str, Any], weight: Any, x: Any) -> Any:
    (sh, sw), (dh, dw), (top, left, bottom, right) = node["stride"], node["dilation"], node["padding"]
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=ZERO)
    out, per_group, kh, kw = weight.shape
    rows = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    columns = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    result = np.full((out, rows, columns, x.shape[3]), ZERO)
    for o, i, a, b in np.ndindex(weight.shape):
        down, across = slice(a * dh, a * dh + sh * rows, sh), slice(b * dw, b * dw + sw * columns, sw)
        channel = o // (out // node["groups"]) * per_group + i
        result[o] += weight[o, i, a, b] * padded[channel, down, across]
    return result


# ---------------------------------------------------------------- bounds


@dataclass(frozen=True)
class Bounds:
    """On a ball (center, radius, norm, domain), or a part of it: lower, upper (n,) of every ReLU node's inputs."""

    net: Network
    center: Rationals
    radius: fmpq
    norm: str
    domain: list[float] | None
    lower: tuple[Rationals, ...] = ()
    upper: tuple[Rationals, ...] = ()

    def forms(self, forms: Rationals, slopes: Rationals | None) -> Rationals:
        """(R,) upper bounds of forms (R, V) on the variables, with these lower slopes of all ReLUs."""
        inputs = 1 + len(self.center)
        for k in reversed(range(len(self.lower))):
            (start, stop), low, high = self.net.ranges[k], self.lower[k], self.upper[k]
            chord = rounded(np.maximum(high, ZERO) / np.maximum(high - low, fmpq(1, GRID)))
            free = np.where(high > -low, fmpq(1), ZERO) if slopes is None else slopes[start - inputs : stop - inputs]
            chord, below = (np.where(low >= 0, fmpq(1), np.where(high <= 0, ZERO, v)) for v in (chord, free))
            above = np.maximum(np.maximum(low, ZERO) - chord * low, np.maximum(high, ZERO) - chord * high)
            c = forms[:, start:stop]
            forms = forms + np.where(c > 0, c * chord, c * below) @ self.net.pre[k]
            forms[:, 0] += np.where(c > 0, c, ZERO) @ above
            forms[:, start:stop] = ZERO
        return np.array([row[0] + self.largest(row[1:inputs]) for row in forms])

    def largest(self, c: Rationals) -> fmpq:
        """At least c . x on the ball within the domain. L2: by duality, whatever multiplier is tried."""
        r = self.radius
        low, high = np.full(len(c), -r), np.full(len(c), r)
        if self.domain is not None:
            low = np.maximum(low, q(self.domain)[0] - self.center)
            high = np.minimum(high, q(self.domain)[1] - self.center)
        best = np.maximum(c * low, c * high).sum()
        if self.norm == "L1":
            best, left = ZERO, r
            for j in sorted(range(len(c)), key=lambda j: abs(c[j]), reverse=True):
                step = min(left, high[j] if c[j] > 0 else -low[j])
                best, left = best + abs(c[j]) * step, left - step
        for scale in (1.0, 0.9, 0.75, 0.6, 0.45, 0.3, 0.2, 0.1) if self.norm == "L2" and r > 0 else ():
            size = max(math.hypot(*map(float, c)), 1e-30) / (2 * float(r))
            m = fmpq(*(size * scale).as_integer_ratio())  # c d <= c d + m (r^2 - |d|^2) wherever |d| <= r
            step = np.minimum(np.maximum(c / (2 * m), low), high)
            best = min(best, (c * step - m * step * step).sum() + m * r * r)
        return c @ self.center + best


def rounded(values: Rationals) -> Rationals:
    return np.frompyfunc(lambda v: fmpq(int(v * 2**40), 2**40), 1, 1)(values)


def node_bounds(start: Bounds, slopes: Rationals | None, known: Bounds | None = None) -> Bounds:
    for k, pre in enumerate(start.net.pre):
        lower, upper = -start.forms(-pre, slopes), start.forms(+pre, slopes)
        if known is not None:
            lower, upper = np.maximum(lower, known.lower[k]), np.minimum(upper, known.upper[k])
        start = replace(start, lower=(*start.lower, lower), upper=(*start.upper, upper))
    return start


# ---------------------------------------------------------------- rules


class Question:
    """A margin claim: alpha, T, y, and the d_j's bounds on the ball."""

    def __init__(self, claim: dict[str, Any], net: Network, center: Rationals) -> None:
        need(claim["semantics"] == "real" and claim["class_of"] == "robust", "a claim of another kind")
        self.alpha, self.temperature, radius = q([claim["alpha"], claim["temperature"], claim["radius"]])
        self.y, self.net, self.d = claim["predicted"], net, net.logits - net.logits[claim["predicted"]]
        self.rivals = [j for j in range(len(net.logits)) if j != self.y]
        self.rows = slope_rows(claim["evidence"]["witness"], net)
        self.columns = [(k, cell) for k, pre in enumerate(net.pre) for cell in range(len(pre))]  # of a row of slopes
        ball = Bounds(net, center, radius, claim["norm"], claim["domain"])
        at_x = node_bounds(replace(ball, radius=ZERO), None).forms(self.d, None)
        need((at_x[self.rivals] < 0).all(), "y is not the class at x")
        self.bounds = node_bounds(ball, self.row(0))
        self.lower, self.upper = -self.d_upper(self.bounds, -1), self.d_upper(self.bounds, 1)

    def row(self, k: int) -> Rationals | None:
        return None if self.rows is None else self.rows[k if k < len(self.rows) else 0]

    def d_upper(self, bounds: Bounds, sign: int) -> Rationals:
        return np.array([bounds.forms(sign * self.d[[j]], self.row(1 + j))[0] for j in range(len(self.d))])

    def box_proves(self, upper: Rationals, i: int) -> bool:
        e = {j: exp_upper(self.temperature * upper[j]) for j in self.rivals}
        return upper[i] <= 0 and self.alpha * (1 - e[i]) > (1 - self.alpha) * (1 + sum(e.values(), ZERO))

    def chords_prove(self, i: int, here: Bounds, lower: Any, upper: Any, slopes: Any, more: Any = ZERO) -> bool:
        """sum_j w_j e^(T d_j) < t: each term below its chord, and `more`, a form (1, V), >= 0 where it matters."""
        threshold, t = 2 * self.alpha - 1, self.temperature
        weight = {j: fmpq(1) if j == i else 1 - self.alpha for j in self.rivals}
        top = {j: weight[j] * exp_upper(t * upper[j]) for j in self.rivals}
        excess, form = sum(top.values(), ZERO) - threshold, 0 * self.d[:1] + more
        for j in self.rivals:
            low, high = lower[j], upper[j]
            if weight[j] > 0 and top[j] > excess > 0:
                raised = q([math.log(float((top[j] - excess) / weight[j])) / float(t) - 1e-9])[0]
                if low < raised < high and weight[j] * exp_upper(t * raised) <= top[j] - excess:
                    low = raised
            ends = [weight[j] * exp_upper(t * v) for v in (low, high)]
            slope = rounded((ends[1] - ends[0]) / (high - low)) if high > low else ZERO
            form = form + slope * self.d[[j]]
            form[0, 0] += max(ends[0] - slope * low, ends[1] - slope * high)
        return here.forms(form, slopes)[0] < threshold

    def leaf_proves(self, i: int, kind: int, path: list[Any], slopes: Rationals, multipliers: list[fmpq]) -> bool:
        forms, more = (*self.net.pre, self.d), 0 * self.d[:1]  # d stands where a further ReLU node would
        lows = [v.copy() for v in (*self.bounds.lower, self.lower)]
        highs = [v.copy() for v in (*self.bounds.upper, self.upper)]
        for (split, index, at, sign), m in zip(path, multipliers, strict=True):
            k, cell = self.columns[index] if split == 2 else (-1, index)
            need(k >= 0 or cell in self.rivals, "a split of d_y")
            ends, end = (lows, max) if sign > 0 else (highs, min)
            ends[k][cell] = end(ends[k][cell], at)
            more = more + sign * m * forms[k][[cell]]
            more[0, 0] -= sign * m * at
        here = replace(self.bounds, lower=tuple(lows[:-1]), upper=tuple(highs[:-1]))
        if any((a > b).any() for a, b in zip(lows, highs, strict=True)):
            return True
        if kind == 4:
            here = node_bounds(replace(here, lower=(), upper=()), self.row(0), here)
            if any((a > b).any() for a, b in zip(here.lower, here.upper, strict=True)):
                return True
        upper = np.minimum(highs[-1], self.d_upper(here, 1)) if kind else highs[-1]
        lows[-1][i] = max(lows[-1][self.rivals])
        upper[self.rivals] = np.minimum(upper[self.rivals], upper[i])
        proven = bool((lows[-1] > upper).any()) or self.box_proves(upper, i)
        return proven or self.chords_prove(i, here, lows[-1], upper, slopes, more)


def slope_rows(witness: str | None, net: Network) -> Rationals | None:
    if witness is None:
        return None
    data, n, k = zlib.decompress(base64.b64decode(witness)), sum(map(len, net.pre)), len(net.logits)
    need(n and len(data) in (n, n * (1 + k), n * (1 + 2 * k)), "slopes of another length")
    return q(np.frombuffer(data, np.uint8).reshape(-1, n)) / 255


def leaves(tree: str, n: int) -> Iterator[tuple[int, list[Any], Rationals, list[fmpq]]]:
    """(kind, its sides (kind, index, at, sign), slopes, multipliers) of every leaf, depth first."""
    stream = zlib.decompressobj()
    data = stream.decompress(base64.b64decode(tree))
    need(stream.eof and not stream.unused_data, "the tree does not end where it should")
    at, path, levels = 0, list[Any](), np.zeros(n, np.uint8)
    while True:
        while (kind := data[at]) in (2, 3):
            index, threshold, *_ = (*struct.unpack_from("<Id" if kind == 3 else "<I", data, at + 1), 0.0)
            need(math.isfinite(threshold) and index < 2**31, "no such split")
            path.append((kind, index, q([threshold])[0], 1))
            at += 13 if kind == 3 else 5
        need(kind in (0, 1, 4), "no such leaf")
        levels = levels + np.frombuffer(data, np.uint8, n, at + 1)
        multipliers = np.frombuffer(data, "<f4", len(path), at + 1 + n)
        need(np.isfinite(multipliers).all() and (multipliers >= 0).all(), "a multiplier below zero")
        at += 1 + n + 4 * len(path)
        yield kind, path, q(levels) / 255, list(q(multipliers))
        while path and path[-1][3] < 0:
            path.pop()
        if not path:
            return need(at == len(data), "the tree goes on after its last leaf")
        path[-1] = (*path[-1][:3], -1)


# ---------------------------------------------------------------- a folder


def read(folder: Path) -> Iterator[tuple[dict[str, Any], Network, Rationals]]:
    """(claim, network, input) of every line that claims something."""
    header = json.loads((folder / "run.json").read_bytes())
    data = (folder / "networks" / f"{header['robust']}.safetensors").read_bytes()
    need(hashlib.sha256(data).hexdigest() == header["robust"], "the network is another one")
    net, inputs = read_network(data), np.load(folder / "inputs.npz", allow_pickle=False)["inputs"]
    for line in (folder / "certificates.jsonl").read_bytes().splitlines():
        body, seal = line.rsplit(b',"sha256":"', 1)
        need(hashlib.sha256(body).hexdigest().encode() == seal[:-2], "a broken seal")
        claim = json.loads(line)
        if claim["outcome"] == "certified":
            x = inputs[claim["index"]]
            named = json.dumps(x.shape, separators=(",", ":")).encode() + b"\n" + x.tobytes()
            tied = (header["robust"], hashlib.sha256(named).hexdigest())
            need((claim["robust"], claim["input"]) == tied, "a claim on another network or input")
            yield claim, net, q(x.ravel())


def prove(claim: dict[str, Any], net: Network, center: Rationals) -> None:
    """Raises NotProvenError unless the claim is shown."""
    need(claim["smoothing"] is None is claim["adaptive"], "a claim of another kind")
    need(claim["evidence"]["rule"] in ("network_margin", "branched_margin"), "a rule of another kind")
    if claim["domain"] is not None:
        low, high = q(claim["domain"])
        need((center >= low).all() and (center <= high).all(), "x is outside of the domain")
    trees = claim["evidence"].get("trees", [None] * len(net.logits))
    need(len(trees) == len(net.logits) and trees[claim["predicted"]] is None, "one tree per rival")
    asked = Question(claim, net, center)
    for i in asked.rivals:
        if (tree := trees[i]) is not None:
            need(all(asked.leaf_proves(i, *leaf) for leaf in leaves(tree, len(asked.columns))), f"rival {i}: a leaf")
        elif not asked.box_proves(asked.upper, i):
            row = asked.row(1 + len(trees) + i)
            need(asked.chords_prove(i, asked.bounds, asked.lower, asked.upper, row), f"rival {i}")

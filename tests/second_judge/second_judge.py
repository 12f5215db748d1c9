"""A second judge of margin certificates, written from proofs_check/FORMAT.md alone: exact rationals, no code in common.

It reads `network_margin`, `branched_margin` and `branched_pair` in real arithmetic, of networks of linear,
convolutional and ReLU nodes (and what only sums, scales or moves). Every value is a linear function of the input and of
the ReLUs before it, so a form goes back to the input by replacing one ReLU node after the other by lines.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flint import fmpq

# rationals that would grow are rounded outward to multiples of 1/GRID; no coordinate of a ball of doubles is BEYOND
ZERO, GRID, BEYOND = fmpq(0), 2**160, fmpq(2**1100)
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
    value, halvings = fmpq(1), max(0, int(t.numer().bit_length()) - int(t.denom().bit_length()) + 2)
    for k in reversed(range(1, 40)):
        value = 1 + value * t / (k * 2**halvings)
    value += fmpq(1, 2**190)  # more than all further terms
    for _ in range(halvings):
        value = fmpq(int((value * value * GRID).ceil()), GRID)
    return value


# ---------------------------------------------------------------- the network, as linear functions of (1, x, ReLUs)


class Network(NamedTuple):
    """pre[k] (n, V): the inputs of ReLU node k, whose values are variables in that order; logits (K, V)."""

    logits: Rationals
    pre: list[Rationals]


def read_network(*files: bytes) -> Network:
    """One network, or two on one input: logits of the first, then of the second."""
    nodes, ends = list[dict[str, Any]](), list[int]()
    for data in files:
        header = json.loads(data[8 : 8 + (size := int.from_bytes(data[:8], "little"))])
        graph, shift = json.loads(header.pop("__metadata__")["graph"]), max(len(nodes) - 1, 0)
        tensors = {name: tensor(data[8 + size :], **v) for name, v in header.items()}
        for node in graph[1:] if nodes else graph:
            held = {field: tensors[v] for field, v in node.items() if isinstance(v, str) and field != "op"}
            nodes.append(node | held | {"inputs": [i and i + shift for i in node.get("inputs", [])]})
        ends.append(len(nodes) - 1)
    values, pre, width = list[Rationals](), list[Rationals](), 1
    for node in [*nodes, {"op": "concat", "inputs": ends}]:
        args = [widened(values[i], width) for i in node["inputs"]]
        if node["op"] in ("input", "relu"):  # new variables
            pre += [cells.reshape(-1, width) for cells in args]
            shape = args[0].shape[:-1] if args else node["shape"]
            fresh = q(np.eye(math.prod(shape), width + math.prod(shape), width))
            values, width = [*values, fresh.reshape(*shape, -1)], fresh.shape[1]
        else:
            values.append(OPS[node["op"]](node, *args))
    return Network(widened(values[-1], width), [widened(cells, width) for cells in pre])


def widened(value: Rationals, width: int) -> Rationals:
    """The same linear functions beside variables that came later."""
    return np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, width - value.shape[-1])], constant_values=ZERO)


def tensor(data: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> Any:
    raw = np.frombuffer(data[slice(*data_offsets)], {"F32": "<f4", "I32": "<i4"}[dtype]).reshape(shape)
    return q(raw) if dtype == "F32" else raw


def constant(value: Any, like: Rationals) -> Rationals:
    """As wide as `like`, whose last axis holds the coefficients of one linear function, the constant's first."""
    return value[..., None] * q(np.eye(1, like.shape[-1])[0])


def convolution(node: dict[str, Any], weight: Any, x: Rationals) -> Rationals:
    (sh, sw), (dh, dw), (top, left, bottom, right) = node["stride"], node["dilation"], node["padding"]
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=ZERO)
    span = dh * (weight.shape[2] - 1) + 1, dw * (weight.shape[3] - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, span, (1, 2))[:, ::sh, ::sw, :, ::dh, ::dw]
    parts = windows.reshape(node["groups"], -1, *windows.shape[1:]).repeat(len(weight) // node["groups"], 0)
    return np.stack([np.tensordot(w, part, ((0, 1, 2), (0, 4, 5))) for w, part in zip(weight, parts, strict=True)])


def mean(node: dict[str, Any], x: Rationals) -> Rationals:
    need(node["count_padding"], "means of fewer cells at the border")
    weight = np.full((len(x), 1, *node["kernel"]), fmpq(1, math.prod(node["kernel"])))
    return convolution({**node, "dilation": (1, 1), "groups": len(x)}, weight, x)


OPS: dict[str, Any] = {  # FORMAT.md 5
    "linear": lambda n, x: n["weight"] @ x + constant(n["bias"], x),
    "conv2d": lambda n, x: convolution(n, n["weight"], x) + constant(n["bias"][:, None, None], x),
    "shift": lambda n, x: x + constant(n["constant"], x),
    "scale": lambda n, x: x * n["constant"][..., None],
    "average_pool2d": mean,
    "add": lambda n, x, y: x + y,
    "concat": lambda n, *xs: np.concatenate(xs),
    "flatten": lambda n, x: x.reshape(-1, x.shape[-1]),
    "gather": lambda n, x: x.reshape(-1, x.shape[-1])[n["index"]],
}


# ---------------------------------------------------------------- bounds


@dataclass(frozen=True)
class Bounds:
    """On a ball (center, radius, norm, domain), or a part of it: lower, upper (n,) of every ReLU node's inputs."""

    net: Network
    center: Rationals
    radius: fmpq
    norm: str
    domain: Rationals
    lower: tuple[Rationals, ...] = ()
    upper: tuple[Rationals, ...] = ()

    def forms(self, forms: Rationals, slopes: Rationals | None) -> Rationals:
        """(R,) upper bounds of forms (R, V) on the variables, with these lower slopes of all ReLUs."""
        inputs = 1 + len(self.center)
        for k in reversed(range(len(self.lower))):
            start, low, high = inputs + sum(map(len, self.net.pre[:k])), self.lower[k], self.upper[k]
            chord = rounded(np.maximum(high, ZERO) / np.maximum(high - low, fmpq(1, GRID)))
            free = np.where(high > -low, fmpq(1), ZERO) if slopes is None else slopes[start - inputs :][: len(low)]
            chord, below = (np.where(low >= 0, fmpq(1), np.where(high <= 0, ZERO, v)) for v in (chord, free))
            above = np.maximum(np.maximum(low, ZERO) - chord * low, np.maximum(high, ZERO) - chord * high)
            c = forms[:, start : start + len(low)]
            forms = forms[:, :start] + np.where(c > 0, c * chord, c * below) @ self.net.pre[k][:, :start]
            forms[:, 0] += np.where(c > 0, c, ZERO) @ above
        return np.array([row[0] + self.largest(row[1:inputs]) for row in forms])

    def largest(self, c: Rationals) -> fmpq:
        """At least c . x on the ball within the domain; but for Linf by duality, whatever multiplier is tried."""
        r = self.radius
        low, high = np.maximum(self.domain[0] - self.center, -r), np.minimum(self.domain[1] - self.center, r)
        best = np.maximum(c * low, c * high).sum()
        for m in abs(c) if self.norm == "L1" else ():  # c d <= c d + m (r - |d|)
            best = min(best, m * r + (np.maximum(abs(c) - m, ZERO) * np.where(c > 0, high, -low)).sum())
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
    """A margin claim: alpha, T, y, and bounds on the ball of every d_j, of h, or of g and then of h."""

    def __init__(self, claim: dict[str, Any], net: Network, center: Rationals, networks: int) -> None:
        self.alpha, self.temperature, radius = q([claim["alpha"], claim["temperature"], claim["radius"]])
        self.y, self.net, self.classes = claim["predicted"], net, len(net.logits) // networks
        self.rivals = [j for j in range(self.classes) if j != self.y]
        self.d = net.logits - net.logits[np.arange(len(net.logits)) // self.classes * self.classes + self.y]
        self.rows = slope_rows(claim["evidence"]["witness"], net)
        self.columns = [(k, cell) for k, pre in enumerate(net.pre) for cell in range(len(pre))]  # of a row of slopes
        domain = (-BEYOND, BEYOND) if claim["domain"] is None else q(claim["domain"])
        need((domain[0] <= center).all() and (center <= domain[1]).all(), "x is outside of the domain")
        ball = Bounds(net, center, radius, claim["norm"], domain)
        at_x = node_bounds(replace(ball, radius=ZERO), None).forms(self.d[-self.classes :], None)
        need((networks > 1 and claim["class_of"] == "mix") or (at_x[self.rivals] < 0).all(), "y is not the class at x")
        self.bounds = node_bounds(ball, self.row(0))
        self.lower, self.upper = -self.d_upper(self.bounds, -1), self.d_upper(self.bounds, 1)

    def row(self, k: int) -> Rationals | None:
        return None if self.rows is None else self.rows[k if k < len(self.rows) else 0]

    def d_upper(self, bounds: Bounds, sign: int) -> Rationals:
        return np.array([bounds.forms(sign * self.d[[j]], self.row(1 + j))[0] for j in range(len(self.d))])

    def margin(self, i: int, lower: Rationals, upper: Rationals, t: Any) -> fmpq:
        """At most p_y - p_i over the box of one network's d_j."""
        least = {j: upper[i] if j == i else lower[j] for j in self.rivals}
        terms = [exp_upper(t * upper[j]) if upper[i] <= 0 else 1 / exp_upper(-t * v) for j, v in least.items()]
        return (1 - exp_upper(t * upper[i])) / (1 + sum(terms, ZERO))

    def proves(self, i: int, here: Bounds, lower: Any, upper: Any, slopes: Any, more: Any = ZERO) -> bool:
        """Of rival i: by the box of all d_j, else by chords, which do not use what g's margin has to spare (c > 0)."""
        k, a, box = self.classes, self.alpha, (lower[-self.classes :], upper[-self.classes :])
        worst = {j: self.margin(j, lower[:k], upper[:k], 1) for j in self.rivals} if len(self.d) > k else {i: -1}
        left = [(1 - a) * m for j, m in worst.items() if (1 - a) * m + a * self.margin(j, *box, self.temperature) <= 0]
        return not left or self.chords_prove(i, here, *box, slopes, more, min(*left, ZERO))

    def chords_prove(self, i: int, here: Bounds, lower: Any, upper: Any, slopes: Any, more: Any, c: fmpq) -> bool:
        """sum_j w_j e^(T d_j) < t: each term below its chord, and `more`, a form (1, V), >= 0 where it matters."""
        threshold, t = self.alpha + c, self.temperature
        weight = {j: self.alpha - c if j == i else -c for j in self.rivals}
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
            form = form + slope * self.d[[j - self.classes]]
            form[0, 0] += max(ends[0] - slope * low, ends[1] - slope * high)
        return here.forms(form, slopes)[0] < threshold

    def leaf_proves(self, i: int, kind: int, path: list[Any], slopes: Rationals, multipliers: list[fmpq]) -> bool:
        forms, more = (*self.net.pre, self.d), 0 * self.d[:1]  # d stands where a further ReLU node would
        lows = [v.copy() for v in (*self.bounds.lower, self.lower)]
        highs = [v.copy() for v in (*self.bounds.upper, self.upper)]
        for (split, index, at, sign), m in zip(path, multipliers, strict=True):
            k, cell = self.columns[index] if split == 2 else (-1, index)
            need(k >= 0 or cell % self.classes != self.y, "a split of d_y")
            ends, end = (lows, max) if sign > 0 else (highs, min)
            ends[k][cell] = end(ends[k][cell], at)
            more = more + sign * m * forms[k][[cell]]
            more[0, 0] -= sign * m * at
        here = replace(self.bounds, lower=tuple(lows[:-1]), upper=tuple(highs[:-1]))
        if kind == 4 and not crossing(lows, highs):
            here = node_bounds(replace(here, lower=(), upper=()), self.row(0), here)
        if crossing((*lows, *here.lower), (*highs, *here.upper)):
            return True
        upper = np.minimum(highs[-1], self.d_upper(here, 1)) if kind else highs[-1]
        of_h = lows[-1][-self.classes :], upper[-self.classes :]  # views
        of_h[0][i] = max(of_h[0][self.rivals])
        of_h[1][self.rivals] = np.minimum(of_h[1][self.rivals], of_h[1][i])
        return crossing(lows[-1:], [upper]) or self.proves(i, here, lows[-1], upper, slopes, more)


def crossing(lows: Any, highs: Any) -> bool:
    return any((low > high).any() for low, high in zip(lows, highs, strict=True))


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
    """(claim, network or both, input) of every line that claims something."""
    header, network = json.loads((folder / "run.json").read_bytes()), functools.cache(read_network)
    inputs = np.load(folder / "inputs.npz", allow_pickle=False)["inputs"]
    for line in (folder / "certificates.jsonl").read_bytes().splitlines():
        body, seal = line.rsplit(b',"sha256":"', 1)
        need(hashlib.sha256(body).hexdigest().encode() == seal[:-2], "a broken seal")
        claim = json.loads(line)
        if claim["outcome"] == "certified":
            x = inputs[claim["index"]]
            named = json.dumps(x.shape, separators=(",", ":")).encode() + b"\n" + x.tobytes()
            tied = claim["robust"] == header["robust"] and claim["standard"] in (None, header["standard"])
            names = [claim[n] for n in ("standard", "robust")[claim["evidence"]["rule"] != "branched_pair" :]]
            need(tied and claim["input"] == hashlib.sha256(named).hexdigest(), "a claim on another network or input")
            files = [(folder / "networks" / f"{name}.safetensors").read_bytes() for name in names]
            need([hashlib.sha256(f).hexdigest() for f in files] == names, "a network is another one")
            yield claim, network(*files), q(x.ravel())


def prove(claim: dict[str, Any], net: Network, center: Rationals) -> None:
    """Raises NotProvenError unless the claim is shown."""
    rule, pair = claim["evidence"]["rule"], claim["evidence"]["rule"] == "branched_pair"
    need(claim["smoothing"] is None is claim["adaptive"] and claim["semantics"] == "real", "a claim of another kind")
    need(rule in ("network_margin", "branched_margin", "branched_pair"), "another rule")
    asked = Question(claim, net, center, 1 + pair)
    trees = claim["evidence"].get("trees", [None] * asked.classes)
    need(len(trees) == asked.classes and trees[asked.y] is None, "one tree per rival")
    for i in asked.rivals:
        if trees[i] is None:
            proven = not pair and asked.proves(i, asked.bounds, asked.lower, asked.upper, asked.row(1 + len(trees) + i))
        else:
            proven = all(asked.leaf_proves(i, *leaf) for leaf in leaves(trees[i], len(asked.columns)))
        need(proven, f"rival {i}")

"""What a forger may try: networks and balls at the edges of floating point, and files mutated byte by byte or field by
field, with the truth of a claim at a point decided in exact arithmetic."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import exact_network as en
import numpy as np
from flint import arb, ctx
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check import judge
from proofs_check.kernel.bounds import Ball
from proofs_check.reading import parse
from proofs_check.rules.case import Case
from verifiers.network.module import build

Rng = np.random.Generator
F32 = np.float32
PLAIN_KINDS = tuple(k for k in dict.fromkeys(en.IMAGE_KINDS + en.VECTOR_KINDS) if k not in ("sigmoid", "tanh"))

# ---------------------------------------------------------------- networks and balls


def _spoiled(rng: Rng, value: NDArray[Any]) -> c.Float32Array:
    """Other magnitudes, rows that nearly cancel, zeros, subnormals."""
    result = value.astype(np.float64)
    kind = int(rng.integers(8))
    if kind < 4:
        result = result * 2.0 ** float(rng.choice([-140, -100, -60, -30, 20, 30, 60, 100]))
    if kind == 4 and len(result.shape) > 1 and len(result) > 1:
        result[1] = -result[0] * (1 + 2.0**-22 * rng.integers(-1, 2))
    if kind == 5:
        result = np.where(rng.integers(2, size=result.shape), result * 2.0**60, result)
    if kind == 6:
        result = np.round(result) * 2.0**24 + rng.integers(-1, 2, size=result.shape)
    return np.asarray(np.clip(result, -3e38, 3e38), dtype=F32)


def _spoiled_node(rng: Rng, node: c.Node) -> c.Node:
    match node:
        case c.Linear() | c.Conv2d():
            return dataclasses.replace(node, weight=_spoiled(rng, node.weight), bias=_spoiled(rng, node.bias))
        case c.BatchNorm():
            tiny = np.asarray(rng.choice([0.0, 1e-45, 1e-30, 1e-6, 1.0, 1e30], size=len(node.variance)), dtype=F32)
            parts = {n: _spoiled(rng, getattr(node, n)) for n in ("scale", "shift", "mean")}
            return dataclasses.replace(
                node, **parts, variance=tiny, epsilon=float(rng.choice([1e-30, 1e-12, 1e-5, 1e9]))
            )
        case c.Shift() | c.Scale():
            return dataclasses.replace(node, constant=_spoiled(rng, node.constant))
        case c.Divide():
            factor = F32(2.0 ** float(rng.choice([-120, -60, 0, 30, 100])))
            return dataclasses.replace(node, constant=np.asarray(node.constant * factor, dtype=F32))
        case c.LeakyRelu():
            return dataclasses.replace(node, slope=float(rng.choice([0.0, 5e-324, 1e-40, 0.1, 1 - 2.0**-53, 1.0])))
        case c.Pad():
            return dataclasses.replace(node, value=float(rng.choice([0.0, -0.0, 1e-310, 0.1, -1e30])))
        case _:
            return node


def hostile_network(rng: Rng) -> c.PlainNetwork:
    """A random network, some of its layers spoiled; the logits may come out of any node, beside nodes of no use."""
    nodes = list(en.random_network(rng, int(rng.integers(1, 9)), PLAIN_KINDS).nodes)
    share = rng.uniform(0, 0.6)
    nodes = [_spoiled_node(rng, n) if rng.uniform() < share else n for n in nodes]
    last = len(nodes) - 1
    endings: list[list[c.Node]] = [
        [],
        [],
        [c.Relu((last,))],
        [c.LeakyRelu((last,), 0.3)],
        [c.Add((last, last))],
        [c.Concat((last, last, last))],
        [c.Relu((last,)), c.Add((last, last + 1))],
        [c.Relu((last,)), c.Relu((last + 1,)), c.Flatten((last,))],
    ]
    return build([*nodes, *endings[int(rng.integers(len(endings)))]])


def hostile_ball(rng: Rng, shape: tuple[int, ...]) -> Ball:
    """Centres and radii of any size; domains whose ends are not float32, some with the centre on their edge."""
    center = (rng.uniform(-1, 1, shape) * 2.0 ** float(rng.choice([-148, -126, -20, 0, 0, 0, 10, 24, 60]))).astype(F32)
    sizes = [0.0, 5e-324, 1e-310, 1e-45, 1e-20, 1e-6, 0.1, 1.0, 100.0, 1e10, 1e300]
    radius = float(rng.choice(sizes) * rng.choice([1.0, rng.uniform(0.5, 1)]))
    norm: c.Norm = ("Linf", "L2", "L1")[int(rng.integers(3))]
    low, high = float(center.min()), float(center.max())
    gap = float(rng.choice([0.0, 5e-324, 1e-300, 1e-12, 0.3])) + 1e-17 * (high - low) * float(rng.integers(2))
    return Ball(center, radius, norm, (low - gap, high + gap) if rng.integers(2) else None)


# ---------------------------------------------------------------- the truth of a claim at a point


def _shares(logits: en.Exact, temperature: float) -> list[arb]:
    top = max(logits)
    e = [arb((z - top) * en.rational(temperature)).exp() for z in logits]
    total = sum(e, arb(0))
    return [v / total for v in e]


def _transformed(logits: en.Exact, transform: c.Transform, temperature: float) -> list[arb]:
    """Probabilities of softmax(temperature * M(logits))."""
    moved = [arb(z) + arb(transform.shift) for z in logits]
    if transform.clamp:
        moved = [v if v > 0 else arb(0) for v in moved]
    powers = [abs(v) ** arb(transform.power) if v != 0 else arb(0) for v in moved]
    raised = [p if v >= 0 else -p for v, p in zip(moved, powers, strict=True)]
    e = [(arb(temperature) * (v - raised[0])).exp() for v in raised]
    total = sum(e, arb(0))
    return [v / total for v in e]


def refuted(claim: c.Claim, robust: c.PlainNetwork, standard: c.PlainNetwork | None, point: en.Exact) -> bool:
    """Whether the claim is surely false at this point of its ball: some rival gets at least as much from the mix.

    standard None: g is free to give everything to the rival. An adaptive alpha is taken at its least, claim.alpha.
    """
    y, logits = claim.predicted, en.exact_values(robust, point)[-1]
    with ctx.workprec(400):
        transform = None if claim.adaptive is None else claim.adaptive.transform
        plain = transform is None
        h = _shares(logits, claim.temperature) if plain else _transformed(logits, transform, claim.temperature)
        g = None if standard is None else _shares(en.exact_values(standard, point)[-1], 1.0)
        alpha = arb(claim.alpha)
        for i in range(len(h)):
            of_g = arb(-1) if g is None else g[y] - g[i]
            tied = g is None and logits[y] <= logits[i]
            if i != y and (tied or (1 - alpha) * of_g + alpha * (h[y] - h[i]) <= 0):
                return True
    return False


# ---------------------------------------------------------------- mutations

NASTY: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 2**31, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**64), 0.0, -0.0, 0.5, 1.0, -1.0, 2.5, 1e-9,
    5e-324, 1e-310, 1e308, -1e308, 1.7976931348623157e308, 1 - 2.0**-53, "", "a", "\ud800", "0" * 64, "AAAA",
    "eJwDAAAAAAE=", None, True, False, [], {}, [[]], [0], [0, 0], [0.0], [None], {"a": 1}, "Linf", "L2", "L1", "robust",
    "mix", "both", "float32", "real", "4a", "3.5",
)  # fmt: skip


def _paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(p for k, v in inner for p in _paths(v, (*here, k)))]


def _nudged(rng: Rng, value: Any) -> Any:
    """A value of the same type nearby."""
    if isinstance(value, bool) or value is None:
        return NASTY[int(rng.integers(len(NASTY)))]
    if isinstance(value, int):
        whole = [v for v in NASTY if type(v) is int]
        return value + int(rng.integers(-3, 4)) if rng.integers(3) else whole[int(rng.integers(len(whole)))]
    if isinstance(value, float):
        numbers = [v for v in NASTY if type(v) is float]
        if rng.integers(3) == 0:
            return numbers[int(rng.integers(len(numbers)))]
        return float(value * rng.choice([0.5, 0.9, 1 + 1e-15, 1 - 1e-15, 1.1, 2, -1, 1e3, 1e-3]))
    if isinstance(value, str) and value:
        at = int(rng.integers(len(value)))
        return value[:at] + chr(int(rng.integers(32, 127))) + value[at + 1 :]
    if isinstance(value, list) and value:
        at = int(rng.integers(len(value)))
        return [value[:at] + value[at + 1 :], [*value, copy.deepcopy(value[at])], value[::-1]][int(rng.integers(3))]
    return NASTY[int(rng.integers(len(NASTY)))]


def mutated(rng: Rng, value: Any) -> Any:
    """A deep copy with one to three places replaced, nudged, deleted or copied from elsewhere."""
    result = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        paths = [p for p in _paths(result) if p]
        path = paths[int(rng.integers(len(paths)))]
        parent = result
        for key in path[:-1]:
            parent = parent[key]
        kind = int(rng.integers(10))
        if kind < 1:
            parent[path[-1]] = copy.deepcopy(NASTY[int(rng.integers(len(NASTY)))])
        elif kind < 8:
            parent[path[-1]] = _nudged(rng, parent[path[-1]])
        elif kind == 8:
            del parent[path[-1]]
        else:
            other = result
            for key in paths[int(rng.integers(len(paths)))]:
                other = other[key]
            parent[path[-1]] = copy.deepcopy(other)
        if not [p for p in _paths(result) if p]:
            break
    return result


def flipped(rng: Rng, data: bytes) -> bytes:
    """Some bits flipped, a part cut out, doubled or overwritten, or the end cut off."""
    raw = bytearray(data)
    at, length = int(rng.integers(len(raw))), int(rng.integers(1, 9))
    kind = int(rng.integers(5))
    if kind == 0:
        for place in rng.integers(len(raw), size=int(rng.integers(1, 4))):
            raw[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del raw[at:]
    elif kind == 2:
        del raw[at : at + length]
    elif kind == 3:
        raw[at:at] = raw[at : at + length]
    else:
        raw[at : at + length] = rng.integers(0, 256, length).astype(np.uint8).tobytes()
    return bytes(raw)


def sealed(value: Any) -> bytes:
    """The line or header that says `value`, freshly sealed."""
    body = {k: v for k, v in value.items() if k != "sha256"} if isinstance(value, dict) else {"": value}
    return parse.seal(json.dumps(body, separators=(",", ":")).encode()[:-1])


def resealed_flip(rng: Rng, data: bytes) -> bytes:
    """Bytes changed before the seal, which is made anew."""
    return parse.seal(flipped(rng, data[: -parse.SEAL_LENGTH]))


def network_bytes(graph: Any, header: dict[str, Any], blob: bytes) -> bytes:
    full = {**header, "__metadata__": {"format": c.NETWORK_FORMAT, "graph": json.dumps(graph)}}
    head = json.dumps(full).encode()
    return len(head).to_bytes(8, "little") + head + blob


def mutated_network(rng: Rng, data: bytes) -> bytes:
    """A network with its graph or its header mutated as JSON, or its bytes flipped."""
    kind = int(rng.integers(4))
    if kind == 0:
        return flipped(rng, data)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    graph = json.loads(header.pop("__metadata__")["graph"])
    return network_bytes(
        mutated(rng, graph) if kind < 3 else graph, mutated(rng, header) if kind == 3 else header, data[8 + length :]
    )


def attempts(count: int, seed: int, attempt: Callable[[Rng], str]) -> dict[str, int]:
    """How often each outcome of `attempt` came about; whatever it raises names the seed to repeat it with."""
    found: dict[str, int] = {}
    for k in range(seed, seed + count):
        try:
            outcome = attempt(np.random.default_rng(k))
        except Exception as error:
            raise AssertionError(f"seed {k}: {type(error).__name__}: {error}") from error
        found[outcome] = found.get(outcome, 0) + 1
    return found


# ---------------------------------------------------------------- claims without a file


def claim_of(case: Case, **kw: Any) -> c.Claim:
    """About `case`; every field but its digests may be given."""
    given: dict[str, Any] = {
        "norm": "L2", "radius": 0.1, "alpha": 0.9, "temperature": 1.0, "predicted": 0, "class_of": "robust",
        "domain": None, "semantics": "real", "robust": case.robust.network.sha256, "standard": None,
        "input": parse.array_sha256(case.input), "smoothing": None,
    }  # fmt: skip
    return c.Claim(**(given | kw))


def verdict(case: Case, rule: str, evidence: object, **kw: Any) -> c.Verdict:
    return judge.check(parse.Certificate(0, 0, "margin", claim_of(case, **kw), rule, evidence), case)

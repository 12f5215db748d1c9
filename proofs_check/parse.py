"""Bytes to frozen types, strictly: anything unknown, missing, duplicated or of another type is malformed.

The only place where bytes are believed to have a structure. `FORMAT.md` is the specification.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import numpy as np

from proofs_check.certificate import (
    FORMAT,
    NETWORK_FORMAT,
    NODE_TYPES,
    RUN_FORMAT,
    Claim,
    Float32Array,
    MalformedError,
    PlainNetwork,
    wellformed,
)
from proofs_check.shapes import output_shape

T = TypeVar("T")
DIGEST = re.compile(r"[0-9a-f]{64}")
LONE = re.compile("[\ud800-\udfff]")  # JSON can escape what UTF-8 cannot write
MAX_AXES = 4
MAX_CELLS = 2**27  # of all values of a network together
MAX_NODES = 2**12
MAX_HEADER = 2**26  # bytes of a network's JSON, which takes many times as many in memory


# ---------------------------------------------------------------- strict JSON


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key in an object")
    return result


def _refuse(token: str) -> Any:
    raise ValueError(f"{token} is not a JSON number")


def _float(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise ValueError(f"{token} overflows a double")
    return value


def strict_json(data: bytes, place: str) -> Any:
    """JSON of RFC 8259 in UTF-8 without duplicate keys, NaN, Infinity or overflowing numbers."""
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_refuse, parse_float=_float)
    except (ValueError, RecursionError) as error:
        raise MalformedError(place, f"not strict JSON: {error}") from error


def read(kind: Any, value: Any, place: str) -> Any:
    """`value` (from strict_json) as `kind`: str, int, float, bool, None, Literal, X | None, tuple, dataclass.

    Ensures: no coercion but int -> float, exactly; objects have precisely the dataclass's fields.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return read(inner, value, place)
    if origin is Literal:
        wellformed(type(value) is type(args[0]) and value in args, place, f"must be one of {args}, got {value!r}")
        return value
    if origin is tuple:
        return _read_tuple(args, value, place)
    if dataclasses.is_dataclass(kind):
        return _read_object(cast("type[Any]", kind), value, place)
    return _read_scalar(kind, value, place)


def _read_scalar(kind: type, value: Any, place: str) -> Any:
    if kind is float and type(value) is int:
        wellformed(abs(value) <= 2**53, place, f"integer {value} is not exactly a double")
        return float(value)
    wellformed(type(value) is kind, place, f"must be {kind.__name__}, got {type(value).__name__}")
    wellformed(kind is not int or abs(value) < 2**64, place, "does not fit in 64 bits")
    wellformed(kind is not str or not LONE.search(value), place, "holds half a surrogate pair")
    return value


def _read_tuple(args: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    wellformed(type(value) is list, place, f"must be an array, got {type(value).__name__}")
    items = cast("list[Any]", value)
    kinds = args[:1] * len(items) if args[1:] == (...,) else args
    wellformed(len(kinds) == len(items), place, f"must have {len(kinds)} entries, got {len(items)}")
    return tuple(read(k, v, f"{place}[{i}]") for i, (k, v) in enumerate(zip(kinds, items, strict=True)))


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def fields(value: Any, names: Sequence[str], place: str) -> dict[str, Any]:
    """`value` as an object with exactly the keys `names`."""
    wellformed(type(value) is dict, place, f"must be an object, got {type(value).__name__}")
    found = cast("dict[str, Any]", value)
    missing = [n for n in names if n not in found]
    extra = [n for n in found if n not in names]
    wellformed(not missing, place, f"field {missing[:1]} is missing")
    wellformed(not extra, place, f"field {extra[:1]} is not known")
    return found


def _read_object(kind: type[T], value: Any, place: str) -> T:
    hints = _hints(kind)
    found = fields(value, tuple(hints), place)
    try:
        return kind(**{n: read(hints[n], found[n], f"{place}.{n}") for n in hints})
    except MalformedError as error:
        inner = error.place if error.place.startswith(place) else f"{place}.{error.place}"
        raise MalformedError(inner, error.reason) from error


def digest(value: Any, place: str) -> str:
    wellformed(type(value) is str and DIGEST.fullmatch(value), place, "must be 64 lower-case hex digits")
    return cast("str", value)


# ---------------------------------------------------------------- certificate lines and the run header


@dataclasses.dataclass(frozen=True)
class Certificate:
    """One certified line: what is claimed, for which input, by which rule, with what evidence."""

    index: int
    label: int
    method: Literal["margin", "lipschitz", "smoothing"]
    claim: Claim
    rule: str
    evidence: Any


@dataclasses.dataclass(frozen=True)
class NotCertified:
    """An abstained or falsified line: kept for the record, not judged."""

    index: int
    label: int
    method: Literal["margin", "lipschitz", "smoothing"]
    outcome: Literal["abstained", "falsified"]
    class_of: Literal["robust", "mix"]
    alpha: float
    norm: Literal["Linf", "L2", "L1"]
    radius: float | None
    predicted: int
    reason: str
    advice: str
    counterexample: str | None
    confirmed: bool


Line = Certificate | NotCertified
SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}')
SEAL_LENGTH = len(b',"sha256":""}') + 64


def seal(prefix: bytes) -> bytes:
    """`prefix`, a JSON object without its closing brace, closed with the digest of `prefix` itself."""
    return prefix + b',"sha256":"' + hashlib.sha256(prefix).hexdigest().encode() + b'"}'


def unseal(data: bytes, place: str) -> dict[str, Any]:
    """The object whose bytes end in `,"sha256":"…"}` with the digest of all the bytes before that."""
    prefix, tail = data[:-SEAL_LENGTH], data[-SEAL_LENGTH:]
    match = SEAL.fullmatch(tail)
    wellformed(match, place, "does not end with its sha256")
    stated = cast("re.Match[bytes]", match)[1].decode()
    actual = hashlib.sha256(prefix).hexdigest()
    wellformed(stated == actual, place, f"sha256 mismatch: stated {stated[:12]}…, actual {actual[:12]}…")
    value = strict_json(data, place)
    wellformed(type(value) is dict, place, f"must be an object, got {type(value).__name__}")
    found = cast("dict[str, Any]", value)
    wellformed("sha256" in found, place, "field ['sha256'] is missing")
    del found["sha256"]
    return found


def line(data: bytes, evidence: Mapping[str, type[Any]], place: str = "certificate") -> Line:
    """One line of certificates.jsonl (without its newline).

    `evidence` maps each rule's name to the type of its evidence. Raises MalformedError.
    """
    found = unseal(data, place)
    wellformed(found.pop("format", None) == FORMAT, f"{place}.format", f"must be {FORMAT!r}")
    if found.get("outcome") != "certified":
        record = read(NotCertified, found, place)
        wellformed(record.index >= 0, f"{place}.index", f"must be >= 0, got {record.index}")
        return record
    del found["outcome"]
    claim_names = tuple(_hints(Claim))
    fields(found, ("index", "label", "method", "evidence", *claim_names), place)
    claim = read(Claim, {n: found[n] for n in claim_names}, place)
    for name in ("robust", "input"):
        digest(getattr(claim, name), f"{place}.{name}")
    if claim.standard is not None:
        digest(claim.standard, f"{place}.standard")
    if claim.adaptive is not None and claim.adaptive.alpha is not None and claim.adaptive.alpha.network is not None:
        digest(claim.adaptive.alpha.network, f"{place}.adaptive.alpha.network")
    body = found["evidence"]
    wellformed(type(body) is dict, f"{place}.evidence", "must be an object")
    rule = body.pop("rule", None)
    wellformed(type(rule) is str and rule in evidence, f"{place}.evidence.rule", f"is not known: {rule!r}")
    index = read(int, found["index"], f"{place}.index")
    wellformed(index >= 0, f"{place}.index", f"must be >= 0, got {index}")
    return Certificate(
        index=index,
        label=read(int, found["label"], f"{place}.label"),
        method=read(_hints(Certificate)["method"], found["method"], f"{place}.method"),
        claim=claim,
        rule=rule,
        evidence=read(evidence[rule], body, f"{place}.evidence"),
    )


@dataclasses.dataclass(frozen=True)
class RunHeader:
    """What run.json promises: the networks, the dataset's digest and size. `settings`: free, not judged."""

    standard: str | None
    robust: str
    dataset: str
    count: int
    settings: dict[str, Any]


def run_header(data: bytes, place: str = "run.json") -> RunHeader:
    found = unseal(data, place)
    wellformed(found.pop("format", None) == RUN_FORMAT, f"{place}.format", f"must be {RUN_FORMAT!r}")
    fields(found, ("standard", "robust", "dataset", "count", "settings"), place)
    count = read(int, found["count"], f"{place}.count")
    wellformed(count >= 1, f"{place}.count", f"must be >= 1, got {count}")
    return RunHeader(
        standard=None if found["standard"] is None else digest(found["standard"], f"{place}.standard"),
        robust=digest(found["robust"], f"{place}.robust"),
        dataset=digest(found["dataset"], f"{place}.dataset"),
        count=count,
        settings=read(dict, found["settings"], f"{place}.settings"),
    )


# ---------------------------------------------------------------- arrays and networks


def array_sha256(value: Float32Array) -> str:
    """Digest of one input: its shape in JSON, a newline, its little-endian float32 bytes in C order."""
    head = json.dumps(list(value.shape), separators=(",", ":")).encode() + b"\n"
    return hashlib.sha256(head + np.ascontiguousarray(value, dtype="<f4").tobytes()).hexdigest()


def _tensors(header: dict[str, Any], blob: bytes) -> dict[str, Float32Array]:
    tensors: dict[str, Float32Array] = {}
    end = 0
    for name, entry in header.items():
        place = f"network.{name}"
        found = fields(entry, ("dtype", "shape", "data_offsets"), place)
        wellformed(found["dtype"] == "F32", place, f"dtype must be F32, got {found['dtype']!r}")
        shape = read(tuple[int, ...], found["shape"], f"{place}.shape")
        start, stop = read(tuple[int, int], found["data_offsets"], f"{place}.data_offsets")
        wellformed(len(shape) <= MAX_AXES, place, f"has {len(shape)} axes")
        wellformed(all(n > 0 for n in shape), place, f"shape must be positive, got {shape}")
        wellformed(start == end and stop - start == 4 * math.prod(shape), place, "offsets do not fit the shape")
        wellformed(stop <= len(blob), place, "reaches past the end of the file")
        value = np.frombuffer(blob[start:stop], dtype="<f4").astype(np.float32).reshape(shape)
        wellformed(np.isfinite(value).all(), place, "holds a number that is not finite")
        value.flags.writeable = False
        tensors[name] = value
        end = stop
    wellformed(end == len(blob), "network", f"{len(blob) - end} bytes belong to no tensor")
    return tensors


def network(data: bytes, place: str = "network") -> PlainNetwork:
    """A safetensors file (F32 only) whose `__metadata__` is {"format": …, "graph": JSON array of nodes}.

    A tensor field of a node holds the tensor's name. Ensures: every shape fits; the last node is a vector
    of at least two logits; every tensor is used exactly once. Raises MalformedError.
    """
    wellformed(len(data) >= 8, place, "is shorter than its header")
    length = int.from_bytes(data[:8], "little")
    wellformed(length <= len(data) - 8, place, "header reaches past the end of the file")
    wellformed(length <= MAX_HEADER, place, f"header has {length} bytes, more than {MAX_HEADER}")
    header = strict_json(data[8 : 8 + length], place)
    wellformed(type(header) is dict and "__metadata__" in header, place, "has no __metadata__")
    metadata = fields(header.pop("__metadata__"), ("format", "graph"), f"{place}.__metadata__")
    wellformed(metadata["format"] == NETWORK_FORMAT, f"{place}.format", f"must be {NETWORK_FORMAT!r}")
    graph = strict_json(read(str, metadata["graph"], f"{place}.graph").encode(), f"{place}.graph")
    wellformed(
        type(graph) is list and 2 <= len(graph) <= MAX_NODES, f"{place}.graph", f"must be 2 to {MAX_NODES} nodes"
    )
    tensors = _tensors(header, data[8 + length :])
    nodes: list[Any] = []
    shapes: list[tuple[int, ...]] = []
    for k, entry in enumerate(graph):
        node = _node(entry, tensors, f"{place}.graph[{k}]")
        wellformed((k == 0) == (entry["op"] == "input"), f"{place}.graph[{k}]", "the input is node 0 and only node 0")
        inputs: tuple[int, ...] = getattr(node, "inputs", ())
        wellformed(all(0 <= i < k for i in inputs), f"{place}.graph[{k}].inputs", f"must name earlier nodes: {inputs}")
        shapes.append(output_shape(node, [shapes[i] for i in inputs], f"{place}.graph[{k}]"))
        nodes.append(node)
        wellformed(sum(map(math.prod, shapes)) <= MAX_CELLS, place, f"values hold more than {MAX_CELLS} cells")
    wellformed(not tensors, place, f"tensor {next(iter(tensors), '')!r} is not used")
    wellformed(len(shapes[-1]) == 1 and shapes[-1][0] >= 2, place, f"output must be >= 2 logits, got {shapes[-1]}")
    return PlainNetwork(tuple(nodes), tuple(shapes), hashlib.sha256(data).hexdigest(), data)


def _node(entry: Any, tensors: dict[str, Float32Array], place: str) -> Any:
    wellformed(type(entry) is dict and type(entry.get("op")) is str, place, "must be an object with an op")
    kind = NODE_TYPES.get(cast("str", entry["op"]))
    wellformed(kind is not None, place, f"op {entry['op']!r} is not known")
    hints = _hints(cast("type[Any]", kind))
    found = fields(entry, ("op", *hints), place)
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        if hint == Float32Array:
            key = read(str, found[name], f"{place}.{name}")
            wellformed(key in tensors, f"{place}.{name}", f"names no unused tensor: {key!r}")
            values[name] = tensors.pop(key)
        else:
            values[name] = read(hint, found[name], f"{place}.{name}")
    return cast("type[Any]", kind)(**values)

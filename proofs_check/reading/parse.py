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
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np

from proofs_check.certificate import (
    FORMAT,
    NODE_TYPES,
    RUN_FORMAT,
    Claim,
    ClassOf,
    Digest,
    Float32Array,
    Input,
    Int32Array,
    MalformedError,
    ModelFile,
    Norm,
    PlainNetwork,
    wellformed,
)
from proofs_check.reading.shapes import output_shape

LONE = re.compile("[\ud800-\udfff]")  # JSON can escape what UTF-8 cannot write
MAX_AXES = 4
MAX_CELLS = 2**27  # of all values of a network together
MAX_NODES = 2**12
MAX_DEPTH = 32  # arrays and objects in one another
MAX_HEADER = 2**26  # bytes of a network's JSON, which takes many times as many in memory


# ---------------------------------------------------------------- strict JSON


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key in an object")
    return result


def _float(token: str) -> float:
    """Also of NaN and Infinity, which Python takes for JSON."""
    value = float(token)
    if not math.isfinite(value):
        raise ValueError(f"{token} is not a finite double")
    return value


def strict_json(data: bytes, place: str) -> Any:
    """JSON of RFC 8259 in UTF-8 without duplicate keys, NaN, Infinity or overflowing numbers."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_float, parse_float=_float)
    except (ValueError, RecursionError) as error:
        raise MalformedError(place, f"not strict JSON: {error}") from error
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [v for outer in level for v in _inside(outer)]
    deeper = any(type(v) in (dict, list) for v in level)
    wellformed(not deeper, place, f"nests deeper than {MAX_DEPTH} arrays and objects")
    return value


def _inside(value: Any) -> Iterable[Any]:
    container: dict[str, Any] | list[Any] = value if type(value) in (dict, list) else []
    return container.values() if isinstance(container, dict) else container


def read(kind: Any, value: Any, place: str) -> Any:
    """`value` (from strict_json) as `kind`: str, int, float, bool, dict, Literal, tuple, dataclass, X | None,
    Annotated[str, pattern], or X | a dataclass, which objects are read as.

    Ensures: no coercion but int -> float, exactly; objects have precisely the dataclass's fields.
    """
    origin, args, is_object = _of_kind(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        fitting = [k for k in kinds if _of_kind(k)[2] == (type(value) is dict)]
        if len(fitting) > 1:  # several objects are told by their fields
            names = set(read(dict, value, place))
            fitting = [k for k in fitting if set(_hints(k)) == names] or fitting
        return read((fitting or kinds)[0], value, place)
    if origin is Annotated:
        text, pattern = read(args[0], value, place), args[1]
        wellformed(pattern.fullmatch(text), place, f"must be {pattern.pattern}, got {text[:80]!r}")
        return text
    if origin is Literal:
        word = read(type(args[0]), value, place)
        wellformed(word in args, place, f"must be one of {args}, got {word!r}")
        return word
    if origin is tuple:
        return _read_tuple(args, value, place)
    if is_object:
        return _read_object(kind, value, place)
    return _read_scalar(origin or kind, value, place)


@functools.cache
def _of_kind(kind: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Its origin and arguments, and whether objects are read as it."""
    return typing.get_origin(kind), typing.get_args(kind), dataclasses.is_dataclass(kind)


def _read_scalar(kind: type, value: Any, place: str) -> Any:
    if kind is float and type(value) is int:
        wellformed(abs(value) <= 2**53, place, f"integer {value} is not exactly a double")
        return float(value)
    wellformed(type(value) is kind, place, f"must be {kind.__name__}, got {type(value).__name__}")
    wellformed(kind is not int or abs(value) < 2**64, place, "does not fit in 64 bits")
    wellformed(kind is not str or not LONE.search(value), place, "holds half a surrogate pair")
    return value


def _read_tuple(args: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    items = read(list, value, place)
    kinds = args[:1] * len(items) if args[1:] == (...,) else args
    wellformed(len(kinds) == len(items), place, f"must have {len(kinds)} entries, got {len(items)}")
    return tuple(read(k, v, f"{place}[{i}]") for i, (k, v) in enumerate(zip(kinds, items, strict=True)))


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _read_object(kind: Any, value: Any, place: str) -> Any:
    members, hints = read(dict, value, place), _hints(kind)
    missing = [n for n in hints if n not in members]
    extra = [n for n in members if n not in hints]
    wellformed(not missing, place, f"field {missing[:1]} is missing")
    wellformed(not extra, place, f"field {extra[:1]} is not known")
    fields = {n: read(hints[n], members[n], f"{place}.{n}") for n in hints}
    try:
        return kind(**fields)
    except MalformedError as error:  # of a condition of the type, which does not know its place
        raise MalformedError(f"{place}.{error.place}", error.reason) from error


# ---------------------------------------------------------------- certificate lines and the run header


@dataclasses.dataclass(frozen=True)
class Record:
    """What every line says of itself. method: information for tables."""

    index: int
    label: int
    method: Literal["margin", "lipschitz", "smoothing", "adaptive"]

    def __post_init__(self) -> None:
        wellformed(self.index >= 0, "index", f"must be >= 0, got {self.index}")


@dataclasses.dataclass(frozen=True)
class Certificate(Record):
    """One certified line: what is claimed, for which input, by which rule, with what evidence."""

    claim: Claim
    rule: str
    evidence: Any


@dataclasses.dataclass(frozen=True)
class NotCertified(Record):
    """An abstained or falsified line: kept for the record, not judged."""

    outcome: Literal["abstained", "falsified"]
    class_of: ClassOf
    alpha: float
    norm: Norm
    radius: float | None
    predicted: int
    reason: str
    advice: str
    counterexample: str | None
    confirmed: bool


def seal(prefix: bytes) -> bytes:
    """`prefix`, a JSON object without its closing brace, closed with the digest of `prefix` itself."""
    return prefix + b',"sha256":"' + hashlib.sha256(prefix).hexdigest().encode() + b'"}'


SEAL_LENGTH = len(seal(b""))


def unseal(data: bytes, form: str, place: str) -> dict[str, Any]:
    """The object of format `form` whose bytes are `seal` of all but the last of them; without format and seal."""
    wellformed(data == seal(data[:-SEAL_LENGTH]), place, "does not end with the sha256 of what is before it")
    members = read(dict, strict_json(data, place), place)
    members.pop("sha256", None)
    wellformed(members.pop("format", None) == form, f"{place}.format", f"must be {form!r}")
    return members


def line(data: bytes, evidence: Mapping[str, type[Any]], place: str = "certificate") -> Certificate | NotCertified:
    """One line of certificates.jsonl, without its newline.

    `evidence` maps each rule's name to the type of its evidence. Raises MalformedError.
    """
    members = unseal(data, FORMAT, place)
    if members.get("outcome") != "certified":
        return read(NotCertified, members, place)
    del members["outcome"]
    claim = read(Claim, {n: members.pop(n) for n in _hints(Claim) if n in members}, place)
    body = read(dict, members.pop("evidence", None), f"{place}.evidence")
    rule = read(str, body.pop("rule", None), f"{place}.evidence.rule")
    wellformed(rule in evidence, f"{place}.evidence.rule", f"is not known: {rule!r}")
    record = read(Record, members, place)  # nothing else is left
    proof = read(evidence[rule], body, f"{place}.evidence")
    return Certificate(record.index, record.label, record.method, claim, rule, proof)


@dataclasses.dataclass(frozen=True)
class RunHeader:
    """What run.json promises: the networks, the dataset's digest and size. `settings`: free, not judged."""

    standard: Digest | ModelFile | None
    robust: Digest | ModelFile
    dataset: Digest
    count: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        wellformed(self.count >= 1, "count", f"must be >= 1, got {self.count}")


def run_header(data: bytes, place: str = "run.json") -> RunHeader:
    return read(RunHeader, unseal(data, RUN_FORMAT, place), place)


# ---------------------------------------------------------------- arrays and networks


def array_sha256(value: Float32Array) -> str:
    """Digest of one input: its shape in JSON, a newline, its little-endian float32 bytes in C order."""
    head = json.dumps(list(value.shape), separators=(",", ":")).encode() + b"\n"
    return hashlib.sha256(head + np.ascontiguousarray(value, dtype="<f4").tobytes()).hexdigest()


NUMBERS: dict[str, Any] = {"F32": np.float32, "I32": np.int32}  # of a tensor
FIELDS: dict[Any, Any] = {Float32Array: np.float32, Int32Array: np.int32}  # of nodes that hold tensors
Tensor = Float32Array | Int32Array


@dataclasses.dataclass(frozen=True)
class _Tensor:
    dtype: Literal["F32", "I32"]
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _tensors(header: dict[str, Any], blob: bytes) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    end = 0
    for name, entry in header.items():
        place = f"network.{name}"
        layout = read(_Tensor, entry, place)
        shape, (start, stop) = layout.shape, layout.data_offsets
        wellformed(len(shape) <= MAX_AXES, place, f"has {len(shape)} axes")
        wellformed(all(n > 0 for n in shape), place, f"shape must be positive, got {shape}")
        wellformed(start == end and stop - start == 4 * math.prod(shape), place, "offsets do not fit the shape")
        wellformed(stop <= len(blob), place, "reaches past the end of the file")
        number = np.dtype(NUMBERS[layout.dtype])
        value = np.frombuffer(blob[start:stop], dtype=number.newbyteorder("<")).astype(number).reshape(shape)
        wellformed(np.isfinite(value).all(), place, "holds a number that is not finite")
        value.flags.writeable = False
        tensors[name] = value
        end = stop
    wellformed(end == len(blob), "network", f"{len(blob) - end} bytes belong to no tensor")
    return tensors


@dataclasses.dataclass(frozen=True)
class _Metadata:
    format: Literal["certmix-network/1"]
    graph: str


def network(data: bytes, place: str = "network") -> PlainNetwork:
    """A safetensors file (F32, indices I32) whose `__metadata__` is {"format": …, "graph": JSON array of nodes}.

    A tensor field of a node holds the tensor's name. Ensures: every shape fits; the last node is a vector
    of at least two logits; every tensor is used exactly once. Raises MalformedError.
    """
    length = int.from_bytes(data[:8], "little")
    wellformed(length <= len(data) - 8, place, "header reaches past the end of the file")
    wellformed(length <= MAX_HEADER, place, f"header has {length} bytes, more than {MAX_HEADER}")
    header = read(dict, strict_json(data[8 : 8 + length], place), place)
    metadata = read(_Metadata, header.pop("__metadata__", None), f"{place}.__metadata__")
    where = f"{place}.graph"
    graph = read(list, strict_json(metadata.graph.encode(), where), where)
    wellformed(2 <= len(graph) <= MAX_NODES, where, f"must be 2 to {MAX_NODES} nodes, not {len(graph)}")
    tensors = _tensors(header, data[8 + length :])
    nodes: list[Any] = []
    shapes: list[tuple[int, ...]] = []
    for k, entry in enumerate(graph):
        at = f"{where}[{k}]"
        node = _node(entry, tensors, at)
        wellformed((k == 0) == isinstance(node, Input), at, "the input is node 0 and only node 0")
        inputs: tuple[int, ...] = getattr(node, "inputs", ())
        wellformed(all(0 <= i < k for i in inputs), f"{at}.inputs", f"must name earlier nodes: {inputs}")
        shapes.append(output_shape(node, [shapes[i] for i in inputs], at))
        nodes.append(node)
        wellformed(sum(map(math.prod, shapes)) <= MAX_CELLS, place, f"values hold more than {MAX_CELLS} cells")
    wellformed(not tensors, place, f"tensor {next(iter(tensors), '')!r} is not used")
    wellformed(len(shapes[-1]) == 1 and shapes[-1][0] >= 2, place, f"output must be >= 2 logits, got {shapes[-1]}")
    return PlainNetwork(tuple(nodes), tuple(shapes), hashlib.sha256(data).hexdigest(), data)


def _node(entry: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """The node, each name of a tensor replaced by the tensor, which is taken out of `tensors`."""
    members = read(dict, entry, place)
    op = read(str, members.pop("op", None), f"{place}.op")
    wellformed(op in NODE_TYPES, place, f"op {op!r} is not known")
    kind = NODE_TYPES[op]
    for name, hint in _hints(kind).items():
        if hint in FIELDS:
            key = read(str, members.get(name), f"{place}.{name}")
            wellformed(key in tensors, f"{place}.{name}", f"names no unused tensor: {key!r}")
            members[name] = tensors.pop(key)
            wellformed(members[name].dtype == FIELDS[hint], f"{place}.{name}", f"cannot be {members[name].dtype}")
    return read(kind, members, place)

"""The parser refuses everything that is not exactly the format."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmix.records.lines import certificate_line
from proofs_check.certificate import Claim, Conv2d, Flatten, Gather, Input, Linear, MalformedError, Relu, Shift
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.margin.rule import NetworkMargin
from verifiers.network.module import build

CLAIM = Claim("Linf", 0.1, 0.75, 1.0, 2, "robust", (0.0, 1.0), "real", "a" * 64, None, "b" * 64, None)


def a_line(claim: Claim = CLAIM) -> bytes:
    return certificate_line(0, 2, "margin", claim, "network_margin", NetworkMargin(None))


def resealed(value: dict[str, object]) -> bytes:
    value = {k: v for k, v in value.items() if k != "sha256"}
    return parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1])


def a_network() -> bytes:
    rng = np.random.default_rng(0)

    def f(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return build(
        [
            Input((2, 4, 4)),
            Shift((0,), f(2, 1, 1)),
            Conv2d((1,), f(3, 2, 3, 3), f(3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
            Relu((2,)),
            Flatten((3,)),
            Linear((4,), f(3, 48), f(3)),
        ]
    ).data


def test_a_written_line_is_read_back_as_it_was():
    found = parse.line(a_line(), EVIDENCE)
    assert isinstance(found, parse.Certificate)
    assert found.claim == CLAIM
    assert found.evidence == NetworkMargin(None)


def test_a_network_is_read_back_as_it_was():
    data = a_network()
    found = parse.network(data)
    assert build(found.nodes).data == data
    assert found.shapes[-1] == (3,)


@pytest.mark.parametrize("field", sorted(json.loads(a_line())))
def test_a_missing_field_is_malformed(field: str):
    value = json.loads(a_line())
    del value[field]
    data = json.dumps(value, separators=(",", ":")).encode() if field == "sha256" else resealed(value)
    with pytest.raises(MalformedError):
        parse.line(data, EVIDENCE)


def test_an_extra_field_is_malformed():
    with pytest.raises(MalformedError, match="not known"):
        parse.line(resealed({**json.loads(a_line()), "extra": 1}), EVIDENCE)


def test_an_extra_field_of_the_evidence_is_malformed():
    value = json.loads(a_line())
    value["evidence"]["extra"] = 1
    with pytest.raises(MalformedError, match="not known"):
        parse.line(resealed(value), EVIDENCE)


def test_a_duplicate_field_is_malformed():
    prefix = a_line()[: -parse.SEAL_LENGTH] + b',"radius":0.2'
    with pytest.raises(MalformedError, match="duplicate"):
        parse.line(parse.seal(prefix), EVIDENCE)


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"0.1"', b"true", b"null", b"[0.1]"])
def test_a_radius_that_is_no_finite_number_is_malformed(text: bytes):
    prefix = a_line()[: -parse.SEAL_LENGTH].replace(b'"radius":0.1', b'"radius":' + text)
    with pytest.raises(MalformedError):
        parse.line(parse.seal(prefix), EVIDENCE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "certmix-certificate/2"),
        ("norm", "L3"),
        ("radius", -0.1),
        ("radius", 2**53 + 1),
        ("alpha", 1.1),
        ("alpha", -0.1),
        ("temperature", 0),
        ("predicted", -1),
        ("predicted", 1.0),
        ("predicted", True),
        ("class_of", "standard"),
        ("domain", [0]),
        ("domain", [1, 0]),
        ("domain", "01"),
        ("semantics", "double"),
        ("robust", "A" * 64),
        ("robust", None),
        ("standard", "a" * 63),
        ("input", "g" * 64),
        ("smoothing", {}),
        ("evidence", None),
        ("evidence", {"rule": "unknown"}),
        ("evidence", {"rule": ["network_margin"], "witness": None}),
        ("evidence", {"rule": "network_margin", "witness": 1}),
        ("index", -1),
        ("index", True),
        ("label", "2"),
        ("method", "luck"),
        ("outcome", "accepted"),
        ("outcome", ["certified"]),
    ],
)
def test_a_value_outside_its_type_is_malformed(field: str, value: object):
    with pytest.raises(MalformedError):
        parse.line(resealed({**json.loads(a_line()), field: value}), EVIDENCE)


def test_a_changed_byte_breaks_the_seal():
    data = bytearray(a_line())
    at = data.index(b"0.1")
    data[at] = ord("9")
    with pytest.raises(MalformedError, match="sha256"):
        parse.line(bytes(data), EVIDENCE)


@given(st.binary(max_size=200))
def test_random_bytes_are_malformed(data: bytes):
    with pytest.raises(MalformedError):
        parse.line(data, EVIDENCE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(json.loads(a_line()))), JSON)
def test_a_field_of_random_json_is_read_or_malformed(field: str, value: object):
    data = resealed({**json.loads(a_line()), field: value})
    with contextlib.suppress(MalformedError):  # any other exception fails the test
        assert isinstance(parse.line(data, EVIDENCE), parse.Certificate | parse.NotCertified)


def test_deeply_nested_json_is_malformed():
    with pytest.raises(MalformedError):
        parse.line(parse.seal(b'{"a":' + b"[" * 100_000 + b"]" * 100_000), EVIDENCE)


def test_a_huge_integer_is_malformed():
    prefix = a_line()[: -parse.SEAL_LENGTH].replace(b'"radius":0.1', b'"radius":' + b"9" * 10_000)
    with pytest.raises(MalformedError):
        parse.line(parse.seal(prefix), EVIDENCE)


# ---------------------------------------------------------------- networks


def edited(change) -> bytes:
    """The network with its header edited by `change(header, graph) -> graph`."""
    data = a_network()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    graph = change(header, json.loads(header["__metadata__"]["graph"]))
    header["__metadata__"]["graph"] = json.dumps(graph)
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data[8 + length :]


def set_field(node: int, field: str, value: object):
    def change(header, graph):
        graph[node][field] = value
        return graph

    return change


NETWORK_DAMAGE = {
    "an unknown op": set_field(3, "op", "mish"),
    "an op that is no text": set_field(3, "op", ["relu"]),
    "an unknown field": set_field(3, "inplace", True),
    "a later input": set_field(3, "inputs", [4]),
    "a negative input": set_field(3, "inputs", [-1]),
    "too many inputs": set_field(3, "inputs", [2, 2]),
    "a second input node": set_field(3, "op", "input"),
    "a tensor used twice": set_field(5, "weight", "2.weight"),
    "a tensor that is not there": set_field(5, "weight", "9.weight"),
    "a zero stride": set_field(2, "stride", [0, 1]),
    "a negative padding": set_field(2, "padding", [-1, 0, 0, 0]),
    "a huge kernel span": set_field(2, "dilation", [9, 9]),
    "groups that do not divide": set_field(2, "groups", 2),
    "a stride of three numbers": set_field(2, "stride", [1, 1, 1]),
    "logits that are an image": lambda h, g: g[:4],
    "no nodes": lambda h, g: [],
    "a graph that is no array": lambda h, g: {"nodes": g},
    "another format": lambda h, g: h["__metadata__"].update(format="certmix-network/2") or g,
    "another dtype": lambda h, g: h["5.bias"].update(dtype="F64") or g,
    "overlapping tensors": lambda h, g: h["5.bias"].update(data_offsets=[0, 12]) or g,
    "a wrong size": lambda h, g: h["5.bias"].update(shape=[4]) or g,
    "a negative shape": lambda h, g: h["5.bias"].update(shape=[-3]) or g,
    "metadata that is no object": lambda h, g: h.update(more="1") or g,
}


@pytest.mark.parametrize("name", sorted(NETWORK_DAMAGE))
def test_a_damaged_network_is_malformed(name: str):
    with pytest.raises(MalformedError):
        parse.network(edited(NETWORK_DAMAGE[name]))


def test_an_index_is_whole_numbers_and_a_weight_is_not():
    index = np.array([3, 0, 3], dtype=np.int32)
    network = build([Input((2, 2)), Gather((0,), index), Shift((1,), np.ones(3, dtype=np.float32))])
    assert np.array_equal(network.nodes[1].index, index)  # type: ignore[union-attr]
    assert parse.network(network.data).data == build(parse.network(network.data).nodes).data
    for wrong, name in ((b'"I32"', "graph[1].index"), (b'"F32"', "graph[2].constant")):
        other = {b'"I32"': b'"F32"', b'"F32"': b'"I32"'}[wrong]
        with pytest.raises(MalformedError, match="cannot be") as caught:
            parse.network(network.data.replace(wrong, other, 1))
        assert caught.value.place.endswith(name)


def test_an_unedited_network_is_still_read():
    assert parse.network(edited(lambda h, g: g)).shapes[-1] == (3,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_malformed(value: float):
    data = bytearray(a_network())
    data[-4:] = np.float32(value).tobytes()
    with pytest.raises(MalformedError, match="finite"):
        parse.network(bytes(data))


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4), st.booleans())
def test_a_network_with_changed_bytes_is_malformed_or_another_network(at: int, change: bytes, cut: bool):
    data = bytearray(a_network())
    at %= len(data)
    data[at : at + len(change)] = change
    damaged = bytes(data[:at]) if cut else bytes(data)
    with contextlib.suppress(MalformedError):  # any other exception fails the test
        found = parse.network(damaged)
        assert damaged == a_network() or found.sha256 != parse.network(a_network()).sha256


def test_a_network_is_shown_by_its_shapes_and_not_by_its_bytes():
    network = build([Input((2, 1, 1)), Flatten((0,))])
    assert repr(network) == f"PlainNetwork(2 nodes, (2, 1, 1) -> (2,), {network.sha256[:12]}…)"

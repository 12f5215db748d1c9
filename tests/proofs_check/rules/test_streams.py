"""The bytes of trees: read as they are asked for, whole or refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from proofs_check.certificate import RejectedError
from proofs_check.rules.margin import trees
from proofs_check.rules.margin.trees import Stream, leaves

NOISE = np.random.default_rng(0).integers(0, 256, 30_000, dtype=np.uint8)  # no compression: many chunks


def test_numbers_that_span_many_chunks_are_read_whole_and_leave_the_next_ones_in_place():
    stream = Stream(zlib.compress(NOISE.tobytes()))
    at = 0
    for kind, count in (("u1", 9_000), ("<u4", 3), ("<f4", 2_500), ("<f8", 1), ("u1", 0), ("u1", 10_980)):
        size = count * np.dtype(kind).itemsize
        assert stream.numbers(kind, count).tobytes() == NOISE[at : at + size].tobytes()
        at += size
    assert at == len(NOISE)
    stream.end()


@pytest.mark.parametrize("cut", [0, 1, 5_000, 29_000, -1])
def test_a_stream_that_is_cut_short_is_refused_where_it_ends(cut: int):
    stream = Stream(zlib.compress(NOISE.tobytes())[:cut])
    with pytest.raises(RejectedError, match="cut short"):
        [stream.numbers("u1", len(NOISE)), stream.end()]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_chunks_that_unfold_to_nothing_end_no_stream(size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trees, "CHUNK", size)
    stream = Stream(zlib.compress(NOISE[:50].tobytes()))
    assert stream.numbers("u1", 50).tobytes() == NOISE[:50].tobytes()
    stream.end()


@pytest.mark.parametrize("splits", [1, 1024, 1025])
def test_a_tree_has_at_most_1024_splits_above_a_leaf(splits: int):
    found = leaves(Stream(zlib.compress(bytes([2, 0, 0, 0, 0]) * splits + bytes(2 + 4 * splits))), 1, frozenset())
    if splits > 1024:
        with pytest.raises(RejectedError, match="deeper than 1024"):
            next(found)
    else:
        assert len(next(found).path) == splits


def test_numbers_or_bytes_beyond_the_end_are_refused():
    with pytest.raises(RejectedError, match="cut short"):
        Stream(zlib.compress(bytes(3))).numbers("<f4", 1)
    for data, word in ((zlib.compress(bytes(5)), "last leaf"), (zlib.compress(bytes(4)) + b"\0", "after its end")):
        stream = Stream(data)
        stream.numbers("<f4", 1)
        with pytest.raises(RejectedError, match=word):
            stream.end()


def test_a_byte_after_a_stream_that_ends_with_a_chunk_is_refused(monkeypatch: pytest.MonkeyPatch):
    data = zlib.compress(bytes(4))
    monkeypatch.setattr(trees, "CHUNK", len(data))
    stream = Stream(data + b"\0")
    stream.numbers("<f4", 1)
    with pytest.raises(RejectedError, match="after its end"):
        stream.end()


def test_a_stream_unfolds_to_at_most_so_many_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trees, "MAX_BYTES", 10)
    stream = Stream(zlib.compress(bytes(11)))
    assert len(stream.numbers("u1", 10)) == 10
    with pytest.raises(RejectedError, match="more than 10 bytes"):
        stream.numbers("u1", 1)


@pytest.mark.parametrize("at", [-np.inf, np.inf, np.nan])
def test_a_split_stands_at_a_number(at: float):
    nodes = b"\x03" + struct.pack("<Id", 1, at) + b"\x00" + bytes(4)
    with pytest.raises(RejectedError, match="splits d_1"):
        next(leaves(Stream(zlib.compress(nodes)), 0, frozenset({1})))


def test_a_node_is_of_a_kind_there_is():
    for kind in (0, 1, 4):
        assert next(leaves(Stream(zlib.compress(bytes([kind]))), 0, frozenset())).kind == kind
    for kind in (5, 255):
        with pytest.raises(RejectedError, match=f"unknown kind {kind}"):
            next(leaves(Stream(zlib.compress(bytes([kind]))), 0, frozenset()))

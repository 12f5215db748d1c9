"""Slopes from bytes: which row of them serves which pass, and how many bytes there may be."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from proofs_check import certificate as c
from proofs_check import witness
from proofs_check.kernel import bounds, linear_forms
from proofs_check.witness import Witness, decode
from verifiers.network.module import build

F32 = np.float32


def test_a_witness_is_no_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    net = build([c.Input((3,)), c.Relu((0,)), c.Linear((1,), np.zeros((2, 3), F32), np.zeros(2, F32))])
    monkeypatch.setattr(witness, "MAX_BYTES", 9)
    assert decode(zlib.compress(bytes(9)), net).slopes.shape == (3, 3)
    monkeypatch.setattr(witness, "MAX_BYTES", 8)
    with pytest.raises(c.RejectedError, match="at most 8"):
        decode(zlib.compress(bytes(9)), net)


def test_a_witness_byte_is_a_slope_of_so_many_255ths():
    net = build([c.Input((2,)), c.Relu((0,)), c.Linear((1,), np.eye(2, dtype=F32), np.zeros(2, F32))])
    found = decode(zlib.compress(bytes([255, 51])), net)
    assert found.slopes.tolist() == [[1.0, 0.2]]


def test_a_relu_uses_its_own_part_of_each_row():
    """Two ReLU layers of one cell: the second one's slope stands second."""
    one, zero = np.ones((1, 1), dtype=F32), np.zeros(1, F32)
    last = c.Linear((4,), np.array([[-1], [0]], dtype=F32), np.zeros(2, F32))
    net = build([c.Input((1,)), c.Linear((0,), one, zero), c.Relu((1,)),
                 c.Linear((2,), one, np.array([-0.5], F32)), c.Relu((3,)), last])  # fmt: skip
    ball = bounds.Ball(np.zeros(1, F32), 1.0, "Linf", None)
    values = bounds.value_bounds(bounds.prepare(net), ball, Witness(np.array([[0.0, 1.0], [0.0, 1.0], [0, 0]])))
    assert [bounds._slopes_of(values, k, 0).item() for k in (2, 4)] == [0.0, 1.0]  # type: ignore[union-attr]
    rows = linear_forms.LinearForms(np.full((2, 1, 1, 1), -1.0), None)
    lines = values.relaxations[4]
    assert lines is not None
    assert bounds._lower_slopes(values, 4, rows, lines, [1, 2]).ravel().tolist() == [1.0, 0.0]


def test_a_last_pass_takes_the_row_of_its_class():
    rng = np.random.default_rng(0)
    net = build([c.Input((3,)), c.Linear((0,), rng.normal(size=(4, 3)).astype(F32), np.zeros(4, F32)), c.Relu((1,)),
                 c.Linear((2,), rng.normal(size=(3, 4)).astype(F32), np.zeros(3, F32))])  # fmt: skip
    slopes = rng.uniform(size=(7, 4))
    ball = bounds.Ball(np.zeros(3, F32), 1.0, "L2", None)
    values = bounds.value_bounds(bounds.prepare(net), ball, Witness(slopes))
    lower, upper = bounds.differences(values, 1)
    eye = np.eye(3)
    for j in (0, 2):
        assert upper[j] == pytest.approx(bounds.functionals(values, (eye[j] - eye[1])[None], [1 + j])[0])
        assert lower[j] == pytest.approx(-bounds.functionals(values, (eye[1] - eye[j])[None], [0])[0])


def test_a_witness_is_not_unpacked_beyond_a_fixed_size(monkeypatch: pytest.MonkeyPatch):
    wide = build([c.Input((2,)), c.Pad((0,), (0,), (2**16,), 0.0), c.Relu((1,)), c.Slice((2,), (0,), (200,), (1,))])
    monkeypatch.setattr(witness, "MAX_BYTES", 2**17)
    assert len(decode(zlib.compress(bytes(2**16 + 2)), wide).slopes) == 1
    with pytest.raises(c.RejectedError, match="at most 131072, got 131073"):
        decode(zlib.compress(bytes((2**16 + 2) * 201)), wide)

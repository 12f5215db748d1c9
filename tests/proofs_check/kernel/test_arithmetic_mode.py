"""Processes that read other numbers than are written, or round another way: nothing is accepted there."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import platform
from collections.abc import Iterator

import hostile as ho
import numpy as np
import pytest
import torch
from chains import array, dead_chain

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.kernel.layers import KINDS
from proofs_check.rules.case import Case
from proofs_check.rules.margin.rule import NetworkMargin
from verifiers.network.module import build


@contextlib.contextmanager
def flushing() -> Iterator[None]:
    """This process reads subnormal numbers as zero, for a while."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor always keeps subnormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def tiny_weights() -> Case:
    """Logits (9, 2^147 w x) with a subnormal w: (9, 1.5 * 2^20) at x = 1, unless w is read as 0."""
    weight = array([[0.0], [1.5 * 2.0**-127]])
    nodes = [
        c.Input((1,)),
        c.Linear((0,), weight, array([0, 0])),
        c.Scale((1,), array([2.0**127])),
        c.Scale((2,), array([2.0**20])),
        c.Shift((3,), array([9, 0])),
    ]
    network = build(nodes)
    with flushing():
        return Case(bounds_without_guard(network), None, array([1.0]))


def bounds_without_guard(network: c.PlainNetwork) -> bounds.Prepared:
    """What a judge without the guard of `prepare` works with."""
    shapes = tuple(bounds.image(s) for s in network.shapes)
    layers = tuple(KINDS[type(n)](n, [shapes[i] for i in bounds.inputs_of(n)]) for n in network.nodes)
    return bounds.Prepared(network, layers, shapes, bounds.slope_starts(network))


def test_a_process_that_reads_subnormal_weights_as_zero_accepts_nothing():
    case = tiny_weights()
    assert not case.robust.layers[1].apply(np.ones((1, 1, 1))).any()  # type: ignore[union-attr]
    with flushing():
        found = ho.verdict(case, "network_margin", NetworkMargin(None))
        assert isinstance(found, c.Rejected)
        assert found.step == "arithmetic"
        with pytest.raises(c.RejectedError, match="subnormal"):
            bounds.prepare(case.robust.network)


@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to zero"])
def test_a_process_that_rounds_another_way_accepts_nothing(mode: int):
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of the rounding modes are those of x86-64")
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    case = dead_chain([1.0], c.Add)
    assert isinstance(ho.verdict(case, "network_margin", NetworkMargin(None)), c.Accepted)
    assert libm.fesetround(mode) == 0
    try:
        found = ho.verdict(case, "network_margin", NetworkMargin(None))
    finally:
        libm.fesetround(0)
    assert isinstance(found, c.Rejected)
    assert found.step == "arithmetic"


def test_subnormal_weights_count_as_what_they_are():
    nodes = [
        c.Input((1,)),
        c.Linear((0,), array([[0.0], [2.0**-149]]), array([0, 0])),
        c.Scale((1,), array([2.0**127])),
    ]
    values = bounds.value_bounds(bounds.prepare(build(nodes)), bounds.Ball(array([1.0]), 0.0, "Linf", None), None)
    assert values.lower[2][1, 0, 0] <= 2.0**-22 <= values.upper[2][1, 0, 0]
    assert values.lower[2][1, 0, 0] > 2.0**-23

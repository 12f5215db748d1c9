"""Attacks on the judge by a second hostile reader: processes that read other numbers than are written, tiny files that
end a run or ask for all memory there is."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import dataclasses
import json
import math
import platform
from collections.abc import Iterator
from typing import Any

import hostile as ho
import numpy as np
import pytest
import torch

from proofs_check import certificate as c
from proofs_check.kernel import bounds, jacobian
from proofs_check.kernel.layers import Rows
from proofs_check.reading import parse
from proofs_check.rules import RULES
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import layer_norms, lipsdp
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz
from proofs_check.rules.margin.rule import NetworkMargin
from verifiers.network.module import build

F32 = np.float32


def array(values: object) -> c.Float32Array:
    return np.array(values, dtype=F32)


# ---------------------------------------------------------------- numbers read as other numbers


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
    maps = tuple(
        bounds.affine_map(n, [bounds.image(network.shapes[i]) for i in bounds.inputs_of(n)]) for n in network.nodes
    )
    shapes = tuple(bounds.image(s) for s in network.shapes)
    return bounds.Prepared(network, maps, shapes, bounds.slope_starts(network))


def test_a_process_that_reads_subnormal_weights_as_zero_accepts_nothing():
    case = tiny_weights()
    assert not case.robust.maps[1].apply(np.ones((1, 1, 1))).any()  # type: ignore[union-attr]
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


# ---------------------------------------------------------------- sums beyond a double


def dead_chain(scales: list[float], joined: type[c.Add] | type[c.Concat]) -> Case:
    """Logits x + (9, 0), beside a chain of `scales` through ReLUs that are dead, joined with itself."""
    nodes: list[c.Node] = [c.Input((2,))]
    last = 0
    for scale in scales:
        nodes += [c.Scale((last,), array([scale])), c.Shift((len(nodes),), array([-(2.0**100)]))]
        nodes.append(c.Relu((len(nodes) - 1,)))
        last = len(nodes) - 1
    nodes += [joined((last, last)), c.Shift((0,), array([9, 0]))]
    return Case(bounds.prepare(build(nodes)), None, array([0, 0]))


@pytest.mark.parametrize(
    ("norm", "scales", "joined"),
    [
        ("L2", [2.0**127] * 4 + [2.0**3.7], c.Concat),
        ("Linf", [2.0**127.9] * 8, c.Add),
        ("L1", [2.0**127.9] * 8, c.Concat),
    ],
)
def test_gains_that_add_up_beyond_a_double_are_infinite(norm: c.Norm, scales: list[float], joined: Any):
    case = dead_chain(scales, joined)
    assert layer_norms.node_gains(case.robust, norm)[-2] == math.inf
    evidence = LayerLipschitz("4a", (0.0, 100.0))
    assert isinstance(ho.verdict(case, "lipschitz_layers", evidence, norm=norm), (c.Accepted, c.Rejected))


def test_a_surprise_in_one_rule_is_a_rejection(monkeypatch: pytest.MonkeyPatch):
    case = dead_chain([1.0], c.Add)

    def surprised(*_: object) -> frozenset[c.Assumption]:
        raise OverflowError("intermediate overflow")

    monkeypatch.setitem(RULES, "network_margin", dataclasses.replace(RULES["network_margin"], check=surprised))
    found = ho.verdict(case, "network_margin", NetworkMargin(None))
    assert found == c.Rejected("internal", "OverflowError: intermediate overflow")


# ---------------------------------------------------------------- depth, memory


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_may_nest_so_deep_and_no_deeper(opening: str, closing: str):
    deep = parse.MAX_DEPTH
    assert parse.strict_json((opening * deep + "1" + closing * deep).encode(), "here") is not None
    for depth in (deep + 1, 900, 10**5):
        for inside in ("1", "[]", "{}", '"a"'):
            with pytest.raises(c.MalformedError, match=r"nests deeper|not strict JSON"):
                parse.strict_json((opening * depth + inside + closing * depth).encode(), "here")
    with pytest.raises(c.MalformedError, match="nests deeper"):
        parse.strict_json(("[" * (deep + 1) + "]" * (deep + 1)).encode(), "here")


def test_a_line_of_any_depth_is_a_verdict_not_a_crash():
    """Python's own limit may fall between reading and showing a value."""
    for depth in range(20, 1100, 7):
        text = json.dumps({"smoothing": {"base": 0}}).replace("0", "[" * depth + "1" + "]" * depth)
        with pytest.raises(c.MalformedError):
            parse.line(parse.seal(text[:-1].encode()), {})


def test_forms_travel_in_parts_and_give_the_same_bounds(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    nodes: list[c.Node] = [c.Input((3,))]
    for n, m in ((3, 8), (8, 12)):
        nodes.append(c.Linear((len(nodes) - 1,), rng.normal(size=(m, n)).astype(F32), np.zeros(m, F32)))
        if m == 8:
            nodes.append(c.Relu((1,)))
    prepared = bounds.prepare(build(nodes))
    ball = bounds.Ball(np.zeros(3, F32), 0.5, "Linf", None)
    widest: list[int] = []
    descend, gradients = bounds._descend, jacobian.gradients  # pyright: ignore[reportPrivateUsage]

    def watched(values: bounds.Values, start: int, rows: Rows, *rest: Any) -> np.ndarray:
        widest.append(len(rows.values))
        return descend(values, start, rows, *rest)

    def watched_gradients(p: bounds.Prepared, slopes: Any, forms: np.ndarray) -> jacobian.Gradients:
        widest.append(len(forms))
        return gradients(p, slopes, forms)

    monkeypatch.setattr(bounds, "_descend", watched)
    monkeypatch.setattr(jacobian, "gradients", watched_gradients)

    def everything() -> list[np.ndarray]:
        values = bounds.value_bounds(prepared, ball, None)
        products = layer_norms.products(prepared, np.eye(12), "Linf")
        return [*bounds.differences(values, 4), jacobian.difference_constants(values, 4), products]

    whole = everything()
    assert max(widest) == 22
    widest.clear()
    monkeypatch.setattr(bounds, "CHUNK", 36)  # three forms of the widest node
    parts = everything()
    assert max(widest) == 4  # on the first layer, which has 8 cells
    for a, b in zip(whole, parts, strict=True):
        assert b == pytest.approx(a, rel=1e-9, abs=1e-300)


def test_a_network_whose_map_is_huge_is_no_question_for_lipsdp(monkeypatch: pytest.MonkeyPatch):
    nodes = [c.Input((3,)), c.Linear((0,), np.ones((2, 3), F32), np.zeros(2, F32)), c.Relu((1,))]
    nodes.append(c.Linear((2,), np.ones((2, 2), F32), array([9, 0])))
    prepared = bounds.prepare(build(nodes))
    multipliers, constants = np.ones((2, 2), F32), np.array([0.0, 1e6])
    monkeypatch.setattr(lipsdp, "MAX_ENTRIES", 2 * 3)  # two neurons, three inputs
    lipsdp.need_constants(prepared, 0, constants, multipliers)
    monkeypatch.setattr(lipsdp, "MAX_ENTRIES", 2 * 3 - 1)
    with pytest.raises(c.RejectedError, match="too large"):
        lipsdp.need_constants(prepared, 0, constants, multipliers)


# ---------------------------------------------------------------- which ends are bounded


def test_only_cells_that_stay_open_have_both_ends_bounded(monkeypatch: pytest.MonkeyPatch):
    """Of a cancelling sum of ReLUs by intervals [-1, 3], [-3, 1] and [-2, 2]: the nearer end settles the first two."""
    first = c.Linear((0,), array([[1], [1], [1]]), array([2, 2, 3]))  # in [1, 3], [1, 3], [2, 4]
    second = c.Linear((2,), array([[1, -1, 0], [-1, 1, 0], [1, 1, 0], [0, 0, 1]]), array([1, -1, -4, -3]))
    nodes = [c.Input((1,)), first, c.Relu((1,)), second, c.Relu((3,))]
    nodes.append(c.Linear((4,), np.ones((2, 4), F32), array([0, 1])))
    asked: list[np.ndarray] = []
    descend = bounds._descend  # pyright: ignore[reportPrivateUsage]

    def watched(values: bounds.Values, start: int, rows: Rows, *rest: Any) -> np.ndarray:
        asked.append(rows.values[:, 0, 0])
        return descend(values, start, rows, *rest)

    monkeypatch.setattr(bounds, "_descend", watched)
    values = bounds.value_bounds(bounds.prepare(build(nodes)), bounds.Ball(array([0.0]), 1.0, "Linf", None), None)
    # -v_0 and v_1 settle their cells; v_2 = 2 x is in [-2, 2], and v_3 = x in [-1, 1] by intervals alone
    assert [rows.tolist() for rows in asked[:2]] == [
        [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, -1]],
        [[0, 0, 1, 0], [0, 0, 0, 1]],
    ]
    assert len(asked) == 2
    assert values.lower[3].ravel()[0] > 0 > values.upper[3].ravel()[1]


def test_where_passes_are_short_both_ends_are_bounded(monkeypatch: pytest.MonkeyPatch):
    nodes: list[c.Node] = [c.Input((1,)), c.Linear((0,), array([[1], [1]]), array([2, 2]))]
    nodes += [c.Linear((1,), array([[1, -1], [1, 1]]), array([1, -4])), c.Relu((2,))]
    asked: list[int] = []
    descend = bounds._descend  # pyright: ignore[reportPrivateUsage]

    def watched(values: bounds.Values, start: int, rows: Rows, *rest: Any) -> np.ndarray:
        asked.append(len(rows.values))
        return descend(values, start, rows, *rest)

    monkeypatch.setattr(bounds, "_descend", watched)
    values = bounds.value_bounds(bounds.prepare(build(nodes)), bounds.Ball(array([0.0]), 1.0, "Linf", None), None)
    assert asked == [2, 2]
    assert 1 - 1e-9 < values.lower[2].ravel()[0] <= 1 <= values.upper[2].ravel()[0] < 1 + 1e-9

"""Gains beyond a double are infinite, and a surprise in one rule is a rejection."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import hostile as ho
import numpy as np
import pytest
from chains import dead_chain

from proofs_check import certificate as c
from proofs_check.rules import RULES
from proofs_check.rules.lipschitz import layer_norms
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz
from proofs_check.rules.margin.rule import NetworkMargin


@pytest.mark.parametrize(
    ("norm", "scales", "joined", "factor"),
    [
        ("L2", [2.0**127] * 4 + [2.0**3.7], c.Concat, math.sqrt(2)),  # its square is beyond a double
        ("Linf", [2.0**127.9] * 8, c.Add, 2.0),
        ("L1", [2.0**127.9] * 8, c.Concat, 2.0),
    ],
)
def test_gains_that_add_up_beyond_a_double_are_no_smaller_than_they_are(
    norm: c.Norm, scales: list[float], joined: Any, factor: float
):
    case = dead_chain(scales, joined)
    truth = factor * math.prod(float(np.float32(s)) for s in scales)  # infinite where it is beyond a double
    assert layer_norms.node_constants(case.robust, norm)[0][-2] >= truth
    evidence = LayerLipschitz("4a", (0.0, 100.0))
    assert isinstance(ho.verdict(case, "lipschitz_layers", evidence, norm=norm), (c.Accepted, c.Rejected))


@pytest.mark.parametrize("surprise", [OverflowError, ValueError, IndexError, KeyError, RecursionError])
def test_a_surprise_in_one_rule_is_a_rejection(surprise: type[Exception], monkeypatch: pytest.MonkeyPatch):
    case = dead_chain([1.0], c.Add)

    def surprised(*_: object) -> frozenset[c.Assumption]:
        raise surprise(17)

    monkeypatch.setitem(RULES, "network_margin", dataclasses.replace(RULES["network_margin"], check=surprised))
    found = ho.verdict(case, "network_margin", NetworkMargin(None))
    assert found == c.Rejected("internal", f"{surprise.__name__}: 17")

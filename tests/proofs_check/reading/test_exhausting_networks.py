"""Networks built to exhaust or to crash the judge are malformed, or judged within its means."""

from __future__ import annotations

import json
from typing import Any

import hostile as ho
import numpy as np
import pytest
from every_rule import LINES, ones, verdict, zeros

from proofs_check import certificate as c
from proofs_check.certificate import Accepted, MalformedError
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE
from verifiers.network.module import build

F32 = np.float32


def hand_written(*nodes: dict[str, Any], **header: Any) -> bytes:
    """A network file without tensors but those of `header`."""
    return ho.network_bytes([{"op": "input", "shape": [1, 3, 40]}, *nodes], header, b"")


def pool(**fields: Any) -> dict[str, Any]:
    plain = {"op": "max_pool2d", "inputs": [0], "kernel": [1, 1], "stride": [1, 1], "padding": [0, 0, 0, 0]}
    return {**plain, **fields}


def pad(before: list[int], after: list[int], at: int = 0) -> dict[str, Any]:
    return {"op": "pad", "inputs": [at], "before": before, "after": after, "value": 0.0}


HUGE = int("9" * 4300)


TENSOR = {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}


EXHAUSTING: dict[str, bytes] = {
    "a padding of 2^18": hand_written(pool(kernel=[2**18, 2**18], padding=[2**18 - 1, 2**18 - 1, 0, 0])),
    "a stride of 10^9": hand_written(pool(stride=[10**9, 1])),
    "a stride beyond 64 bits": hand_written(pool(stride=[10**30, 1])),
    "a dilation of 10^18": ho.network_bytes(
        [
            {"op": "input", "shape": [1, 1, 1]},
            {
                "op": "conv2d",
                "inputs": [0],
                "weight": "w",
                "bias": "b",
                "stride": [1, 1],
                "padding": [0, 0, 0, 0],
                "dilation": [10**18, 1],
                "groups": 1,
            },
            {"op": "pad", "inputs": [1], "before": [1, 0, 0], "after": [0, 0, 0], "value": 0.0},
            {"op": "flatten", "inputs": [2]},
        ],
        {
            "w": {"dtype": "F32", "shape": [1, 1, 1, 1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        },
        bytes(8),
    ),
    "a step of 10^9": hand_written(
        {"op": "slice", "inputs": [0], "start": [0, 0, 0], "stop": [1, 3, 40], "step": [1, 10**9, 1]}
    ),
    "windows of 10^9 cells": hand_written(pad([0, 400, 400], [0, 0, 0]), pool(inputs=[1], kernel=[200, 200])),
    "a padding of 4300 digits": hand_written(pad([0, 0, HUGE], [0, 0, HUGE])),
    "a sum of more than 4300 digits": hand_written(pool(kernel=[HUGE, 1], padding=[HUGE - 1, 0, HUGE - 1, 0])),
    "values of 2^28 cells": hand_written(*(pad([0, 2**13 - 3, 2**12 - 40], [0, 0, 0]) for _ in range(9))),
    "more than 4096 nodes": hand_written(*({"op": "relu", "inputs": [k]} for k in range(5000))),
    "a tensor of 65 axes": ho.network_bytes([], {"a": TENSOR}, bytes(4)),
    "half a surrogate pair in the graph": ho.network_bytes([], {}, b"").replace(b'"[]"', b'"\\ud800"'),
}


@pytest.mark.parametrize("name", sorted(EXHAUSTING))
def test_networks_that_would_exhaust_the_judge_are_malformed(name: str):
    with pytest.raises(MalformedError):
        parse.network(EXHAUSTING[name])


def test_strides_a_little_beyond_the_image_are_read_and_judged():
    down = c.Conv2d((0,), ones(2, 1, 1, 1), zeros(2), (2, 2), (0, 0, 0, 0), (1, 1), 1)
    network = build([c.Input((1, 1, 1)), down, c.Flatten((1,)), c.Shift((2,), np.array([1, 0], F32))])
    assert isinstance(verdict(network, ones(1, 1, 1), alpha=1.0), Accepted)


def test_integers_beyond_64_bits_are_malformed_in_a_line_too():
    value = json.loads(LINES["smoothed_distribution"])
    value["evidence"]["groups"][0]["tail"]["counts"] = [[HUGE, 0], [HUGE, 0]]
    with pytest.raises(MalformedError, match="64 bits"):
        parse.line(ho.sealed(value), EVIDENCE)

"""Attacks on the judge by a hostile reader of its code: false claims, and claims that hold by less than a rounding."""

from __future__ import annotations

import base64

import numpy as np

from proofs_check import bounds, judge, parse
from proofs_check import certificate as c
from proofs_check.rules.case import Case
from proofs_check.rules.lipsdp import GlobalLipschitz
from verifiers.plain import build

F32 = np.float32


def array(values: object) -> c.Float32Array:
    return np.array(values, dtype=F32)


def verdict(case: Case, rule: str, evidence: object, **kw: object) -> c.Verdict:
    given: dict = {
        "norm": "L2", "radius": 0.1, "alpha": 0.9, "temperature": 1.0, "predicted": 0, "class_of": "robust",
        "domain": None, "semantics": "real", "robust": case.robust.network.sha256, "standard": None,
        "input": parse.array_sha256(case.input), "smoothing": None,
    }  # fmt: skip
    return judge.check(parse.Certificate(0, 0, "margin", c.Claim(**(given | kw)), rule, evidence), case)


# ---------------------------------------------------------------- LipSDP


def test_a_max_pool_that_no_logit_sees_does_not_stand_in_for_the_logits():
    # the pool has more inputs than outputs: the rows of its input would be read as those of d_j
    nodes = [
        c.Input((1, 2, 2)),
        c.Scale((0,), array([[[1e-6]]])),
        c.MaxPool2d((1,), (2, 2), (1, 1), (0, 0, 0, 0)),
        c.Flatten((0,)),
        c.Linear((3,), array([[1, 0, 0, 0], [0, 0, 0, 0]]), array([3, 0])),
    ]
    x = np.zeros((1, 2, 2), F32)
    case = Case(bounds.prepare(build(nodes)), None, x)
    multipliers = base64.b64encode(np.ones((2, 1), "<f4").tobytes()).decode()
    found = verdict(case, "lipschitz_global", GlobalLipschitz("4a", (0.0, 1e-5), multipliers), radius=1000.0)
    assert isinstance(found, c.Rejected), "d_1 falls by 1000 within the ball"

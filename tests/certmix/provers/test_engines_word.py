"""What an engine may be believed: not where only the judge proves that a network is defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from certmix.errors import UsageError
from certmix.models.model import Model
from certmix.provers.certify import certify
from certmix.records.outcomes import Abstained
from certmix.settings import Settings
from proofs_check import certificate as c
from verifiers.network.module import PlainModule, build


def reference(network: c.PlainNetwork) -> Model:
    return Model(PlainModule(network).eval(), network, network.classes, network.input_shape, "a network", 0.0)


@pytest.mark.parametrize("node", [c.SquareRoot((2,)), c.InversePower((2,), 1.0)], ids=lambda n: type(n).__name__)
def test_no_engine_is_believed_where_only_the_judge_proves_that_the_network_is_defined(node: c.Node):
    """Its input, x - 0.2 at x = 0.5, is 0 inside the ball of 0.4: there is no answer there."""
    eye = np.eye(2, dtype=np.float32)
    head = [c.Input((2,)), c.Linear((0,), eye, np.zeros(2, np.float32)), c.Shift((1,), np.full(2, -0.2, np.float32))]
    partial = reference(build([*head, node, c.Linear((3,), eye * 50, np.array([90.0, 0.0], np.float32))]))
    plain = reference(build([*head[:2], c.Linear((1,), eye, np.zeros(2, np.float32))]))
    x = torch.full((1, 2), 0.5)
    for evidence in ("engine", "network"):
        asked = Settings(alpha=0.9, radius=0.4, evidence=evidence, attack_steps=0)
        if evidence == "engine":
            with pytest.raises(UsageError, match=f"{type(node).__name__}, is defined on the ball"):
                certify(plain, partial, x, settings=asked)
        else:
            (outcome,) = certify(plain, partial, x, settings=asked)
            assert isinstance(outcome, Abstained)
    (outcome,) = certify(partial, plain, x, settings=Settings(alpha=0.9, radius=0.4, evidence="engine"))  # g: any
    assert isinstance(outcome, Abstained)

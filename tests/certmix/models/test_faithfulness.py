"""Plain networks are compared with the models they were made from logit by logit, at every input that is audited."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import mlp

from certmix.errors import UsageError
from certmix.models.faithfulness import BATCH, TOLERANCE, compare
from verifiers.network.module import PlainModule

MODULE = PlainModule(mlp(0)).eval()


def logits(x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return MODULE(torch.from_numpy(x)).numpy()


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 4), dtype=np.float32)


def test_a_model_that_is_its_plain_network_differs_nowhere():
    found = compare(MODULE, logits, inputs(BATCH + 3))
    assert found.differences == (0.0, 0.0, 0.0)
    assert found.class_differs == ()


@given(st.integers(0, 2), st.floats(1e-5, TOLERANCE / 2), st.integers(0, BATCH))
def test_the_difference_is_found_at_the_logit_that_has_it(logit: int, by: float, at: int):
    def off(x: np.ndarray) -> np.ndarray:
        result = logits(x).copy()
        result[:, logit] += np.float32(by) * (x == inputs(BATCH + 1)[at]).all(axis=1)
        return result

    found = compare(MODULE, off, inputs(BATCH + 1))
    assert found.differences[logit] == pytest.approx(by, abs=1e-6)
    assert max(d for k, d in enumerate(found.differences) if k != logit) == 0


def test_a_large_logit_of_another_class_hides_nothing():
    """A tolerance that grew with the largest logit of any class would pass this."""

    def other(x: np.ndarray) -> np.ndarray:
        result = logits(x).copy()
        result[:, 1] += 1
        return result

    class Shifted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return MODULE(x) + torch.tensor([1e6, 0.0, 0.0])

    def given(x: np.ndarray) -> np.ndarray:
        return other(x) + np.array([1e6, 0, 0], dtype=np.float32)

    with pytest.raises(UsageError, match=r"by 1\S* in logit 1 of input 0"):
        compare(Shifted(), given, inputs(5))


def test_inputs_whose_class_differs_are_named():
    x = inputs(8)
    top = np.sort(logits(x), axis=1)
    n = int(np.argmin(top[:, 2] - top[:, 1]))
    gap = float(top[n, 2] - top[n, 1])

    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return MODULE(x) * torch.tensor(TOLERANCE / (2 * gap))

    def given(x: np.ndarray) -> np.ndarray:
        result = logits(x) * np.float32(TOLERANCE / (2 * gap))
        winner = int(logits(inputs(8))[n].argmax())
        result[:, winner] -= np.float32(0.6 * TOLERANCE)
        return result

    found = compare(Scaled(), given, x)
    assert n in found.class_differs

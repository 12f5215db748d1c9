"""The second engine of `--engine best`: auto_LiRPA asked about a sample of the certified balls, beside the native one.

The judge cannot be told auto_LiRPA's slopes, so it proposes no certificate here that the native engine does not
(benchmarks/engine_pair.py); what it adds is a voice of other authors on the same question.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from certmix.provers.lipschitz_relaxed import askers, contradiction
from certmix.settings import Settings
from proofs_check.certificate import PlainNetwork
from verifiers.engine import EngineError, MarginQuery

SAMPLE = 4  # balls of a run: auto_LiRPA takes 3 s for one of a CIFAR ResNet


@dataclass(frozen=True)
class CrossCheck:
    """inputs: whose certified balls both engines bounded, by index. contradictions: those at which their intervals of
    some logit difference have no number in common. left_out: why the second engine was not asked, or None."""

    inputs: tuple[int, ...]
    contradictions: tuple[int, ...]
    left_out: str | None
    seconds: float

    def in_words(self) -> tuple[str, bool]:
        """A sentence, and whether it is a warning."""
        if self.left_out is not None:
            return f"engines not compared: {self.left_out}", False
        if not self.contradictions:
            return f"auto_LiRPA, asked on {len(self.inputs)} balls, contradicts no bound of the native engine", False
        where = ", ".join(map(str, self.contradictions))
        return f"auto_LiRPA and the native engine contradict each other at inputs {where}: please report it", True


def cross_check(
    network: PlainNetwork, inputs: NDArray[np.float32], certified: Sequence[tuple[int, float, int]], settings: Settings
) -> CrossCheck:
    """Of a run's certified balls (index, radius, class), spread evenly. inputs: all of the run's."""
    started = time.monotonic()
    places = np.unique(np.linspace(0, len(certified) - 1, SAMPLE).round().astype(int)) if certified else ()
    sample = [certified[k] for k in places]
    indices = [index for index, _, _ in sample]
    asked, notes = askers(network, "best", settings.device)
    if notes or not sample:
        left_out = notes[0] if notes else "nothing is certified"
        return CrossCheck((), (), left_out, time.monotonic() - started)
    query = MarginQuery(
        network,
        torch.from_numpy(inputs[indices]),
        settings.norm,
        torch.tensor([radius for _, radius, _ in sample], dtype=torch.float64),
        settings.domain,
        torch.tensor([predicted for _, _, predicted in sample]),
    )
    try:
        first, second = (one.engine.bounds(query, one.state) for one in asked.values())
    except EngineError as error:
        return CrossCheck((), (), f"auto_LiRPA left out: {error}", time.monotonic() - started)
    apart = tuple(indices[k] for k in contradiction(first, second))
    return CrossCheck(tuple(indices), apart, None, time.monotonic() - started)

"""What benchmarks of engines ask: bounds on balls around images, at the network's own classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certmix.data.dataset import load_data
from certmix.models.model import load_model
from verifiers.engine import Engine, MarginQuery
from verifiers.network.module import PlainModule


def load_query(model: Path, images: Path, radius: float, limit: int) -> tuple[MarginQuery, Tensor]:
    """The query for the first `limit` images, Linf in [0, 1]; and (N,) bool, where those classes are right."""
    network, data = load_model(model).require_network(), load_data(images, limit)
    inputs, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    predicted = PlainModule(network)(inputs).argmax(1)
    radii = torch.full((len(inputs),), radius, dtype=torch.float64)
    return MarginQuery(network, inputs, "Linf", radii, (0.0, 1.0), predicted), predicted == labels


def upper_bounds(engine: Engine) -> Callable[[MarginQuery], Tensor]:
    """The engine's upper bounds of a query; a network is prepared when it is first asked about."""
    states: dict[str, Any] = {}

    def found(query: MarginQuery) -> Tensor:
        if query.network.sha256 not in states:
            states[query.network.sha256] = engine.prepare(query.network)
        return engine.bounds(query, states[query.network.sha256]).upper

    return found

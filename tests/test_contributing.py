"""What CONTRIBUTING shows is code that works."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import NORMS, ORDER, mlp
from torch import Tensor
from torch.nn import functional as F

from proofs_check import certificate as c
from proofs_check.certificate import Norm, PlainNetwork
from verifiers.auto_lirpa.module import cast
from verifiers.engine import Bounds, Engine, MarginQuery, Query, WarmStart
from verifiers.layers import lowering as steps
from verifiers.layers.relu import Relu, ReluLike
from verifiers.network import interval, lowering
from verifiers.network.module import PlainModule

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(), re.DOTALL)
NAMES = {"dataclass": dataclass, "torch": torch, "Tensor": Tensor, "F": F, "c": c, "cast": cast, "interval": interval,
         "Engine": Engine, "PlainNetwork": PlainNetwork, "Query": Query, "WarmStart": WarmStart, "Bounds": Bounds,
         "ReluLike": ReluLike}  # fmt: skip


def shown(name: str, low: object) -> Any:
    """The class of that name; `low` is the module that its text calls so."""
    (block,) = (b for b in BLOCKS if f"class {name}(" in b)
    space: dict[str, Any] = {**NAMES, "low": low}
    exec(compile("from __future__ import annotations\n" + block, "CONTRIBUTING.md", "exec", dont_inherit=True), space)
    return space[name]


def test_all_that_is_shown_is_looked_at():
    assert [re.search(r"class (\w+)", block).group(1) for block in BLOCKS] == ["Intervals", "Relu"]  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", NORMS)
def test_the_engine_bounds_every_point(norm: Norm):
    engine = shown("Intervals", lowering)()
    for seed in range(10):
        net, rng = mlp(seed), np.random.default_rng(seed)
        x = torch.from_numpy(rng.random((3, 4), dtype=np.float32))
        radii = torch.tensor([0.0, 0.05, 0.3], dtype=torch.float64)
        query = MarginQuery(net, x, norm, radii, None, torch.tensor([0, 1, 2]))
        found = engine.bounds(query)
        assert (found.lower < found.upper).any(1).tolist() == [False, True, True]
        delta = torch.from_numpy(rng.normal(size=(50, 3, 4)))
        delta = delta / torch.linalg.vector_norm(delta, ORDER[norm], dim=2, keepdim=True) * radii[:, None]
        for point in x.double() + delta:
            z = PlainModule(net).double()(point)
            d = z - z.gather(1, query.predicted[:, None])
            assert ((found.lower - 1e-9 <= d) & (d <= found.upper + 1e-9)).all()  # engines round


def test_the_layer_kind_is_the_one_that_stands_in_its_room():
    kind = shown("Relu", steps)
    assert [n for n in vars(kind) if not n.startswith("_")] == [n for n in vars(Relu) if not n.startswith("_")]
    made = kind(c.Relu((0,)), ((3,),), (3,), {})
    x = torch.tensor([[-1.0, 0.0, 2.0]])
    assert torch.equal(made.value(x), F.relu(x))

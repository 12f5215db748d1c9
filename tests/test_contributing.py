"""What CONTRIBUTING shows is code that works."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from small_networks import DUAL, NORMS, ORDER, mlp
from torch import Tensor
from torch.nn import functional as F

from certmix.attacks import Confirmed, confirm, make_ball
from certmix.attacks.confirm import contained
from certmix.attacks.quick import attack_mix
from certmix.data.dataset import Dataset
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import Model
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import NORM_NAMES, Settings
from proofs_check import certificate as c
from proofs_check.__main__ import main as judge
from proofs_check.certificate import Norm, PlainNetwork, need
from proofs_check.kernel import norms as judged_norms
from proofs_check.kernel.rounding import Array, float_up, product_up, sum_error, up
from proofs_check.reading import parse
from verifiers import norms
from verifiers.auto_lirpa.module import cast
from verifiers.engine import Bounds, Engine, MarginQuery, Query, WarmStart
from verifiers.layers import lowering as steps
from verifiers.layers.relu import Relu, ReluLike
from verifiers.network import interval, lowering
from verifiers.network.module import PlainModule

ROOT = Path(__file__).parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT.parent / "CONTRIBUTING.md").read_text(), re.DOTALL)
NAMES = {"dataclass": dataclass, "torch": torch, "Tensor": Tensor, "F": F, "c": c, "cast": cast, "interval": interval,
         "Engine": Engine, "PlainNetwork": PlainNetwork, "Query": Query, "WarmStart": WarmStart, "Bounds": Bounds,
         "ReluLike": ReluLike, "Sequence": Sequence, "np": np, "math": math, "need": need, "Array": Array, "up": up,
         "float_up": float_up, "product_up": product_up, "sum_error": sum_error,
         "total_up": judged_norms.total_up}  # fmt: skip
SHOWN = ["Intervals", "Relu", "JudgedL3", "L3"]


def shown(name: str, **modules: object) -> Any:
    """The class of that name; modules: those that its text calls so."""
    (block,) = (b for b in BLOCKS if f"class {name}(" in b)
    space: dict[str, Any] = {**NAMES, **modules}
    exec(compile("from __future__ import annotations\n" + block, "CONTRIBUTING.md", "exec", dont_inherit=True), space)
    return space[name]


def test_all_that_is_shown_is_looked_at():
    assert [re.search(r"class (\w+)", block).group(1) for block in BLOCKS] == SHOWN  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", NORMS)
def test_the_engine_bounds_every_point(norm: Norm):
    engine = shown("Intervals", low=lowering)()
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
    kind = shown("Relu", low=steps)
    assert [n for n in vars(kind) if not n.startswith("_")] == [n for n in vars(Relu) if not n.startswith("_")]
    made = kind(c.Relu((0,)), ((3,),), (3,), {})
    x = torch.tensor([[-1.0, 0.0, 2.0]])
    assert torch.equal(made.value(x), F.relu(x))


# ---------------------------------------------------------------- a norm


L3: Any = "L3"


@pytest.fixture
def l3(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[None]:
    """What the six files of the diff would say."""
    for module in (c, parse):
        monkeypatch.setattr(module, "Norm", Literal["Linf", "L2", "L1", "L3"])
    monkeypatch.setitem(NORM_NAMES, "l3", L3)  # made of the type, as everything is imported
    monkeypatch.setitem(judged_norms.NORMS, L3, shown("JudgedL3", norms=judged_norms)())
    monkeypatch.setitem(norms.NORMS, L3, shown("L3", norms=norms)())
    monkeypatch.setitem(ORDER, L3, 3)
    monkeypatch.setitem(DUAL, L3, 1.5)
    parse._hints.cache_clear()
    yield
    parse._hints.cache_clear()
    coexistence: Any = pytestconfig.pluginmanager.get_plugin("coexistence")
    assert not coexistence.settle(L3)


def laws_of_norms() -> Iterator[Any]:
    """Those of both sides that are about one norm."""
    for file in ("verifiers/test_norms.py", "proofs_check/kernel/test_norms.py"):
        spec = importlib.util.spec_from_file_location("laws_of_norms", ROOT / file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, law in vars(module).items():
            if name.startswith("test_") and list(inspect.signature(law).parameters) == ["norm"]:
                yield pytest.param(law, id=f"{file.split('/')[0]}-{name}")


def of_two_orders(law: Any) -> bool:
    """A law that speaks of roundings of sums and roots alone."""
    return law.__name__ == "test_dual_norms_cover_every_order_of_summation"


LAWS = [p for p in laws_of_norms() if not of_two_orders(p.values[0])]


@pytest.mark.usefixtures("l3")
@pytest.mark.parametrize("law", LAWS)
def test_every_law_of_norms_holds_of_the_one_shown(law: Callable[[Any], None]):
    law(L3)


def largest(_norm: object, sizes: Any, dim: int = -1) -> Any:
    """The dual norm of another norm, too small: that of L1."""
    return sizes.abs().amax(dim) if isinstance(sizes, Tensor) else sizes.max(axis=dim)


@pytest.mark.usefixtures("l3")
@pytest.mark.parametrize("table", [norms.NORMS, judged_norms.NORMS], ids=["engines", "judge"])
def test_a_wrong_dual_fails_the_laws(table: dict[Any, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(table[L3]), "dual", largest)
    failed = [law.id for law in LAWS if fails(law.values[0])]
    assert any("dual" in str(name) for name in failed)
    assert len(failed) >= 2


def fails(law: Any) -> bool:
    try:
        law(L3)
    except AssertionError:
        return True
    return False


def audited(folder: Path) -> list[dict[str, Any]]:
    """Certificates of largest radii around six inputs, written as by `certmix audit`, accepted by `certmix check`."""
    robust, standard = (Model(PlainModule(n).eval(), n, n.classes, n.input_shape, "mlp", 0.0) for n in (mlp(3), mlp(4)))
    x = np.random.default_rng(0).random((6, 4), dtype=np.float32)
    how = Settings(0.9, norm=L3, temperature=4.0, optimise=1, attack_steps=2, tolerance=0.05, curves=False)
    data = Dataset(x, robust.module(torch.from_numpy(x)).argmax(1).numpy(), "drawn")
    assert Audit(standard, robust, data, how, Store(folder)).run() == 0
    assert judge([str(folder), "--quiet"]) == 0
    return [line for line in Store(folder).lines() if line["outcome"] == "certified"]


@pytest.mark.usefixtures("l3")
def test_the_norm_is_certified_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = audited(tmp_path / "right")
    assert len(right) >= 4
    assert all(line["norm"] == L3 and line["radius"] > 0.01 for line in right)
    monkeypatch.setattr(type(norms.NORMS[L3]), "dual", largest)  # radii are proposed that the judge cannot prove
    assert len(audited(tmp_path / "wrong")) < len(right)


@pytest.mark.usefixtures("l3")
def test_the_norm_is_attacked():
    """Candidates lie in ball and domain; some are counterexamples in real arithmetic."""
    robust, standard = mlp(3), mlp(4)
    x = np.random.default_rng(0).random((6, 4), dtype=np.float32)
    predicted = PlainModule(robust)(torch.from_numpy(x)).argmax(1)
    for radius in (0.05, 0.6):
        ball = make_ball(torch.from_numpy(x), radius, L3, (0.0, 1.0))
        mix = MixedClassifier(PlainModule(standard), PlainModule(robust), 0.9, 4.0)
        found = attack_mix(mix, ball.center, predicted, L3, ball.radius, (0.0, 1.0), steps=6)
        starts = ball.random(torch.Generator().manual_seed(0))
        for center, *points in zip(x, found.points.numpy(), starts.numpy(), strict=True):
            assert all(contained(p, center, radius, L3, (0.0, 1.0)) for p in points)
        sizes = ball.lp.size(found.points - ball.center)
        assert bool((sizes > 0.9 * radius).any())  # they use the ball up
    answers = [
        confirm(p, i, radius, L3, (0.0, 1.0), standard, robust, 0.9, 4.0, int(y))
        for p, i, y, hit in zip(found.points.numpy(), x, predicted, found.found, strict=True)
        if hit
    ]
    assert any(isinstance(answer, Confirmed) for answer in answers)

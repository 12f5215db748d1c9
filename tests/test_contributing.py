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

import layer_kinds
import numpy as np
import onnx
import pytest
import torch
from flint import arb
from layer_kinds import IMAGE, VECTOR, is_function, without_fields
from small_networks import DUAL, NORMS, ORDER, array, mlp
from torch import Tensor
from torch.nn import functional as F

from certmix.attacks import Confirmed, confirm, make_ball
from certmix.attacks.confirm import contained
from certmix.attacks.functions import FUNCTIONS
from certmix.attacks.quick import attack_mix
from certmix.data.dataset import Dataset
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import Model, load_model
from certmix.models.onnx import curves
from certmix.models.onnx.call import cellwise
from certmix.models.onnx.operators import OPERATORS
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import NORM_NAMES, Settings
from proofs_check import certificate as c
from proofs_check.__main__ import main as judge
from proofs_check.certificate import Norm, PlainNetwork, need
from proofs_check.kernel import layers as judged_layers
from proofs_check.kernel import norms as judged_norms
from proofs_check.kernel.arithmetic import Arithmetic
from proofs_check.kernel.layers.curve import Curve as JudgedCurve
from proofs_check.kernel.rounding import Array, float_up, product_up, sum_error, up
from proofs_check.reading import parse
from verifiers import layers, norms
from verifiers.auto_lirpa.module import cast
from verifiers.engine import Bounds, Engine, MarginQuery, Query, WarmStart
from verifiers.layers.curve import Curve
from verifiers.network import interval, lowering, module
from verifiers.network.module import PlainModule

ROOT = Path(__file__).parent
TEXT = (ROOT.parent / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
NAMES = {"dataclass": dataclass, "torch": torch, "Tensor": Tensor, "F": F, "c": c, "cast": cast, "interval": interval,
         "Engine": Engine, "PlainNetwork": PlainNetwork, "Query": Query, "WarmStart": WarmStart, "Bounds": Bounds,
         "Curve": Curve, "JudgedCurve": JudgedCurve, "arb": arb, "Any": Any, "Arithmetic": Arithmetic,
         "Sequence": Sequence, "np": np, "math": math, "need": need, "Array": Array, "up": up,
         "float_up": float_up, "product_up": product_up, "sum_error": sum_error,
         "total_up": judged_norms.total_up}  # fmt: skip
SHOWN = ["Intervals", "Cosh", "JudgedCosh", "JudgedL3", "L3"]


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


# ---------------------------------------------------------------- a layer kind


class Cosh(c.Unary):
    """(exp(x) + exp(-x)) / 2."""


@pytest.fixture
def cosh(monkeypatch: pytest.MonkeyPatch) -> type[c.Node]:
    """What the six files of the diff would say."""
    kind: Any = Cosh
    monkeypatch.setattr(c, "Cosh", kind, raising=False)
    monkeypatch.setitem(c.NODE_TYPES, "cosh", kind)
    monkeypatch.setitem(module.OPS, kind, "cosh")  # made of the table above, as it is imported
    operator = re.search(r'"(\w+)": cellwise\((.*)\)`', TEXT)
    assert operator is not None
    pattern = eval(operator[2], {"curves": curves, "c": c})
    monkeypatch.setitem(OPERATORS, operator[1], cellwise(pattern))
    monkeypatch.setitem(layers.KINDS, kind, shown("Cosh"))
    monkeypatch.setitem(judged_layers.KINDS, kind, shown("JudgedCosh"))
    line = re.search(r"`c.Cosh: (lambda node: .*)` among", TEXT)
    assert line is not None
    monkeypatch.setitem(FUNCTIONS, kind, eval(line[1]))
    assert is_function(kind)  # for that the tables of tests have it as they are imported
    monkeypatch.setitem(layer_kinds.DRAWN, "cosh", ((IMAGE, VECTOR), without_fields(kind)))
    monkeypatch.setitem(layer_kinds.CURVES, "cosh", kind((0,)))
    monkeypatch.setattr(layer_kinds, "OPS", tuple(layer_kinds.DRAWN))
    return kind


LAWS_OF_KINDS = (
    "verifiers/layers/test_kinds.py",
    "verifiers/test_engine_laws.py",
    "proofs_check/kernel/test_kinds.py",
    "proofs_check/kernel/test_relaxations.py",
    "certmix/attacks/test_evaluators.py",
)


ABOUT_TEXT = {"test_the_format_cites_the_file_of_every_kind"}  # its row in FORMAT.md is not there


def loaded(file: str) -> dict[str, Any]:
    """What a file of tests defines, made anew."""
    spec = importlib.util.spec_from_file_location("loaded", ROOT / file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return vars(found)


def cases_of(law: Any, kind: type[c.Node]) -> Iterator[dict[str, Any]]:
    """The arguments, of all that the law is run with, that are about this kind, by the native engine if by one."""
    cases: list[dict[str, Any]] = [{}]
    for mark in getattr(law, "pytestmark", ()):
        if mark.name == "parametrize":
            names = (mark.args[0],) if isinstance(mark.args[0], str) else mark.args[0]
            rows = [row if len(names) > 1 else (row,) for row in mark.args[1]]
            cases = [{**case, **dict(zip(names, row, strict=True))} for case in cases for row in rows]
    for case in cases:
        about = case.get("op") == "cosh" or isinstance(case.get("node"), kind)
        if about and case.get("name", "crown") == "crown" and "monkeypatch" not in inspect.signature(law).parameters:
            yield case


@pytest.mark.parametrize("file", LAWS_OF_KINDS)
def test_the_laws_of_kinds_run_over_the_one_shown_and_hold(
    file: str, cosh: type[c.Node], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(ROOT / "proofs_check")  # where the judge's tests have what they share
    laws = [law for name, law in loaded(file).items() if name.startswith("test_") and name not in ABOUT_TEXT]
    cases = [(law, case) for law in laws for case in cases_of(law, cosh)]
    assert cases
    for law, case in cases:
        law(**case)


def with_cosh(seed: int) -> onnx.ModelProto:
    """Linear, cosh, linear: from (4,) to three logits, as an exporter writes it."""
    g = np.random.default_rng(seed)
    arrays = {"w": array(g, 4, 6) / 2, "v": array(g, 6), "u": array(g, 6, 3) / 2}
    nodes = [("MatMul", "xw", "a"), ("Add", "av", "b"), ("Cosh", "b", "c"), ("MatMul", "cu", "y")]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", k]) for n, k in (("x", 4), ("y", 3))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, list(inputs), [out]) for op, inputs, out in nodes], "g", ends[:1], ends[1:],
        [onnx.numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.usefixtures("cosh")
def test_the_kind_is_read_certified_judged_and_attacked(tmp_path: Path):
    for name, seed in (("g", 1), ("h", 2)):
        onnx.save(with_cosh(seed), tmp_path / f"{name}.onnx")
    standard, robust = (load_model(tmp_path / f"{name}.onnx") for name in "gh")  # compared with onnxruntime
    assert any(isinstance(node, Cosh) for node in robust.require_network().nodes)
    lines = audited(tmp_path / "run", standard, robust, "Linf")
    assert len(lines) >= 4
    assert counterexamples(standard.require_network(), robust.require_network(), "Linf", 0.6)


# ---------------------------------------------------------------- a norm


L3: Any = "L3"


@pytest.fixture
def l3(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[None]:
    """What the six files of the diff would say."""
    for room in (c, parse):
        monkeypatch.setattr(room, "Norm", Literal["Linf", "L2", "L1", "L3"])
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
        for name, law in loaded(file).items():
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
    assert [law for law in LAWS if re.search("dual|gains|reach", str(law.id)) and fails(law.values[0])]


def fails(law: Any) -> bool:
    try:
        law(L3)
    except AssertionError:
        return True
    return False


def of_plain(network: PlainNetwork) -> Model:
    return Model(PlainModule(network).eval(), network, network.classes, network.input_shape, "made here", 0.0)


def audited(folder: Path, standard: Model, robust: Model, norm: Norm) -> list[dict[str, Any]]:
    """Certificates of largest radii around six inputs, written as by `certmix audit`, accepted by `certmix check`."""
    x = np.random.default_rng(0).random((6, 4), dtype=np.float32)
    how = Settings(0.9, norm=norm, temperature=4.0, optimise=1, attack_steps=2, tolerance=0.05, curves=False)
    data = Dataset(x, robust.module(torch.from_numpy(x)).argmax(1).numpy(), "drawn")
    assert Audit(standard, robust, data, how, Store(folder)).run() == 0
    assert judge([str(folder), "--quiet"]) == 0
    return [line for line in Store(folder).lines() if line["outcome"] == "certified"]


def counterexamples(standard: PlainNetwork, robust: PlainNetwork, norm: Norm, radius: float) -> int:
    """How many of six balls an attack leaves its class in, confirmed in real arithmetic. Ensures: it stays in them."""
    x = np.random.default_rng(0).random((6, 4), dtype=np.float32)
    ball = make_ball(torch.from_numpy(x), radius, norm, (0.0, 1.0))
    mix = MixedClassifier(PlainModule(standard), PlainModule(robust), 0.9, 4.0)
    predicted = PlainModule(robust)(ball.center).argmax(1)
    found = attack_mix(mix, ball.center, predicted, norm, ball.radius, (0.0, 1.0), steps=6)
    starts = ball.random(torch.Generator().manual_seed(0))
    for center, *points in zip(x, found.points.numpy(), starts.numpy(), strict=True):
        assert all(contained(p, center, radius, norm, (0.0, 1.0)) for p in points)
    assert bool((ball.lp.size(found.points - ball.center) > 0.9 * radius).any())  # it uses the ball up
    answers = [
        confirm(p, i, radius, norm, (0.0, 1.0), standard, robust, 0.9, 4.0, int(y))
        for p, i, y, hit in zip(found.points.numpy(), x, predicted, found.found, strict=True)
        if hit
    ]
    return sum(isinstance(answer, Confirmed) for answer in answers)


@pytest.mark.usefixtures("l3")
def test_the_norm_is_certified_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    models = of_plain(mlp(4)), of_plain(mlp(3))
    right = audited(tmp_path / "right", *models, L3)
    assert len(right) >= 4
    assert all(line["norm"] == L3 and line["radius"] > 0.01 for line in right)
    monkeypatch.setattr(type(norms.NORMS[L3]), "dual", largest)  # radii are proposed that the judge cannot prove
    assert len(audited(tmp_path / "wrong", *models, L3)) < len(right)


@pytest.mark.usefixtures("l3")
def test_the_norm_is_attacked():
    for radius, least in ((0.05, 0), (0.6, 1)):
        assert counterexamples(mlp(4), mlp(3), L3, radius) >= least

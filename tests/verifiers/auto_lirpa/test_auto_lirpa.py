"""The auto_LiRPA engine beyond the laws of all engines: lowering, intervals, every node kind, errors, reuse."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certmix.models.model import load_model
from proofs_check import certificate as c
from proofs_check.certificate import Norm
from proofs_check.reading.shapes import output_shape
from verifiers.auto_lirpa import compat as auto_lirpa_compat
from verifiers.auto_lirpa.converted import Converted
from verifiers.auto_lirpa.engine import AutoLirpa, Method
from verifiers.auto_lirpa.module import LoweredModule
from verifiers.engine import EngineError, MarginQuery, Query
from verifiers.network import interval
from verifiers.network import lowering as low
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls

SEEDS = st.integers(0, 2**32 - 1)
NORMS = st.sampled_from(["Linf", "L2", "L1"])
CLASSES = 3


class Draw:
    """Random nodes on top of each other; `nodes` always ends in the current value."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[c.Node] = [c.Input(shape)]

    @property
    def shape(self) -> tuple[int, ...]:
        shapes: list[tuple[int, ...]] = []
        for node in self.nodes:
            shapes.append(output_shape(node, [shapes[i] for i in getattr(node, "inputs", ())], "test"))
        return shapes[-1]

    def array(self, *shape: int) -> np.ndarray:
        return (self.rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)

    def integers(self, low_end: int, high_end: int, count: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.rng.integers(low_end, high_end, count))

    def add(self, kind: str) -> None:
        at = (len(self.nodes) - 1,)
        shape = self.shape
        one_each = (shape[0], *(1 for _ in shape[1:]))
        match kind:
            case "conv":
                groups = int(self.rng.choice([g for g in (1, 2) if shape[0] % g == 0]))
                weight = self.array(2 * groups, shape[0] // groups, 2, 3)
                stride, dilation = self.integers(1, 3, 2), self.integers(1, 3, 2)
                pads = self.integers(1, 3, 4)
                node: c.Node = c.Conv2d(at, weight, self.array(2 * groups), stride, pads, dilation, groups)  # type: ignore[arg-type]
            case "batchnorm":
                parts = [self.array(shape[0]) for _ in range(3)]
                node = c.BatchNorm(at, *parts, np.abs(self.array(shape[0])), 1e-3)
            case "shift":
                node = c.Shift(at, self.array(*one_each))
            case "shift each":
                node = c.Shift(at, self.array(*shape))
            case "scale":
                node = c.Scale(at, self.array(*one_each))
            case "scale each":
                node = c.Scale(at, self.array(*shape))
            case "divide":
                node = c.Divide(at, np.sign(self.array(*one_each)) * 0.7)
            case "average":
                node = c.AveragePool2d(
                    at, (2, 3), self.integers(1, 3, 2), self.integers(0, 2, 4), bool(self.rng.integers(2))
                )  # type: ignore[arg-type]
            case "max":
                node = c.MaxPool2d(at, (2, 2), (2, 2), (0, 0, 0, 0))
            case "pad":
                value = float(self.rng.choice([0.0, 0.5]))
                node = c.Pad(at, self.integers(0, 2, len(shape)), self.integers(0, 3, len(shape)), value)
            case "slice":
                start = tuple(int(self.rng.integers(0, (n + 1) // 2)) for n in shape)
                node = c.Slice(at, start, shape, self.integers(1, 3, len(shape)))
            case "concat":
                self.nodes += [c.Relu(at), c.Scale(at, np.full(one_each, -0.5, np.float32))]
                node = c.Concat((at[0], at[0] + 1, at[0] + 2))
            case "residual":
                self.nodes += [c.Scale(at, self.array(*one_each)), c.Relu((at[0] + 1,))]
                node = c.Add((at[0], at[0] + 2))
            case "twice":
                node = c.Add((at[0], at[0]))
            case "relu":
                node = c.Relu(at)
            case "leaky":
                node = c.LeakyRelu(at, 0.2)
            case "sigmoid":
                node = c.Sigmoid(at)
            case "tanh":
                node = c.Tanh(at)
            case _:
                raise ValueError(kind)
        self.nodes.append(node)

    def network(self) -> c.PlainNetwork:
        if len(self.shape) == 3:
            self.nodes.append(c.Flatten((len(self.nodes) - 1,)))
        weight = self.array(CLASSES, self.shape[0])
        return build([*self.nodes, c.Linear((len(self.nodes) - 1,), weight, self.array(CLASSES))])


ON_IMAGES = ["conv", "average", "max"]
ANYWHERE = [
    *("batchnorm", "shift", "shift each", "scale", "scale each", "divide", "pad", "slice", "concat"),
    *("residual", "twice", "relu", "leaky"),
]
CURVES = ["sigmoid", "tanh"]  # auto_LiRPA tabulates their relaxations at every conversion, which takes seconds


def random_network(seed: int, kinds: list[str], on_images: bool) -> c.PlainNetwork:
    draw = Draw(seed, (2, 7, 6) if on_images else (5,))
    for kind in kinds:
        if kind not in ON_IMAGES or (len(draw.shape) == 3 and min(draw.shape[1:]) >= 5):
            draw.add(kind)
    return draw.network()


def points(q: MarginQuery, count: int, seed: int) -> torch.Tensor:
    """(count, N, *shape) float64 points of the balls (not of the domain)."""
    rng = torch.Generator().manual_seed(seed % 2**31)
    direction = torch.randn(count, *q.inputs.shape, generator=rng, dtype=torch.float64)
    direction *= torch.rand(direction.shape, generator=rng) < 0.5
    order = {"Linf": float("inf"), "L2": 2, "L1": 1}[q.norm]
    size = direction.flatten(2).norm(order, dim=2).clamp(min=1e-300)
    return q.inputs.double() + direction * (q.radius / size).reshape(count, -1, *(1 for _ in q.inputs.shape[1:]))


def query(net: c.PlainNetwork, norm: Norm, radius: float, count: int = 2) -> MarginQuery:
    rng = np.random.default_rng(7)
    inputs = torch.from_numpy(rng.uniform(size=(count, *net.input_shape)).astype(np.float32))
    radii = radius * torch.arange(1, count + 1, dtype=torch.float64)
    predicted = torch.from_numpy(rng.integers(0, net.classes, count))
    return MarginQuery(net, inputs, norm, radii, None, predicted)


def slack(q: MarginQuery, d: torch.Tensor) -> float:
    """float64 rounding on small networks whose numbers stay below a thousand times 1 + |d|."""
    return 1e-10 * (1 + float(d.abs().max()))


def refusal(q: MarginQuery, methods: tuple[Method, ...]) -> str | None:
    """Why the engine does not answer; None after checking its answer."""
    try:
        need_points_inside(q, methods)
    except EngineError as error:
        return str(error)
    return None


def need_points_inside(q: MarginQuery, methods: tuple[Method, ...], steps: int = 0) -> None:
    answer = AutoLirpa(methods, precision="float64", steps=steps).bounds(q)
    net = PlainModule(q.network).double()
    for x in points(q, 30, 5):
        z = net(x)
        d = (z - z.gather(1, q.predicted[:, None])).detach()
        assert bool((answer.lower <= d + slack(q, d)).all())
        assert bool((answer.upper >= d - slack(q, d)).all())


@given(seed=SEEDS, kinds=st.lists(st.sampled_from(ON_IMAGES + ANYWHERE + CURVES), max_size=5), on_images=st.booleans())
@settings(max_examples=60)
def test_a_lowered_network_is_the_plain_network(seed: int, kinds: list[str], on_images: bool) -> None:
    net = random_network(seed, kinds, on_images)
    lowered = low.lower(net)
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, *net.input_shape)))
    expected = PlainModule(net).double()(x)
    torch.testing.assert_close(LoweredModule(lowered)(x), expected, rtol=1e-9, atol=1e-9)
    zero = Balls(x, torch.zeros(3, dtype=torch.float64), "Linf", None).boxed(torch.float64)
    last = interval.propagate(lowered, zero)[-1]
    torch.testing.assert_close(last.lower, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last.upper, expected, rtol=1e-9, atol=1e-9)


@given(
    seed=SEEDS,
    kinds=st.lists(st.sampled_from(ON_IMAGES + ANYWHERE + CURVES), max_size=5),
    on_images=st.booleans(),
    norm=NORMS,
)
@settings(max_examples=40)
def test_intervals_contain_points_for_every_node_kind(seed: int, kinds: list[str], on_images: bool, norm: Norm) -> None:
    need_points_inside(query(random_network(seed, kinds, on_images), norm, 0.1), ("IBP",))


@given(
    seed=SEEDS, kinds=st.lists(st.sampled_from(ON_IMAGES + ANYWHERE), max_size=4), on_images=st.booleans(), norm=NORMS
)
@settings(max_examples=20)
def test_crown_bounds_contain_points_or_name_what_it_cannot_do(
    seed: int, kinds: list[str], on_images: bool, norm: Norm
) -> None:
    reason = refusal(query(random_network(seed, kinds, on_images), norm, 0.1), ("CROWN",))
    assert reason is None or "cannot do" in reason


@pytest.mark.parametrize("kind", ["relu", "leaky", "max", "residual", "batchnorm", "concat", "average", "pad", "slice"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_crown_answers_for_the_usual_node_kinds(kind: str, norm: Norm) -> None:
    need_points_inside(query(random_network(3, ["conv", kind, "relu", kind], True), norm, 0.1), ("CROWN",))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_crown_answers_for_curved_activations(kind: str, norm: Norm) -> None:
    need_points_inside(query(random_network(3, ["conv", kind], True), norm, 0.1), ("CROWN",))


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [("Linf", ["relu", "residual"]), ("L1", ["residual", "relu"]), ("L2", ["conv", "relu", "conv", "relu"])],
)
def test_alpha_crown_contains_points_and_is_no_looser_than_crown(norm: Norm, kinds: list[str]) -> None:
    q = query(random_network(1, kinds, "conv" in kinds), norm, 0.3)
    need_points_inside(q, ("CROWN",), steps=3)
    width = [
        float((b.upper - b.lower).sum())
        for b in (AutoLirpa(("CROWN",), precision="float64", steps=steps).bounds(q) for steps in (0, 4))
    ]
    assert width[1] <= width[0] * (1 + 1e-9)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("seed", [0, 1])
def test_patches_and_dense_matrices_give_the_same_bounds(seed: int, norm: Norm) -> None:
    """Two layers with borders and unstable neurons: the second layer's bounds come from concretised coefficients."""
    draw = Draw(seed, (2, 6, 6))
    for k in (0, 2):
        weight = draw.array(3, 2 if k == 0 else 3, 3, 3)
        draw.nodes += [c.Conv2d((k,), weight, 0.1 * draw.array(3), (1, 1), (1, 1, 1, 1), (1, 1), 1), c.Relu((k + 1,))]
    q = query(draw.network(), norm, 0.4)
    engine = AutoLirpa(("CROWN",), precision="float64")
    states = [engine.prepare(q.network) for _ in range(2)]
    states[1].patches = False
    one, two = (engine.bounds(q, state) for state in states)
    assert states[0].patches
    torch.testing.assert_close(one.lower, two.lower, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.upper, two.upper, rtol=1e-9, atol=1e-9)


@given(seed=SEEDS, norm=st.sampled_from(["L2", "L1"]))
@settings(max_examples=15)
def test_the_first_layer_is_exact_at_image_borders(seed: int, norm: Norm) -> None:
    """Of one padded convolution after a normalisation, against the rows of its Jacobian matrix (Hölder)."""
    draw = Draw(seed, (2, 4, 5))
    for kind in ("shift", "divide", "conv"):
        draw.add(kind)
    net = build([*draw.nodes, c.Flatten((len(draw.nodes) - 1,))])
    lowered = low.lower(net)
    x = torch.rand(1, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed % 2**31))
    radius = torch.tensor([0.2], dtype=torch.float64)
    last = interval.propagate(lowered, Balls(x, radius, norm, None).boxed(torch.float64))[-1]
    module = PlainModule(net).double()
    rows = torch.autograd.functional.jacobian(lambda v: module(v)[0], x).flatten(1)
    spread = 0.2 * rows.norm(2 if norm == "L2" else float("inf"), dim=1)
    torch.testing.assert_close(last.upper[0], module(x)[0] + spread, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last.lower[0], module(x)[0] - spread, rtol=1e-9, atol=1e-9)


@given(seed=SEEDS, norm=NORMS, domain=st.sampled_from([None, (0.0, 1.0)]))
@settings(max_examples=25)
def test_intervals_of_a_larger_ball_contain_those_of_a_smaller(
    seed: int, norm: Norm, domain: tuple[float, float] | None
) -> None:
    net = random_network(seed, ["divide", "conv", "relu", "conv", "leaky"], True)
    q = query(net, norm, 0.1)
    engine = AutoLirpa(("IBP",), precision="float64")
    inner = engine.bounds(MarginQuery(net, q.inputs, norm, q.radius, domain, q.predicted))
    outer = engine.bounds(MarginQuery(net, q.inputs, norm, 1.5 * q.radius, domain, q.predicted))
    assert bool((outer.lower <= inner.lower + slack(q, outer.lower)).all())
    assert bool((outer.upper >= inner.upper - slack(q, outer.upper)).all())


def test_each_bound_is_the_best_of_the_methods() -> None:
    q = query(random_network(2, ["conv", "relu", "conv", "relu"], True), "Linf", 0.3)
    ibp, crown, both = (AutoLirpa(m).bounds(q) for m in (("IBP",), ("CROWN",), ("IBP", "CROWN")))
    assert torch.equal(both.upper, torch.minimum(ibp.upper, crown.upper))
    assert torch.equal(both.lower, torch.maximum(ibp.lower, crown.lower))


def test_float32_bounds_are_the_float64_bounds_up_to_rounding() -> None:
    """Allowance: 2^-24 times a thousand operations on numbers below a hundred."""
    q = query(random_network(2, ["conv", "relu", "residual", "relu"], True), "Linf", 0.1)
    single, double = AutoLirpa().bounds(q), AutoLirpa(precision="float64").bounds(q)
    assert float((single.upper - double.upper).abs().max()) < 2.0**-24 * 1e5
    assert float((single.lower - double.lower).abs().max()) < 2.0**-24 * 1e5


def test_a_network_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    original = auto_lirpa_compat.bounded_module
    monkeypatch.setattr(auto_lirpa_compat, "bounded_module", lambda m: built.append(m) or original(m))
    engine = AutoLirpa(("CROWN",), batch_size=2)
    net = random_network(1, ["relu"], False)
    state = engine.prepare(net)
    for count in (5, 1, 3):
        engine.bounds(query(net, "Linf", 0.1, count), state)
    assert len(built) == 1


def test_a_batch_that_does_not_fit_in_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    q = query(random_network(4, ["relu"], False), "L2", 0.1, 7)
    expected = AutoLirpa(("IBP",), precision="float64").bounds(q).upper
    original = Converted.bound

    def scarce(state: Converted, part: Query, *rest: Any) -> Any:
        if len(part.balls) > 2:
            raise MemoryError("no room")
        return original(state, part, *rest)

    monkeypatch.setattr(Converted, "bound", scarce)
    upper = AutoLirpa(("IBP",), batch_size=7, precision="float64").bounds(q).upper
    torch.testing.assert_close(upper, expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(Converted, "bound", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(EngineError, match="single input"):
        AutoLirpa(("IBP",)).bounds(q)


def test_uneven_padding_of_a_max_pool_is_an_engine_error() -> None:
    draw = Draw(0, (1, 4, 4))
    draw.nodes.append(c.MaxPool2d((0,), (2, 2), (2, 2), (1, 0, 0, 0)))
    with pytest.raises(EngineError, match="uneven padding"):
        AutoLirpa().bounds(query(draw.network(), "Linf", 0.1))


def test_overlapping_max_pools_are_bounded_by_intervals_and_refused_by_crown() -> None:
    draw = Draw(0, (1, 5, 5))
    draw.nodes.append(c.MaxPool2d((0,), (3, 3), (1, 1), (0, 0, 0, 0)))
    q = query(draw.network(), "Linf", 0.1)
    need_points_inside(q, ("IBP",))
    reason = refusal(q, ("CROWN",))  # upstream may answer
    assert reason is None or "methods=('IBP',)" in reason


def test_an_absent_auto_lirpa_is_an_engine_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="pip install --no-deps auto_LiRPA") as caught:
        AutoLirpa().bounds(query(random_network(0, ["relu"], False), "Linf", 0.1))
    assert "\n" not in str(caught.value)


def test_importing_verifiers_imports_no_auto_lirpa() -> None:
    code = "import sys, verifiers; verifiers.ENGINES['auto_lirpa'](); sys.exit('auto_LiRPA' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_repairs_leave_nothing_behind() -> None:
    import torch.onnx.symbolic_helper as helper

    before = (sys.getrecursionlimit(), torch.get_default_dtype(), hasattr(torch._C.Node, "__getitem__"))
    code = (
        "import sys; from verifiers.auto_lirpa import compat as a; n = sys.getrecursionlimit(); a.load();"
        "sys.exit(sys.getrecursionlimit() != n or 'numpy.lib.arraysetops' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
    AutoLirpa(precision="float64").bounds(query(random_network(0, ["relu"], False), "Linf", 0.1))
    assert (sys.getrecursionlimit(), torch.get_default_dtype(), hasattr(torch._C.Node, "__getitem__")) == before
    assert not hasattr(helper, "_set_opset_version")


def test_an_engine_is_pickled_without_its_networks() -> None:
    engine = AutoLirpa(("CROWN",), batch_size=3)
    q = query(random_network(0, ["relu"], False), "Linf", 0.1)
    bounds = engine.bounds(q)
    copy = pickle.loads(pickle.dumps(engine))
    assert (copy.methods, copy.batch_size) == (("CROWN",), 3)
    assert torch.equal(copy.bounds(q).upper, bounds.upper)


@pytest.mark.parametrize(("fields", "value"), [({"methods": ()}, r"\(\)"), ({"batch_size": 0}, "0")])
def test_wrong_settings_are_named(fields: dict, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        AutoLirpa(**fields)


@pytest.mark.parametrize(
    ("model", "images", "radius"),
    [
        ("mnist/robust.onnx", "mnist/test_1000.npz", 0.3),
        ("cifar10/robust_kw_base.onnx", "cifar10/test_100.npz", 2 / 255),
    ],
)
def test_real_models_stay_within_their_bounds(certmix_data: Path, model: str, images: str, radius: float) -> None:
    """The float32 logits onnxruntime computes at corners of the ball, up to 1e-3 (float32 logits of size below 100)."""
    net = load_model(certmix_data / model).network
    assert net is not None
    x = np.load(certmix_data / images)["images"][:4].reshape(4, *net.input_shape).astype(np.float32) / 255
    inputs = torch.from_numpy(x)
    predicted = PlainModule(net)(inputs).argmax(1)
    radii = torch.full((4,), radius, dtype=torch.float64)
    answer = AutoLirpa().bounds(MarginQuery(net, inputs, "Linf", radii, (0.0, 1.0), predicted))
    run = onnxruntime.InferenceSession(certmix_data / model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner = np.clip(x + radius * rng.choice([-1, 1], size=x.shape), 0, 1).astype(np.float32)
        z = torch.from_numpy(run.run(None, {run.get_inputs()[0].name: corner})[0]).double()
        d = z - z.gather(1, predicted[:, None])
        assert bool((answer.lower - 1e-3 <= d).all())
        assert bool((d <= answer.upper + 1e-3).all())

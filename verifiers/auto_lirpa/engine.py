"""Bounds of linear functions of logits by auto_LiRPA: IBP, CROWN and alpha-CROWN. The only file that calls auto_LiRPA.

Serves 0.3 (PyPI, repaired by `auto_lirpa_compat`) and upstream >= 0.7 alike. auto_LiRPA is asked for linear
functions of logits only: its softmax relaxations are unsound in extreme ranges (docs/maths.md 3). What it does badly or
not at all is done by `interval`: interval bounds with a radius per input, first layers in l2 and l1.
Source: Xu et al., "Automatic perturbation analysis for scalable certified robustness and beyond" (2020).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proofs_check import certificate as c
from proofs_check.certificate import PlainNetwork
from verifiers.auto_lirpa import compat
from verifiers.engine import Bounds, Capabilities, Engine, EngineError, Query, WarmStart, rows_that_count, stacked
from verifiers.network import interval
from verifiers.network import lowering as low
from verifiers.perturbation import DUAL_ORDER, BoxedBalls

Method = Literal["IBP", "CROWN"]
METHODS: tuple[Method, ...] = ("IBP", "CROWN")
NONLINEAR = (c.Relu, c.LeakyRelu, c.Sigmoid, c.Tanh, c.MaxPool2d)


@dataclass(frozen=True, eq=False)
class LirpaLayers:
    """Bounds (N, *shape) of the input of every nonlinearity (engine.Layers), by node of the plain network."""

    count: int
    values: dict[int, interval.Interval]

    def pick(self, index: Tensor) -> LirpaLayers:
        values = {
            k: (lower[index.to(lower.device)], upper[index.to(upper.device)])
            for k, (lower, upper) in self.values.items()
        }
        return LirpaLayers(len(index), values)

    def constraints(self) -> dict[int, interval.Interval]:
        return self.values

    def witness(self, box: Tensor | None, exponential: Tensor | None) -> tuple[bytes | None, ...]:
        """None: the judge cannot be told how auto_LiRPA relaxes."""
        del box, exponential
        return (None,) * self.count


@dataclass(frozen=True)
class AutoLirpa(Engine):
    """Per bound, the best of `methods`, each started from the interval bounds; with `steps`, after CROWN as many
    iterations of alpha-CROWN's optimiser on the last pass.

    batch_size: most inputs bounded at once (halved by itself where memory runs out); None: 4 on a CPU, where larger
    batches are slower (CROWN visits a neuron that is unstable for any input of the batch), else 64. precision: the
    arithmetic; whichever it is, rounding is not accounted for.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(warm_start=True, second_form=True)
    batch: ClassVar[int] = 256

    methods: tuple[Method, ...] = METHODS
    batch_size: int | None = None
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if not self.methods or not set(self.methods) <= set(METHODS):
            raise ValueError(f"methods must be some of {METHODS}, got {self.methods}")
        if (self.batch_size is not None and self.batch_size < 1) or self.steps < 0:
            raise ValueError(f"batch_size must be >= 1 and steps >= 0, got {self.batch_size}, {self.steps}")
        if self.steps and "CROWN" not in self.methods:
            raise ValueError(f"steps tune CROWN's slopes, got steps={self.steps} and methods={self.methods}")

    @classmethod
    def require_installed(cls) -> None:
        """See Engine.require_installed."""
        compat.load()

    def prepare(self, network: PlainNetwork) -> Converted:
        """See Engine.prepare."""
        try:
            return Converted(network, getattr(torch, self.precision), torch.device(self.device))
        except RuntimeError as error:
            raise EngineError(f"device {self.device!r} cannot be used: {error}") from error

    def bound(self, state: Converted, query: Query, warm_start: WarmStart | None = None) -> tuple[Bounds, WarmStart]:
        """See Engine.bound."""
        parts: list[tuple[Bounds, WarmStart]] = []
        start, size, count = 0, self._batch(state.device), len(query.balls)
        while start < count or not parts:
            index = torch.arange(start, min(start + size, count))
            try:
                parts.append(state.bound(query.pick(index), _picked(warm_start, index), self))
                start += size
            except (MemoryError, torch.OutOfMemoryError) as error:
                if size == 1:
                    raise EngineError(f"out of memory on a single input: {error}") from error
                size = (size + 1) // 2
        return _joined(parts)

    def _batch(self, device: torch.device) -> int:
        if self.batch_size is not None:
            return self.batch_size
        if self.methods == ("IBP",):
            return 256
        return 4 if device.type == "cpu" else 64


def _picked(warm_start: WarmStart | None, index: Tensor) -> WarmStart | None:
    if warm_start is None:
        return None
    layers = None if warm_start.layers is None else warm_start.layers.pick(index)
    return WarmStart(layers, tuple(warm_start.slopes[k] for k in index.tolist()))


def _joined(parts: list[tuple[Bounds, WarmStart]]) -> tuple[Bounds, WarmStart]:
    lower, upper = (torch.cat([getattr(bounds, name) for bounds, _ in parts]) for name in ("lower", "upper"))
    layers = [warm_start.layers.constraints() for _, warm_start in parts if warm_start.layers is not None]
    values = {
        k: (torch.cat([one[k][0] for one in layers]), torch.cat([one[k][1] for one in layers])) for k in layers[0]
    }
    slopes = tuple(one for _, warm_start in parts for one in warm_start.slopes)
    return Bounds(lower, upper), WarmStart(LirpaLayers(len(lower), values), slopes)


@dataclass(frozen=True, eq=False)
class Asked:
    """What auto_LiRPA is asked for one part of a batch: the input set, rows (N, R, K) in its arithmetic, interval
    bounds by step; final: of activations' inputs these are not to be tightened."""

    inputs: BoxedBalls
    rows: Tensor
    values: list[interval.Value]
    final: bool


class Converted:
    """One network, ready to be bounded for any batch. auto_LiRPA is loaded at the first method that needs it.

    sources: the plain network's node by the step of `lowered` that holds its value, of all that feed a nonlinearity.
    """

    def __init__(self, network: PlainNetwork, dtype: torch.dtype, device: torch.device) -> None:
        self.network = network
        lowered = low.lower(network)
        self.lowered = low.Lowered(tuple(cast(step, dtype, device) for step in lowered.steps), lowered.shapes)
        self.dtype, self.device = dtype, device
        self.bounded: Any = None
        self.patches = True
        self.nodes: list[tuple[int, Any]] = []  # of each activation: the step that feeds it, auto_LiRPA's node
        fed = (step.inputs[0] for step in self.lowered.steps if isinstance(step, low.Activation | low.MaxPool))
        self.sources = dict(zip(fed, _feeding(network), strict=True))

    def bound(self, query: Query, warm_start: WarmStart | None, engine: AutoLirpa) -> tuple[Bounds, WarmStart]:
        """What `engine` finds, without regard to memory."""
        rows = query.rows.to(self.device, self.dtype)
        layers = None if warm_start is None else warm_start.layers
        with torch.no_grad():
            inputs = query.balls.boxed(self.dtype, self.device)
            values = interval.propagate(self.lowered, inputs)
            bounds = interval.of_rows(self.lowered, inputs, values, rows)
            self._tighten(values, query.constraints.values if layers is None else layers.constraints())
        slopes: tuple[Tensor | None, ...] = (None,) * len(rows)
        if "CROWN" in engine.methods and len(rows):
            index = rows_that_count(query.rows).to(self.device)
            each = index[:, :, None]
            final = layers is not None or query.constraints.final
            asked = Asked(inputs, rows.gather(1, each.expand(-1, -1, rows.shape[2])), values, final)
            start = None if warm_start is None else stacked(warm_start.slopes)
            start = None if start is None else start.gather(1, each.expand(-1, -1, start.shape[2]))
            (low_r, high_r), slopes_r = self._linear(asked, engine.steps if query.steps is None else query.steps, start)
            bounds[0].scatter_(1, index, torch.maximum(bounds[0].gather(1, index), low_r))
            bounds[1].scatter_(1, index, torch.minimum(bounds[1].gather(1, index), high_r))
            if slopes_r is not None:
                zero_slopes = slopes_r.new_zeros(*rows.shape[:2], slopes_r.shape[2])
                slopes = zero_slopes.scatter(1, each.expand(-1, -1, slopes_r.shape[2]), slopes_r).unbind()
        lower, upper = bounds
        if not bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()):
            raise EngineError("bounds overflowed: reduce the radius or set precision='float64'")
        shapes = self.network.shapes
        inner = {
            node: (values[k].lower.reshape(-1, *shapes[node]), values[k].upper.reshape(-1, *shapes[node]))
            for k, node in self.sources.items()
        }
        return Bounds(lower.double().cpu(), upper.double().cpu()), WarmStart(LirpaLayers(len(rows), inner), slopes)

    def _tighten(self, values: list[interval.Value], known: dict[int, interval.Interval]) -> None:
        """Intersect `values` with what is known by node of the plain network."""
        for k, node in self.sources.items():
            if node in known:
                values[k] = _cut(values[k], *known[node])

    def _linear(self, asked: Asked, steps: int, start: Tensor | None) -> tuple[interval.Interval, Tensor | None]:
        """CROWN's bounds (N, R) of the rows, or alpha-CROWN's where they are tighter, and slopes as `_tuned` gives.
        What CROWN finds of activations' inputs tightens asked.values. start: slopes (N, R, n)."""
        self._convert()
        try:
            lower, upper = self._compute("CROWN", asked, self._arguments(asked, asked.final))
            for k, activation in self.nodes:
                asked.values[k] = _cut(asked.values[k], activation.inputs[0].lower, activation.inputs[0].upper)
            if not steps or not self.nodes:
                return (lower, upper), None
            (low_t, high_t), slopes = self._tuned(asked, steps, start)
        except EngineError:
            if self.patches is False:
                raise
            self.patches, self.bounded = False, None  # dense matrices: slower, for any geometry
            return self._linear(asked, steps, start)
        return (torch.maximum(lower, low_t), torch.minimum(upper, high_t)), slopes

    def _tuned(self, asked: Asked, steps: int, start: Tensor | None) -> tuple[interval.Interval, Tensor | None]:
        """alpha-CROWN's bounds (N, R), the activations' inputs bounded as they are, and the slopes (N, R, n) that it
        ends with, of the lower bounds and then of the upper; upstream keeps them to itself: None."""
        arguments = self._arguments(asked, True)
        if not compat.is_old(compat.load()):
            return self._compute("alpha-CROWN", asked, arguments, {"iteration": steps}), None
        ends: list[Tensor] = []
        slopes: list[Tensor] = []
        for side, (name, other) in enumerate((("bound_lower", "bound_upper"), ("bound_upper", "bound_lower"))):
            fixed = arguments["intermediate_layer_bounds"]
            with self._guarded("alpha-CROWN"):
                self.bounded.init_slope(
                    (self._tensor(asked),), share_slopes=True, c=asked.rows, intermediate_layer_bounds=fixed
                )
            if start is not None:
                mine = start.chunk(2, 2)[side].split([_per_row(alpha).shape[2] for alpha in self._alphas()], 2)
                for alpha, values in zip(self._alphas(), mine, strict=True):
                    alpha.data.copy_(_as_alpha(values, alpha.shape))
            options = {"iteration": steps, "init_alpha": False}
            ends.append(self._compute("alpha-CROWN", asked, arguments | {name: True, other: False}, options)[side])
            slopes += [_per_row(alpha.detach()) for alpha in self._alphas()]
        return (ends[0], ends[1]), torch.cat(slopes, 2)

    def _alphas(self) -> list[Tensor]:
        """auto_LiRPA's slopes of the pass from the rows down, (a, R, N, *shape) of every activation."""
        return [node.alpha[self.bounded.final_name] for node in self.bounded.optimizable_activations]

    def _tensor(self, asked: Asked) -> Any:
        lirpa = compat.load()
        return lirpa.BoundedTensor(asked.inputs.center, perturbation(lirpa, asked.inputs))

    def _compute(
        self, method: str, asked: Asked, arguments: dict[str, Any], options: dict[str, Any] | None = None
    ) -> interval.Interval:
        with self._guarded(method), torch.set_grad_enabled(method == "alpha-CROWN"):
            if options is not None:
                self.bounded.set_bound_opts({"optimize_bound_args": options})
            lower, upper = self.bounded.compute_bounds(
                x=(self._tensor(asked),), C=asked.rows, method=method, **arguments
            )[:2]
        return tuple(None if end is None else end.detach() for end in (lower, upper))  # type: ignore[return-value]

    @contextlib.contextmanager
    def _guarded(self, method: str) -> Generator[None]:
        """Whatever breaks inside auto_LiRPA is its own limit: EngineError, or MemoryError."""
        with quiet(), default_dtype(self.dtype):
            try:
                yield
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                if "can't allocate memory" in str(error):
                    raise MemoryError(str(error)) from error
                raise EngineError(_limit(method, compat.load(), error)) from error

    def _convert(self) -> None:
        """Build the BoundedModule and find, in it, each activation."""
        if self.bounded is not None:
            return
        lirpa = compat.load()
        module = LoweredModule(self.lowered).eval()
        example = torch.zeros(1, *self.network.input_shape, dtype=self.dtype, device=self.device)
        with quiet(), default_dtype(self.dtype):
            try:
                bounded = compat.bounded_module(lirpa)(module, example, _options(self.lowered, self.patches))
            except Exception as error:
                raise EngineError(_limit("conversion", lirpa, error)) from error
        fed = [step.inputs[0] for step in self.lowered.steps if isinstance(step, low.Activation | low.MaxPool)]
        activations = [node for node in bounded._modules.values() if type(node).__name__ in BOUND_NAMES]
        if len(activations) != len(fed):
            raise EngineError(f"auto_LiRPA {lirpa.__version__} found {len(activations)} of {len(fed)} activations")
        self.nodes = list(zip(fed, activations, strict=True))
        self.bounded = bounded

    def _arguments(self, asked: Asked, final: bool) -> dict[str, Any]:
        """The bounds of every activation's input: as auto_LiRPA's reference bounds, or `final`.

        In l2 and l1 those of first layers (already the dual norm's) are final: auto_LiRPA would take its own.
        """
        reference: dict[str, interval.Interval] = {}
        fixed: dict[str, interval.Interval] = {}
        for k, activation in self.nodes:
            node, value = activation.inputs[0], asked.values[k]
            first = type(node.inputs[0]).__name__ == "BoundInput" if node.inputs else True
            (fixed if final or (first and asked.inputs.norm != "Linf") else reference)[node.name] = (
                value.lower,
                value.upper,
            )
        name = "intermediate_layer_bounds" if compat.is_old(compat.load()) else "interm_bounds"
        return {"reference_bounds": reference, "aux_reference_bounds": dict(reference)} | (
            {name: fixed} if fixed else {}
        )


def _feeding(network: PlainNetwork) -> list[int]:
    """The nodes that feed a nonlinearity the logits depend on, in the order of these."""
    needed = {len(network.nodes) - 1}
    for k in range(len(network.nodes) - 1, 0, -1):
        if k in needed:
            needed.update(getattr(network.nodes[k], "inputs", ()))
    return [node.inputs[0] for k, node in enumerate(network.nodes) if k in needed and isinstance(node, NONLINEAR)]


def _cut(value: interval.Value, lower: Tensor, upper: Tensor) -> interval.Value:
    """`value` within other bounds of the same cells."""
    lower, upper = (end.detach().to(value.lower).reshape(value.lower.shape) for end in (lower, upper))
    return replace(value, lower=torch.maximum(value.lower, lower), upper=torch.minimum(value.upper, upper))


def _per_row(alpha: Tensor) -> Tensor:
    """(N, R, n) from auto_LiRPA's (a, R, N, *shape)."""
    return alpha.permute(2, 1, 0, *range(3, alpha.ndim)).flatten(2)


def _as_alpha(slopes: Tensor, shape: torch.Size) -> Tensor:
    """auto_LiRPA's (a, R, N, *shape) from (N, R, n)."""
    return slopes.reshape(shape[2], shape[1], shape[0], *shape[3:]).permute(2, 1, 0, *range(3, len(shape)))


BOUND_NAMES = frozenset({"BoundRelu", "BoundLeakyRelu", "BoundSigmoid", "BoundTanh", "BoundMaxPool"})


def _options(network: low.Lowered, patches: bool) -> dict[str, Any]:
    """Sums of patches of different strides are beyond 0.3's sparse bounds."""
    residual = any(isinstance(step, low.Sum) for step in network.steps)
    mode = "patches" if patches else "matrix"
    return {"conv_mode": mode, "sparse_conv_intermediate_bounds": not residual, "verbosity": 0} | {
        "sparse_features_alpha": False  # slopes of all neurons, whichever are unstable: they go from ball to ball
    }


def _limit(method: str, lirpa: Any, error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"auto_LiRPA {lirpa.__version__} cannot do {method} on this network ({text[0]}); use methods=('IBP',)"


def cast(step: low.Step, dtype: torch.dtype, device: torch.device) -> low.Step:
    values = {f.name: getattr(step, f.name) for f in fields(step)}
    tensors = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
    return replace(step, **{k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()})


def perturbation(lirpa: Any, inputs: BoxedBalls) -> Any:
    """The input set in auto_LiRPA's terms.

    l2 and l1 balls pose as their bounding box, so that interval steps are sound with a radius per input;
    linear functions of the input take the better of the box and the dual norm.
    """
    base = lirpa.PerturbationLpNorm
    box = {"norm": float("inf"), "eps": None, "x_L": inputs.lower, "x_U": inputs.upper}
    if inputs.norm == "Linf":
        return base(**box)
    dual = DUAL_ORDER[inputs.norm]

    class Ball(base):
        def concretize_matrix(self, x: Tensor, A: Any, sign: int, *rest: Any) -> Tensor:
            bound = super().concretize_matrix(x, A, sign, *rest)
            if not isinstance(A, Tensor):
                return bound  # an identity: the box is exact
            rows = A.reshape(*A.shape[:2], -1)
            spread = rows.norm(dual, -1) * inputs.radius[:, None]
            ball = rows.matmul(inputs.center.flatten(1)[:, :, None])[..., 0] + sign * spread
            return (torch.maximum if sign < 0 else torch.minimum)(bound, ball.reshape(bound.shape))

        def concretize_patches(self, x: Tensor, A: Any, sign: int, *rest: Any) -> Tensor:
            bound = super().concretize_patches(x, A, sign, *rest)
            if A.identity == 1:
                return bound
            norms = _patch_norms(lirpa, A, inputs)
            ball = A.matmul(inputs.center) + sign * norms * inputs.radius.reshape(-1, *(1 for _ in norms.shape[1:]))
            return (torch.maximum if sign < 0 else torch.minimum)(bound, ball.reshape(bound.shape))

    return Ball(**box)


def _patch_norms(lirpa: Any, A: Any, inputs: BoxedBalls) -> Tensor:
    """The dual norm of each row of coefficients held as patches; taps that lie in the padding do not count."""
    mask = lirpa.patches.inplace_unfold(
        torch.ones_like(inputs.center[:1]),
        kernel_size=A.patches.shape[-2:],
        padding=A.padding,
        stride=A.stride,
        inserted_zeros=A.inserted_zeros,
        output_padding=A.output_padding,
    )[0]  # (rows, columns, channels, kernel rows, kernel columns)
    if A.unstable_idx is not None:
        mask = mask[A.unstable_idx[1], A.unstable_idx[2]]
    taps = A.patches * mask.unsqueeze(1 if A.unstable_idx is not None else 0)
    if inputs.norm == "L2":  # the square root's slope at zero is infinite
        norms = taps.square().sum((-3, -2, -1)).clamp(min=1e-30).sqrt()
    else:
        norms = taps.abs().amax((-3, -2, -1))
    return norms.transpose(0, 1)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    """auto_LiRPA makes some of its tensors in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """auto_LiRPA prints, logs and warns; its news reach the user as EngineError only."""
    logger = logging.getLogger("auto_LiRPA")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


class LoweredModule(nn.Module):
    """A lowered network as a torch module: (N, *input) -> logits. Every weight is a parameter, as 0.3 needs; an index
    cannot be one."""

    def __init__(self, network: low.Lowered) -> None:
        super().__init__()
        self.network = network
        self.weights = nn.ParameterDict()
        for k, step in enumerate(network.steps):
            for name, tensor in _weights(step).items():
                self.weights[f"{name}{k}"] = nn.Parameter(tensor.contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        values: list[Tensor] = [x]
        for k, step in enumerate(self.network.steps[1:], start=1):
            values.append(self._evaluate(k, step, [values[i] for i in step.inputs]))
        return values[-1]

    def _evaluate(self, k: int, step: low.Step, args: list[Tensor]) -> Tensor:
        match step:
            case low.Conv():
                return low.convolve(args[0], self.weights[f"weight{k}"], self.weights[f"bias{k}"], step)
            case low.Diagonal() if args[0].ndim == 4:  # 1 x 1 convolution
                return F.conv2d(args[0], self.weights[f"weight{k}"], self.weights[f"bias{k}"])
            case low.Dense() | low.Diagonal():
                return F.linear(args[0], self.weights[f"weight{k}"], self.weights[f"bias{k}"])
            case low.Pointwise():
                return args[0] * self.weights[f"scale{k}"] + self.weights[f"shift{k}"]
            case low.Flat():
                return low.flat(args[0]) if args[0].ndim == 1 else args[0].flatten(1)
            case low.Pick():
                return low.pick(step, args[0])
            case low.Sum():
                return args[0] + args[1]
            case low.Activation() | low.MaxPool():
                return interval.monotone(step, args[0])
            case low.Source():
                raise TypeError("the source has no rule")


def _weights(step: low.Step) -> dict[str, Tensor]:
    match step:
        case low.Dense() | low.Conv():
            return {"weight": step.weight, "bias": step.bias}
        case low.Diagonal():
            matrix = torch.diag(step.scale.flatten())
            return {"weight": matrix.reshape(*matrix.shape, *step.scale.shape[1:]), "bias": step.shift.flatten()}
        case low.Pointwise():
            return {"scale": step.scale[None], "shift": step.shift[None]}
        case _:
            return {}

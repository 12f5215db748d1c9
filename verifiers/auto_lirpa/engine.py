"""Bounds of logit differences by auto_LiRPA: IBP, CROWN and alpha-CROWN. The only file that calls auto_LiRPA.

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
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proofs_check.certificate import PlainNetwork
from verifiers.auto_lirpa import compat
from verifiers.engine import Engine, EngineError, LogitBounds, MarginQuery
from verifiers.network import interval
from verifiers.network import lowering as low

Method = Literal["IBP", "CROWN", "alpha-CROWN"]
METHODS: tuple[Method, ...] = ("IBP", "CROWN", "alpha-CROWN")
KEPT_SESSIONS = 4


@dataclass(frozen=True, eq=False)
class AutoLirpa(Engine):
    """Per bound, the best of `methods`; each method also starts from the interval bounds.

    batch_size: most inputs bounded at once (halved by itself where memory runs out); None: 4 on a CPU, where larger
    batches are slower (CROWN visits a neuron that is unstable for any input of the batch), else 64. iterations: of
    alpha-CROWN's optimiser. precision: the arithmetic; whichever it is, rounding is not accounted for. A network
    is converted once and kept with the engine; the least recently used of more than four is dropped.
    """

    methods: tuple[Method, ...] = ("IBP", "CROWN")
    batch_size: int | None = None
    iterations: int = 20
    precision: Literal["float32", "float64"] = "float32"
    _sessions: dict[tuple[str, str], Session] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.methods or not set(self.methods) <= set(METHODS):
            raise ValueError(f"methods must be some of {METHODS}, got {self.methods}")
        if (self.batch_size is not None and self.batch_size < 1) or self.iterations < 1:
            raise ValueError(f"batch_size and iterations must be >= 1, got {self.batch_size}, {self.iterations}")

    def __getstate__(self) -> dict[str, Any]:
        """Pickled without the converted networks (they rebuild themselves)."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init} | {"_sessions": {}}

    def bounds(self, query: MarginQuery) -> LogitBounds:
        session = self.prepare(query.network, query.inputs.device)
        parts: list[interval.Interval] = []
        start, size = 0, self._batch(query.inputs.device)
        while start < len(query.inputs):
            try:
                parts.append(session.differences(_rows(query, slice(start, start + size)), self))
                start += size
            except (MemoryError, torch.OutOfMemoryError) as error:
                if size == 1:
                    raise EngineError(f"out of memory on a single input: {error}") from error
                size = (size + 1) // 2
        shape = (0, query.network.classes)
        lower, upper = (
            torch.cat([p[i].double() for p in parts]) if parts else torch.zeros(shape).double() for i in (0, 1)
        )
        return LogitBounds(lower, upper, (None,) * len(query.inputs))

    def _batch(self, device: torch.device) -> int:
        if self.batch_size is not None:
            return self.batch_size
        if self.methods == ("IBP",):
            return 256
        return 4 if device.type == "cpu" else 64

    def prepare(self, network: PlainNetwork, device: torch.device) -> Session:
        """The converted network, from an earlier call if there was one."""
        key = (network.sha256, str(device))
        session = self._sessions.pop(key, None)
        if session is None:
            session = Session(network, getattr(torch, self.precision), device)
        self._sessions[key] = session
        while len(self._sessions) > KEPT_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session


def _rows(query: MarginQuery, rows: slice) -> MarginQuery:
    inputs, radius, predicted = query.inputs[rows], query.radius[rows], query.predicted[rows]
    return MarginQuery(query.network, inputs, query.norm, radius, query.domain, predicted)


class Session:
    """One network, ready to be bounded for any batch. auto_LiRPA is loaded at the first method that needs it."""

    def __init__(self, network: PlainNetwork, dtype: torch.dtype, device: torch.device) -> None:
        self.network = network
        lowered = low.lower(network)
        self.lowered = low.Lowered(tuple(cast(step, dtype, device) for step in lowered.steps), lowered.shapes)
        self.dtype, self.device = dtype, device
        self.bounded: Any = None
        self.patches = True
        self.nodes: list[tuple[int, Any]] = []

    def differences(self, query: MarginQuery, engine: AutoLirpa) -> interval.Interval:
        """(lower, upper), each (N, K), of z_j - z_y."""
        center, radius = query.inputs.to(self.dtype), query.radius.to(self.device, self.dtype)
        predicted = query.predicted.to(self.device)
        with torch.no_grad():
            inputs = interval.input_set(center, radius, query.norm, query.domain)
            values = interval.propagate(self.lowered, inputs)
            lower, upper = interval.differences(self.lowered, inputs, values, predicted)
        for method in engine.methods:
            if method != "IBP":
                low_d, high_d = self._linear(method, inputs, values, predicted, engine.iterations)
                lower, upper = torch.maximum(lower, low_d), torch.minimum(upper, high_d)
        if not bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()):
            raise EngineError("bounds overflowed: reduce the radius or set precision='float64'")
        return lower, upper

    def _linear(
        self,
        method: Method,
        inputs: interval.InputSet,
        values: list[interval.Value],
        predicted: Tensor,
        iterations: int,
    ) -> interval.Interval:
        """CROWN or alpha-CROWN with C = e_j - e_y, per input."""
        self._convert()
        lirpa = compat.load()
        classes = self.network.classes
        rivals = torch.stack([torch.tensor([j for j in range(classes) if j != y]) for y in range(classes)])
        index = rivals.to(self.device)[predicted]
        eye = torch.eye(classes, dtype=self.dtype, device=self.device)
        x = lirpa.BoundedTensor(inputs.center, perturbation(lirpa, inputs))
        arguments = {"C": eye[index] - eye[predicted][:, None]} | self._known(inputs, values)
        try:
            lower, upper = self._compute(method, x, arguments, iterations)
        except EngineError:
            if self.patches is False:
                raise
            self.patches, self.bounded = False, None  # dense matrices: slower, for any geometry
            return self._linear(method, inputs, values, predicted, iterations)
        zeros = torch.zeros(len(predicted), classes, dtype=self.dtype, device=self.device)
        return zeros.scatter(1, index, lower.detach()), zeros.scatter(1, index, upper.detach())

    def _compute(self, method: Method, x: Tensor, arguments: dict[str, Any], iterations: int) -> interval.Interval:
        with quiet(), torch.set_grad_enabled(method == "alpha-CROWN"), default_dtype(self.dtype):
            self.bounded.set_bound_opts({"optimize_bound_args": {"iteration": iterations}})
            try:
                return self.bounded.compute_bounds(x=(x,), method=method, **arguments)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # whatever breaks inside auto_LiRPA is its own limit
                if "can't allocate memory" in str(error):
                    raise MemoryError(str(error)) from error
                raise EngineError(_limit(method, compat.load(), error)) from error

    def _convert(self) -> None:
        """Build the BoundedModule and find, in it, the inputs of each activation."""
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
        nonlinear = [k for k, step in enumerate(self.lowered.steps) if isinstance(step, low.Activation | low.MaxPool)]
        found = [node for node in bounded._modules.values() if type(node).__name__ in BOUND_NAMES]
        if len(found) != len(nonlinear):
            raise EngineError(f"auto_LiRPA {lirpa.__version__} found {len(found)} of {len(nonlinear)} activations")
        self.nodes = [(k, node.inputs[0]) for k, node in zip(nonlinear, found, strict=True)]
        self.bounded = bounded

    def _known(self, inputs: interval.InputSet, values: list[interval.Value]) -> dict[str, Any]:
        """The interval bounds of every activation's input, as auto_LiRPA's reference bounds.

        In l2 and l1 those of first layers (already the dual norm's) are final: auto_LiRPA would take its own.
        """
        reference: dict[str, interval.Interval] = {}
        final: dict[str, interval.Interval] = {}
        for k, node in self.nodes:
            (source,) = self.lowered.steps[k].inputs
            bounds = (values[source].lower, values[source].upper)
            first = type(node.inputs[0]).__name__ == "BoundInput" if node.inputs else True
            (final if first and inputs.norm != "Linf" else reference)[node.name] = bounds
        old = compat.is_old(compat.load())
        name = "intermediate_layer_bounds" if old else "interm_bounds"
        return {"reference_bounds": reference, "aux_reference_bounds": dict(reference)} | (
            {name: final} if final else {}
        )


BOUND_NAMES = frozenset({"BoundRelu", "BoundLeakyRelu", "BoundSigmoid", "BoundTanh", "BoundMaxPool"})


def _options(network: low.Lowered, patches: bool) -> dict[str, Any]:
    """Sums of patches of different strides are beyond 0.3's sparse bounds."""
    residual = any(isinstance(step, low.Sum) for step in network.steps)
    mode = "patches" if patches else "matrix"
    return {"conv_mode": mode, "sparse_conv_intermediate_bounds": not residual, "verbosity": 0}


def _limit(method: str, lirpa: Any, error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"auto_LiRPA {lirpa.__version__} cannot do {method} on this network ({text[0]}); use methods=('IBP',)"


def cast(step: low.Step, dtype: torch.dtype, device: torch.device) -> low.Step:
    values = {f.name: getattr(step, f.name) for f in fields(step)}
    return replace(step, **{k: v.to(device, dtype) for k, v in values.items() if isinstance(v, Tensor)})


def perturbation(lirpa: Any, inputs: interval.InputSet) -> Any:
    """The input set in auto_LiRPA's terms.

    l2 and l1 balls pose as their bounding box, so that interval steps are sound with a radius per input;
    linear functions of the input take the better of the box and the dual norm.
    """
    base = lirpa.PerturbationLpNorm
    box = {"norm": float("inf"), "eps": None, "x_L": inputs.lower, "x_U": inputs.upper}
    if inputs.norm == "Linf":
        return base(**box)
    dual = 2.0 if inputs.norm == "L2" else float("inf")

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


def _patch_norms(lirpa: Any, A: Any, inputs: interval.InputSet) -> Tensor:
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
    """A lowered network as a torch module: (N, *input) -> logits. Every weight is a parameter, as 0.3 needs."""

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
                return args[0].flatten(1)
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

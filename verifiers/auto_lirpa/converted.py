"""One network in auto_LiRPA, and what is asked of it there: CROWN and alpha-CROWN from interval bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from proofs_check.certificate import PlainNetwork
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.input_set import perturbation
from verifiers.auto_lirpa.module import LoweredModule, cast, default_dtype, quiet
from verifiers.engine import Bounds, EngineError, Query, WarmStart, rows_that_count, stacked
from verifiers.layers import KINDS
from verifiers.layers.nonlinear import Nonlinear
from verifiers.layers.steps import Value
from verifiers.network import interval
from verifiers.network import lowering as low
from verifiers.perturbation import BoxedBalls


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


@dataclass(frozen=True, eq=False)
class Asked:
    """What auto_LiRPA is asked for one part of a batch: the input set, rows (N, R, K) in its arithmetic, interval
    bounds by step; final: of activations' inputs these are not to be tightened."""

    inputs: BoxedBalls
    rows: Tensor
    values: list[Value]
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
        fed = (step.inputs[0] for step in self.lowered.steps if step.nonlinear)
        self.sources = dict(zip(fed, _feeding(network), strict=True))

    def bound(self, query: Query, warm_start: WarmStart | None, steps: int | None) -> tuple[Bounds, WarmStart]:
        """See engine.Engine.bound, without regard to memory. steps: of alpha-CROWN; None: intervals alone."""
        rows = query.rows.to(self.device, self.dtype)
        layers = None if warm_start is None else warm_start.layers
        with torch.no_grad():
            inputs = query.balls.boxed(self.dtype, self.device)
            values = interval.propagate(self.lowered, inputs)
            bounds = interval.of_rows(self.lowered, inputs, values, rows)
            self._tighten(values, query.constraints.values if layers is None else layers.constraints())
        slopes: tuple[Tensor | None, ...] = (None,) * len(rows)
        if steps is not None and len(rows):
            index = rows_that_count(query.rows).to(self.device)
            each = index[:, :, None]
            final = layers is not None or query.constraints.final
            asked = Asked(inputs, rows.gather(1, each.expand(-1, -1, rows.shape[2])), values, final)
            start = None if warm_start is None else stacked(warm_start.slopes)
            start = None if start is None else start.gather(1, each.expand(-1, -1, start.shape[2]))
            (low_r, high_r), slopes_r = self._linear(asked, steps, start)
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

    def _tighten(self, values: list[Value], known: dict[int, interval.Interval]) -> None:
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
        fed = [step.inputs[0] for step in self.lowered.steps if step.nonlinear]
        names = {step.bound_name for step in self.lowered.steps}
        activations = [node for node in bounded._modules.values() if type(node).__name__ in names]
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
            (fixed if final or (first and not asked.inputs.lp.is_box) else reference)[node.name] = (
                value.lower,
                value.upper,
            )
        name = "intermediate_layer_bounds" if compat.is_old(compat.load()) else "interm_bounds"
        return {"reference_bounds": reference, "aux_reference_bounds": dict(reference)} | (
            {name: fixed} if fixed else {}
        )


def _feeding(network: PlainNetwork) -> list[int]:
    """The nodes that feed a nonlinearity the logits depend on, in the order of these."""
    inputs: list[tuple[int, ...]] = [getattr(node, "inputs", ()) for node in network.nodes]
    nonlinear = [issubclass(KINDS[type(node)], Nonlinear) for node in network.nodes]
    needed = {len(inputs) - 1}
    for k in range(len(inputs) - 1, 0, -1):
        if k in needed:
            needed.update(inputs[k])
    return [inputs[k][0] for k in range(len(inputs)) if k in needed and nonlinear[k]]


def _cut(value: Value, lower: Tensor, upper: Tensor) -> Value:
    """`value` within other bounds of the same cells."""
    lower, upper = (end.detach().to(value.lower).reshape(value.lower.shape) for end in (lower, upper))
    return replace(value, lower=torch.maximum(value.lower, lower), upper=torch.minimum(value.upper, upper))


def _per_row(alpha: Tensor) -> Tensor:
    """(N, R, n) from auto_LiRPA's (a, R, N, *shape)."""
    return alpha.permute(2, 1, 0, *range(3, alpha.ndim)).flatten(2)


def _as_alpha(slopes: Tensor, shape: torch.Size) -> Tensor:
    """auto_LiRPA's (a, R, N, *shape) from (N, R, n)."""
    return slopes.reshape(shape[2], shape[1], shape[0], *shape[3:]).permute(2, 1, 0, *range(3, len(shape)))


def _options(network: low.Lowered, patches: bool) -> dict[str, Any]:
    """Sums of patches of different strides are beyond 0.3's sparse bounds."""
    residual = any(len(step.inputs) > 1 for step in network.steps)
    mode = "patches" if patches else "matrix"
    return {"conv_mode": mode, "sparse_conv_intermediate_bounds": not residual, "verbosity": 0} | {
        "sparse_features_alpha": False  # slopes of all neurons, whichever are unstable: they go from ball to ball
    }


def _limit(method: str, lirpa: Any, error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"auto_LiRPA {lirpa.__version__} cannot do {method} on this network ({text[0]}); use methods=('IBP',)"

"""ONNX curved operators as plain nodes: those with a node of their own, and products of two values.

What exporters write for GELU, SiLU and hard swish is found among the plain nodes where the product that ends it is
read, and becomes one node of the same function in real arithmetic: constants keep their exact values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from certmix.formatting import exact
from certmix.models.onnx.call import Call
from proofs_check import certificate as c

TANH_FORM = 2 * math.sqrt(2 / math.pi)  # of GELU: x s(TANH_FORM (x + 0.044715 x^3)), s the sigmoid
NodeT = TypeVar("NodeT", bound=c.Node)


def of_kind(kind: Callable[[tuple[int]], c.Node]) -> Callable[[Call], int]:
    """An operator that is one node without fields."""

    def function(call: Call) -> int:
        return call.builder.emit(kind((call.data(),)))

    function.__doc__ = kind.__doc__
    return function


def elu(call: Call) -> int:
    """alpha (exp(x) - 1) below 0, else x."""
    return call.builder.emit(c.Elu((call.data(),), float(call.attribute("alpha", np.float32(1.0)))))


def selu(call: Call) -> int:
    """gamma times an ELU."""
    alpha, gamma = call.attribute("alpha", np.float32(1.67326319)), call.attribute("gamma", np.float32(1.05070102))
    return scaled(call, call.builder.emit(c.Elu((call.data(),), float(alpha))), np.float32(gamma))


def celu(call: Call) -> int:
    """alpha times the ELU of x / alpha."""
    alpha, emit = np.float32(call.attribute("alpha", np.float32(1.0))), call.builder.emit
    if not alpha > 0:
        call.fail(f"alpha must be > 0, got {alpha}")
    return scaled(call, emit(c.Elu((divided(call, call.data(), alpha),), 1.0)), alpha)


def gelu(call: Call) -> int:
    """In both forms, with erf and with tanh."""
    form = call.attribute("approximate", "none")
    if form == "none":
        return call.builder.emit(c.Gelu((call.data(),), math.sqrt(2)))
    return call.builder.emit(c.Swish((call.data(),), TANH_FORM, TANH_FORM * 0.044715))


def swish(call: Call) -> int:
    """x s(alpha x), s the sigmoid."""
    return call.builder.emit(c.Swish((call.data(),), float(call.attribute("alpha", 1.0)), 0.0))


def power(call: Call) -> int:
    """By 1, 2, 3, 1/2 or any negative exponent."""
    kinds, exponents = {1.0: None, 2.0: c.Square, 3.0: c.Cube, 0.5: c.SquareRoot}, call.constant(1)
    exponent = float(exponents.flat[0]) if exponents.size else math.nan
    if (exponents != exponent).any() or not (exponent in kinds or exponent < 0):
        call.fail(f"has the exponent {exact(exponent)}; only 1, 2, 3, 0.5 and those below 0 are known: multiply such")
    if exponent < 0:
        return call.builder.emit(c.InversePower((call.data(),), -exponent))
    kind = kinds[exponent]
    return call.data() if kind is None else call.builder.emit(kind((call.data(),)))


def reciprocal(call: Call) -> int:
    """1 / x, of x that must prove to be positive."""
    return call.builder.emit(c.InversePower((call.data(),), 1.0))


def quotient(call: Call, divisor: int) -> int:
    """A value, or a constant, divided by a value that must prove to be positive; by a root in one step."""
    root = _node(call, divisor, c.SquareRoot)
    power = c.InversePower((divisor,), 1.0) if root is None else c.InversePower(root.inputs, 0.5)
    inverse, dividend = call.builder.emit(power), call.value(0)
    if not isinstance(dividend, np.ndarray):
        return multiplied(call, call.data(), inverse)
    constant = dividend.reshape((1,) * (len(call.builder.shapes[inverse]) - dividend.ndim) + dividend.shape)
    return call.builder.emit(c.Scale((inverse,), constant))


# ---------------------------------------------------------------- products


def product(call: Call, a: int, b: int) -> int:
    """Of two values of one shape."""
    for first, second in ((a, b), (b, a)):
        source, factors = _stripped(call, first)
        gate, more = _stripped(call, second)
        core = _core(call, source, gate)
        if core is not None:
            return _times(call, core, [*factors, *more])
    return multiplied(call, a, b)


def multiplied(call: Call, a: int, b: int) -> int:
    """The product of two nodes of one shape."""
    return call.builder.emit(c.Product((call.builder.emit(c.Concat((a, b))),)))


def _core(call: Call, x: int, gate: int) -> int | None:
    """x times the value of `gate`, where that is one node, up to a constant factor."""
    emit = call.builder.emit
    if gate == x:
        return emit(c.Square((x,)))
    if (square := _node(call, gate, c.Square)) and square.inputs == (x,):
        return emit(c.Cube((x,)))
    if sigmoid := _node(call, gate, c.Sigmoid):
        return _swish(call, x, sigmoid.inputs[0])
    if shift := _node(call, gate, c.Shift):
        inner = call.builder.nodes[shift.inputs[0]]
        if (shift.constant == 1).all() and isinstance(inner, c.Erf):
            return _gelu(call, x, inner.inputs[0])
        if (shift.constant == 1).all() and isinstance(inner, c.Tanh):
            return _tanh_gelu(call, x, inner.inputs[0])
        if (shift.constant == 6).all() and _clipped(call, shift.inputs[0]) == x:
            return scaled(call, emit(c.HardSwish((x,))), np.float32(6))
        base, factors = _stripped(call, shift.inputs[0])
        if (shift.constant == 1).all() and (square := _node(call, base, c.Square)) and square.inputs == (x,):
            cube = _times(call, emit(c.Cube((x,))), factors)  # x (1 + q x^2) = x + q x^3
            return emit(c.Add((x, cube)))
    return None


def _swish(call: Call, x: int, argument: int) -> int | None:
    """x s(argument), s the sigmoid; of x times one constant."""
    base, factors = _stripped(call, argument)
    if base != x or any(value <= 0 for _, value in factors):
        return None
    inner = call.builder.emit(c.Swish((argument,), 1.0, 0.0))
    return _times(call, inner, [(not divides, value) for divides, value in factors])


def _gelu(call: Call, x: int, argument: int) -> int | None:
    """x (1 + erf(argument)), twice a GELU; of x times one constant."""
    base, factors = _stripped(call, argument)
    if base != x or any(value <= 0 for _, value in factors):
        return None
    if len(factors) == 1 and factors[0][0]:
        return scaled(call, call.builder.emit(c.Gelu((x,), float(factors[0][1]))), np.float32(2))
    inner = scaled(call, call.builder.emit(c.Gelu((argument,), 1.0)), np.float32(2))
    return _times(call, inner, [(not divides, value) for divides, value in factors])


def _tanh_gelu(call: Call, x: int, argument: int) -> int | None:
    """x (1 + tanh(k (x + q x^3))), twice x s(2 k x + 2 k q x^3); or of k x + p x^3."""
    base, outer = _stripped(call, argument)
    total = _node(call, base, c.Add)
    if total is None:
        return None
    found: dict[bool, float] = {}
    for summand in total.inputs:
        base, inner = _stripped(call, summand)
        cube = _node(call, base, c.Cube)
        is_cube = cube is not None and cube.inputs == (x,)
        if (base != x and not is_cube) or any(divides for divides, _ in [*outer, *inner]) or len([*outer, *inner]) > 2:
            return None
        found[is_cube] = 2 * math.prod(float(value) for _, value in [*outer, *inner])  # exact: 48 bits
    linear, cubic = found.get(False, 0.0), found.get(True, -1.0)
    if not (linear > 0 and cubic >= 0):
        return None
    return scaled(call, call.builder.emit(c.Swish((x,), linear, cubic)), np.float32(2))


def _clipped(call: Call, node: int) -> int | None:
    """x, where the node is -relu(6 - relu(x + 3)): 6 less than x + 3 clipped to [0, 6]."""
    for kind, constant in ((c.Scale, -1), (c.Relu, None), (c.Shift, 6), (c.Scale, -1), (c.Relu, None), (c.Shift, 3)):
        found = _node(call, node, kind)
        if found is None or (isinstance(found, c.WithConstant) and not (found.constant == constant).all()):
            return None
        node = found.inputs[0]
    return node


# ---------------------------------------------------------------- constant factors

Factors = list[tuple[bool, np.float32]]  # (whether it divides, the constant), the innermost first


def _node(call: Call, k: int, kind: type[NodeT]) -> NodeT | None:
    node = call.builder.nodes[k]
    return node if isinstance(node, kind) else None


def _stripped(call: Call, node: int) -> tuple[int, Factors]:
    """The node that this one is a constant multiple of, and the factors."""
    factors: Factors = []
    while isinstance(found := call.builder.nodes[node], c.Scale | c.Divide) and found.constant.size == 1:
        factors.append((isinstance(found, c.Divide), np.float32(found.constant.item())))
        node = found.inputs[0]
    return node, factors[::-1]


def _times(call: Call, node: int, factors: Factors) -> int:
    for divides, value in factors:
        node = divided(call, node, value) if divides else scaled(call, node, value)
    return node


def scaled(call: Call, node: int, factor: np.float32) -> int:
    """`node` times a constant, together with the constant that it is a multiple of where their product is a float32."""
    found = call.builder.nodes[node]
    if isinstance(found, c.Scale) and found.constant.size == 1:
        both = float(found.constant.item()) * float(factor)  # exact: 48 bits
        if np.float32(both) == both:
            node, factor = found.inputs[0], np.float32(both)
    return node if factor == 1 else call.builder.emit(c.Scale((node,), _constant(call, node, factor)))


def divided(call: Call, node: int, divisor: np.float32) -> int:
    return node if divisor == 1 else call.builder.emit(c.Divide((node,), _constant(call, node, divisor)))


def _constant(call: Call, node: int, value: np.float32) -> c.Float32Array:
    return np.full((1,) * len(call.builder.shapes[node]), value, dtype=np.float32)

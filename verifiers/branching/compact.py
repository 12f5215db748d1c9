"""A network on one ball with nothing but its unstable neurons: small dense matrices, bounded fast over and over.

Where the sign of a ReLU's input is known it is linear, and so is whatever lies between two unstable neurons. What is
left are *neurons*: unstable cells of ReLUs, and all cells of other nonlinearities, whose two lines are those of the
ball. Every neuron reads *rows*, affine functions of the input and of neurons before it: a ReLU one, its input; another
two, its upper line and its lower line.

An upper bound is linear in the relaxed values that attain it, so its gradient comes from one pass forward at the point
of the ball that the backward pass ends in.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verifiers.crown.backward import IntermediateBounds
from verifiers.crown.frontier import Frontier
from verifiers.linear_forms.forms import DenseForms, LinearForms, consecutive_forms
from verifiers.linear_forms.relaxation import LinearRelaxation
from verifiers.perturbation import BoxedBalls

CHUNK = 2**21  # coefficients of the widest layer that travel together when matrices are made


@dataclass(frozen=True, eq=False)
class Stage:
    """One nonlinear node: its neurons [first, last), the rows that they read [row, end), and `below` (end - row,
    first): these rows' coefficients of the neurons before. sloped: a ReLU, with one row per neuron, leaking `leak`."""

    first: int
    last: int
    row: int
    end: int
    below: Tensor
    sloped: bool
    leak: float = 0.0


@dataclass(frozen=True, eq=False)
class Lines:
    """Of m neurons on B parts, (B, m) each: slope and intercept above, slope below; free: where that may be chosen."""

    above: Tensor
    intercept: Tensor
    below: Tensor
    free: Tensor

    def choose(self, slopes: Tensor) -> Lines:
        """With these slopes below, where they are free."""
        return dataclasses.replace(self, below=torch.where(self.free, slopes, self.below))

    def repeat(self, times: int) -> Lines:
        """Those of every part so many times over."""
        return Lines(*(getattr(self, f.name).repeat_interleave(times, 0) for f in dataclasses.fields(self)))

    def of_earlier(self, parts: slice, count: int) -> Lines:
        """Those of some parts, of the first `count` neurons."""
        return Lines(*(getattr(self, f.name)[parts, :count] for f in dataclasses.fields(self)))


@dataclass(frozen=True, eq=False)
class Pass:
    """One backward pass. value: (B,) upper bounds. point: (B, D) where they are attained at the input. coefficients:
    (B, m) of every neuron."""

    value: Tensor
    point: Tensor
    coefficients: Tensor


@dataclass(frozen=True, eq=False)
class Compact:
    """columns: (m,) where a neuron stands in a row of the witness, -1 of one without slopes. lower, upper: (m,) bounds
    of its input, 0 of such a one. inputs (R + K, D), constants (R + K,): of rows, and then of logits, which have `top`
    (K, m) of neurons. The ball's D coordinates are in a row."""

    stages: tuple[Stage, ...]
    columns: Tensor
    lower: Tensor
    upper: Tensor
    inputs: Tensor
    constants: Tensor
    top: Tensor
    ball: BoxedBalls

    @property
    def neurons(self) -> int:
        return len(self.columns)

    def by_neuron(self, slopes: Tensor) -> Tensor:
        """(R, m) of slopes (R, n) by columns of the witness; 0 of a neuron without."""
        if not slopes.shape[1]:
            return slopes.new_zeros(len(slopes), self.neurons)
        return slopes[:, self.columns.clamp(min=0)].masked_fill(self.columns < 0, 0)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Of ReLUs whose inputs have these bounds, (B, m) each; slopes below are to be chosen."""
        active, stable = lower >= 0, (lower >= 0) | (upper <= 0)
        width = torch.where(stable, 1.0, upper - lower)
        exact = torch.where(active, 1.0, self.leak)
        above = torch.where(stable, exact, (upper - self.leak * lower) / width)
        intercept = torch.where(stable, 0.0, (self.leak - 1) * lower * upper / width)
        return Lines(above, intercept, exact, ~stable)

    @functools.cached_property
    def leak(self) -> Tensor:
        """(m,) the slope of what is negative: the least slope below, too."""
        leaks = [torch.full_like(self.lower[s.first : s.last], s.leak) for s in self.stages]
        return torch.cat([self.lower[:0], *leaks])

    def backward(self, forms: Tensor, lines: Lines, multipliers: Tensor) -> Pass:
        """Upper bounds of `forms` (B, K) on the logits. multipliers: (B, m), added to the forms on ReLUs' inputs."""
        rows = slice(len(self.constants) - len(self.top), None)
        at_input, value = forms @ self.inputs[rows], forms @ self.constants[rows]
        value, at_input, coefficients = self._down(
            len(self.stages), forms @ self.top, at_input, value, lines, multipliers
        )
        over_ball, point = self._largest(at_input)
        return Pass(value + over_ball, point, coefficients)

    def inner(self, number: int, neurons: Tensor, sign: float, lines: Lines) -> Tensor:
        """(B, N) upper bounds of sign times the inputs of these neurons (N,), numbers within a stage of ReLUs, on B
        parts, with the lines (B, m) of earlier ones."""
        stage, parts = self.stages[number], len(lines.above)
        count, rows = len(neurons), stage.row + neurons
        size = max(1, CHUNK // max(1, count * self.inputs.shape[1]))
        found = [self.inputs.new_zeros(0, count)]
        for first in range(0, parts, size):
            some = lines.of_earlier(slice(first, first + size), stage.first)
            start = (sign * v for v in (stage.below[neurons], self.inputs[rows], self.constants[rows]))
            coefficients, at_input, value = (v.repeat(len(some.above), *(1,) * (v.dim() - 1)) for v in start)
            value, at_input, _ = self._down(number, coefficients, at_input, value, some, None)
            found.append((value + self._reach(at_input)).view(len(some.above), count))
        return torch.cat(found)

    def _down(
        self,
        stages: int,
        coefficients: Tensor,
        at_input: Tensor,
        value: Tensor,
        lines: Lines,
        multipliers: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Forms (R) on the neurons of the first `stages` stages, on the input, and constants, brought down to the
        input: constants (R,), forms (R, D), and coefficients that neurons had. lines: of B parts; R / B consecutive
        forms are about each."""
        kept: list[Tensor] = []
        parts = len(lines.above)
        each = len(value) // max(parts, 1)
        for stage in reversed(self.stages[:stages]):
            own = coefficients[:, stage.first :]
            positive = own.clamp(min=0)
            negative = own - positive
            if stage.sloped:
                at, by_part = slice(stage.first, stage.last), (parts, each, stage.last - stage.first)
                above, below, intercept = (v[:, None, at] for v in (lines.above, lines.below, lines.intercept))
                value = value + (positive.view(by_part) * intercept).sum(2).flatten()
                read = (positive.view(by_part) * above + negative.view(by_part) * below).view(own.shape)
                read = read if multipliers is None else read + multipliers[:, at]
            else:
                read = torch.cat([positive, negative], 1)
            kept.append(own)
            coefficients = torch.addmm(coefficients[:, : stage.first], read, stage.below)
            at_input = torch.addmm(at_input, read, self.inputs[stage.row : stage.end])
            value = value + read @ self.constants[stage.row : stage.end]
        return value, at_input, torch.cat([coefficients, *reversed(kept)], 1)

    def forward(self, found: Pass, lines: Lines) -> tuple[Tensor, Tensor]:
        """(B, K) what one more unit of each logit's coefficient would add to the bound, and (B, m) one of each neuron's
        input's: the relaxed values of both."""
        values = found.coefficients.new_zeros(len(found.value), 0)
        read: list[Tensor] = []
        for stage in self.stages:
            rows, at = slice(stage.row, stage.end), slice(stage.first, stage.last)
            row = torch.addmm(self.constants[rows], found.point, self.inputs[rows].T) + values @ stage.below.T
            raising = found.coefficients[:, at] > 0
            if stage.sloped:
                above, below = lines.above[:, at] * row + lines.intercept[:, at], lines.below[:, at] * row
                read.append(row)
            else:
                above, below = row.chunk(2, 1)
                read.append(torch.zeros_like(above))
            values = torch.cat([values, torch.where(raising, above, below)], 1)
        rows = slice(len(self.constants) - len(self.top), None)
        last = torch.addmm(self.constants[rows], found.point, self.inputs[rows].T) + values @ self.top.T
        return last, torch.cat([*read, values[:, :0]], 1)

    @property
    def exact(self) -> bool:
        """Every nonlinearity is here with its value, not only with its lines."""
        return all(stage.sloped for stage in self.stages)

    def values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(B, m) inputs of the neurons and (B, K) logits at points (B, D) of the ball. Requires: `exact`."""
        fixed = torch.addmm(self.constants, points, self.inputs.T)
        read, values = fixed[:, :0], fixed[:, :0]
        for stage in self.stages:
            row = fixed[:, stage.row : stage.end] + values @ stage.below.T
            read, values = torch.cat([read, row], 1), torch.cat([values, torch.maximum(row, stage.leak * row)], 1)
        return read, fixed[:, len(self.constants) - len(self.top) :] + values @ self.top.T

    def _largest(self, forms: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) upper bounds of forms (B, D) over the ball, and where these are attained."""
        ball, center = self.ball, self.ball.center
        if ball.lp.is_box:
            return self._reach(forms), torch.where(forms > 0, ball.upper, ball.lower)
        with torch.enable_grad():
            sizes = forms.abs().requires_grad_()
            reach = ball.lp.reach(sizes, self._extent(forms), ball.radius.expand(len(forms)))
            (offset,) = torch.autograd.grad(reach.sum(), sizes)  # what each size is multiplied by
        return (forms * center).sum(1) + reach.detach(), center + forms.sign() * offset

    def _reach(self, forms: Tensor) -> Tensor:
        """The bounds of `_largest` alone."""
        ball = self.ball
        if ball.lp.is_box:
            middle, half = (ball.upper + ball.lower) / 2, (ball.upper - ball.lower) / 2
            return forms @ middle[0] + forms.abs() @ half[0]
        reach = ball.lp.reach(forms.abs(), self._extent(forms), ball.radius.expand(len(forms)))
        return forms @ ball.center[0] + reach

    def _extent(self, forms: Tensor) -> Tensor:
        """How far the box extends from the centre in the direction of each coefficient."""
        ball = self.ball
        return torch.where(forms > 0, ball.upper - ball.center, ball.center - ball.lower)

    def inside(self, points: Tensor) -> Tensor:
        """Points (B, D) of the box, drawn into the ball."""
        offsets = points - self.ball.center
        return (
            self.ball.center
            + offsets * (self.ball.radius / self.ball.lp.size(offsets).clamp(min=1e-30)).clamp(max=1)[:, None]
        )


# ---------------------------------------------------------------- how matrices are made


def compact(bounds: IntermediateBounds) -> Compact:
    """The network on the one ball of `bounds`."""
    net, maker = bounds.net, _Maker(bounds)
    for k, layer in enumerate(net.layers):
        if layer.affine:
            continue
        (i,) = net.parents(k)
        lower, upper = (v.flatten() for v in bounds.values[i])
        if k in net.slope_ranges:
            cells = layer.neurons(lower, upper).nonzero().flatten()
            columns = net.slope_ranges[k][0] + cells
            maker.push(k, cells, columns, lower[cells], upper[cells], True, (layer.slope_range or (0.0, 1.0))[0])
        else:
            cells = torch.arange(layer.value(bounds.values[i][0]).numel(), device=net.device)
            zeros = torch.zeros(len(cells), dtype=net.dtype, device=net.device)
            maker.push(k, cells, torch.full_like(cells, -1), zeros, zeros, False, 0.0)
    return maker.made()


class _Maker:
    def __init__(self, bounds: IntermediateBounds) -> None:
        self.bounds, self.net = bounds, bounds.net
        self.relaxations = bounds.relaxations(bounds.slopes)
        self.size = max(1, CHUNK // max(v[0].numel() for v in bounds.values))
        self.stages: list[Stage] = []
        self.kept: dict[int, tuple[int, Tensor]] = {}  # of a node: where its neurons start, and its cells
        self.columns, self.lower, self.upper = list[Tensor](), list[Tensor](), list[Tensor]()
        self.inputs, self.constants = list[Tensor](), list[Tensor]()
        self.first = self.row = 0

    def push(
        self, k: int, cells: Tensor, columns: Tensor, lower: Tensor, upper: Tensor, sloped: bool, leak: float
    ) -> None:
        """The neurons of node k."""
        rows = [self._down(i, forms, constant) for i, forms, constant in self._rows(k, cells, sloped)]
        below = torch.cat([b for b, _, _ in rows]) if rows else self._zeros(0, self.first)
        self.inputs += [x for _, x, _ in rows]
        self.constants += [c for _, _, c in rows]
        last, end = self.first + len(cells), self.row + len(below)
        self.stages.append(Stage(self.first, last, self.row, end, below, sloped, leak))
        self.kept[k] = self.first, cells
        self.columns.append(columns)
        self.lower.append(lower)
        self.upper.append(upper)
        self.first, self.row = last, end

    def made(self) -> Compact:
        last = len(self.net.layers) - 1
        eye = torch.eye(self.net.network.classes, dtype=self.net.dtype, device=self.net.device)
        top, at_input, constant = self._down(last, DenseForms(eye), self._zeros(len(eye)))
        none = self._zeros(0)
        ball = self.bounds.ball
        ends = (v.flatten(1) for v in (ball.lower, ball.upper))
        flat = BoxedBalls(ball.center.flatten(1), ball.radius, ball.norm, *ends)
        return Compact(
            tuple(self.stages), torch.cat([none.long(), *self.columns]), torch.cat([none, *self.lower]),
            torch.cat([none, *self.upper]), torch.cat([*self.inputs, at_input]), torch.cat([*self.constants, constant]),
            top, flat,
        )  # fmt: skip

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=self.net.dtype, device=self.net.device)

    def _rows(self, k: int, cells: Tensor, sloped: bool) -> Iterator[tuple[int, LinearForms, Tensor]]:
        """What the neurons of node k read, as forms on its input i, and constants: a chunk of them at a time."""
        (i,) = self.net.parents(k)
        shape = self.net.network.shapes[i if sloped else k]
        for sign in (1.0,) if sloped else (1.0, -1.0):
            for chunk in cells.split(self.size):
                forms = self._zeros(len(chunk), self.bounds.values[i if sloped else k][0].numel())
                forms[torch.arange(len(chunk)), chunk] = sign
                if sloped:
                    yield i, DenseForms(forms.view(-1, *shape)), self._zeros(len(chunk))
                    continue
                each = consecutive_forms(1, len(chunk), self.net.device)
                below, constant = self.relaxations[k].backward(DenseForms(forms.view(-1, *shape)), each)
                yield i, DenseForms(sign * below.to_dense().coefficients), sign * constant

    def _down(self, k: int, forms: LinearForms, constant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Forms (R) on node k as coefficients (R, m) of the neurons so far, (R, D) of the input, and constants."""
        net, frontier, count = self.net, Frontier({k: forms}), len(constant)
        neurons, at_input = self._zeros(count, self.first), self._zeros(count, self.bounds.ball.center.numel())
        while len(frontier):
            k = frontier.last
            forms = frontier.pop(k)
            if k == 0:
                at_input = forms.to_dense().coefficients.flatten(1)
            elif net.layers[k].affine:
                offset = net.layers[k].offset(forms)
                constant = constant if offset is None else constant + offset
                frontier.add(net.parents(k), net.layers[k].adjoint(forms))
            else:
                (first, cells), dense = self.kept[k], forms.to_dense().coefficients
                neurons[:, first : first + len(cells)] = dense.flatten(1)[:, cells]
                line = self.relaxations[k]
                if k in net.slope_ranges and isinstance(line, LinearRelaxation):
                    linear = (dense * line.upper_slope).flatten(1)
                    linear[:, cells] = 0
                    frontier.add(net.parents(k), (DenseForms(linear.view(dense.shape)),))
        return neurons, at_input, constant

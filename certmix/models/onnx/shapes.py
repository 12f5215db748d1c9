"""ONNX operators that move, cut or join values: views of plain nodes, and plain nodes where cells are added."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from certmix.models.onnx.call import Builder, Call, Parts, Result
from certmix.models.onnx.folding import evaluated, in_onnxruntime, one_line
from certmix.models.onnx.view import Index, Shape, View
from proofs_check import certificate as c

LARGEST_WHOLE = 2**24  # below which every whole number is a float32


def move(call: Call) -> Result:
    """What only moves cells, by what it does to an array of their numbers."""
    view = call.view()
    others = [None if call.value(k) is None else call.constant(k) for k in range(1, len(call.inputs))]
    numbers = evaluated(call.node, [view.index, *others], call.opset, call.label)
    parts = tuple(map(view.at, numbers))
    return vector(call, parts[0]) if len(numbers) == 1 else parts


def vector(call: Call, view: View) -> View:
    """An image as a batch of one vector is a node of its own."""
    shape = (1, view.cells)
    if view.order is None and view.shape == shape != (1, *call.builder.shapes[view.node]):
        return call.builder.view(call.builder.emit(c.Flatten((view.node,))))
    return view


def reshape(call: Call) -> View:
    """To any shape that does not depend on the input."""
    view = call.view()
    target = call.integers(1, "shape")
    if target is None:
        call.fail("its shape is missing")
    if not call.attribute("allowzero", 0):
        target = [view.shape[k] if n == 0 and k < len(view.shape) else n for k, n in enumerate(target)]
    size = math.prod(view.shape)
    if -1 in target:
        target[target.index(-1)] = size // max(math.prod(n for n in target if n != -1), 1)
    if math.prod(target) != size or min(target, default=1) < 0:
        call.fail(f"a value of shape {view.shape} has no shape {tuple(target)}")
    return vector(call, view.reshaped(tuple(target)))


def flatten(call: Call) -> View:
    """To a matrix, at any axis."""
    view = call.view()
    axis = int(call.attribute("axis", 1))
    axis += len(view.shape) if axis < 0 else 0
    shape = (math.prod(view.shape[:axis]), math.prod(view.shape[axis:]))
    return vector(call, view.reshaped(shape))


def squeeze(call: Call) -> View:
    """Without axes: all of length 1, but for a batch axis that may be longer."""
    view = call.view()
    axes = call.integers(1, "axes")
    if axes is None:
        axes = [axis for axis, n in enumerate(view.shape) if n == 1 and not (axis == 0 and call.builder.any_batch)]
    gone = {axis % len(view.shape) for axis in axes}
    if any(view.shape[axis] != 1 for axis in gone):
        call.fail(f"axes {axes} of shape {view.shape} are not all 1")
    return vector(call, view.reshaped(tuple(n for axis, n in enumerate(view.shape) if axis not in gone)))


def slice_(call: Call) -> Result:
    """Forwards, of a batch of vectors or images: a plain slice."""
    view = call.view()
    starts, stops = call.integers(1, "starts"), call.integers(2, "ends")
    if starts is None or stops is None:
        call.fail("its starts or ends are missing")
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    ranges = [(0, n, 1) for n in view.shape]
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        ranges[axis] = slice(start, stop, step).indices(view.shape[axis])
    start, stop, step = (tuple(part) for part in zip(*ranges, strict=True))
    nothing = any(not range(*part) for part in ranges)
    if call.builder.untouched(view) and min(step) > 0 and not nothing:
        if (start[0], stop[0]) != (0, 1):
            call.fail("cuts the batch axis")
        return call.builder.emit(c.Slice((view.node,), start[1:], stop[1:], step[1:]))
    return move(call)


def split_to_sequence(call: Call) -> Parts:
    """Along one axis, as torch's chunk, split and unbind are exported."""
    view = call.view()
    axis = int(call.attribute("axis", 0)) % len(view.shape)
    sizes, length = call.integers(1, "split"), view.shape[axis]
    if axis == 0 and call.builder.any_batch:
        call.fail("splits the batch axis")
    if sizes is None or call.constant(1).ndim == 0:
        step = 1 if sizes is None else sizes[0]
        ends = list(range(step, length, step))
    else:
        ends = list(np.cumsum(sizes[:-1]))
    parts = [view.at(part) for part in np.split(view.index, ends, axis)]
    if sizes is None and not call.attribute("keepdims", 1):
        parts = [part.moved(lambda index: index.squeeze(axis)) for part in parts]
    return Parts(tuple(parts))


def sequence_at(call: Call) -> View:
    """One value of a sequence."""
    given, place = call.value(0), int(call.constant(1))
    if not isinstance(given, Parts) or not -len(given.views) <= place < len(given.views):
        call.fail(f"has no value {place}")
    return given.views[place]


def concat(call: Call) -> View:
    """Cells of node after node, then those of constants, moved to where they belong. What surrounds a value with copies
    of its own cells, as circular padding does, is one move. What has no cells, as of torch's roll by 0, is left out."""
    builder, axis = call.builder, int(call.attribute("axis", 1))
    inputs = tuple(v for v in call.inputs if not isinstance(v, View | np.ndarray) or 0 not in v.shape)
    if not any(isinstance(v, View) for v in inputs):
        call.fail("joins values without cells")
    call = dataclasses.replace(call, inputs=inputs)
    if all(isinstance(v, View) for v in call.inputs) and len(call.inputs) > 1:
        roots = [_root(builder, call.view(k)) for k in range(len(call.inputs))]
        if len({root.node for root in roots}) == 1:
            index = _together(call, [root.index for root in roots], axis)
            if len(np.unique(index)) < index.size:
                return roots[0].at(index)
    values = [builder.whole(v) if isinstance(v, View) else call.weight(k) for k, v in enumerate(call.inputs)]
    views = [value for value in values if isinstance(value, View)]
    constants = [value.ravel() for value in values if not isinstance(value, View)]
    nodes = [view.node for view in views]
    if constants or len({builder.shapes[node][1:] for node in nodes}) > 1:
        nodes = [builder.vector(node) for node in nodes]
    joined = builder.emit(c.Concat(tuple(nodes))) if len(nodes) > 1 else nodes[0]
    if constants:
        shift = np.concatenate([np.zeros(builder.shapes[joined], dtype=np.float32), *constants])
        joined = builder.emit(c.Pad((joined,), (0,), (sum(map(len, constants)),), 0.0))
        joined = builder.emit(c.Shift((joined,), shift))
    places = [v.index if isinstance(v, View) else np.arange(v.size).reshape(v.shape) for v in values]
    ends = {True: 0, False: sum(view.cells for view in views)}  # of the cells met so far: views', constants'
    for k, value in enumerate(values):
        places[k] = places[k] + ends[isinstance(value, View)]
        ends[isinstance(value, View)] += value.cells if isinstance(value, View) else value.size
    return builder.view(joined).at(_together(call, places, axis))


def _together(call: Call, places: list[Index], axis: int) -> Index:
    try:
        return np.concatenate(places, axis=axis)
    except ValueError as error:
        call.fail(one_line(error))


def _root(builder: Builder, view: View) -> View:
    """The same cells as those of the node that slices and moves lead back to."""
    while isinstance(node := builder.nodes[view.node], c.Slice | c.Flatten | c.Gather):
        below = builder.view(node.inputs[0])
        cells = np.arange(below.cells).reshape(builder.shapes[below.node])
        if isinstance(node, c.Gather):
            cells = node.index
        elif isinstance(node, c.Slice):
            cells = cells[tuple(map(slice, node.start, node.stop, node.step))]
        view = below.at(cells.ravel().astype(np.int64)[view.index])
    return view


def pad(call: Call) -> Result:
    """Constant padding, negative amounts crop; other modes repeat cells."""
    view = call.view()
    rank = len(view.shape)
    amounts = call.integers(1, "pads")
    if amounts is None:
        call.fail("its pads are missing")
    if call.attribute("mode", "constant") != "constant":
        return move(call)
    axes = [axis % rank for axis in call.integers(3, "axes") or range(rank)]
    sides = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        sides[axis] = (amounts[k], amounts[k + len(axes)])
    value = call.attribute("value", 0.0) if call.value(2) is None else call.constant(2).item()
    view = call.builder.whole(view)
    order = _axes(view, call.builder.shapes[view.node])
    if order is None or any(sides[0]):
        return _framed(call, view, sides, float(value))
    before, after = ([sides[1 + order.index(axis)][k] for axis in range(rank - 1)] for k in (0, 1))
    node = crop_or_pad(call, view.node, before, after, float(value))
    return call.builder.view(node).moved(lambda index: index.transpose(0, *(1 + axis for axis in order)))


def _axes(view: View, plain: Shape) -> tuple[int, ...] | None:
    """Of each axis after the batch axis, the axis of the node's value that it is; None where the view is more than
    those axes in some order."""
    for order in itertools.permutations(range(len(plain))):
        cells = np.arange(view.cells).reshape(plain).transpose(order)[None]
        if cells.shape == view.shape and (cells == view.index).all():
            return order
    return None


def _framed(call: Call, view: View, sides: list[tuple[int, int]], value: float) -> View:
    """Padded with copies of one more cell."""
    builder = call.builder
    cropped = view.index[tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(sides, view.shape, strict=True))]
    if not cropped.size:
        call.fail(f"leaves nothing of a value of shape {view.shape}")
    node = builder.emit(c.Pad((builder.vector(view.node),), (0,), (1,), value))
    grown = np.pad(cropped, [(max(a, 0), max(b, 0)) for a, b in sides], constant_values=view.cells)
    return builder.view(node).at(grown)


def crop_or_pad(call: Call, data: int, before: list[int], after: list[int], value: float) -> int:
    """A node's value surrounded by that many cells on each axis; where they are negative, so many fewer."""
    shape, emit = call.builder.shapes[data], call.builder.emit
    grow = tuple(max(n, 0) for n in before), tuple(max(n, 0) for n in after)
    start, end = tuple(max(-n, 0) for n in before), tuple(max(-n, 0) for n in after)
    if any(s + e >= size for s, e, size in zip(start, end, shape, strict=True)) and max(before + after) > 0:
        # nothing is left to surround: surrounded first
        data = emit(c.Pad((data,), *grow, value))
        stop = tuple(size - e for size, e in zip(call.builder.shapes[data], end, strict=True))
        return emit(c.Slice((data,), start, stop, (1,) * len(shape)))
    if min(before + after) < 0:
        stop = tuple(size - e for size, e in zip(shape, end, strict=True))
        data = emit(c.Slice((data,), start, stop, (1,) * len(shape)))
    return data if max(before + after) <= 0 else emit(c.Pad((data,), *grow, value))


def zeros_between(call: Call, data: int, stride: tuple[int, int]) -> int:
    """An image whose cells stand that far apart, zeros between them."""
    builder, (channels, height, width) = call.builder, call.builder.shapes[data]
    with_zero = builder.emit(c.Pad((builder.vector(data),), (0,), (1,), 0.0))
    cells = channels * height * width
    index = np.full((channels, (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1), cells, dtype=np.int32)
    index[:, :: stride[0], :: stride[1]] = np.arange(cells).reshape(channels, height, width)
    return builder.emit(c.Gather((with_zero,), index))


def resize(call: Call) -> View:
    """To the nearest cell, which onnxruntime is asked for: runtimes differ where two are as near."""
    mode, view = call.attribute("mode", "nearest"), call.view()
    if mode != "nearest":
        call.fail(f"interpolates ({mode}): only nearest moves cells alone; export it with mode='nearest'")
    if view.cells > LARGEST_WHOLE:
        call.fail(f"moves more than {LARGEST_WHOLE} cells")
    others = [None if call.value(k) is None else call.constant(k) for k in range(1, len(call.inputs))]
    numbers = in_onnxruntime(call.node, [view.index.astype(np.float32), *others], call.opset, call.label)
    cells = numbers.astype(np.int64)
    if cells.size == 0 or cells.min() < 0:
        call.fail(f"leaves nothing of a value of shape {view.shape}")
    return view.at(cells)


def shape(call: Call) -> np.ndarray:
    """A constant: shapes are known."""
    full = np.array(call.view().shape, dtype=np.int64)
    return full[slice(call.attribute("start", 0), call.attribute("end", None))]


def size(call: Call) -> np.ndarray:
    """A constant: shapes are known."""
    return np.array(math.prod(call.view().shape), dtype=np.int64)


def identity(call: Call) -> View:
    """The value itself."""
    return call.view()


def dropout(call: Call) -> View:
    """Left out."""
    if call.value(2) is not None and call.constant(2).any():
        call.fail("is in training mode: export the model in evaluation mode")
    return call.view()


def cast(call: Call) -> View:
    """To float32 only."""
    if call.attribute("to", 0) != 1:
        call.fail("casts to another type than float32: export the model in float32 throughout")
    return call.view()


def cast_like(call: Call) -> View | np.ndarray:
    """To float32 only, which values are."""
    if isinstance(call.value(0), np.ndarray):
        return call.constant(0).astype(np.float32)
    if isinstance(like := call.value(1), np.ndarray) and like.dtype != np.float32:
        call.fail(f"casts to {like.dtype}: export the model in float32 throughout")
    return call.view()

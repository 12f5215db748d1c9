"""ONNX sums of products over axes, as Einsum writes them: of a value with a constant, one convolution by 1 x 1; of two
values, their products and sums of these.

Every axis has a letter. Of those of a value and a constant: shared ones that stay are groups of the convolution, shared
ones that are summed over are channels before it, the constant's own are channels after it, and the value's own are
places of the image.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

import numpy as np

from certmix.models.onnx.call import Call
from certmix.models.onnx.curves import multiplied
from certmix.models.onnx.folding import one_line
from certmix.models.onnx.view import View
from certmix.models.onnx.windows import sum_of_channels
from proofs_check import certificate as c

MAX_PRODUCTS = 2**16  # of pairs of numbers that both depend on the input


def einsum(call: Call) -> View:
    """Of one or two values, or of a value and a constant."""
    shapes = [value.shape if isinstance(value, View | np.ndarray) else () for value in call.inputs]
    terms, output = _letters(call, call.attribute("equation", ""), [len(shape) for shape in shapes])
    views = [k for k, value in enumerate(call.inputs) if isinstance(value, View)]
    if not 1 <= len(terms) <= 2:
        call.fail(f"has {len(terms)} inputs: write it as several with two each")
    if len(views) == 2:
        return of_two(call, [call.view(0), call.view(1)], terms, output)
    (k,) = views
    constant, over = np.ones((), dtype=np.float32), ""
    if len(terms) == 2:
        constant, over = call.weight(1 - k), terms[1 - k]
    return contracted(call, call.view(k), terms[k], constant, over, output)


def of_two(call: Call, views: Sequence[View], terms: Sequence[str], output: str) -> View:
    """Sums over all letters that `output` lacks, of products of two values: the summands as channels."""
    own = [_diagonal(call, view, term) for view, term in zip(views, terms, strict=True)]
    sizes: dict[str, int] = {}
    for view, term in own:
        for letter, n in zip(term, view.shape, strict=True):
            if sizes.setdefault(letter, n) != n:
                call.fail(f"needs axes of one length, {sizes[letter]} and {n} are both {letter!r}")
    letters = [*(letter for letter in sizes if letter not in output), *output]
    channels = _size(sizes, letters[: len(letters) - len(output)])
    whole = tuple(sizes[letter] for letter in letters)
    if math.prod(whole) > MAX_PRODUCTS:
        call.fail(
            f"multiplies {math.prod(whole)} pairs of numbers, more than {MAX_PRODUCTS}: take fewer tokens or heads"
        )
    shape, nodes = (channels, math.prod(whole) // channels, 1), list[int]()
    for view, term in own:
        order = [term.index(letter) for letter in letters if letter in term]
        long = [sizes[letter] if letter in term else 1 for letter in letters]
        spread = view.moved(lambda index, o=order, n=long: np.broadcast_to(index.transpose(o).reshape(n), whole))
        nodes.append(call.builder.plain(spread, shape))
    summed = sum_of_channels(call, multiplied(call, *nodes)) if channels > 1 else multiplied(call, *nodes)
    return call.builder.view(summed, tuple(sizes[letter] for letter in output))


def contracted(call: Call, view: View, term: str, constant: np.ndarray, over: str, output: str) -> View:
    """Sums over all letters that `output` lacks, of the view's axes `term` times the constant's axes `over`."""
    view, term = _diagonal(call, view, term)
    if len(set(over)) < len(over):
        call.fail(f"takes a diagonal {over!r} of its constant: store the diagonal")
    sizes = dict(zip(term, view.shape, strict=True))
    for letter, n in zip(over, constant.shape, strict=True):
        if sizes.setdefault(letter, n) != n:
            call.fail(f"needs axes of one length, {sizes[letter]} and {n} are both {letter!r}")
    if set(over) - set(term) - set(output):
        call.fail(f"sums its constant over {sorted(set(over) - set(term) - set(output))}: work the sum out beforehand")
    groups = [letter for letter in over if letter in term and letter in output]
    before = [letter for letter in term if letter not in output]
    after = [letter for letter in over if letter not in term]
    places = [letter for letter in term if letter in output and letter not in over]
    missing = [letter for letter in before if letter not in over]  # summed over: the constant is the same along them
    kept = constant.reshape((*constant.shape, *(1 for _ in missing)))
    axes = [*over, *missing]
    kept = kept.transpose([axes.index(letter) for letter in (*groups, *after, *before)])
    kept = np.broadcast_to(kept, [sizes[letter] for letter in (*groups, *after, *before)])
    parts, rows, columns, cells = (_size(sizes, letters) for letters in (groups, after, before, places))
    order = [term.index(letter) for letter in (*groups, *before, *places)]
    image = call.builder.plain(view.moved(lambda index: index.transpose(order)), (parts * columns, cells, 1))
    weight = np.ascontiguousarray(kept.reshape(parts * rows, columns, 1, 1))
    bias = np.zeros(len(weight), dtype=np.float32)
    node = call.builder.emit(c.Conv2d((image,), weight, bias, (1, 1), (0, 0, 0, 0), (1, 1), parts))
    found = [*groups, *after, *places]
    result = call.builder.view(node, tuple(sizes[letter] for letter in found))
    return result.moved(lambda index: index.transpose([found.index(letter) for letter in output]))


def _size(sizes: Mapping[str, int], letters: list[str]) -> int:
    return math.prod(sizes[letter] for letter in letters)


def _diagonal(call: Call, view: View, term: str) -> tuple[View, str]:
    """Every letter once."""
    once = "".join(dict.fromkeys(term))
    try:
        return (view, term) if once == term else (view.moved(lambda index: np.einsum(f"{term}->{once}", index)), once)
    except ValueError as error:
        call.fail(one_line(error))


def _letters(call: Call, equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Letters of every input's axes, and of the output's; an ellipsis becomes letters that the equation lacks."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        call.fail(f"has the equation {equation!r}, which is of {len(terms)} inputs, not of {len(ranks)}")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term]
    if len(set(hidden)) > 1 or min(hidden, default=0) < 0:
        call.fail(f"has the equation {equation!r}, whose ellipses stand for different numbers of axes")
    dots = "".join(free[: max(hidden, default=0)])
    terms = [term.replace("...", dots) for term in terms]
    if not arrow:
        letters = "".join(terms)
        right = "..." + "".join(sorted(x for x in set(letters) - set(dots) if letters.count(x) == 1))
    output = right.replace("...", dots)
    fits = all(len(term) == rank for term, rank in zip(terms, ranks, strict=True))
    if not fits or len(set(output)) < len(output) or set(output) - set("".join(terms)):
        call.fail(f"has the equation {equation!r}, which does not fit inputs of {ranks} axes")
    return terms, output


def matrices(call: Call) -> View:
    """The product of stacks of matrices, or of vectors; one of them may be constant."""
    values = [value if isinstance(value, View) else call.weight(k) for k, value in enumerate(call.inputs)]
    shapes = [value.shape for value in values]
    if min(map(len, shapes)) == 0 or shapes[0][-1] != shapes[1][-2:][0]:
        call.fail(f"has no product of shapes {shapes[0]} and {shapes[1]}")
    try:
        stack = np.broadcast_shapes(*(shape[:-2] for shape in shapes))
    except ValueError as error:
        call.fail(one_line(error))
    letters = string.ascii_lowercase[: len(stack)]
    rows, columns = "Y" if len(shapes[0]) > 1 else "", "Z" if len(shapes[1]) > 1 else ""
    own = [rows + "K", "K" + columns]
    views = {k: v.broadcast((*stack, *v.shape[-2:])) for k, v in enumerate(values) if isinstance(v, View)}
    if len(views) == 2:
        return of_two(call, [views[0], views[1]], [letters + term for term in own], letters + rows + columns)
    ((k, view),) = views.items()
    constant = call.weight(1 - k)
    long = [n > 1 for n in constant.shape[:-2]]  # along the other axes of its stack the constant is the same
    over = "".join(x for x, kept in zip(letters[len(stack) - len(long) :], long, strict=True) if kept)
    constant = constant.reshape(*(n for n in constant.shape[:-2] if n > 1), *constant.shape[-2:])
    return contracted(call, view, letters + own[k], constant, over + own[1 - k], letters + rows + columns)

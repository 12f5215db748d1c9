"""Shapes that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from proofs_check import certificate as c
from proofs_check.reading import shapes

F32 = np.float32


def index(*shape: int, start: int = 0) -> c.Int32Array:
    return (start + np.arange(np.prod(shape), dtype=np.int32)).reshape(shape)


def test_a_constant_with_more_axes_than_its_input_does_not_fit():
    node = c.Shift((0,), np.ones((1, 3), dtype=F32))
    with pytest.raises(c.MalformedError, match="does not fit"):
        shapes.output_shape(node, [(3,)], "here")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3), (1, 2, 3, 1), (2,) * 8])
def test_an_input_may_have_up_to_eight_axes(shape: tuple[int, ...]):
    assert shapes.output_shape(c.Input(shape), [], "here") == shape


@pytest.mark.parametrize("shape", [(1,) * 9, (0,), (2, 0, 3), (2, -1)])
def test_other_inputs_are_malformed(shape: tuple[int, ...]):
    with pytest.raises(c.MalformedError, match="at most 8 axes"):
        shapes.output_shape(c.Input(shape), [], "here")


@pytest.mark.parametrize(
    "node", [c.Relu((0,)), c.Shift((0,), np.ones((2, 3), F32)), c.Slice((0,), (0, 0), (1, 1), (1, 1)), c.Concat((0, 0))]
)
def test_what_is_no_vector_and_no_image_is_only_flattened_or_gathered(node: c.Node):
    with pytest.raises(c.MalformedError, match="must be flattened"):
        shapes.output_shape(node, [(2, 3)] * len(node.inputs), "here")  # type: ignore[union-attr]
    assert shapes.output_shape(c.Flatten((0,)), [(2, 3)], "here") == (6,)
    assert shapes.output_shape(c.Gather((0,), index(1, 3, 2)), [(2, 3)], "here") == (1, 3, 2)


@pytest.mark.parametrize("after", [(), (2, 3), (1, 2, 3, 1)])
def test_a_gather_gives_a_vector_or_an_image(after: tuple[int, ...]):
    with pytest.raises(c.MalformedError, match="no vector and no image"):
        shapes.output_shape(c.Gather((0,), index(*after)), [(2, 3)], "here")


@pytest.mark.parametrize("start", [-1, 1])
def test_a_gather_of_what_is_not_there_is_malformed(start: int):
    assert shapes.output_shape(c.Gather((0,), index(6)), [(2, 3)], "here") == (6,)
    with pytest.raises(c.MalformedError, match="below the 6 cells"):
        shapes.output_shape(c.Gather((0,), index(6, start=start)), [(2, 3)], "here")

"""Shapes that do not fit."""

from __future__ import annotations

import dataclasses

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


def conv(weight: tuple[int, ...], padding: tuple[int, int, int, int] = (0, 0, 0, 0), groups: int = 1) -> c.Conv2d:
    return c.Conv2d((0,), np.ones(weight, F32), np.ones(weight[0], F32), (1, 1), padding, (1, 1), groups)


def pool(kernel: tuple[int, int], padding: tuple[int, int, int, int] = (0, 0, 0, 0), stride: int = 1) -> c.MaxPool2d:
    return c.MaxPool2d((0,), kernel, (stride, stride), padding)


def linear(weight: tuple[int, ...], bias: tuple[int, ...]) -> c.Linear:
    return c.Linear((0,), np.ones(weight, F32), np.ones(bias, F32))


def batch_norm(variance: list[float], epsilon: float) -> c.BatchNorm:
    return c.BatchNorm((0,), *[np.ones(3, F32)] * 3, np.array(variance, F32), epsilon)


MISFITS: dict[str, tuple[c.Node, tuple[int, ...], str]] = {
    "a linear map of an image": (linear((5, 3, 1, 1), (5,)), (3, 1, 1), "do not fit a vector"),
    "a linear map with a bias of two axes": (linear((2, 1, 3), (2, 1)), (3,), "do not fit a vector"),
    "a linear map of one axis": (linear((2,), (2,)), (3,), "do not fit a vector"),
    "a linear map of another length": (linear((2, 4), (2,)), (3,), "do not fit a vector"),
    "a kernel of three axes": (conv((2, 3, 3)), (2, 5, 5), "4-axis weight"),
    "a convolution of a vector": (conv((2, 5, 1, 1)), (5,), "4-axis weight"),
    "no groups": (conv((2, 1, 1, 1), groups=0), (2, 5, 5), "groups 0"),
    "groups that do not divide": (conv((3, 1, 1, 1), groups=2), (2, 5, 5), "groups 2"),
    "another number of channels": (conv((2, 3, 1, 1)), (2, 5, 5), "does not fit"),
    "a padding that takes away at the start": (conv((2, 2, 1, 1), (-1, 0, 1, 0)), (2, 5, 5), "padding must be"),
    "a padding that takes away at the end": (conv((2, 2, 1, 1), (0, 1, 0, -1)), (2, 5, 5), "padding must be"),
    "a bias of another length": (dataclasses.replace(conv((2, 2, 1, 1)), bias=np.ones(3, F32)), (2, 5, 5), "bias"),
    "a stride of 0": (pool((1, 1), stride=0), (2, 5, 5), "must be >= 1"),
    "a window larger than the image": (pool((6, 1)), (2, 5, 5), "larger than the padded input"),
    "a window below the image": (pool((2, 3), (0, 0, 2, 0)), (2, 5, 5), "smaller than the kernel"),
    "a window beside the image": (pool((3, 2), (0, 2, 0, 0)), (2, 5, 5), "smaller than the kernel"),
    "a pool of a vector": (pool((1, 1)), (5,), "3-axis input"),
    "a pad of two axes": (c.Pad((0,), (1, 0), (0, 0), 0.0), (2, 5, 5), "one pad per axis"),
    "a pad that takes away": (c.Pad((0,), (-1, 0, 0), (1, 0, 0), 0.0), (2, 5, 5), "pads must be"),
    "a slice that ends beyond the image": (c.Slice((0,), (0, 0, 0), (2, 5, 6), (1, 1, 1)), (2, 5, 5), "does not fit"),
    "a slice of nothing": (c.Slice((0,), (0, 2, 0), (2, 2, 5), (1, 1, 1)), (2, 5, 5), "does not fit"),
    "a slice with a step of 0": (c.Slice((0,), (0, 0, 0), (2, 5, 5), (1, 0, 1)), (2, 5, 5), "does not fit"),
    "a constant of another width": (c.Scale((0,), np.ones((2, 5, 4), F32)), (2, 5, 5), "does not fit"),
    "a division by zero": (c.Divide((0,), np.float32([1, 0, 1])), (3,), "division by zero"),
    "a factor without another": (c.Product((0,)), (3, 5, 5), "two factors"),
    "parameters of another length": (
        dataclasses.replace(batch_norm([1, 1, 1], 1e-5), mean=np.ones(2, F32)),
        (3,),
        "shape",
    ),
    "a negative variance": (batch_norm([-1, 1, 1], 1e-5), (3,), "variance"),
    "an infinite epsilon": (batch_norm([1, 1, 1], np.inf), (3,), "epsilon"),
    "a slope below 0": (c.LeakyRelu((0,), -1e-9), (3,), "slope must lie"),
    "a slope above 1": (c.LeakyRelu((0,), 1 + 1e-9), (3,), "slope must lie"),
    "a slope that is no number": (c.LeakyRelu((0,), np.nan), (3,), "slope must lie"),
}


@pytest.mark.parametrize("op", sorted(MISFITS))
def test_a_node_that_does_not_fit_its_input_is_malformed(op: str):
    node, shape, reason = MISFITS[op]
    with pytest.raises(c.MalformedError, match=reason):
        shapes.output_shape(node, [shape], "here")


def test_only_values_of_one_shape_are_added_and_images_of_one_size_are_put_together():
    with pytest.raises(c.MalformedError, match="shapes differ beyond axis 0"):
        shapes.output_shape(c.Concat((0, 1)), [(2, 5, 5), (2, 5, 1)], "here")
    with pytest.raises(c.MalformedError, match="shapes differ"):
        shapes.output_shape(c.Add((0, 1)), [(2, 5, 5), (2, 5, 1)], "here")


def test_of_nothing_nothing_is_put_together():
    with pytest.raises(c.MalformedError, match="needs an input"):
        shapes.output_shape(c.Concat(()), [], "here")


def test_windows_may_be_so_large_and_no_larger():
    """2^26 padded cells, 2^27 cells of all windows, a stride of 16 beyond the length: nothing is made of that size."""
    side = 2**13
    assert shapes.output_shape(pool((side, side), (side - 1, side - 1, 0, 0)), [(1, 1, 1)], "here") == (1, 1, 1)
    assert shapes.output_shape(pool((128, 128)), [(1, 255, 191)], "here") == (1, 128, 64)
    assert shapes.output_shape(pool((1, 1), stride=19), [(1, 3, 3)], "here") == (1, 1, 1)
    for node, shape, reason in (
        (pool((side + 1, side), (side, side - 1, 0, 0)), (1, 1, 1), "is too large"),
        (pool((128, 128)), (1, 255, 192), "more than 134217728"),
        (pool((1, 1), stride=20), (1, 3, 3), "stride or dilation 20"),
    ):
        with pytest.raises(c.MalformedError, match=reason):
            shapes.output_shape(node, [shape], "here")


FIELDS: list[tuple[c.Node, str | None]] = [  # what is wrong with it
    (c.Gelu((0,), 1e-6), None),
    (c.Gelu((0,), 1e6), None),
    (c.Gelu((0,), 0.9e-6), "divisor"),
    (c.Gelu((0,), 1.1e6), "divisor"),
    (c.Gelu((0,), np.nan), "divisor"),
    (c.Swish((0,), 1e-6, 0.0), None),
    (c.Swish((0,), 1e6, 1e6), None),
    (c.Swish((0,), 0.9e-6, 0.0), "linear"),
    (c.Swish((0,), 1.1e6, 0.0), "linear"),
    (c.Swish((0,), 1.0, -1e-9), "cubic"),
    (c.Swish((0,), 1.0, 1.1e6), "cubic"),
    (c.Swish((0,), 1.0, np.nan), "cubic"),
    (c.Elu((0,), 0.0), None),
    (c.Elu((0,), 1e6), None),
    (c.Elu((0,), -1e-9), "alpha"),
    (c.Elu((0,), 1.1e6), "alpha"),
    (c.InversePower((0,), 1e-6), None),
    (c.InversePower((0,), 1e6), None),
    (c.InversePower((0,), 0.9e-6), "exponent"),
    (c.InversePower((0,), 1.1e6), "exponent"),
    (c.Pad((0,), (0,), (0, 0, 0), 0.0), "one pad per axis"),
]


@pytest.mark.parametrize(("node", "reason"), FIELDS)
def test_a_field_lies_within_its_limits(node: c.Node, reason: str | None):
    if reason is None:
        assert shapes.output_shape(node, [(2, 5, 5)], "here")
        return
    with pytest.raises(c.MalformedError, match=reason):
        shapes.output_shape(node, [(2, 5, 5)], "here")

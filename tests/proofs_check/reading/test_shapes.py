"""Shapes that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from proofs_check import certificate as c
from proofs_check.reading import shapes

F32 = np.float32


def test_a_constant_with_more_axes_than_its_input_does_not_fit():
    node = c.Shift((0,), np.ones((1, 3), dtype=F32))
    with pytest.raises(c.MalformedError, match="does not fit"):
        shapes.output_shape(node, [(3,)], "here")

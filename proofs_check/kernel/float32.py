"""How far a float32 evaluation of the plain network can be from its real value, over a ball.

Covered: every input is a float32 in the ball; every operation is IEEE float32, round to nearest (subnormal
results kept or flushed to zero), sums in any order, fused multiply-add or not, or in a wider format. Convolutions
sum products (no Winograd, no FFT). BatchNorm by (x - mean) / sqrt(variance + eps) * scale + shift in any
association of its factors, also as a x + b with a, b computed in float32; not folded into another layer. Divide
as quotient or as product with the rounded reciprocal. Sigmoid and tanh are not covered: libraries differ.

Precondition: proven bounds of every node's value. Postcondition: `logit_error` is at least |float32 logit - logit|.
Charged per node: by the layer (`float32_error`), the error of its inputs carried on and what it rounds itself; here, a
subnormal logit that a last ReLU flushes. What could overflow is rejected.
"""

from __future__ import annotations

import numpy as np

from proofs_check.kernel.bounds import Values, inputs_of
from proofs_check.kernel.rounding import UNDERFLOW_ERROR, Array, need_bounded, up


def logit_error(values: Values) -> Array:
    """(K,) >= |float32 logits - real logits| for every float32 input in the ball and any order of summation."""
    errors: list[Array] = []
    with np.errstate(all="ignore"):
        for node, layer in zip(values.prepared.network.nodes, values.prepared.layers, strict=True):
            inputs = inputs_of(node)
            errors.append(layer.float32_error([values.magnitude(i) for i in inputs], [errors[i] for i in inputs]))
    need_bounded(errors[-1], "float32")
    return up(errors[-1] + UNDERFLOW_ERROR).ravel()  # of a last ReLU a subnormal result may be flushed

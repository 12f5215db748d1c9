"""Forms on affine nodes and on the input, lines around products and maxima: docs/maths.md 9a; frequencies: 11."""

from __future__ import annotations

from typing import Any

from proofs_check.theorems.theorem import Theorem, reals, z3

x, x1, x2, b1, b2, c1, c2, w11, w12, w21, w22 = reals("x x1 x2 b1 b2 c1 c2 w11 w12 w21 w22")
y, root, scale, mean, gain, shift, constant, reciprocal = reals("y root scale mean gain shift constant reciprocal")
c, d, size, center, radius, share, extent, d1, d2, r, s = reals("c d size center radius share extent d1 d2 r s")
p, q, low_x, high_x, low_y, high_y, lift = reals("p q low_x high_x low_y high_y lift")
x_before, x_after, y_before, y_after = reals("x_before x_after y_before y_after")
v1, v2, u1, u2, low, high = reals("v1 v2 u1 u2 low high")
square, of_x, of_w, cross, both, own, across, sizes_of_x, of_ones, e, a, k = reals(
    "square of_x of_w cross both own across sizes_of_x of_ones e a k"
)


def absolute(value: Any) -> Any:
    return z3.If(value > 0, value, -value)


def largest(first: Any, second: Any) -> Any:
    return z3.If(first > second, first, second)


gaps = {
    "x - p >= its least": x - p >= low_x,
    "x - p <= its most": x - p <= high_x,
    "y - q >= its least": y - q >= low_y,
    "y - q <= its most": y - q <= high_y,
}


def corners(sign: int) -> dict[str, Any]:
    ends = {"least": (low_x, low_y), "most": (high_x, high_y)}
    return {
        f"corner of {i} and {j}": lift >= sign * (ends[i][0] * ends[j][1] - p * q) for i in ends for j in ends
    }  # fmt: skip


middles = (y_before + y_after) / 2, (x_before + x_after) / 2

THEOREMS = (
    Theorem(
        "form on an affine node",
        {},
        c1 * (w11 * x1 + w12 * x2 + b1) + c2 * (w21 * x1 + w22 * x2 + b2)
        == (c1 * w11 + c2 * w21) * x1 + (c1 * w12 + c2 * w22) * x2 + c1 * b1 + c2 * b2,
    ),
    Theorem(
        "batch norm is affine",
        {"value": (y - shift) * root == scale * (x - mean), "root > 0": root > 0, "gain": gain * root == scale},
        y == gain * x + (shift - mean * gain),
    ),
    Theorem(
        "quotient is affine",
        {"value": y * constant == x, "reciprocal": reciprocal * constant == 1},
        y == reciprocal * x,
    ),
    Theorem(
        "form over a box",
        {
            "lower end": x - center >= -radius,
            "upper end": x - center <= radius,
            "size >= c": size >= c,
            "size >= -c": size >= -c,
        },
        c * x <= c * center + size * radius,
    ),
    Theorem(
        "form over a ball and a box",
        {
            "share >= 0": share >= 0,
            "share <= |c|": share <= absolute(c),
            "the box extends no further": z3.If(c > 0, d, -d) <= extent,
        },
        c * d <= share * absolute(d) + (absolute(c) - share) * extent,
    ),
    Theorem(
        "dual of l2",
        {
            "ball": d1 * d1 + d2 * d2 <= r * r,
            "r >= 0": r >= 0,
            "norm of the coefficients": c1 * c1 + c2 * c2 <= s * s,
            "s >= 0": s >= 0,
        },
        c1 * d1 + c2 * d2 <= r * s,
    ),
    Theorem("line above a product", {**gaps, **corners(1)}, x * y <= q * x + p * y + lift),
    Theorem("line below a product", {**gaps, **corners(-1)}, x * y >= q * x + p * y - lift),
    Theorem(
        "increments of a product",
        {
            "x before": z3.And(low_x <= x_before, x_before <= high_x),
            "x after": z3.And(low_x <= x_after, x_after <= high_x),
            "y before": z3.And(low_y <= y_before, y_before <= high_y),
            "y after": z3.And(low_y <= y_after, y_after <= high_y),
        },
        z3.And(
            x_after * y_after - x_before * y_before
            == middles[0] * (x_after - x_before) + middles[1] * (y_after - y_before),
            *(
                z3.And(least <= m, m <= most)
                for m, least, most in zip(middles, (low_y, low_x), (high_y, high_x), strict=True)
            ),
        ),
    ),
    Theorem("line below a maximum", {}, z3.And(largest(v1, v2) >= v1, largest(v1, v2) >= v2)),
    Theorem(
        "line above a maximum",
        {"lower bound of one": v1 >= low, "upper bound of the other": v2 <= high, "it wins": low >= high},
        largest(v1, v2) <= v1,
    ),
    Theorem(
        "constant above a maximum",
        {"upper bound of one": v1 <= high, "upper bound of the other": v2 <= high},
        largest(v1, v2) <= high,
    ),
    Theorem(
        "increments of a maximum",
        {
            "largest increment": z3.And(u1 - v1 <= high, u2 - v2 <= high),
            "least": z3.And(u1 - v1 >= low, u2 - v2 >= low),
        },
        z3.And(largest(u1, u2) - largest(v1, v2) <= high, largest(u1, u2) - largest(v1, v2) >= low),
    ),
    Theorem(
        "gain of a block, frequency by frequency",
        {
            "value": square == of_x + 2 * cross + of_w,
            "|A|": of_x <= a * sizes_of_x,
            "coupling": cross + across <= e * both,
            "coupling >= 0": e >= 0,
            "product of lengths": 2 * both <= sizes_of_x + of_ones,
            "B": of_w <= 2 * own,
            "increments": across >= own,
            "size of w": of_ones <= k * sizes_of_x,
        },
        square <= (a + e * (1 + k)) * sizes_of_x,
    ),
)

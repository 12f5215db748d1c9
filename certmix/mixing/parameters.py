"""What alpha and the temperature of a mix may be. (Here, because options are checked without torch.)"""

from __future__ import annotations

import math

from certmix.errors import UsageError


def check_alpha(alpha: float) -> float:
    """`alpha` as a float in [0, 1]. Raises UsageError."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must be in [0, 1], got {alpha}")
    return float(alpha)


def check_temperature(temperature: float) -> float:
    """`temperature` as a finite float > 0. Raises UsageError."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature must be a finite number > 0, got {temperature}")
    return float(temperature)

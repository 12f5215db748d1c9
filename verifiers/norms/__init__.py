"""One class for every norm, one method for each question of attacks, engines and estimates: the untrusted side's.

To add a norm: its name in `proofs_check.certificate`, its class in a file here, a line in `NORMS`; what the judge knows
of it in `proofs_check.kernel.norms`; its order in `tests/small_networks.py`.
"""

from __future__ import annotations

from proofs_check.certificate import Norm
from verifiers.norms.l1 import L1
from verifiers.norms.l2 import L2
from verifiers.norms.linf import Linf
from verifiers.norms.lp import Lp

NORMS: dict[Norm, Lp] = {"Linf": Linf(), "L2": L2(), "L1": L1()}

"""Where to split, and what to bound anew: parts that searches with other rules need, beside the one that is used.

    python benchmarks/branching_rules.py

Each search has at most PARTS parts; "left" is the excess of its worst open part then, 0 where all is proven. The score
alone, without trying splits, is that of BaBSR: what the intercept of a neuron's upper line costs.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from branching import CASES, DOMAIN
from common import need_data, save

import certmix
from certmix.provers.margin.branching import branch
from certmix.settings import Settings
from verifiers.branching import choice, parts
from verifiers.branching.search import Branching, Budget
from verifiers.engine import MarginQuery

PARTS = 600
# case, input, radius; digits at about .8 (l2) and .96 of the floor
ASKED = [
    ("digits L2 0.75", 3, 0.7458), ("digits L2 0.75", 9, 0.6135), ("digits L2 0.75", 12, 0.5122),
    ("digits Linf 0.75", 9, 0.2268), ("digits Linf 0.75", 18, 0.2117),
    ("kw 2/255 0.75", 5, 2 / 255), ("kw 2/255 0.75", 79, 2 / 255), ("mnist 0.3 0.75", 65, 0.3),
]  # fmt: skip
Changes = list[tuple[ModuleType, str, float]]
RULES: dict[str, Changes] = {
    "as it is": [],
    "the score alone (BaBSR)": [(choice, "NEURONS", 1), (choice, "DIFFERENCES", 0)],
    "look-ahead, ReLUs alone": [(choice, "DIFFERENCES", 0)],
    "one ReLU, one d": [(choice, "NEURONS", 1), (choice, "DIFFERENCES", 1)],
    "look-ahead over 16 ReLUs": [(choice, "NEURONS", 16)],
    "one split at a time": [(choice, "MOST_AT_ONCE", 1)],
    "neurons never bounded anew": [(parts, "TRIED", 0), (parts, "WORTH", 0.0)],
    "neurons always bounded anew": [(parts, "WORTH", math.inf)],
}


@dataclass(frozen=True)
class Loaded:
    robust: certmix.Model
    inputs: torch.Tensor
    state: Any


def search(asked: tuple[str, int, float], loaded: Loaded) -> dict[str, Any]:
    name, k, radius = asked
    case, network = CASES[name], loaded.robust.network
    if network is None:
        raise SystemExit("no plain network")
    with torch.no_grad():
        y = loaded.robust.module(loaded.inputs[k : k + 1]).argmax(1)
    settings = Settings(case.alpha, case.norm, radius, domain=DOMAIN)
    radii = torch.tensor([radius], dtype=torch.float64)
    query = MarginQuery(network, loaded.inputs[k : k + 1], case.norm, radii, DOMAIN, y)
    begun = time.process_time()
    found = branch(Branching(), loaded.state, query, settings, Budget(math.inf, PARTS)).found
    return {
        "proven": found.proven,
        "parts": found.bounded,
        "left": found.excess,
        "seconds": time.process_time() - begun,
    }


def main() -> None:
    need_data()
    torch.set_num_threads(1)
    loaded: dict[str, Loaded] = {}
    for name in dict.fromkeys(name for name, _, _ in ASKED):
        case = CASES[name]
        robust = certmix.load_model(case.robust)
        inputs = torch.from_numpy(certmix.load_data(case.data, case.inputs).inputs)
        loaded[name] = Loaded(robust, inputs, Branching().prepare(robust.network) if robust.network else None)
    figures: list[dict[str, Any]] = []
    for rule, changes in RULES.items():
        before = [(module, name, getattr(module, name)) for module, name, _ in changes]
        for module, name, value in changes:
            setattr(module, name, value)
        rows = [search(asked, loaded[asked[0]]) for asked in ASKED]
        for module, name, value in before:
            setattr(module, name, value)
        row = {"rule": rule, "proven": sum(r["proven"] for r in rows), "of": len(rows),
               "parts": [r["parts"] for r in rows], "left": [round(r["left"], 4) for r in rows],
               "seconds": round(sum(r["seconds"] for r in rows), 1)}  # fmt: skip
        figures.append(row)
        print(row, flush=True)
    save("branching_rules", figures)


if __name__ == "__main__":
    main()

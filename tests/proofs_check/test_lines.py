"""How many lines of the judge a certificate of each rule rests on: those of the functions that ran when it was judged,
on certificates of every rule, held to limits.

The issue that asked for it set 900 for margins with branching, and 150 more for each further rule. Files are larger
than what runs of them for one certificate: `certmix check --explain` shows both, for any certificate.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import every_rule as er
import layer_kinds as lk
import numpy as np
import pytest

from certmix.reports.explained.lines import files_of
from certmix.reports.explained.observed import Observed, observed
from proofs_check import certificate as c
from proofs_check import judge
from proofs_check.kernel import bounds
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE, RULES
from proofs_check.rules.lipschitz import layer_norms
from proofs_check.run import Run, open_judge
from verifiers.network.module import build

Lines = frozenset[tuple[str, int]]
STORED = Path(__file__).parent / "accepted"
MARGIN, MOST = ("network_margin", "branched_margin"), 860
# lines beyond those of the margins and of gradients; 150 at most
OWN = {
    "adaptive_margin": 110,
    "branched_pair": 50,
    "engine_lipschitz_relaxed": 30,
    "engine_margin": 25,
    "lipschitz_global": 130,
    "lipschitz_layers": 150,
    "lipschitz_local": 50,
    "lipschitz_pair": 150,
    "lipschitz_relaxed": 25,
    "pair_margin": 25,
    "smoothed_distribution": 80,
    "smoothed_means": 90,
    "stopped_means": 120,
}
GRADIENTS, MOST_OF_GRADIENTS = ("kernel/jacobian.py", "kernel/slopes.py"), 165  # what the Lipschitz rules share
MOST_OF_GAINS = 365  # of networks where paths join, in l2: a proof of its own within lipschitz_layers, beyond 150
# lines that a network with such a node adds to a margin's
OF_KIND = {"swish": 110}
MOST_OF_KIND = 100  # of every other kind


@contextmanager
def watched() -> Iterator[Observed]:
    """Nothing that was kept from before serves again: it would not run."""
    for module in [m for name, m in sys.modules.items() if name.startswith("proofs_check.")]:
        for value in vars(module).values():
            getattr(value, "cache_clear", lambda: None)()
    with observed((), {}) as seen:
        yield seen


def proving(seen: Observed) -> Lines:
    """(file, number) of every line in a function that ran, in the files that prove."""
    return frozenset((f.file, n) for f in files_of(seen.ran) if f.proves for n in f.ran)


@functools.cache
def of_rule(rule: str) -> Lines:
    with watched() as seen:
        assert isinstance(judge.check_bytes(er.LINES[rule], er.H, er.G, er.X), c.Accepted)
    lines = proving(seen)
    for folder in sorted(STORED.iterdir()):
        run = Run(folder)
        for place, data, row in run.tasks():
            line = parse.line(data, EVIDENCE)
            if isinstance(line, parse.Certificate) and line.rule == rule:
                with watched() as seen:
                    assert open_judge(folder, run.header).judge(place, data, row).state == "accepted"
                lines |= proving(seen)
    return lines


@functools.cache
def of_margins() -> Lines:
    return frozenset().union(*map(of_rule, MARGIN))


def test_margins_with_branching_rest_on_few_lines():
    assert len(of_margins()) <= MOST <= 900


def test_every_further_rule_adds_few():
    assert set(OWN) == set(RULES) - set(MARGIN)
    beyond = {rule: of_rule(rule) - of_margins() for rule in OWN}
    own = {rule: sum(file not in GRADIENTS for file, _ in lines) for rule, lines in beyond.items()}
    assert {rule: n for rule, n in own.items() if n > OWN[rule]} == {}
    assert max(OWN.values()) <= 150
    shared = {line for lines in beyond.values() for line in lines if line[0] in GRADIENTS}
    assert len(shared) <= MOST_OF_GRADIENTS


def joined(kind: str) -> c.PlainNetwork:
    """A block where two paths join: of cells by themselves, of a matrix, or of convolutions; then the logits."""
    rng = np.random.default_rng(0)
    if kind == "frequencies":
        padding: tuple[int, int, int, int] = (1, 1, 1, 1)
        weight, bias = lk.array(rng, 1, 1, 3, 3), lk.array(rng, 1)
        nodes = [c.Conv2d((0,), weight, bias, (1, 1), padding, (1, 1), 1), c.Relu((1,)), c.Add((0, 2)), c.Flatten((3,))]
        return build([c.Input((1, 40, 40)), *nodes, c.Linear((4,), lk.array(rng, 3, 1600), lk.array(rng, 3))])
    if kind == "matrix":
        nodes = [c.Linear((0,), lk.array(rng, 4, 4), lk.array(rng, 4)), c.Relu((1,)),
                 c.Linear((2,), lk.array(rng, 4, 4), lk.array(rng, 4)), c.Add((0, 3))]  # fmt: skip
    else:
        nodes = [c.Relu((0,)), c.Scale((0,), -np.ones(4, np.float32)), c.Relu((2,)), c.Add((1, 3))]
    return build([c.Input((4,)), *nodes, c.Linear((4,), lk.array(rng, 3, 4), lk.array(rng, 3))])


def test_gains_of_blocks_add_more_and_no_more_than_that():
    seen_lines = Lines()
    for kind in ("cells", "matrix", "frequencies"):
        prepared = bounds.prepare(joined(kind))
        with watched() as seen, np.errstate(all="ignore"):
            layer_norms.node_constants(prepared, "L2")
        seen_lines |= proving(seen)
    beyond = seen_lines - of_margins() - of_rule("lipschitz_layers")
    assert 150 < len(beyond) <= MOST_OF_GAINS
    assert {f"rules/lipschitz/{name}.py" for name in ("blocks", "parts", "frequencies")} <= {f for f, _ in beyond}


def bounded(network: c.PlainNetwork) -> None:
    prepared = bounds.prepare(network)
    ball = bounds.Ball(np.full(network.input_shape, 0.5, np.float32), 0.01, "L2", (0.0, 1.0))
    bounds.differences(bounds.value_bounds(prepared, ball, None), 0)


@pytest.mark.parametrize("op", [op for op in lk.OPS if op != "input"])
def test_a_layer_kind_adds_few(op: str):
    seen_lines = Lines()
    for seed in range(2):
        network = lk.among_others(op, seed)
        with watched() as seen:
            bounded(network)
        seen_lines |= proving(seen)
    assert len(seen_lines - of_margins()) <= OF_KIND.get(op, MOST_OF_KIND) <= 150


def test_only_functions_that_run_are_counted():
    assert "rules/margin/branching.py" in {file for file, _ in of_rule("branched_margin")}
    assert "rules/margin/branching.py" not in {file for file, _ in of_rule("network_margin")}
    with watched() as seen:
        sorted([2, 1], key=abs)
    assert not seen.ran

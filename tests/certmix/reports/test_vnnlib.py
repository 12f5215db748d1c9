"""What other verifiers are asked is what a certificate needs, on the side that is said."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from small_networks import mlp
from small_runs import audit

from certmix.data.dataset import Dataset
from certmix.models.model import Model
from certmix.models.onnx.reader import plain_network
from certmix.reports import vnnlib
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import Settings
from certmix.theorems.logit_gaps import enough_up, needed_down
from verifiers.network.module import PlainModule

ALPHAS = st.floats(0.5, 1.0, exclude_min=True)


def parsed(text: str) -> Any:
    """Nested lists of the words of a VNN-LIB file."""
    stack: list[list[Any]] = [[]]
    for word in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if word == "(":
            stack.append([])
        elif word == ")":
            stack[-2].append(stack.pop())
        else:
            stack[-1].append(word)
    assert len(stack) == 1
    return stack[0]


def read(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The box (inputs, 2) of a property, and the number (outputs,) that some output does not exceed."""
    statements = parsed(path.read_text())
    declared = [s[1] for s in statements if s[0] == "declare-const"]
    inputs, outputs = (sum(name.startswith(letter) for name in declared) for letter in "XY")
    assert declared == [f"X_{k}" for k in range(inputs)] + [f"Y_{k}" for k in range(outputs)]
    asserted = [s[1] for s in statements if s[0] == "assert"]
    assert len(declared) + len(asserted) == len(statements)
    box = {(name, sign): float(number) for sign, name, number in asserted[:-1]}
    ((either, *cases),) = asserted[-1:]
    assert either == "or"
    assert [(w, s, n) for w, (s, n, _) in cases] == [("and", "<=", f"Y_{k}") for k in range(outputs)]
    ends = [[box[f"X_{k}", ">="], box[f"X_{k}", "<="]] for k in range(inputs)]
    return np.array(ends), np.array([float(number) for _, (_, _, number) in cases])


# ---------------------------------------------------------------- docs/maths.md 3c


def margins(d: list[float], temperature: float) -> list[arb]:
    """h_y - h_i in balls, of d_i = z_y - z_i."""
    e = [(-arb(temperature) * arb(v)).exp() for v in d]
    total = 1 + sum(e, arb(0))
    return [(1 - v) / total for v in e]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), ALPHAS, st.floats(0.1, 8))
def test_gaps_that_are_enough_give_the_margin_and_a_margin_has_the_gaps_it_needs(
    beyond: list[float], alpha: float, temperature: float
):
    required = (1 - arb(alpha)) / arb(alpha)
    for gap in (enough_up(alpha, temperature, len(beyond) + 1), needed_down(alpha, temperature)):
        d = [gap + b for b in beyond]
        found = margins(d, temperature)
        if all(v > enough_up(alpha, temperature, len(beyond) + 1) for v in d):
            assert not any(m <= required for m in found)
        if all(m > required for m in found):
            assert all(v > needed_down(alpha, temperature) for v in d)


@given(ALPHAS, st.floats(0.1, 8), st.integers(2, 1000))
def test_no_smaller_gaps_are_enough_and_no_larger_ones_needed(alpha: float, temperature: float, classes: int):
    required = (1 - arb(alpha)) / arb(alpha)
    enough, needed = enough_up(alpha, temperature, classes), needed_down(alpha, temperature)
    assert 0 <= needed <= enough
    less = enough - 1e-6 * (enough + 1)
    assert not any(m > required for m in margins([less] * (classes - 1), temperature))
    more = needed + 1e-6 * (needed + 1)
    far = 1000 / temperature
    assert margins([more] + [far] * (classes - 2), temperature)[0] > required - arb(2.0**-40)
    if classes == 2:
        assert enough - needed <= 8 * math.ulp(enough)


@given(st.floats(-4, 4, width=32), st.floats(0, 2), st.sampled_from([None, (-4.0, 4.0), (-4.1, 4.3)]), st.booleans())
def test_a_box_lies_outside_of_the_ball_or_inside_and_as_near_as_doubles_are(
    value: float, radius: float, domain: tuple[float, float] | None, outward: bool
):
    low, high = vnnlib.ends(value, radius, domain, outward=outward)
    exact = [Fraction(value) - Fraction(radius), Fraction(value) + Fraction(radius)]
    if domain is not None:
        exact = [max(exact[0], Fraction(domain[0])), min(exact[1], Fraction(domain[1]))]
    if outward:
        assert Fraction(low) <= exact[0] < Fraction(math.nextafter(low, math.inf))
        assert Fraction(math.nextafter(high, -math.inf)) < exact[1] <= Fraction(high)
    else:
        assert Fraction(math.nextafter(low, -math.inf)) < exact[0] <= Fraction(low) <= Fraction(value)
        assert Fraction(value) <= Fraction(high) <= exact[1] < Fraction(math.nextafter(high, math.inf))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_the_double_it_is(value: float):
    shown = vnnlib._number(value)
    assert float(shown) == value
    assert re.fullmatch(r"-?\d+\.\d+", shown)


# ---------------------------------------------------------------- files


def linear(run: Audit, radius: float) -> Audit:
    """An audit of a linear h of three classes, of which boxes are the exact ranges."""
    network = mlp(3, (4, 3))
    model = Model(PlainModule(network).eval(), network, 3, (4,), "linear", 0.0)
    inputs = np.random.default_rng(0).random((40, 4), dtype=np.float32)
    settings_of = Settings(alpha=0.6, temperature=4.0, radius=radius, batch_size=40, attack_steps=0, curves=False)
    data = Dataset(inputs, np.zeros(40, dtype=np.int64), "random")
    return dataclasses.replace(run, standard=model, robust=model, data=data, settings=settings_of)


@pytest.fixture(scope="module")
def asked(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run about a linear network, and its questions."""
    out = tmp_path_factory.mktemp("runs")
    assert linear(audit(digits, out / "run"), 0.02).run() == 0
    assert vnnlib.write(out / "run", out / "asked") == 40
    return out / "run", out / "asked"


def test_an_instance_of_a_network_and_a_property_is_listed_for_each_question(asked: tuple[Path, Path]):
    with (asked[1] / "instances.csv").open(newline="") as stream:
        instances = list(csv.reader(stream))
    lines = {line["index"]: line for line in Store(asked[0]).lines()}
    assert len(instances) == 80
    for network, name, seconds in instances:
        index, kind = re.fullmatch(r"vnnlib/(\d{8})-(prove|refute)\.vnnlib", name).groups()  # type: ignore[union-attr]
        assert network == f"onnx/gaps-{lines[int(index)]['predicted']}.onnx"
        assert (asked[1] / network).is_file()
        assert int(seconds) > 0
        box, gap = read(asked[1] / name)
        assert box.shape == (4, 2)
        expected = enough_up(0.6, 4.0, 3) if kind == "prove" else needed_down(0.6, 4.0)
        assert gap.tolist() == [expected] * 2


def test_the_networks_read_back_and_give_the_gaps(asked: tuple[Path, Path]):
    network = mlp(3, (4, 3))
    assert plain_network(onnx.load(asked[1] / "onnx" / "robust.onnx")).sha256 == network.sha256
    for path in sorted((asked[1] / "onnx").glob("gaps-*.onnx")):
        session, x = onnxruntime.InferenceSession(path), np.full((1, 4), 0.3, dtype=np.float32)
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        logits = PlainModule(network)(torch.from_numpy(x))[0].detach().numpy()
        y = int(path.stem.removeprefix("gaps-"))
        np.testing.assert_allclose(found[0], [logits[y] - logits[i] for i in range(3) if i != y], atol=1e-6)


def test_what_is_proven_is_certified_and_what_is_certified_is_not_refuted(asked: tuple[Path, Path]):
    """Of a linear network the least gap on a box is known in fractions."""
    (layer,) = [n for n in mlp(3, (4, 3)).nodes if hasattr(n, "weight")]
    weight, bias = (np.vectorize(Fraction)(v.astype(float)) for v in (layer.weight, layer.bias))
    ends = {"unsat": 0, "open": 0, "sat": 0}
    for line in Store(asked[0]).lines():
        y, satisfiable = line["predicted"], {}
        for kind in ("prove", "refute"):
            box, gap = read(asked[1] / "vnnlib" / f"{line['index']:08d}-{kind}.vnnlib")
            low, high = (np.vectorize(Fraction)(end) for end in box.T)
            least = []
            for i in (i for i in range(3) if i != y):
                row, constant = weight[y] - weight[i], bias[y] - bias[i]
                least.append(constant + sum(r * (low[k] if r > 0 else high[k]) for k, r in enumerate(row)))
            satisfiable[kind] = any(v <= Fraction(g) for v, g in zip(least, gap, strict=True))
        certified = line["outcome"] == "certified"
        assert certified or satisfiable["prove"]
        assert not (certified and satisfiable["refute"])
        ends["unsat" if not satisfiable["prove"] else "sat" if satisfiable["refute"] else "open"] += 1
    assert min(ends.values()) > 0, ends


def test_a_largest_radius_is_asked_at_for_each_input_and_another_where_it_is_said(digits: Path, tmp_path: Path, capsys):
    run = linear(audit(digits, tmp_path / "run"), 0.02)
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, radius=None))
    assert run.run() == 0
    certified = {r["index"]: r["radius"] for r in Store(tmp_path / "run").lines() if r["outcome"] == "certified"}
    assert 0 < len(certified) < 40
    assert vnnlib.write(tmp_path / "run", tmp_path / "own") == len(certified)
    assert vnnlib.write(tmp_path / "run", tmp_path / "same", 0.01) == 40
    index, radius = next(iter(certified.items()))
    value = run.data.inputs[index].ravel()
    for folder, at in (("own", radius), ("same", 0.01)):
        box, _ = read(tmp_path / folder / "vnnlib" / f"{index:08d}-prove.vnnlib")
        assert box.tolist() == [list(vnnlib.ends(float(v), at, (0.0, 1.0), outward=True)) for v in value]
    assert "is not empty" in refusal(capsys, ["export", str(tmp_path / "run"), "--vnnlib", str(tmp_path / "own")])


@pytest.mark.parametrize(("changed", "words"), [
    ({"norm": "L2"}, "balls that are boxes: the run is about L2"),
    ({"alpha": 0.5}, "Lemma 3.2 certifies alpha > 1/2 only"),
    ({"use_standard": True}, "margins of h"),
])  # fmt: skip
def test_what_no_box_or_no_gap_describes_is_refused(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], words: str
):
    run = linear(audit(digits, tmp_path / "run"), 0.02)
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, **changed))
    assert run.run() == 0
    given_words = ["export", str(tmp_path / "run"), "--vnnlib", str(tmp_path / "asked")]
    assert words in refusal(capsys, given_words)
    assert not (tmp_path / "asked").exists()

"""What docs/results.md and README say in figures, made from what the benchmarks wrote; run, it prints it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
MODELS = {  # of branching's cases: name, fixed radius
    "kw": ("CIFAR-10 `kw_base`", "2/255, "),
    "mnist": ("MNIST", ".3, "),
    "resnet4b": ("CIFAR-10 `resnet4b`", "1/255, "),
    "digits": ("digits", ""),
}
REACHED, LIMITS = ("bounds", "branching, judged"), ("floor", "mix")
NET = {"digits": "digits net", "mnist": "MNIST conv net", "kw_base": "CIFAR conv net", "resnet4b": "CIFAR ResNet"}


def results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))["figures"]


def plain(value: float) -> str:
    """73 for 73.0, 95.6 for 95.6."""
    return f"{value:g}"


def percent_below(value: float) -> str:
    """One digit, never more than it is (shares are stored in percent, exact to 0.01)."""
    return f"{math.floor(round(value * 100) / 10) / 10:.1f}"


def small(value: float, digits: int) -> str:
    """.75 for 0.75; never more than it is."""
    return f"{math.floor(round(value * 10**digits, 9)) / 10**digits:.{digits}f}".removeprefix("0")


def small_up(value: float, digits: int) -> str:
    """The same of an upper limit; never less than it is."""
    return f"{math.ceil(round(value * 10**digits, 9)) / 10**digits:.{digits}f}".removeprefix("0")


def audits() -> Iterator[str]:
    rows = results("audits")
    for row in rows[:6]:
        clean = " / ".join(plain(row["clean"][m]) for m in ("standard", "robust", "mix"))
        yield f"| {clean} | {plain(row['engine_certified_correct'])} | **{plain(row['network_certified_correct'])}** |"
    near, far = rows[6:]
    yield f"certify {near['network_certified_correct']} % of the first {near['n']} images at 1/255 "
    yield f"({plain(near['engine_certified_correct'])} % by auto_LiRPA's word) and none at 2/255"
    assert far["network_certified_correct"] == 0


def branching() -> Iterator[str]:
    rows = {row["case"]: row for row in results("branching")}
    for case, row in rows.items():
        model, at = MODELS[case.split()[0]]
        alpha = small(row["alpha"], 2).rstrip("0") + (", T = 4" if case.endswith("T=4") else "")
        alpha += ", with g" if case.endswith("with g") else ""
        norm = {"Linf": "∞", "L2": "2"}[row["norm"]]
        what = f"{model}, ℓ{norm}, {at}α = {alpha}, {'of' if at else 'mean radius of'} {row['inputs']}"
        reached = [str(row[k]) if at else small(row[k], 4) for k in REACHED]
        limits = [str(row[k]) if at else small_up(row[k], 4) for k in LIMITS]
        size, judging, spent = ("–",) * 3
        if row["trees"]:
            size = f"{math.ceil(row['median proof bytes'] / 1e3)} kB"
            judging = f"{row['seconds of judging trees'] / row['trees']:.2f} s"
        if row["inputs branched on"]:
            spent = f"{row['seconds of branching'] / row['inputs branched on']:.1f} s"
        cells = [what, f"{row['parts']:,}", reached[0], f"**{reached[1]}**", *limits, spent, size, judging]
        yield f"| {' | '.join(cells)} |"
    for norm, name in (("∞", "digits Linf 0.75"), ("2", "digits L2 0.75")):
        reached, floor, mix = (rows[name][k] for k in ("branching, judged", "floor", "mix"))
        yield f"ℓ{norm} {small(reached / floor, 3)} of the floor and {small(reached / mix, 3)} of the mix attack"
    reached, floor, mix = (rows["digits Linf 0.75 with g"][k] for k in ("branching, judged", "floor", "mix"))
    yield f"ℓ∞ reaches {small(reached / floor, 3)} of it, {small(reached / mix, 3)} of the mix attack"
    costliest = max(
        rows.values(), key=lambda row: row["seconds of judging trees"] / (row["seconds of finding them"] or 1)
    )
    share = costliest["seconds of judging trees"] / costliest["seconds of finding them"]
    yield f"at most {math.ceil(100 * share)} % of the time that finding them took"


def branching_in_short() -> Iterator[str]:
    rows = {row["case"]: row for row in results("branching")}
    for row in (rows["kw 2/255 0.75"], rows["kw 2/255 0.9"]):
        assert row["inputs"] == 100  # so that counts are percents
        yield f" **{row['branching, judged']}** | {row['floor']} | {row['mix']} |"


def branching_peers() -> Iterator[str]:
    ours, theirs = results("branching_peers")
    counts = [(row["inputs"], row["proven"], row["refuted"]) for row in (ours, theirs)]
    assert counts[0] == counts[1]
    yield f"of the {ours['inputs']} of 100 CIFAR-10 images"
    yield f"certmix proves {ours['proven']} at 2/255 and refutes {ours['refuted']}, and so does vibecheck-nn"
    ours, theirs = (math.ceil(row["seconds per decided input"] * 100) / 100 for row in (ours, theirs))
    yield f"takes {theirs:.2f} processor seconds for each (it loads the model anew each time), certmix {ours:.2f}, "


def branching_rules() -> Iterator[str]:
    of = {row["rule"]: row["proven"] for row in results("branching_rules")}
    yield f"this one proves {of['as it is']}, BaBSR's score alone {of['the score alone (BaBSR)']}, "
    yield f"look-ahead over ReLUs alone {of['look-ahead, ReLUs alone']}, one ReLU and one d {of['one ReLU, one d']}; "
    equal = {of[k] for k in ("look-ahead over 16 ReLUs", "one split at a time", "neurons always bounded anew")}
    yield f"neurons bounded anew always {equal.pop()}; never anew {of['neurons never bounded anew']}"
    assert not equal


def digits_radii() -> Iterator[str]:
    ways = ("softmax node (not certified)", "Theorem 3.5", "box", "exponential", "optimised")
    for row in results("digits_radii"):
        *others, best = (f"{row[way]:.2f}" for way in ways)
        yield f"| ℓ{ {'Linf': '∞', 'L2': '2'}[row['norm']] }, {row['alpha']} | {' | '.join(others)} | **{best}** |"


def lipschitz() -> Iterator[str]:
    found = results("lipschitz")
    digits, mnist, cifar, resnet = (
        found[name]["Linf"]["local / estimate, median"] for name in ("digits", "mnist", "cifar", "resnet4b")
    )
    yield f"{digits:.2f} times what an attack finds on the digits net, {mnist:.2f} times on the MNIST conv net, "
    yield f"{cifar:.2f} times on the CIFAR conv net (balls of 2/255), {resnet:.1f} times on the CIFAR ResNet"
    small_net, large_net = (found["lipsdp"][name] for name in ("784-64-10", "784-128-10"))
    seconds = [net["descent, all 9 pairs of class 1"]["seconds"] for net in (small_net, large_net)]
    yield f"LipSDP takes {seconds[0]:.1f} s for the nine pairs of a class with 64 hidden neurons and {seconds[1]:.1f} s"
    seconds = [net["judge, all 9 pairs"]["seconds"] for net in (small_net, large_net)]
    yield f"proof of all nine {seconds[0]:.1f} and {seconds[1]:.1f} s"
    yield f"--count {found['mix']['inputs']}"
    for pair, shares in lipschitz_mixes():
        yield f"| {pair} | {shares}"
    deep, skips = found["layers"].values()
    yield f"judged constant {math.ceil(deep['judged'] * 1e7) / 1e7:.7f}; "
    yield f"(a LiResNet) {skips['ratio']:.2f} times the product"


def lipschitz_mixes() -> Iterator[tuple[str, str]]:
    """alpha, temperature; clean accuracy and what is certified."""
    of_pair = dict(line.split(": ") for line in results("lipschitz")["mix"]["alpha, T: clean, certified at .25, at .5"])
    for pair in ("0.55, 10", "0.75, 10"):
        clean, near, far = of_pair[pair].split("  ")[0].split(", ")
        yield pair.removeprefix("0"), f"{clean} | **{near}** | **{far}** |"


def attack_strength() -> Iterator[str]:
    rows = results("attack_strength")["survivors"]
    clean, worst, foolbox = (", ".join(str(row[k]) for row in rows) for k in ("clean", "worst", "foolbox_pgd"))
    alphas = ", ".join(small(row["alpha"], 2).rstrip("0") for row in rows)
    yield f"of {clean} inputs that the mix classifies at α = {alphas}, all attacks together leave {worst}; "
    yield f"foolbox's PGD-20 on the mix leaves {foolbox}"


def attack_speed() -> Iterator[str]:
    near, far = list(results("attack_speed")["input_steps_per_second"].values())[:2]
    yield f"buys {near['certmix']:.0f} gradient steps of an input in ℓ∞ and {far['certmix']:.0f} in ℓ2 "
    yield f"(foolbox {near['foolbox']:.0f} and {far['foolbox']:.0f}, "
    yield f"torchattacks {near['torchattacks, points only']:.0f} and {far['torchattacks, points only']:.0f}"


def smoothing_logs() -> Iterator[str]:
    for found in results("smoothing_logs")["alpha 0.76, noise 1"]["safe"].values():
        accuracy = " | ".join(percent_below(v) for v in found["accuracy"])
        yield f"| {accuracy} | {math.floor(found['largest'] * 100) / 100:.2f} |"


def early_stopping() -> Iterator[str]:
    of = {
        way: [r["draws"] for r in results("early_stopping") if r["way"] == way]
        for way in ("any draw", "three looks", "all draws")
    }
    least, most = ({way: f"{end(v):,.0f}" for way, v in of.items()} for end in (min, max))
    yield f"that takes {least['any draw']} to {most['any draw']} draws per input where three looks take "
    yield f"{least['three looks']} to {most['three looks']} and all 10,000 draws"
    yield f"spared hopeless inputs, {least['all draws']} to {most['all draws']},"


def judge_speed() -> Iterator[str]:
    found = results("judge_speed")
    times = [found[net]["judge_seconds"] for net in NET]
    said = [f"{t * 1e3:.2g} ms" if t < 1 else f"{t:.1f} s" for t in times]
    yield ", ".join(f"{time} ({net})" for time, net in zip(said, NET.values(), strict=True))
    ratios = ", ".join(f"{found[net]['ratio']:.2g}" for net in NET)
    yield f"): {ratios} times what auto_LiRPA's float32 CROWN needs"
    most = max(found[net]["judge_peak_mib"] for net in NET)
    yield f"in at most {math.ceil(most / 10) * 10} MB"


def crown_speed() -> Iterator[str]:
    of = {(row["case"], row["way"]): row for row in results("crown_speed")}
    ours, theirs = (
        of["cifar10 resnet4b 1/255", way]["processor_seconds"] for way in ("crown", "auto_LiRPA as shipped")
    )
    ways = ("crown", "auto_LiRPA as shipped", "auto_LiRPA, its best batch")
    times = [of["cifar10 kw 2/255", way]["processor_seconds"] for way in ways]
    yield f"bounds {of['cifar10 kw 2/255', 'crown']['inputs']} images of the CIFAR conv net in {times[0]:.2f} s, "
    yield f"auto_LiRPA as shipped in {times[1]:.2f} s and in batches chosen for it in {times[2]:.2f} s, equally tight"
    yield f"on 4 images of the ResNet it takes {ours:.2f} s and auto_LiRPA {theirs:.1f} s"
    tuned, alpha = (of["mnist 0.3", way] for way in ("crown, 20 steps", "auto_LiRPA alpha-CROWN"))
    yield f"take {tuned['processor_seconds']:.2f} s, α-CROWN {alpha['processor_seconds']:.1f} s "
    yield f"(mean bound {tuned['mean_upper']:.3f} and {alpha['mean_upper']:.3f};"


def engine_pair() -> Iterator[str]:
    rows = results("engine_pair")
    assert not any(row["auto_lirpa_larger_at"] for row in rows if "judged" in row["run"])
    (word,) = (row for row in rows if row["auto_lirpa_larger_at"])
    yield f"by its word at {word['auto_lirpa_larger_at']} of {word['inputs']} "
    yield f"by {100 * word['auto_lirpa_largest_gain']:.2f} %"
    seconds = [row["cross_check_seconds"] for row in rows]
    yield f"takes {min(seconds):.2f} to {math.ceil(max(seconds) * 10) / 10:.1f} s"


SAID: dict[str, Callable[[], Iterator[str]]] = {
    of.__name__: of
    for of in (
        audits, branching, branching_peers, branching_rules, digits_radii, lipschitz, attack_strength, attack_speed,
        smoothing_logs, early_stopping, judge_speed, crown_speed, engine_pair,
    )
}  # fmt: skip


if __name__ == "__main__":
    for name, of in SAID.items():
        print(f"{name}:", *of(), sep="\n  ")

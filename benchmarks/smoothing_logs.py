"""Certified accuracy of mixes from public smoothing logs, and both panels of the paper's Figure 3 with stronger bounds.

Tables: σ = 1, alpha = 0.76, with radii as printed in the log and rounded to the safe side. Figure 3: the baseline is
an unmixed smoothed model (alpha 1). The log at σ = 0.25 is not in the data: the second panel draws what is there.
"""

from __future__ import annotations

import numpy as np
from common import RESULTS, need_data, save

from certmix.records.smoothing_log import RADII, Log, accuracy, curves, mix_radii, read_log

NAMES = {
    "theorem_3_5_paper": "Theorem 3.5, paper's constant",
    "theorem_3_5": "Theorem 3.5, tight constant",
    "theorem_3_7": "Theorem 3.7",
    "direct": "direct margin bound (5a)",
}
STYLES = {"theorem_3_5_paper": ":", "theorem_3_5": "-.", "theorem_3_7": "--", "direct": "-"}
# (baseline σ, mixes (alpha, σ)) of each panel
PANELS = ((0.5, ((0.76, 1.0),)), (0.25, ((0.76, 0.5), (0.67, 1.0))))


def load(noise_std: float, as_printed: bool = False) -> Log | None:
    path = need_data() / "smoothing_logs" / f"cifar10_resnet110_noise_{noise_std:.2f}.tsv"
    return read_log(path, noise_std, as_printed) if path.exists() else None


def table(alpha: float, noise_std: float) -> dict[str, object]:
    found: dict[str, object] = {}
    for title, as_printed in (("as printed", True), ("safe", False)):
        log = load(noise_std, as_printed)
        if log is None:
            continue
        print(f"\nσ {noise_std:g}, alpha {alpha:g}, radii {title}: certified accuracy (%) at {RADII}; largest radius")
        rows = curves(log, alpha)
        for name, curve in rows.items():
            largest = "none" if curve.largest is None else f"{curve.largest:.3f}"
            print(f"  {NAMES[name]:32s}" + "".join(f"{a:6.1f}" for a in curve.accuracy) + f"   {largest}")
        found[title] = {name: {"accuracy": c.accuracy, "largest": c.largest} for name, c in rows.items()}
    return found


def figure() -> list[str]:
    """Draw both panels; the notes printed under them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    notes: list[str] = []
    grid = np.linspace(0, 3.5, 701)
    picture, axes = plt.subplots(1, len(PANELS), figsize=(12, 4.5), sharey=True)
    for axis, (baseline, mixes) in zip(axes, PANELS, strict=True):
        for k, (alpha, noise_std) in enumerate(((1.0, baseline), *mixes)):
            log = load(noise_std)
            if log is None:
                notes.append(f"no log at noise {noise_std:g}: its curves are not drawn")
                axis.text(0.98, 0.5, notes[-1], transform=axis.transAxes, ha="right", fontsize=8)
                continue
            label = f"baseline σ {noise_std:g}" if alpha == 1 else f"mix α {alpha:g}, σ {noise_std:g}"
            for name, radii in mix_radii(log, alpha).items():
                shares = [accuracy(radii, log.correct, r) for r in grid]
                axis.plot(grid, shares, STYLES[name], color=f"C{k}", label=f"{label}: {NAMES[name]}", linewidth=1.2)
        axis.set_xlabel("ℓ2 radius")
        axis.set_title(f"baseline σ = {baseline:g}")
        axis.legend(fontsize=6)
    axes[0].set_ylabel("certified accuracy (%)")
    picture.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    for suffix in ("png", "svg"):
        picture.savefig(RESULTS / f"figure3.{suffix}", dpi=150)
    return notes


def main() -> None:
    settings = ((0.76, 1.0), (0.67, 1.0), (0.76, 0.5), (1.0, 0.5))
    figures = {f"alpha {alpha:g}, noise {noise_std:g}": table(alpha, noise_std) for alpha, noise_std in settings}
    notes = figure()
    print("\n" + "\n".join([*notes, f"drawn: {(RESULTS / 'figure3.png').name}, figure3.svg"]))
    save("smoothing_logs", {**figures, "radii": RADII, "notes": notes})


if __name__ == "__main__":
    main()

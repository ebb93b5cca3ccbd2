"""The first table of docs/results/which_loss.md, from the csv files beside it.

python docs/which_loss_table.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parent / "results" / "which_loss"
# Regime: its csv, what picks its rows, the baseline, the losses, and its comparison by the decoders
# that read each best.
REGIMES = {
    "HRNet-W18-small, random weights, MPII, 128 px, 15 epochs": (
        "random_finals", "mpii", "gaussian_1",
        ("relaxed_05", "cross_entropy", "likelihood_longest"), "random_finals/relaxed_best_decoder",
    ),
    "EfficientNet-Lite0, ImageNet weights, MPII, 96 px, 20 epochs": (
        "height_finals", "mpii", "gaussian_1",
        ("relaxed_05_t001", "cross_entropy_t003", "likelihood_longest_t003"),
        "height_finals/relaxed_best_decoder_mpii",
    ),
    "the same, 192 px, temperature 1": (
        "finals", "mpii", "gaussian_2", ("relaxed_05", "cross_entropy", "annealed_tau"),
        "finals/best_decoder",
    ),
    "timm's test_efficientnet, random weights, drawn people, 6 epochs": (
        "height_finals", "synthetic", "gaussian_1",
        ("relaxed_05_t001", "cross_entropy_t001", "likelihood_longest_t001"),
        "height_finals/relaxed_best_decoder_drawn",
    ),
    "the same, five folds of the training people": (
        "folds_drawn", "synthetic", "gaussian_1",
        ("relaxed_05_t001", "cross_entropy_t001", "likelihood_longest_t001"),
        "folds_drawn/relaxed_best_decoder",
    ),
}  # fmt: skip
FIGURES = ("PCKh@0.5", "PCKh@0.1")
HEADINGS = (
    "regime, three seeds", "Gaussian MSE", "relaxed transport less it",
    "both by their best decoders", "cross-entropy less it", "ends as the paper's loss, less it",
)  # fmt: skip


def limits(value: float, low: float, high: float) -> str:
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def row(name: str) -> list[str]:
    """Cells of a regime: the figure at 0.5 heads, then at 0.1."""
    folder, recipe, baseline, losses, by_best = REGIMES[name]
    frame = pd.read_csv(FOLDER / folder / "loss_map.csv")
    own = frame[frame["recipe"].str.startswith(recipe) & frame["own"]]
    cells = ["; ".join(f"{own.loc[own['loss'] == baseline, one].mean():.1f}" for one in FIGURES)]
    for loss in losses:
        told = own[(own["loss"] == loss) & own[f"{FIGURES[0]} less"].notna()].iloc[0]
        ends = [[told[f"{one} {end}"] for end in ("less", "low", "high")] for one in FIGURES]
        cells.append("; ".join(limits(*three) for three in ends))
    table = pd.read_csv(FOLDER / f"{by_best}.csv").query("part == 'overall'").set_index("figure")
    columns = ["difference", "low", "high"]
    cells.insert(2, "; ".join(limits(*table.loc[one, columns]) for one in FIGURES))
    return [name, *cells]


def markdown() -> str:
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(row, REGIMES)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


if __name__ == "__main__":
    print(markdown(), end="")

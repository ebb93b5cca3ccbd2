"""A comparison made by hand, with all that a report shows: three losses, two seeds, five epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from folders import make_run, pckh_figures, random_people, with_errors
from PIL import Image

from posematch.metrics.columns import TERMS
from posematch.runs.folder import RunFolder
from posematch.runs.heatmaps import StoredHeatmaps, write_heatmaps

LOSSES = ("gaussian_mse", "dot_mse", "matching")
ERRORS = {"gaussian_mse": 0.3, "dot_mse": 0.5, "matching": 0.4}  # head sizes, of the last epoch
EPOCHS = 5
MAP, CROP = 16, 64


def make_comparison(root: Path, losses: tuple[str, ...] = LOSSES) -> Path:
    """Write the run folders below ``root``; returns it."""
    truth = random_people()
    for loss in losses:
        for seed in (1, 2):
            path = root / f"{loss}_{seed}"
            tables = {
                epoch: with_errors(truth, ERRORS[loss] + 0.1 * (EPOCHS - 1 - epoch), 7 * seed)
                for epoch in range(EPOCHS)
            }
            make_run(path, loss=loss, seed=seed, predictions=tables, metrics=_metrics(tables, seed))
            folder = RunFolder(path)
            write_heatmaps(folder.heatmaps(EPOCHS - 1), _heatmaps(truth, seed))
            folder.figure(EPOCHS - 1).parent.mkdir()
            Image.new("RGB", (600, 200), (seed * 60, 90, 120)).save(folder.figure(EPOCHS - 1))
            folder.timing.write_text("epoch,train_seconds,validation_seconds,images_per_second\n"
                                     "0,60,30,10\n1,60,30,10\n")  # fmt: skip
    return root


def _metrics(tables: dict[int, pd.DataFrame], seed: int) -> pd.DataFrame:
    """metrics.csv: losses fall by the same amounts in every run, Theorem 1 holds exactly."""
    rows = {}
    for epoch, table in tables.items():
        row = {f"val/{name}": value for name, value in pckh_figures(table).items()}
        row |= {f"val/loss/{one}": 1 / (epoch + 1 + place) for place, one in enumerate(LOSSES)}
        gaussian, g, d, constant = 4.0 - 0.5 * epoch, 0.5 + 0.2 * epoch, 0.1 * epoch, 1.0
        terms = dict(zip(TERMS, (gaussian, gaussian + 2 * g - 2 * d - constant, g, d, constant),
                         strict=True))  # fmt: skip
        row |= {f"val/theorem/{name}": value for name, value in (terms | {"residual": 0.0}).items()}
        rows[epoch] = row
    assert seed
    return pd.DataFrame.from_dict(rows, orient="index")


def _heatmaps(truth: pd.DataFrame, seed: int) -> StoredHeatmaps:
    """Random maps of everybody; crops are the photos' 512 pixels."""
    ids = np.array(sorted(set(truth["person_id"])))
    joints = truth["joint"].nunique()
    levels = np.random.default_rng(seed).integers(0, 256, (len(ids), joints, MAP, MAP))
    affine = np.tile(np.array([[CROP / 512, 0, 0], [0, CROP / 512, 0]], float), (len(ids), 1, 1))
    return StoredHeatmaps(
        ids,
        levels.astype(np.uint8),
        np.ones((len(ids), joints), np.float32),
        affine,
        np.array([f"{one}.jpg" for one in ids], dtype=np.str_),
    )

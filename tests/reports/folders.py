"""Run folders made by hand, with chosen predictions: real files, read by the real readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from posematch.data.people import PCKhTruth, People
from posematch.files import write_json
from posematch.metrics.pckh import PCKh
from posematch.runs.folder import RunFolder, environment
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import MPII, Skeleton


def random_people(
    photos: int = 20, people: int = 2, skeleton: Skeleton = MPII, seed: int = 0
) -> pd.DataFrame:
    """A table of predictions that are exactly true, of so many people in each photo.

    Heads are 20 to 60 px, one joint in ten is not labelled.
    """
    generator = np.random.default_rng(seed)
    N, K = photos * people, skeleton.num_joints
    true_img = generator.uniform(50, 500, size=(N, K, 2))
    table = pd.DataFrame(
        {
            "person_id": np.repeat(np.arange(N), K),
            "image_id": np.repeat(np.repeat(np.arange(photos) * people, people), K),
            "joint": np.tile(skeleton.joints, N),
            "x": true_img[..., 0].ravel(),
            "y": true_img[..., 1].ravel(),
            "score": np.float32(1),
            "true_x": true_img[..., 0].ravel(),
            "true_y": true_img[..., 1].ravel(),
            "visible": (generator.random(N * K) < 0.9).astype(np.float32),
            "occluded": False,
            "box_score": 1.0,
        }
    )
    scale = generator.uniform(20, 60, size=N)
    if skeleton is MPII:
        table["head_size_img"] = np.repeat(scale, K)
    else:
        table["area"] = np.repeat((5 * scale) ** 2, K)
    return table


def with_errors(table: pd.DataFrame, error: float, seed: int = 0) -> pd.DataFrame:
    """The table with normal errors added, in head sizes (or, in COCO, hundredths of sqrt(area))."""
    generator = np.random.default_rng(seed)
    size = table["head_size_img"] if "head_size_img" in table else np.sqrt(table["area"]) / 100
    table = table.copy()
    for axis in "xy":
        table[axis] = table[axis] + error * size * generator.standard_normal(len(table))
    return table


def pckh_figures(table: pd.DataFrame) -> dict[str, float]:
    """By the metric that training uses."""
    K = table["joint"].nunique()

    def grid(*columns: str) -> np.ndarray:
        return table[list(columns)].to_numpy(np.float64).reshape(-1, K, len(columns))

    truth = PCKhTruth(
        grid("true_x", "true_y"), grid("visible")[..., 0], grid("head_size_img")[:, 0, 0], MPII
    )
    metric = PCKh(People("hand-made", "valid", MPII, [], truth))
    people = torch.arange(len(table) // K)
    metric.update(people, torch.tensor(grid("x", "y")), torch.ones(len(people), K))
    return metric.compute()


def make_run(
    path: Path,
    *,
    loss: str = "gaussian_mse",
    seed: int = 0,
    predictions: Mapping[int, pd.DataFrame | PredictionTable] | None = None,
    metrics: pd.DataFrame | None = None,
    metric: str = "PCKh@0.5",
    figures: Mapping[str, float] | None = None,
    losses: Mapping[str, float] | None = None,
    protocol: str = "count-weighted mean without pelvis and thorax, <=, everybody",
    config: Mapping[str, Any] | None = None,
    finished: bool = True,
) -> Path:
    """Write a run folder.

    Parameters
    ----------
    path
        Of the folder.
    loss, seed
        Of the training.
    predictions
        Tables by epoch, from 0; by default of one epoch, those of `random_people` with errors.
    metrics
        metrics.csv, a row per epoch with the epoch as index; by default what the metric says of
        each table (PCKh only).
    metric, figures, losses, protocol
        Of result.json; figures by default what the metric says of the last table.
    config
        Keys with dots, such as ``{"backbone.name": "hrnet_w32"}``, on top of a small configuration.
    finished
        Without it there is no result.json.
    """
    if predictions is None:
        predictions = {0: with_errors(random_people(), 0.4, seed)}
    folder = RunFolder(path)
    path.mkdir(parents=True)
    by_epoch = {}
    for epoch, table in sorted(predictions.items()):
        if isinstance(table, PredictionTable):
            table.write(folder.predictions(epoch))
            table = table.frame()
        else:
            PredictionTable.from_frame(table).write(folder.predictions(epoch))
        by_epoch[epoch] = pckh_figures(table) if "head_size_img" in table else {}
    last = max(predictions)
    if metrics is None:
        rows = {e: {f"val/{k}": v for k, v in found.items()} for e, found in by_epoch.items()}
        metrics = pd.DataFrame.from_dict(rows, orient="index")
    metrics.to_csv(folder.metrics, index_label="epoch")
    folder.config.write_text(yaml.safe_dump(_config(loss, seed, last + 1, config or {})))
    write_json(folder.environment, environment(seed, "cpu"))
    if finished:
        result = {
            "epoch": last + 1,
            "step": 10 * (last + 1),
            "metric": metric,
            "figures": {"last": dict(by_epoch[last] if figures is None else figures)},
            "losses": dict(losses or {loss: 1.0}),
            "protocol": protocol,
        }
        write_json(folder.result, json.loads(json.dumps(result)))
    return path


def _config(loss: str, seed: int, epochs: int, more: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "seed": seed,
        "loss": {"name": loss},
        "measure": {},
        "data": {"name": "synthetic", "root": "data", "seed": seed, "input_size": [64, 64]},
        "backbone": {"name": "small", "head_init_bias": 0.0},
        "decoder": {"name": "quarter_offset"},
        "optimizer": {"lr": 1e-3},
        "schedule": {"_target_": "posematch.training.schedules.one_cycle"},
        "trainer": {"max_epochs": epochs},
    }
    for key, value in more.items():
        node = config
        *parents, name = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return config

"""Where trained networks put their mass: on the joint, on its twin, or between the two.

A loss whose best map is a compromise between the places in doubt shows it here: its expected
distance from the truth is low, while little mass is near the truth. And whether a loss can mend a
mistake shows in the share of its gradient that reaches a joint the network has no mass at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from posematch.app.objects import make, plain
from posematch.data.crops import Batch
from posematch.data.datamodule import PoseDataModule
from posematch.errors import PosematchError
from posematch.files import write_output
from posematch.loading import load
from posematch.losses import HeatmapLoss
from posematch.losses.mass import DEAD_SUM
from posematch.model import PoseModel
from posematch.reports.groups import markdown_table, with_limits
from posematch.runs.finished import read_run
from posematch.runs.stored_config import checkpoint_file, run_config
from posematch.statistics.intervals import multiplicities
from posematch.training.build import build_loss

RADIUS_PX = 2.0  # of a joint's surroundings, heatmap pixels
APART_PX = 4 * RADIUS_PX  # twins that are nearer tell nothing: what is between them is near both
FORGOTTEN = 0.01  # of the mass near the truth, below which a map has none there
# What is told of a joint, with the decimals of its mean.
COLUMNS = {
    "distance_px": 2, "error_px": 2, "near_truth": 3, "near_twin": 3, "between": 3,
    "nearer_to_twin": 3, "forgotten": 3, "pull": 3,
}  # fmt: skip
_HEADINGS = {
    "distance_px": "expected distance, px",
    "error_px": "error of the decoded joint, px",
    "near_truth": "mass near the joint",
    "near_twin": "mass near its twin",
    "between": "mass between them",
    "nearer_to_twin": "decoded nearer to the twin",
    "forgotten": "joints without mass near them",
    "pull": "gradient that reaches those",
}


def of_run(folder: Path, trusted: Sequence[str] = ()) -> pd.DataFrame:
    """The validation people's joints of one run, by its last checkpoint.

    Returns
    -------
    A row per labelled joint inside its map: ``loss``, ``image_id``, ``person_id``, ``joint`` and
    `COLUMNS`, see `of_maps`.

    Raises
    ------
    PosematchError
        It is no folder of a finished training, or its data are not where it says.
    """
    checkpoint = checkpoint_file(str(folder))
    stored = run_config(checkpoint, trusted)
    if stored is None:
        raise PosematchError(f"{folder} is no run folder: it has no config.yaml to read data by.")
    loss = build_loss(stored.loss)
    # A schedule is at its end, as the network is.
    loss.start_epoch(int(read_run(folder).result["epoch"]) - 1)
    model = load(folder, trusted)
    settings = {k: v for k, v in plain(stored.data).items() if k != "sigma"}
    datamodule = make(settings | {"workers": 0}, "data")
    assert isinstance(datamodule, PoseDataModule)
    datamodule.prepare_data()
    datamodule.setup("validate")
    assert datamodule.valid is not None
    people = datamodule.valid.rows
    images = dict(zip(people.person_ids.tolist(), people.image_ids.tolist(), strict=True))
    batches = (of_batch(model, loss, one) for one in datamodule.val_dataloader())
    frame = pd.concat(batches, ignore_index=True)
    frame.insert(0, "loss", str(stored.loss.name))
    frame.insert(1, "image_id", frame["person_id"].map(images))
    return frame


def of_batch(model: PoseModel, loss: HeatmapLoss, batch: Batch) -> pd.DataFrame:
    """`of_maps` of a batch's crops, a row per joint that counts for the loss."""
    joints_hm = model.joints_hm(batch["joints_crop"])
    with torch.no_grad():
        raw = model(batch["crop"])
        decoded_hm, _ = model.decode(model.maps(batch["crop"])[1])
    twins = model.skeleton.flip_permutation
    widths = model.lengths_hm(batch["widths_crop"]) if loss.takes_widths else None
    values = of_maps(raw, joints_hm, decoded_hm, batch["visible"], twins, loss, widths)
    inside = loss.weights(joints_hm, batch["visible"], model.heatmap_size) > 0
    row, joint = inside.nonzero().unbind(1)
    return pd.DataFrame(
        {
            "person_id": batch["person_id"][row].numpy(),
            "joint": [model.skeleton.joints[k] for k in joint.tolist()],
        }
        | {name: one[row, joint].double().numpy() for name, one in values.items()}
    )


def of_maps(
    raw: torch.Tensor,
    joints_hm: torch.Tensor,
    decoded_hm: torch.Tensor,
    visible: torch.Tensor,
    twins: Sequence[int],
    loss: HeatmapLoss,
    widths_hm: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """What maps say of joints, by the mass that the loss makes of them.

    Of a loss that makes none (an MSE) the positive part is taken, normalised.

    Parameters
    ----------
    raw
        (B, C, H, W) of the network; of a joint's several maps the first one is read.
    joints_hm, decoded_hm
        (B, K, 2) true and decoded, heatmap pixels.
    visible
        (B, K), > 0 where labelled.
    twins
        For each joint the one on the other side, or itself.
    loss
        The one that the network was trained with.
    widths_hm
        (B, K) of the joints, where the loss takes them.

    Returns
    -------
    By the names of `COLUMNS`, each (B, K):

    - ``distance_px``: sum_n s_n d_n, the mass's expected distance from the joint;
    - ``error_px``: the decoded joint's distance;
    - ``near_truth``: mass within `RADIUS_PX` of the joint;
    - ``near_twin``, ``between``: of the twin's true place and of the middle between both, and
      ``nearer_to_twin``: whether the decoded joint is; NaN for a joint without a twin, a twin
      that is not labelled, and twins nearer than `APART_PX`;
    - ``forgotten``: whether less than 1 % of the mass is near the joint;
    - ``pull``: of these joints, the share of the loss's gradient in the raw map, in absolute value,
      that asks for more within `RADIUS_PX` of the joint; NaN of the others.
    """
    counted = visible > 0
    channels = loss.channels_per_joint
    leaf = raw.detach().requires_grad_()
    with torch.enable_grad():
        total = loss.per_joint(leaf, joints_hm, visible, widths_hm).sum()
    gradient = torch.autograd.grad(total, leaf)[0][:, ::channels]
    mass = loss.mass(raw)[:, ::channels].clamp_min(0)
    mass = mass / mass.sum((-2, -1), keepdim=True).clamp_min(DEAD_SUM)
    height, width = mass.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid_hm = torch.stack([x, y], dim=-1).to(mass.dtype)

    def from_place(place_hm: torch.Tensor) -> torch.Tensor:
        lengths: torch.Tensor = (grid_hm - place_hm[:, :, None, None]).norm(dim=-1)
        return lengths

    def near(place_hm: torch.Tensor) -> torch.Tensor:
        return (mass * (from_place(place_hm) <= RADIUS_PX)).sum((-2, -1))

    index = torch.as_tensor(list(twins))
    twins_hm = joints_hm[:, index]
    apart_px = (twins_hm - joints_hm).norm(dim=-1)
    told = counted & counted[:, index] & (index != torch.arange(len(index)))
    told &= apart_px >= APART_PX
    from_joint = from_place(joints_hm)
    at_joint = from_joint <= RADIUS_PX
    near_truth = (mass * at_joint).sum((-2, -1))
    error_px = (decoded_hm - joints_hm).norm(dim=-1)
    forgotten = near_truth < FORGOTTEN
    size = gradient.abs().sum((-2, -1))
    pull = ((-gradient).clamp_min(0) * at_joint).sum((-2, -1)) / size.clamp_min(1e-30)
    missing = torch.nan
    return {
        "distance_px": (mass * from_joint).sum((-2, -1)),
        "error_px": error_px,
        "near_truth": near_truth,
        "near_twin": near(twins_hm).masked_fill(~told, missing),
        "between": near((twins_hm + joints_hm) / 2).masked_fill(~told, missing),
        "nearer_to_twin": ((decoded_hm - twins_hm).norm(dim=-1) < error_px)
        .to(mass.dtype)
        .masked_fill(~told, missing),
        "forgotten": forgotten.to(mass.dtype),
        "pull": pull.masked_fill(~forgotten, missing),
    }


def means(frame: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Means over the joints of each loss, with 95 % intervals by photo.

    Returns
    -------
    A row per loss, in the order of the frame: ``loss``, ``joints``, and for each of `COLUMNS` its
    mean, ``<name>_low`` and ``<name>_high``.
    """
    rows: list[dict[str, Any]] = []
    for loss, group in frame.groupby("loss", sort=False):
        row: dict[str, Any] = {"loss": loss, "joints": len(group)}
        for name in COLUMNS:
            row |= _interval(name, group.dropna(subset=[name]), draws, seed)
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(name: str, told: pd.DataFrame, draws: int, seed: int) -> Mapping[str, float]:
    by_photo = told.groupby("image_id")[name].agg(["sum", "count"]).to_numpy(np.float64)
    if not len(by_photo):
        return dict.fromkeys([name, f"{name}_low", f"{name}_high"], float("nan"))
    weights = multiplicities(len(by_photo), draws, np.random.default_rng(seed))
    totals = weights @ by_photo
    resampled = totals[:, 0] / totals[:, 1]
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = by_photo[:, 0].sum() / by_photo[:, 1].sum()
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def markdown(table: pd.DataFrame) -> str:
    """A row per loss."""
    rows = [
        [f"`{row['loss']}`"]
        + [
            with_limits(row[name], row[f"{name}_low"], row[f"{name}_high"], decimals)
            for name, decimals in COLUMNS.items()
        ]
        for _, row in table.iterrows()
    ]
    return (
        markdown_table(["loss", *_HEADINGS.values()], rows)
        + "\nMeans over labelled joints, heatmap pixels, with 95 % intervals by photo. Near: within"
        f" {RADIUS_PX:g} px. Twins: left and right ones, at least {APART_PX:g} px apart. Without"
        f" mass: less than {FORGOTTEN:.0%} near the joint; of the loss's gradient there, the share"
        " that asks for more within these pixels.\n"
    )


def write_hedging(
    folders: Sequence[Path],
    output: Path,
    trusted: Sequence[str] = (),
    done: Callable[[Path], None] = lambda folder: None,
) -> pd.DataFrame:
    """Measure runs, one of each loss, and write hedging.csv and hedging.md; returns `means`.

    Raises
    ------
    PosematchError
        As `of_run`; two runs are of the same loss.
    """
    frames: dict[str, pd.DataFrame] = {}
    of_loss: dict[str, Path] = {}
    for folder in folders:  # before hours of measuring
        loss = read_run(folder).loss
        if loss in of_loss:
            raise PosematchError(f"two runs are of {loss}, {folder} is one; name one of them.")
        of_loss[loss] = folder
    for folder in folders:
        frame = of_run(folder, trusted)
        frames[str(frame["loss"].iloc[0])] = frame
        done(folder)
    # What the csv holds is what the table shows.
    table = means(pd.concat(frames.values(), ignore_index=True)).round(5)
    write_output(output / "hedging.csv", table.to_csv(index=False, lineterminator="\n"))
    write_output(output / "hedging.md", markdown(table))
    return table

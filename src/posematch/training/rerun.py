"""A finished run trained once more by its own configuration, and held against the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.table import Table

from posematch.errors import PosematchError
from posematch.networks.backbone_weights import digest_of
from posematch.networks.checkpoints import read_checkpoint
from posematch.networks.normalisation import OUR_NETWORK
from posematch.runs.folder import (
    RunFolder,
    environment_differences,
    read_config,
    upgraded,
)
from posematch.runs.named import run_to_repeat
from posematch.runs.predictions import PredictionTable
from posematch.runs.stored_config import follow_no_paths
from posematch.training.run import train
from posematch.trust import check_trusted
from posematch.untrusted import read_json, read_text


@dataclass(frozen=True)
class Rerun:
    """How the second training compares with the first.

    Attributes
    ----------
    folder
        Of the second.
    results
        What differs, in words; nothing where both are the same to the bit.
    environment
        (what, then, now) of versions, device, threads, code that differ.
    """

    folder: RunFolder
    results: tuple[str, ...]
    environment: tuple[tuple[str, Any, Any], ...]


def rerun(
    run: Path,
    run_root: str,
    data_root: str | None = None,
    checkpoint: str | None = None,
    trusted: Sequence[str] = (),
    weights: str | None = None,
) -> Rerun | None:
    """Train a run's configuration again, into a run folder of its own, and compare.

    Parameters
    ----------
    run
        Folder of a finished run. Its paths are not followed: data, weights and the place of the
        new run are the user's to name.
    run_root
        Where the new run folder is made.
    data_root
        Folder of the data set; None: the run's own if it is a default one.
    checkpoint
        The weights that the run started from.
    trusted
        Packages besides posematch whose classes its configuration may name.
    weights
        The file that its backbone started from.

    Returns
    -------
    None in all processes but the first.

    Raises
    ------
    PosematchError
        The run is not finished or damaged, names foreign classes or folders, or started from
        another file than this one; or as `train`.
    """
    first = run_to_repeat(run)
    config = upgraded(read_config(first.config))
    check_trusted(config, first.config, trusted)
    if config.get("checkpoint") and not checkpoint:
        raise PosematchError(
            f"{first.config}: the run started from the weights {config['checkpoint']}, which are"
            " not opened on a file's word; say where they are with checkpoint=FILE."
        )
    backbone = _backbone(first, config, weights)
    data = OmegaConf.create(dict(config.get("data") or {}))
    if data_root is not None:
        data.root = data_root
    chosen = ["data.root"] if data_root is not None else []
    follow_no_paths(data, chosen, str(data.get("root")) if data_root else "", first.config)
    settings = OmegaConf.create(config)
    settings.merge_with(
        {
            "data": data,
            "backbone": backbone,
            "run_root": run_root,
            "resume": None,
            "sweep": None,
            "dry_run": False,
            "checkpoint": checkpoint,
        }
    )
    settings.logger = {}  # to the same W&B run, or for nobody
    result = train(settings)
    if not result.first_process:
        return None
    then, now = (read_json(one.environment) for one in (first, result.folder))
    return Rerun(
        result.folder,
        tuple(_differences(first, result.folder)),
        tuple(environment_differences(then, now)),
    )


def _backbone(first: RunFolder, config: dict[str, Any], weights: str | None) -> dict[str, Any]:
    """The run's backbone with the file of weights that the user named, which is the run's."""
    backbone = dict(config.get("backbone") or {})
    stored = backbone.get("weights") if backbone.get("_target_") == OUR_NETWORK else None
    if not (stored or weights):
        return backbone
    if not weights:
        raise PosematchError(
            f"{first.config}: the run's backbone started from the weights {stored}, which are not"
            " opened on a file's word; say where they are with backbone.weights=FILE."
        )
    if not stored:
        raise PosematchError(
            f"{first.config}: the run's backbone started from no file; leave out"
            f" backbone.weights={weights}."
        )
    told = read_json(first.environment)
    noted = told.get("backbone_weights") if isinstance(told, dict) else None
    then = noted.get("sha256") if isinstance(noted, dict) else None
    now = digest_of(Path(weights).expanduser())
    if then != now:
        raise PosematchError(
            f"backbone.weights={weights} is not the file that the run started from: its SHA-256"
            f" begins with {now[:12]}, and {first.environment} says"
            f" {str(then)[:12]}; name that file, or train anew."
        )
    return {**backbone, "weights": weights}


def differences_table(differences: Sequence[tuple[str, Any, Any]]) -> Table:
    """Environments side by side, where they differ."""
    table = Table(title="the environments differ", title_justify="left")
    for column in ("", "then", "now"):
        table.add_column(column, overflow="fold")
    for what, then, now in differences:
        table.add_row(what, str(then), str(now))
    return table


def _differences(one: RunFolder, other: RunFolder) -> list[str]:
    found = []
    if read_text(one.metrics) != read_text(other.metrics):
        found.append("metrics.csv")
    names = [
        {file.relative_to(run.path) for file in run.path.glob("predictions/**/*.parquet")}
        for run in (one, other)
    ]
    if names[0] != names[1]:
        found.append("predictions of other epochs or decoders")
    for name in sorted(names[0] & names[1]):
        a, b = (PredictionTable.read(run.path / name).frame() for run in (one, other))
        if not a.equals(b):
            found.append(str(name))
    a, b = (read_checkpoint(run.last_checkpoint)["state_dict"] for run in (one, other))
    unlike = [key for key in {*a, *b} if not _same_tensors(a.get(key), b.get(key))]
    if unlike:
        found.append(f"{len(unlike)} of {len({*a, *b})} weights of last.ckpt, {min(unlike)} first")
    return found


def _same_tensors(a: Any, b: Any) -> bool:
    tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return tensors and a.dtype == b.dtype and torch.equal(a, b)

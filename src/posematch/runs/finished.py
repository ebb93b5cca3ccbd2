"""Finished runs, read from their folders: what every table, curve and report starts from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posematch.errors import PosematchError
from posematch.runs.contents import read_contents
from posematch.runs.folder import SCHEMA_VERSION, RunFolder, config_differences
from posematch.runs.named import check_finished, finished_folders
from posematch.runs.predictions import PredictionTable
from posematch.untrusted import own_file

# What two runs of a comparison may differ in: the loss, what belongs to it, and the seed. A key
# stands for all below it.
OF_THE_LOSS = ("loss", "measure", "decoder", "backbone.head_init_bias", "optimizer.lr")
OF_THE_SEED = ("seed", "data.seed")
_EPOCH = re.compile(r"epoch=(\d{3,9})\.parquet", re.ASCII)
_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes
    ----------
    folder
        Where it is.
    config
        Resolved configuration, nested.
    environment
        Versions, command, git commit, as `posematch.runs.folder.environment` writes them.
    metrics
        metrics.csv, a row per epoch, the epoch (from 0) as index.
    result
        result.json: ``epoch``, ``step``, ``metric``, ``figures`` (``last`` and others), ``losses``,
        ``protocol``.
    """

    folder: RunFolder
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: pd.DataFrame
    result: dict[str, Any]

    def __repr__(self) -> str:
        figure = f"{self.figures.get(self.metric, float('nan')):.4g}"
        return f"<Run {self.folder.path.name}: {self.loss}, {self.metric} {figure}>"

    @property
    def loss(self) -> str:
        """Name of the training loss."""
        return str(self.config["loss"]["name"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.config["data"]["name"])

    @property
    def metric(self) -> str:
        """The data set's main figure: ``PCKh@0.5`` or ``AP``."""
        return str(self.result["metric"])

    @property
    def figures(self) -> dict[str, float]:
        """Of the last checkpoint."""
        return dict(self.result["figures"]["last"])

    @property
    def truth(self) -> Path | None:
        """The run's own ``truth.json``, if it has one."""
        there = os.path.lexists(self.folder.truth)
        return own_file(self.folder.path, self.folder.truth) if there else None

    @property
    def epochs(self) -> list[int]:
        """Epochs whose predictions are there."""
        return self._epochs_in(self.folder.predictions(0).parent)

    @property
    def decoders(self) -> list[str]:
        """Further decoders whose predictions of the last epoch are there."""
        folders = own_file(self.folder.path, self.folder.predictions(0).parent).glob("decoder=*")
        names = (one.name.removeprefix("decoder=") for one in folders)
        return sorted(name for name in names if _NAME.fullmatch(name))

    def predictions(self, epoch: int | None = None, decoder: str | None = None) -> PredictionTable:
        """Who was predicted where.

        Parameters
        ----------
        epoch
            From 0; None for the last.
        decoder
            One of `decoders`, which have the last epoch alone; None for the run's own.

        Raises
        ------
        PosematchError
            There is none of that epoch or by that decoder.
        """
        if decoder is not None and decoder not in self.decoders:
            raise PosematchError(
                f"{self.folder.path} has no predictions by the decoder {decoder}; there are"
                f" {', '.join(self.decoders) or 'none but those by its own'}."
            )
        epochs = self._epochs_in(self.folder.predictions(0, decoder).parent)
        chosen = epoch if epoch is not None else (epochs[-1] if epochs else 0)
        if chosen not in epochs:
            raise PosematchError(
                f"{self.folder.path} has no predictions of epoch {chosen}; there are {epochs}."
            )
        name = self.folder.path.name
        return PredictionTable.read(
            own_file(self.folder.path, self.folder.predictions(chosen, decoder)),
            name=name if decoder is None else f"{name} ({decoder})",
            seed=self.seed,
            truth_file=self.truth,
        )

    def _epochs_in(self, folder: Path) -> list[int]:
        files = own_file(self.folder.path, folder).glob("epoch=*.parquet")
        return sorted(int(one.group(1)) for file in files if (one := _EPOCH.fullmatch(file.name)))

    @cached_property
    def last_predictions(self) -> PredictionTable:
        """`predictions` of the last epoch, read once."""
        return self.predictions()


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Runs of `posematch.runs.named.finished_folders`, in the order of their folders' names.

    Raises
    ------
    PosematchError
        As `finished_folders` and `read_run`.
    """
    found: dict[Path, Run] = {}
    for folder in finished_folders(paths):
        found.setdefault(folder.resolve(), read_run(folder))
    return sorted(found.values(), key=lambda run: run.folder.path.name)


def read_run(path: Path) -> Run:
    """One finished run.

    Raises
    ------
    PosematchError
        It is none, or not finished, or a file of it is damaged or of a newer version of posematch.
    """
    check_finished(path)
    folder = RunFolder(path)
    config, environment, result, metrics = read_contents(folder)
    version = environment["schema_version"]
    if version > SCHEMA_VERSION:
        raise PosematchError(
            f"{path} was written by a newer posematch (schema {version}, this one knows"
            f" {SCHEMA_VERSION}); use that version."
        )
    return Run(folder, config, environment, metrics, result)


def check_comparable(
    runs: Sequence[Run], may_differ: Iterable[str] = (*OF_THE_LOSS, *OF_THE_SEED)
) -> None:
    """Refuse runs whose figures may not stand in one table.

    Parameters
    ----------
    runs
        Compared with the first one.
    may_differ
        Keys of the configuration that may; each stands for all keys below it, too.

    Raises
    ------
    PosematchError
        Other people were scored, by another protocol, or something else of the recipe differs; the
        sentence says which runs and in what.
    """
    allowed = tuple(f"{key}." for key in may_differ)
    for other in runs[1:]:
        first = runs[0]
        names = f"{first.folder.path.name} and {other.folder.path.name} cannot be compared"
        if first.metric != other.metric or first.result["protocol"] != other.result["protocol"]:
            raise PosematchError(
                f"{names}: the protocols differ ({first.metric}, {first.result['protocol']};"
                f" {other.metric}, {other.result['protocol']})."
            )
        for key, old, new in config_differences(first.config, other.config):
            if not f"{key}.".startswith(allowed):
                raise PosematchError(f"{names}: {key} is {old} in one and {new} in the other.")
        if first.result["epoch"] != other.result["epoch"]:
            raise PosematchError(
                f"{names}: one was trained for {first.result['epoch']} epochs, the other for"
                f" {other.result['epoch']}."
            )
        difference = people_difference(first.last_predictions, other.last_predictions)
        if difference:
            raise PosematchError(f"{names}: {difference}.")


def people_difference(a: PredictionTable, b: PredictionTable) -> str:
    """How the people of two tables of predictions differ; empty where they do not."""
    same_joints = a.skeleton.joints == b.skeleton.joints
    if not same_joints or not np.array_equal(a.person_ids, b.person_ids):
        return (
            f"other people or joints were scored ({len(a)} people and {a.skeleton.num_joints}"
            f" joints, {len(b)} and {b.skeleton.num_joints})"
        )
    if not np.array_equal(a.labelled, b.labelled):
        return "other joints are labelled"
    if not np.array_equal(a.true_img[a.labelled], b.true_img[b.labelled]):
        return "the true joints are in other places"
    return ""

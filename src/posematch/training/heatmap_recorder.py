"""Decoded maps of a few validation people, kept for `posematch.runs.heatmaps`."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from posematch.runs.folder import RunFolder
from posematch.runs.heatmaps import StoredHeatmaps, chosen_people, compress, write_heatmaps
from posematch.runs.predictions import photo_name
from posematch.training.module import PoseModule


class HeatmapRecorder(pl.Callback):
    """Keeps the maps that were decoded, of `chosen_people`, at each validation (process 0 writes).

    Each process keeps its own people's, compressed; process 0 gathers them, so what is written
    does not depend on the number of processes.

    Parameters
    ----------
    folder
        The run's; ``heatmaps/epoch=NNN.npz`` of the last validation stays there.
    people
        How many.
    """

    def __init__(self, folder: RunFolder, people: int) -> None:
        self.folder = folder
        self.people = people
        self._chosen: frozenset[int] = frozenset()
        self._batches: list[tuple[torch.Tensor, ...]] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        self._chosen = chosen_people(pl_module.valid_people.people, self.people)
        self._batches = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is None:
            return  # of a batch that does not count
        kept = [row for row, one in enumerate(batch["person_id"].tolist()) if one in self._chosen]
        if kept:
            levels, peaks = compress(outputs[kept])
            ids, affine = batch["person_id"][kept], batch["crop_affine"][kept]
            self._batches.append((ids.cpu(), levels.cpu(), peaks.cpu(), affine.cpu()))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        batches, self._batches = _gather(self._batches), []
        # Before the first step it is the untrained network that was scored.
        if not trainer.is_global_zero or trainer.global_step == 0 or not batches:
            return
        ids, levels, peaks, affine = (
            torch.cat(column).numpy() for column in zip(*batches, strict=True)
        )
        order = ids.argsort()
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        images = {one.person_id: one.image for one in pl_module.valid_people.people}
        names = [photo_name(images[int(one)], datamodule.root) for one in ids[order]]
        stored = StoredHeatmaps(
            ids[order], levels[order], peaks[order], affine[order], np.array(names, dtype=np.str_)
        )
        epoch = trainer.current_epoch
        if trainer.state.fn == "validate":  # after the training: the loop counts its epochs
            epoch = pl_module.epochs_begun - 1
        file = self.folder.heatmaps(epoch)
        write_heatmaps(file, stored)
        for other in file.parent.glob("epoch=*.npz"):
            if other != file:
                other.unlink()


def _gather(batches: list[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
    """Those of all processes, on process 0; a collective."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return batches
    rank = torch.distributed.get_rank()
    of_all: list[Any] | None = None if rank else [None] * torch.distributed.get_world_size()
    torch.distributed.gather_object(batches, of_all)
    return [batch for one in of_all or () for batch in one]

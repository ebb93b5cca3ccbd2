"""Weights of a checkpoint under another project's names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posematch.app.objects import make, plain
from posematch.errors import PosematchError
from posematch.evaluation.settings import trusted_packages
from posematch.model_record import read_record
from posematch.networks.checkpoints import (
    load_weights,
    maps_in,
    read_checkpoint,
    save_weights,
)
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.runs.stored_config import checkpoint_file, run_config, without_sources


def export_weights(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Read ``cfg.checkpoint`` and write ``cfg.output`` in ``cfg.layout``.

    Parameters
    ----------
    cfg
        As conf/export_weights.yaml. The network is that of the checkpoint's run, if it lies in one
        and the command names none.
    overrides
        Of the command.

    Returns
    -------
    Sentences about what was read and what the other project has to be told.

    Raises
    ------
    PosematchError
        As `load_weights` and `save_weights`, or a network that is none of ours.
    """
    checkpoint = checkpoint_file(cfg.checkpoint)
    trust = trusted_packages(cfg.trust)
    content = read_checkpoint(checkpoint)
    record = read_record(content, checkpoint, trust, ["backbone"])
    run = run_config(checkpoint, trust, ["backbone"])
    own: Any = None if record is None else record.backbone
    if run is not None:
        own = plain(run.backbone)
    named = any(one.startswith("backbone") for one in overrides)
    chosen = plain(cfg.backbone) if own is None or named else own
    backbone = OmegaConf.create(without_sources(chosen))
    backbone.pretrained = False
    backbone.head_init_bias = 0.0
    maps = maps_in(checkpoint, content)
    if maps is None:
        raise PosematchError(f"checkpoint={checkpoint} has no last layer that makes heatmaps.")
    network = make(backbone, "backbone", num_joints=maps)
    if not isinstance(network, HeatmapNetwork):
        raise PosematchError(
            f"{type(network).__name__} is no network that another project has; backbone must be a"
            " HeatmapNetwork."
        )
    loaded = load_weights(network, checkpoint, new_head=False, content=content)
    if named:
        record = None  # it is of another network
    return [
        *loaded.told(checkpoint),
        *save_weights(
            network,
            cfg.layout,
            Path(cfg.output).expanduser(),
            None if record is None else record.model_dump(),
        ),
    ]

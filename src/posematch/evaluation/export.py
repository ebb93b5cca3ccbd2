"""Weights of a checkpoint under another project's names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from posematch.app.objects import make
from posematch.errors import PosematchError
from posematch.evaluation.settings import (
    checkpoint_file,
    copied,
    run_config,
    trusted_packages,
)
from posematch.networks.checkpoints import load_weights, maps_in, save_weights
from posematch.networks.heatmap_network import HeatmapNetwork


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
    run = run_config(checkpoint, trusted_packages(cfg.trust), ["backbone"])
    named = any(one.startswith("backbone") for one in overrides)
    backbone = copied(cfg.backbone if run is None or named else run.backbone)
    backbone.pretrained = False
    backbone.head_init_bias = 0.0
    maps = maps_in(checkpoint)
    if maps is None:
        raise PosematchError(f"checkpoint={checkpoint} has no last layer that makes heatmaps.")
    network = make(backbone, "backbone", num_joints=maps)
    if not isinstance(network, HeatmapNetwork):
        raise PosematchError(
            f"{type(network).__name__} is no network that another project has; backbone must be a"
            " HeatmapNetwork."
        )
    loaded = load_weights(network, checkpoint, new_head=False)
    return [
        *loaded.told(checkpoint),
        *save_weights(network, cfg.layout, Path(cfg.output).expanduser()),
    ]

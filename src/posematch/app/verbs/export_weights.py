"""Write a network's weights under another project's names.

posematch export_weights checkpoint=RUN_FOLDER layout=official output=pose.pth
posematch export_weights checkpoint=FILE.pth backbone=hrnet_w32 layout=mmpose output=X
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posematch.app.commands import command
from posematch.console import say

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Settings:
    """Keys of conf/export_weights.yaml besides those of the network."""

    checkpoint: str
    layout: str
    output: str


@command("export_weights")
def run(cfg: DictConfig) -> None:
    """Write the file, and print what is in it."""
    from hydra.core.hydra_config import HydraConfig

    from posematch.app.objects import check_objects, own_settings
    from posematch.runs.stored_config import checkpoint_file
    from posematch.untrusted import open_checkpoint

    it: Settings = own_settings(Settings, cfg)
    check_objects(cfg)
    open_checkpoint(checkpoint_file(it.checkpoint)).close()
    from posematch.evaluation.export import export_weights

    output = Path(it.output).expanduser()
    say(*export_weights(cfg, HydraConfig.get().overrides.task), f"written to {output}")

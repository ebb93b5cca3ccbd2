"""Write a network's weights under another project's names.

    python scripts/export_weights.py checkpoint=RUN_FOLDER layout=official output=pose.pth
    python scripts/export_weights.py checkpoint=FILE.pth backbone=hrnet_w32 layout=mmpose output=X

See conf/export_weights.yaml.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from posematch.cli import hydra_main
from posematch.config import check_type
from posematch.console import say
from posematch.evaluation.export import export_weights


@hydra_main("export_weights")
def main(cfg: DictConfig) -> None:
    for key in ("checkpoint", "layout", "output"):
        check_type(key, cfg.get(key, "???"), str)
    output = Path(cfg.output).expanduser()
    say(*export_weights(cfg, HydraConfig.get().overrides.task), f"written to {output}")


if __name__ == "__main__":
    main()

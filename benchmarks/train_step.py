"""Training speed: our loop's defaults against the same loop in NCHW float32.

    python benchmarks/train_step.py [group=choice] [key=value]

Composes conf/train.yaml with the overrides, takes real batches of its data set and times forward,
loss, backward and optimizer step in turn, A B A B ..., so that a machine whose speed drifts hurts
both alike. Prints images a second (median) and the median of the pairwise ratios.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from posematch.app.composition import register_resolvers
from posematch.app.sentences import one_sentence_errors
from posematch.data.crops import Batch
from posematch.training.build import build_datamodule, build_module
from posematch.training.module import PoseModule

CONF = Path(__file__).resolve().parents[1] / "conf"
PAIRS = 9


class Loop:
    """One network with its optimizer, memory layout and precision."""

    def __init__(self, module: PoseModule, layout: torch.memory_format, bf16: bool) -> None:
        self.module = copy.deepcopy(module).train()
        self.module.model.memory_format = layout
        self.module.network.to(memory_format=layout)
        self.optimizer = torch.optim.AdamW(self.module.network.parameters())
        self.bf16 = bf16

    def seconds(self, batch: Batch) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            heatmaps = self.module(batch["crop"])
        loss = self.module.loss(heatmaps, *self.module.targets(batch))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def main() -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["trainer.accelerator=cpu", *sys.argv[1:]])
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    module = build_module(cfg, datamodule)
    batch = next(iter(datamodule.train_dataloader()))
    bf16 = cfg.trainer.precision == "bf16-mixed"
    loops = {
        f"channels_last {'bf16' if bf16 else 'float32'} (default)": Loop(
            module, torch.channels_last, bf16
        ),
        "NCHW float32": Loop(module, torch.contiguous_format, False),
    }
    for loop in loops.values():
        loop.seconds(batch)
    times = [[loop.seconds(batch) for loop in loops.values()] for _ in range(PAIRS)]
    images = len(batch["crop"])
    table = Table(
        title=f"{cfg.backbone.name} {list(cfg.data.input_size)}, batch {images}, {cfg.loss.name}",
        caption=f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()},"
        f" {torch.get_num_threads()} threads, {PAIRS} pairs",
    )
    table.add_column("loop")
    table.add_column("images a second", justify="right")
    for name, column in zip(loops, zip(*times, strict=True), strict=True):
        table.add_row(name, f"{images / statistics.median(column):.1f}")
    ratio = statistics.median(slow / fast for fast, slow in times)
    console = Console()
    console.print(table)
    console.print(f"ratio (median of pairs): {ratio:.2f}")


if __name__ == "__main__":
    with one_sentence_errors():
        main()

"""Training end to end, from photos to weights: ours against a plain loop.

    python benchmarks/end_to_end.py data=mpii data.root=../shared/data/mpii [--rounds 3]
        [--steps 12] [--csv FILE] [group=choice] [key=value]

Both train the same network (default: experiment=cpu, HRNet-W18-small at 128 x 128) with the
Gaussian MSE and one loader worker, some steps of each in turn. Ours has the defaults of
conf/train.yaml and the overrides, by default with data.cache=true; the plain loop is HRNet's: whole
photos (`plain_dataset.py`), targets and normalised crops in float32 from the loader, NCHW, no
autocast, its loss over joints one by one, Adam. Prints images per core-second, by the processor
time of all processes, the ratio of each round, and where ours spends it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from core_time import core_seconds
from hydra import compose, initialize_config_dir
from loader import show
from plain_dataset import PlainDataset
from torch.utils.data import DataLoader
from train_step import CONF

from posematch.app.composition import register_resolvers
from posematch.app.sentences import one_sentence_errors
from posematch.training.build import build_datamodule, build_module
from posematch.training.module import PoseModule

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="of a round")
    parser.add_argument("--csv", type=Path, help="write the figures there, too")
    options, overrides = parser.parse_known_args()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train",
            overrides=[
                "trainer.accelerator=cpu", "experiment=cpu", "loss=gaussian_mse",
                "data.cache=true", "data.workers=1", *overrides,
            ],
        )  # fmt: skip
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    torch.manual_seed(0)
    module = build_module(cfg, datamodule)
    assert datamodule.train is not None
    plain_data = PlainDataset(datamodule.train, datamodule.input_size, int(cfg.data.sigma))
    plain_loader = DataLoader(
        plain_data, cfg.data.batch_size, shuffle=True, drop_last=True, num_workers=1,
        persistent_workers=True,
    )  # fmt: skip
    where: dict[str, list[float]] = {}
    loops = {
        "ours": ours(module, endless(datamodule.train_dataloader()), cfg.trainer.precision, where),
        "plain": plain(module.network, endless(plain_loader)),
    }
    for step in loops.values():
        for _ in range(WARM_UP):
            step()
    where.clear()
    images = options.steps * cfg.data.batch_size
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, step in loops.items():
            before = core_seconds()
            for _ in range(options.steps):
                step()
            speeds[name].append(images / (core_seconds() - before))
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["plain"], strict=True)]
    rows = [
        {"loop": name, "images_per_core_second": statistics.median(all_of_one)}
        for name, all_of_one in speeds.items()
    ]
    show(
        pd.DataFrame(rows),
        f"{cfg.backbone.name} {list(cfg.data.input_size)}, batch {cfg.data.batch_size},"
        f" {cfg.trainer.precision} against 32-true, {torch.get_num_threads()} threads",
    )
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    parts = pd.DataFrame(
        {"part": name, "ms": 1e3 * statistics.median(one)} for name, one in where.items()
    )
    show(parts, "ours, a step, by the clock")
    if options.csv:
        pd.DataFrame(rows).assign(ratio=statistics.median(ratios)).to_csv(options.csv, index=False)


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def ours(
    module: PoseModule, batches: Iterator[Any], precision: str, where: dict[str, list[float]]
) -> Callable[[], None]:
    """A step as `posematch.training.module` takes it."""
    module = copy.deepcopy(module).train()
    module.network.to(memory_format=module.model.memory_format)
    optimizer = module.new_optimizer()
    bf16 = precision == "bf16-mixed"

    def step() -> None:
        clock = [time.perf_counter()]
        batch = next(batches)
        clock.append(time.perf_counter())
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            heatmaps = module(batch["crop"])
        clock.append(time.perf_counter())
        loss = module.loss(heatmaps, *module.targets(batch))
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        clock.append(time.perf_counter())
        names = ("wait for the loader", "forward", "loss", "backward", "optimizer")
        for name, begun, ended in zip(names, clock, clock[1:], strict=False):
            where.setdefault(name, []).append(ended - begun)

    return step


def plain(network: torch.nn.Module, batches: Iterator[Any]) -> Callable[[], None]:
    """A step as HRNet's code takes it, its loss in our words."""
    network = copy.deepcopy(network).train().to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    mse = torch.nn.MSELoss()

    def step() -> None:
        crops, targets, weights, _ = next(batches)
        heatmaps = network(crops)
        joints = heatmaps.shape[1]
        loss = torch.zeros(())
        for joint in range(joints):
            weight = weights[:, joint, None, None]
            loss = loss + 0.5 * mse(heatmaps[:, joint] * weight, targets[:, joint] * weight)
        optimizer.zero_grad()
        (loss / joints).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    with one_sentence_errors():
        main()

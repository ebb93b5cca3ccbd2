"""How speed changes with batch, joints, size of the crop and loader workers.

    python benchmarks/scaling.py [--rounds 3] [--csv FILE] [backbone=hrnet_w18_small ...]

Steps (forward, Gaussian MSE or matching, backward, optimizer) of HRNet-W18-small on random crops,
each setting in turn, round after round, as images a second and as a ratio to batch 32, 16 joints,
128 x 128 with the Gaussian MSE. Workers: samples of the drawn people by 0, 1, 2, 4, ... loader
processes, as many as there are cores at most, people a second by the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from loader import show
from train_step import CONF

from posematch.app.composition import register_resolvers
from posematch.app.objects import make
from posematch.app.sentences import one_sentence_errors
from posematch.losses import GaussianMSE, HeatmapLoss, Matching
from posematch.processes import available_cores
from posematch.training.build import build_datamodule

STANDARD = {"batch": 32, "joints": 16, "side": 128, "loss": "gaussian_mse"}
SETTINGS = [
    STANDARD,
    *({**STANDARD, "batch": one} for one in (8, 16, 64)),
    *({**STANDARD, "joints": one} for one in (17, 68, 133)),
    *({**STANDARD, "side": one} for one in (64, 192, 256)),
    *({**STANDARD, "loss": "matching", "joints": one} for one in (16, 133)),
    *({**STANDARD, "loss": "matching", "side": one} for one in (64, 256)),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="write the figures of steps there, too")
    options, overrides = parser.parse_known_args()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train", overrides=["experiment=cpu", "backbone.head_init_bias=0", *overrides]
        )
    steps = [Step(cfg, setting) for setting in SETTINGS]
    times: list[list[float]] = [[] for _ in steps]
    for round_ in range(options.rounds + 1):
        for step, all_of_one in zip(steps, times, strict=True):
            seconds = step.seconds()
            if round_:
                all_of_one.append(seconds)
    base = times[0]
    rows = []
    for setting, all_of_one in zip(SETTINGS, times, strict=True):
        faster = [
            setting["batch"] / STANDARD["batch"] * a / b
            for a, b in zip(base, all_of_one, strict=True)
        ]
        speed = setting["batch"] / statistics.median(all_of_one)
        rows.append({**setting, "images_per_second": speed, "ratio": statistics.median(faster)})
    table = pd.DataFrame(rows)
    show(table, f"{cfg.backbone.name}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    if options.csv:
        table.to_csv(options.csv, index=False, float_format="%.4g")
    show(workers(cfg, options.rounds), "loader of the drawn people, people a second")


class Step:
    """A network, its optimizer and a batch of one setting."""

    def __init__(self, cfg: Any, setting: dict[str, Any]) -> None:
        torch.manual_seed(0)
        batch, joints, side = setting["batch"], setting["joints"], setting["side"]
        self.network = make(cfg.backbone, "backbone", num_joints=joints)
        self.network.train().to(memory_format=torch.channels_last)
        self.crops = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
        self.dots_hm = torch.rand(batch, joints, 2) * (side // 4 - 1)
        self.visible = torch.ones(batch, joints)
        self.loss: HeatmapLoss = (
            Matching() if setting["loss"] == "matching" else GaussianMSE(sigma=2.0)
        )
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)

    def seconds(self) -> float:
        start = time.perf_counter()
        self.loss(self.network(self.crops), self.dots_hm, self.visible).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def workers(cfg: Any, rounds: int) -> pd.DataFrame:
    rows = []
    for number in (one for one in (0, 1, 2, 4, 8, 16) if one <= available_cores()):
        cfg.data.workers = number
        datamodule = build_datamodule(cfg)
        datamodule.prepare_data()
        datamodule.setup("fit")
        loader = datamodule.train_dataloader()
        speeds = []
        for round_ in range(rounds + 1):
            start = time.perf_counter()
            people = sum(len(batch["person_id"]) for batch in loader)
            if round_:
                speeds.append(people / (time.perf_counter() - start))
        rows.append({"workers": number, "people_per_second": statistics.median(speeds)})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    with one_sentence_errors():
        main()

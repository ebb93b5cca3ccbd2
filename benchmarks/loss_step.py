"""A training step with one loss against the same step with another.

    python benchmarks/loss_step.py [--losses matching,gaussian_mse] [--pairs 15]
        [group=choice] [key=value]

Composes conf/train.yaml with the overrides (default: experiment=cpu, HRNet-W18-small at 128 x 128),
and times forward, loss, backward and optimizer step of two copies of one network on the same
batches in turn, A B B A ..., both trained by their own loss, so that the heatmaps are those of a
training.
Prints milliseconds (medians) and the median of the pairwise ratios, first over second.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from hydra import compose, initialize_config_dir
from train_step import CONF, Loop

from posematch.app.composition import register_resolvers
from posematch.app.sentences import one_sentence_errors
from posematch.training.build import build_datamodule, build_module


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", default="matching,gaussian_mse")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=5, help="steps that are not counted")
    options, overrides = parser.parse_known_args()
    register_resolvers()
    loops = []
    names = options.losses.split(",")
    for name in names:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(
                "train",
                overrides=[
                    "trainer.accelerator=cpu", "experiment=cpu", *overrides, f"loss={name}",
                    "data.workers=0",  # or they would take a core from the first of a pair
                ],
            )  # fmt: skip
        datamodule = build_datamodule(cfg)
        datamodule.prepare_data()
        datamodule.setup("fit")
        torch.manual_seed(0)
        module = build_module(cfg, datamodule)
        bf16 = cfg.trainer.precision == "bf16-mixed"
        loops.append(Loop(module, module.model.memory_format, bf16))
    batches = iter(datamodule.train_dataloader())
    times: list[list[float]] = [[], []]
    for step in range(options.warm_up + options.pairs):
        batch = next(batches)
        # In turn first and second, as the one before leaves its memory in the caches.
        order = (0, 1) if step % 2 else (1, 0)
        by_loop = {at: loops[at].seconds(batch) for at in order}
        seconds = [by_loop[0], by_loop[1]]
        if step >= options.warm_up:
            for one, all_of_one in zip(seconds, times, strict=True):
                all_of_one.append(one)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    for name, one in zip(names, times, strict=True):
        print(f"{name}: {1e3 * statistics.median(one):.1f} ms")
    print(
        f"{names[0]} over {names[1]}: {ratio:.3f}, {options.pairs} pairs,"
        f" batch {cfg.data.batch_size}, {cfg.trainer.precision}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    with one_sentence_errors():
        main()

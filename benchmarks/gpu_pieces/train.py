"""A training from end to end against the bare step: what loader, loop and records leave of it."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING, Any

import torch

from gpu_pieces.shared import Bench, Case, OutOfTimeError, Row, in_turn, spread
from gpu_pieces.training import compose, data_overrides, stopped_after

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from posematch.training.module import PoseModule

SECONDS_A_CASE = 100.0  # three epochs of the MPII subset, and the bare steps
EPOCHS = 3  # the first one captures, and starts the loader


def cases(bench: Bench) -> list[Case]:
    """Of HRNet-W32 at 256 x 256, batch 64 (small: HRNet-W18-small at 64 x 64, batch 4)."""
    return [
        Case(loss, functools.partial(_train, bench, loss)) for loss in ("matching", "gaussian_mse")
    ]


def _overrides(bench: Bench, loss: str) -> list[str]:
    name, size, batch = ("hrnet_w18_small", 64, 4) if bench.small else ("hrnet_w32", 256, 64)
    return [
        *data_overrides(bench),
        f"loss={loss}", f"backbone={name}", "backbone.pretrained=false", "data.cache=true",
        f"data.input_size=[{size},{size}]", f"data.batch_size={batch}", f"run_root={bench.runs}",
        f"trainer.accelerator={'gpu' if bench.device.type == 'cuda' else 'cpu'}",
        f"trainer.max_epochs={EPOCHS}", f"trainer.check_val_every_n_epoch={EPOCHS}",
        "measure=none", "decoders=none", "pictures.every_n_epochs=0", "pictures.heatmaps_of=0",
        "pictures.results=false", *bench.overrides,
    ]  # fmt: skip


def _train(bench: Bench, loss: str) -> Row:
    """Images a second of the epochs after the first, and of the bare step in the same process.

    ``share``: the former over the latter; ``validation_seconds``: of all validation people, flip
    test included.
    """
    if bench.seconds_left < (0 if bench.small else SECONDS_A_CASE):
        raise OutOfTimeError
    cfg = compose(_overrides(bench, loss))
    from posematch.training.run import train
    from posematch.training.stopping import InterruptedTrainingError

    with stopped_after(bench.seconds_left) as clock:
        try:
            result = train(cfg)
        except (InterruptedTrainingError, KeyboardInterrupt, SystemExit):
            if clock.is_set():
                raise OutOfTimeError from None
            raise
    import pandas as pd

    timing = pd.read_csv(result.folder.timing)
    trained = [float(one) for one in timing["images_per_second"]][1:]
    times = _bare_steps(bench, cfg)
    bare = 1e3 * cfg.data.batch_size / statistics.median(times)
    return {
        "bare_step_ms": spread(times),
        "bare_images_per_second": bare,
        "trained_images_per_second": statistics.median(trained),
        "share": statistics.median(trained) / bare,
        "validation_seconds": float(timing["validation_seconds"].iloc[-1]),
        "epoch_seconds": float(timing["train_seconds"].iloc[-1]),
    }


def _bare_steps(bench: Bench, cfg: DictConfig) -> list[float]:
    """Milliseconds of the training's own step on one batch that lies on the device.

    Under the same settings (deterministic algorithms, precision), which the training has left on.
    """
    from omegaconf import open_dict

    from posematch.training.build import build_datamodule, build_module
    from posematch.training.graphs import DEVICES, CapturedModel

    with open_dict(cfg):
        cfg.data.pop("device_cache", None)  # crops by the loader's own way
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    module = build_module(cfg, datamodule).to(bench.device).train()
    dataset: Any = datamodule.train_dataloader().dataset
    rows = [dataset[(0, place % len(dataset))] for place in range(cfg.data.batch_size)]
    batch = {
        key: torch.utils.data.default_collate([row[key] for row in rows]).to(bench.device)
        for key in ("crop", "joints_crop", "visible", "widths_crop")
    }
    passes = CapturedModel(module.model) if bench.device.type in DEVICES else module.model
    run = functools.partial(_step, module, passes, module.new_optimizer(), batch, cfg)
    return in_turn({"step": run}, bench, 40)["step"]


def _step(
    module: PoseModule, passes: Any, optimizer: torch.optim.Optimizer, batch: Any, cfg: DictConfig
) -> None:
    from posematch.arithmetic import put_off_checks

    device = batch["crop"].device.type
    bf16 = cfg.trainer.precision == "bf16-mixed"
    with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
        heatmaps = passes(batch["crop"])
        with put_off_checks():
            loss = module.loss(heatmaps, *module.targets(batch))
    loss.backward()
    torch.stack([loss.detach(), module.gradient_norm()]).tolist()
    optimizer.step()
    optimizer.zero_grad()

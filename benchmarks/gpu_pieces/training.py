"""Whole trainings by `posematch.training.run.train`, for each seed and loss."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_pieces.shared import REPOSITORY, Bench, Case, NotApplicableError, OutOfTimeError, Row

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = REPOSITORY / "conf"
LOSSES = ("gaussian_mse", "dot_mse", "matching")


def cases(bench: Bench) -> list[Case]:
    """Whole trainings, a seed of every loss before the next seed."""
    return [
        Case(f"{loss}, seed {seed}", functools.partial(_train, bench, loss, seed))
        for seed in bench.seeds
        for loss in LOSSES
    ]


def _overrides(bench: Bench, loss: str, seed: int) -> list[str]:
    overrides = [
        f"loss={loss}",
        f"seed={seed}",
        f"run_root={bench.runs}",
        "resume=auto",
        f"trainer.accelerator={'gpu' if bench.device.type == 'cuda' else 'cpu'}",
        "data.cache=true",
    ]
    if bench.small:
        overrides += [
            f"data.root={bench.runs}",
            "data.spec.train_photos=12",
            "data.spec.valid_photos=6",
            "data.input_size=[64,64]",
            "data.batch_size=4",
            "data.workers=0",
            "trainer.max_epochs=2",
        ]
    else:
        overrides += ["data=mpii", f"data.root={bench.mpii_root}", "experiment=cpu"]
    if bench.cache_folder is not None:
        overrides.append(f"data.cache_folder={bench.cache_folder}")
    return [*overrides, *bench.overrides]


def data_overrides(bench: Bench) -> list[str]:
    """MPII where it is (``--mpii-root``), else drawn people, of which there are always some."""
    overrides = []
    if bench.cache_folder is not None:
        overrides.append(f"data.cache_folder={bench.cache_folder}")
    if not bench.small and (bench.mpii_root / "annot").is_dir():
        return [*overrides, "data=mpii", f"data.root={bench.mpii_root}"]
    train, valid = (12, 6) if bench.small else (400, 40)
    return [
        *overrides, "data=synthetic", f"data.root={bench.runs}",
        f"data.spec.train_photos={train}", f"data.spec.valid_photos={valid}",
    ]  # fmt: skip


def compose(overrides: Sequence[str]) -> DictConfig:
    """The training's configuration with these overrides.

    Raises
    ------
    NotApplicableError
        Hydra is not installed.
    """
    try:
        import hydra
    except ImportError as error:
        raise NotApplicableError(f"{error}; see --wheels") from None
    from posematch.app.composition import register_resolvers

    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def prepare(bench: Bench) -> None:
    """Write the crop cache that the trainings read."""
    cfg = compose(_overrides(bench, LOSSES[0], bench.seeds[0]))
    from posematch.training.build import build_datamodule

    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    print(f"crop cache: {datamodule.cache_folder}")


def _train(bench: Bench, loss: str, seed: int) -> Row:
    overrides = _overrides(bench, loss, seed)
    cfg = compose(overrides)
    from posematch.training.run import train
    from posematch.training.stopping import InterruptedTrainingError

    with stopped_after(bench.seconds_left) as clock:
        try:
            result = train(cfg)
        except (InterruptedTrainingError, KeyboardInterrupt, SystemExit):
            if clock.is_set():
                raise OutOfTimeError from None
            raise
    return {
        "overrides": overrides,
        "figures": result.figures,
        "losses": result.losses,
        "protocol": result.protocol,
        "epochs": _table(result.folder.metrics),
        "timing": _table(result.folder.timing),
        "run_folder": result.folder.path.name,
    }


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[threading.Event]:
    """Press Ctrl-C after so many seconds: a training ends on it with a checkpoint.

    The event says whether that happened. Outside a training it is a KeyboardInterrupt.
    """
    fired = threading.Event()

    def fire() -> None:
        fired.set()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(max(0.0, seconds), fire)
    # A shell may have started this process with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield fired
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))

"""W&B and TensorBoard; metrics.csv is written in any case and needs no logger.

Names are those of metrics.csv: ``train/loss``, ``train/<loss>/<health>``, ``train/grad_norm``,
``train/learning_rate``, ``train/images_per_second``, ``train/skipped_steps``, ``val/loss/<loss>``,
``val/<metric>``.
W&B gets pictures, and at the end of a run charts and tables, under the names below.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from requests.utils import get_netrc_auth

from posematch.app.objects import make, plain
from posematch.console import tell
from posematch.errors import PosematchError
from posematch.runs.folder import RunFolder

PICTURES = "val/heatmaps"
LOSS_CHARTS = "charts/loss_against_metric"  # one below it for each measured loss
LOSSES_TABLE = "tables/losses"
JOINTS_TABLE = "tables/joints"

# Not where the user says so; else the cache and data of the home folder, of each run in turn.
_WANDB_PLACES = [
    name
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
    if name not in os.environ
]
_OFFLINE = "This run logs offline; `wandb sync {folder}/wandb/offline-run-*` uploads it later."
_ANSWER_SECONDS = 30.0  # for a server to take a run
_FINISH_SECONDS = 120.0  # for the last figures to be uploaded
_REACH_SECONDS = 2.0  # a server that takes longer to answer is taken for absent


def takes_values(trainer: pl.Trainer) -> bool:
    """Whether loggers, bar and other callbacks get a step's values: every so many, first and last.

    Lightning makes tensors, and a GPU's kernels, of every value that it is told, and of all but
    those of every ``trainer.log_every_n_steps`` steps nothing becomes of them.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    due = every > 0 and trainer.global_step % every == 0
    return due or trainer.global_step == 1 or trainer.is_last_batch


def build_loggers(cfg: DictConfig, folder: RunFolder, metric_name: str) -> list[Logger]:
    """The loggers of ``cfg.logger``.

    One that is made as it stands (any of Lightning's) is taken so; a partial one gets ``folder``,
    ``config`` (resolved) and ``metric_name`` first.
    """
    loggers = []
    for name, one in cfg.logger.items():
        made = make(one, f"logger.{name}")
        if not isinstance(made, Logger):
            made = made(folder=folder.path, config=plain(cfg), metric_name=metric_name)
        if not isinstance(made, Logger):
            raise PosematchError(f"logger.{name} does not make a Lightning logger.")
        loggers.append(made)
    return loggers


def wandb_logger(
    folder: Path,
    config: Mapping[str, Any],
    metric_name: str,
    project: str,
    entity: str | None,
    group: str | None,
    tags: Sequence[str],
) -> Logger:
    """A W&B run in ``folder/wandb``; offline by itself where there is no key or no network.

    A resumed training goes on in the same W&B run: its id is the folder's name.

    Parameters
    ----------
    folder
        Run folder.
    config
        Resolved configuration, shown with the run.
    metric_name
        The data set's main metric; any validation loss is plotted against it by default.
    project, entity, group, tags
        As in ``wandb.init``.

    Raises
    ------
    PosematchError
        wandb is not installed.
    """
    try:
        with _below(folder / "wandb"):
            import wandb
    except ImportError:
        raise PosematchError(
            "logger=wandb needs the wandb package: pip install 'posematch[wandb]'."
        ) from None

    if getattr(rank_zero_only, "rank", 0) != 0:
        return WandbLogger(project=project)  # logs nothing outside process 0
    mode: Literal["online", "offline"] | None = None  # what WANDB_MODE says
    if "WANDB_MODE" not in os.environ:
        reason = why_offline()
        mode = "online"
        if reason:
            mode = "offline"
            tell(f"W&B: {reason}. {_OFFLINE.format(folder=folder)}")

    def begin(mode: Literal["online", "offline"] | None) -> Any:
        # Not through Lightning's own call, which would reuse a run that this process has open.
        return wandb.init(
            dir=folder,
            id=folder.name[-64:],
            name=folder.name,
            resume="allow",
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            config=dict(config),
            mode=mode,
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=_ANSWER_SECONDS, reinit="create_new"
            ),
        )

    try:
        run = begin(mode)
    except wandb.errors.CommError as error:
        # A server that is there and does not answer, or refuses: no reason not to train.
        tell(f"W&B: {' '.join(str(error).split())}. {_OFFLINE.format(folder=folder)}")
        wandb.teardown()  # its process still holds the run's id
        run = begin("offline")
    except wandb.Error as error:
        raise PosematchError(
            f"W&B does not take this run ({' '.join(str(error).split())}); log in again, or set"
            " WANDB_MODE=offline."
        ) from error
    _define_metrics(run, metric_name)
    return _SteadyWandbLogger(experiment=run)


class _SteadyWandbLogger(WandbLogger):
    """Lightning's, by whose failure no training ends: it is told once, and no more is logged."""

    _failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try(lambda: super(_SteadyWandbLogger, self).log_metrics(metrics, step))

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        self._try(lambda: super(_SteadyWandbLogger, self).log_image(key, images, step, **kwargs))

    def finish(self, last: Callable[[Any], None], failed: bool) -> None:
        """Log the last things and close the run; who takes too long is left alone."""

        def close() -> None:
            self._try(lambda: last(self.experiment))
            self._try(lambda: self.experiment.finish(exit_code=int(failed)))

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        closing.join(_FINISH_SECONDS)
        if closing.is_alive():
            tell(
                f"W&B has not taken the last figures within {_FINISH_SECONDS:.0f} s; the run folder"
                " has them all, and `wandb sync` uploads its wandb/ later."
            )

    def _try(self, log: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            log()
        except Exception as error:  # whatever W&B's own process or the network brings
            self._failed = True
            tell(f"W&B no longer logs this run ({type(error).__name__}: {error}); it goes on.")


@contextlib.contextmanager
def _below(folder: Path) -> Iterator[None]:
    """Let W&B keep all it writes in the run's folder, what it makes at its import included.

    Where the user's environment names a place, it is used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for variable in _WANDB_PLACES:
        os.environ[variable] = str(folder / "cache")
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def finish_wandb(
    loggers: Sequence[Logger],
    summary: Mapping[str, Any],
    failed: bool,
    metrics_csv: Path,
    metric_name: str,
) -> None:
    """Write the last figures into the summary, log `_closing_charts`, and close the runs."""
    for logger in loggers:
        if isinstance(logger, _SteadyWandbLogger):

            def last(run: Any) -> None:
                run.summary.update(dict(summary))
                if not failed:
                    run.log(_closing_charts(metrics_csv, f"val/{metric_name}"))

            logger.finish(last, failed)


def _closing_charts(metrics_csv: Path, metric: str) -> dict[str, Any]:
    """The run at a glance: each loss against the metric, a dot an epoch; and both as tables.

    From the csv, which holds the epochs before a training was resumed, too.
    """
    import wandb

    epochs = pd.read_csv(metrics_csv)
    names = [str(one) for one in epochs.columns]
    if metric not in names:
        return {}
    logged: dict[str, Any] = {}
    losses = []
    for column in (one for one in names if one.startswith("val/loss/")):
        name = column.removeprefix("val/loss/")
        points = epochs[["epoch", column, metric]].dropna()
        # A chart would take a dot in a column's name for a path.
        points = points.set_axis(["epoch", "loss", "metric"], axis=1)
        logged[f"{LOSS_CHARTS}/{name}"] = wandb.plot.scatter(
            wandb.Table(dataframe=points),
            "loss",
            "metric",
            title=f"{metric} (metric) against {column} (loss)",
        )
        losses.append(points.assign(name=name)[["name", "epoch", "loss", "metric"]])
    if losses:
        logged[LOSSES_TABLE] = wandb.Table(dataframe=pd.concat(losses, ignore_index=True))
    joints = [
        (*name.removeprefix("val/").split("/joint/"), float(epochs[name].dropna().iloc[-1]))
        for name in names
        if "/joint/" in name and epochs[name].notna().any()
    ]
    if joints:
        table = pd.DataFrame(joints, columns=["figure", "joint", "value"])
        logged[JOINTS_TABLE] = wandb.Table(dataframe=table)
    return logged


def _define_metrics(run: Any, metric_name: str) -> None:
    """Which axis each figure is plotted over; the first of a chart's axes one can choose."""
    metric = f"val/{metric_name}"
    run.define_metric("trainer/global_step", hidden=True)
    run.define_metric("epoch", hidden=True)
    run.define_metric("train/*", step_metric="trainer/global_step")
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric(metric, step_metric="epoch", summary="max,last")
    # What posematch is about: a loss that falls while the metric stands still shows here.
    run.define_metric("val/loss/*", step_metric=metric, summary="min,last")


def why_offline() -> str | None:
    """What keeps a run from being uploaded to ``WANDB_BASE_URL`` or W&B's own server, or None."""
    base_url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not os.environ.get("WANDB_API_KEY") and get_netrc_auth(base_url) is None:
        return "no API key (WANDB_API_KEY or `wandb login`)"
    server = urllib.parse.urlsplit(base_url)
    if urllib.request.getproxies():
        return None  # the proxy knows
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        socket.create_connection((server.hostname or "", port), timeout=_REACH_SECONDS).close()
    except OSError:
        return f"{server.hostname} cannot be reached"
    return None


def tensorboard_logger(folder: Path, config: Mapping[str, Any], metric_name: str) -> Logger:
    """Event files in ``folder/tensorboard``."""
    try:
        logger = TensorBoardLogger(save_dir=folder, name="", version="tensorboard")
    except ModuleNotFoundError:
        raise PosematchError(
            "logger=tensorboard needs the tensorboard package: pip install"
            " 'posematch[tensorboard]'."
        ) from None
    logger.log_hyperparams(dict(config))
    return logger

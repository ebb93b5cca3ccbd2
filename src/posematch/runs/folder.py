"""One folder per run: where everything a training leaves behind is found again.

config.yaml        resolved
environment.json   git commit and dirty flag, versions, device, seed, command, schema version
metrics.csv        a row per epoch, deterministic columns only
timing.csv         a row per epoch, times and speeds
predictions/       epoch=NNN.parquet; decoder=NAME/epoch=NNN.parquet of the last validation
truth.json         COCO's annotations of the scored photos (where AP is the metric)
figures/           epoch=NNN.png: heatmaps and skeletons of a few validation people
results.png        curves over epochs, heatmaps and skeletons of the worst and of ordinary people
heatmaps/          epoch=NNN.npz: maps of a few hundred validation people, of the last epoch
checkpoints/       last.ckpt, previous.ckpt (the one before it), best.ckpt
.lock              held by the process that trains it; a killed one leaves it
divergence/        step=NNNNNN.pt: what reproduces a step whose loss or gradient was not finite
result.json        figures of the last checkpoint; written at the end, so it marks a finished run
"""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posematch.console import tell
from posematch.errors import PosematchError
from posematch.files import is_locked, locked, remove_unless_held, sweep_partials, write_text
from posematch.networks.normalisation import with_normalisation
from posematch.untrusted import read_text, read_yaml

LOCK = ".lock"
_PROBE_SECONDS = 1.0
WRITTEN = ("checkpoints", "predictions", "figures", "heatmaps", "divergence")
SCHEMA_VERSION = 2
_VERSIONED = (
    "posematch",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "pot",
    "albumentations",
    "opencv-python-headless",
    "simplejpeg",
    "pycocotools",
    "numpy",
    "wandb",
)
# Keys that say where, how long or how loudly to run, not what is trained: a resumed run may change
# them.
_FREE_KEYS = (
    "resume",
    "run_root",
    "sweep",
    "dry_run",
    "validate_first",
    "checkpoint_every_minutes",
    "max_skipped_steps",
    "silence_minutes",
    "data.root",
    "data.cache_folder",
    "data.device_cache",
    "data.workers",
    "trainer.benchmark",
    "trainer.cuda_graphs",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)
_FREE_GROUPS = ("debug.", "logger.", "pictures.", "decoders.")
# These too, under a schedule that does not depend on the training's length.
_LENGTH_KEYS = ("trainer.max_epochs", "trainer.max_steps")
_NORMALISATION = "backbone.normalisation"
# What trainings did before there were such keys.
_LATER_DATA = {"cache_format": "jpeg", "reduced_decode": False, "fold": 0}
_LATER_LOSSES: dict[str, dict[str, Any]] = {
    "posematch.losses.Matching": {
        "even_share": 0.0,
        "revive": False,
        "widths": "none",
        "width_factor": 1.0,
        "width_range_px": None,
    },
    "posematch.losses.SpatialCrossEntropy": {"pool": 1, "temperature": 1.0},
    **{
        f"posematch.losses.{name}": {"temperature": 1.0}
        for name in (
            "GaussianMSE", "OHKM", "DotMSE", "AdaptiveWing", "KLDivergence", "JSDivergence", "DSNT",
            "MarginalCrossEntropy",
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and the places in it."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def timing(self) -> Path:
        return self.path / "timing.csv"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def results(self) -> Path:
        """The picture of how the training went."""
        return self.path / "results.png"

    @property
    def reading(self) -> Path:
        """What was made of the annotations, `posematch.data.report`."""
        return self.path / "reading.json"

    @property
    def truth(self) -> Path:
        return self.path / "truth.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.checkpoints / "previous.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def divergence(self) -> Path:
        return self.path / "divergence"

    def dump(self, step: int) -> Path:
        """Of the optimizer step that was to follow on so many."""
        return self.divergence / f"step={step:06d}.pt"

    def figure(self, epoch: int) -> Path:
        return self.path / "figures" / f"epoch={epoch:03d}.png"

    def heatmaps(self, epoch: int) -> Path:
        return self.path / "heatmaps" / f"epoch={epoch:03d}.npz"

    def predictions(self, epoch: int, decoder: str | None = None) -> Path:
        """By the run's own decoder, or by the further one of that name."""
        folder = self.path / "predictions"
        folder = folder if decoder is None else folder / f"decoder={decoder}"
        return folder / f"epoch={epoch:03d}.parquet"


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """The run folder for this process alone; what killed writers left in it is swept away.

    Raises
    ------
    PosematchError
        Another process trains it.
    """

    begun = time.monotonic()

    def refuse() -> None:
        if time.monotonic() - begun < _PROBE_SECONDS:
            return  # another process may only be looking whether it is held
        raise PosematchError(
            f"{folder.path} is being trained by another process{_holder(folder.path)}; wait for it,"
            " stop it, or start a new run."
        )

    with locked(folder.path / LOCK, refuse) as lock:
        lock.truncate(0)
        lock.write(f"{os.getpid()} {socket.gethostname()}\n".encode())
        lock.flush()
        for inside in (folder.path, *(folder.path / name for name in WRITTEN)):
            if inside.is_dir():
                sweep_partials(inside)
        yield


def _holder(path: Path) -> str:
    try:
        pid, host = read_text(path / LOCK, 1000).split()
        return f" ({int(pid)} on {host})"
    except (PosematchError, ValueError):
        return ""


def new_run_folder(root: Path, name: str) -> RunFolder:
    """Make a folder that no other run has, even one started in the same second.

    Folders of trainings that were killed before they had anything to keep are removed.
    """
    sweep_beginnings(root)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    path = root / f"{stamp}_{name}_{secrets.token_hex(3)}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise PosematchError(
            f"The run folder {path} cannot be made ({error.strerror}); set run_root to a folder"
            " you may write to."
        ) from error
    return RunFolder(path)


_BEGINNING = {
    *("config.yaml", "environment.json", "truth.json", "checkpoints", LOCK),
    *("wandb", "tensorboard"),  # begun, with nothing in them yet
}
_RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_.+_[0-9a-f]{6}")


def sweep_beginnings(root: Path) -> None:
    """Remove run folders whose training was killed before its first checkpoint.

    Only those that a posematch of this version began and nobody holds: the lock file is there and
    free, and nothing else than what a training writes before it trains.
    """
    for path in root.glob("*"):
        if not _RUN_NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        inside = {one.name for one in path.iterdir()}
        visible = {one for one in inside if not one.endswith(".partial")}
        if LOCK in inside and visible <= _BEGINNING and not _checkpoints(path):
            remove_unless_held(path, LOCK)
        elif not inside and time.time() - path.stat().st_mtime > 60:
            with contextlib.suppress(OSError):
                path.rmdir()


def _checkpoints(path: Path) -> list[Path]:
    return list(path.glob("checkpoints/*.ckpt"))


def runs_of(root: Path, config: DictConfig) -> Iterator[RunFolder]:
    """Runs below ``root`` with this resolved configuration, the newest first.

    A folder whose configuration cannot be read is told and passed over.
    """
    for path in sorted(root.glob("*/config.yaml"), reverse=True):
        if path.parent.is_symlink():  # leads out of the root
            continue
        try:
            _refuse_links(RunFolder(path.parent))
            stored = read_config(path)
        except PosematchError as error:
            tell(f"Not looked at: {error}")
            continue
        if not config_differences(stored, config):
            yield RunFolder(path.parent)


def read_config(path: Path) -> dict[str, Any]:
    """A stored configuration as plain values.

    Raises
    ------
    PosematchError
        It cannot be read, or is no mapping.
    """
    stored = read_yaml(path, "the configuration of a run")
    if not isinstance(stored, dict) or not all(isinstance(key, str) for key in stored):
        raise PosematchError(f"{path} is no configuration of a training; restore it.")
    return stored


def check_space(root: Path, needed_bytes: int) -> None:
    """Raise a sentence unless the disk of ``root`` has that much space left."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise PosematchError(
            f"run_root={root} has {free / 2**20:.0f} MiB left and the run's checkpoints need about"
            f" {needed_bytes / 2**20:.0f} MiB; free some or set run_root to another disk."
        )


def run_to_resume(resume: str) -> RunFolder:
    """The run folder that a path names, or a checkpoint in it.

    Raises
    ------
    PosematchError
        The path is no run with a checkpoint that a training goes on from.
    """
    path = Path(resume).expanduser()
    if path.is_file():
        if path.name not in ("last.ckpt", "previous.ckpt"):
            raise PosematchError(
                f"resume={resume}: a training goes on from checkpoints/last.ckpt, or previous.ckpt"
                " before it; name one of them or their run folder."
            )
        path = path.parent.parent
    folder = RunFolder(path)
    if not folder.config.exists() or not _checkpoints(path):
        raise PosematchError(
            f"resume={resume} is not a run with a checkpoint (config.yaml and"
            f" checkpoints/last.ckpt are looked for in {path})."
        )
    return folder


def folder_to_resume(resume: str, root: Path, config: DictConfig) -> RunFolder | None:
    """The run that ``resume`` names, or None to start a new one.

    Parameters
    ----------
    resume
        ``auto``: the newest unfinished run below ``root`` with the same configuration, if any; or
        the path of a run folder or of a checkpoint in one.
    root
        Folder of the runs.
    config
        Resolved configuration of this command.

    Raises
    ------
    PosematchError
        The path is no run, or a run of another configuration; the first difference is named.
    """
    if resume == "auto":
        for folder in runs_of(root, config):
            there = folder.last_checkpoint.exists() or folder.previous_checkpoint.exists()
            if there and not folder.result.exists() and not is_locked(folder.path / LOCK):
                return folder
        return None
    folder = run_to_resume(resume)
    _refuse_links(folder)
    differences = config_differences(read_config(folder.config), config)
    missing = [key for key, old, _ in differences if old == "nothing"]
    # Not all: the value that a file ends in the middle of is another one.
    if 2 * len(missing) > len(differences):
        raise PosematchError(
            f"{folder.config} has no {missing[0]} ({len(missing)} of this command's keys"
            " are missing): it is cut short, or of another version; restore it, or start a new run."
        )
    if differences:
        key, old, new = differences[0]
        raise PosematchError(
            f"resume={resume} was trained with {key}={old}, this command says {new}"
            f" ({len(differences)} differences); repeat the run's own overrides, or start a new"
            " run."
        )
    return folder


def checkpoint_to_resume(resume: str, folder: RunFolder) -> Path:
    """The checkpoint that ``resume`` means in its run folder: the last one unless it names one."""
    path = Path(resume).expanduser()
    if path.name == folder.previous_checkpoint.name:
        return folder.previous_checkpoint
    last = folder.last_checkpoint
    return last if last.exists() else folder.previous_checkpoint


def _refuse_links(folder: RunFolder) -> None:
    """A stranger's run folder could lead what is written into it to other places."""
    # From the outside in: what a link leads to is not even listed.
    outside = [folder.path / name for name in WRITTEN]
    for path in [*folder.path.glob("*"), *(one for n in outside for one in _listed(n))]:
        if path.is_symlink():
            raise PosematchError(
                f"{path} is a link; a run is not resumed in a folder with links: replace it by what"
                " it leads to."
            )


def _listed(folder: Path) -> list[Path]:
    return [] if folder.is_symlink() else list(folder.glob("*"))


# What earlier versions had no keys for, and did.
_SINCE = {"checkpoint_every_minutes": None, "max_skipped_steps": 5, "silence_minutes": 10}


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with the keys that came later, as it was without them."""
    later: dict[str, Any] = {**_SINCE, **_with_normalisation(_with_metric(dict(config)))}
    return later


def config_differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every key that matters and differs; names of choices come first.

    Parameters
    ----------
    old, new
        Configurations, as OmegaConf's or as nested dicts. Keys that say where, how long or how
        loudly to run are not looked at; nor is the normalisation where the new one leaves it open
        (``auto``), since a run that is resumed keeps its own.
    """
    flat_old, flat_new = (
        _flatten(_with_normalisation(_with_losses(_with_data(_with_metric(_plain(one))))))
        for one in (old, new)
    )
    any_length = str(flat_new.get("schedule._target_")).endswith(".multistep")
    free = {*_FREE_KEYS, *(_LENGTH_KEYS if any_length else ())}
    if flat_new.get(_NORMALISATION) == "auto":
        free |= {key for key in flat_old if f"{key}.".startswith(f"{_NORMALISATION}.")}
        free.add(_NORMALISATION)
    return [
        (key, flat_old.get(key, "nothing"), flat_new.get(key, "nothing"))
        for key in sorted(
            flat_old.keys() | flat_new.keys(),
            key=lambda key: (not key.endswith(".name"), key.count("."), key),
        )
        if key not in free
        and not f"{key}.".startswith(_FREE_GROUPS)
        and flat_old.get(key) != flat_new.get(key)
    ]


def _with_metric(config: Any) -> Any:
    """With the main figure that runs of earlier versions had."""
    if not isinstance(config, dict) or "metric" in config or "data" not in config:
        return config
    own = isinstance(config["data"], dict) and config["data"].get("own_skeleton")
    return {**config, "metric": "AP" if own else "auto"}


def _with_data(config: Any) -> Any:
    """With what runs of earlier versions did with their data."""
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        return config
    return {**config, "data": {**_LATER_DATA, **config["data"]}}


def _with_losses(config: Any) -> Any:
    """With what runs of earlier versions' losses did, measured ones and those inside others too."""
    if not isinstance(config, dict):
        return config
    parts = {key: _with_later(config[key]) for key in ("loss", "measure") if key in config}
    return {**config, **parts}


def _with_later(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    later = _LATER_LOSSES.get(str(tree.get("_target_")), {})
    return {**later, **{key: _with_later(one) for key, one in tree.items()}}


def _with_normalisation(config: Any) -> Any:
    if not isinstance(config, dict) or "backbone" not in config:
        return config
    return {**config, "backbone": with_normalisation(config["backbone"])}


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or (prefix and not tree):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def environment(seed: int, device: str) -> dict[str, Any]:
    """What a reader needs to run the same thing again, as json."""
    import torch

    return {
        "schema_version": SCHEMA_VERSION,
        "command": sys.argv,
        "seed": seed,
        "device": device,
        "git": _git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in _VERSIONED},
    }


def environment_differences(then: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """(what, then, now) of two environment.json that differ in what figures may depend on."""
    flat = [_flatten(one if isinstance(one, dict) else {}) for one in (then, now)]
    depends = ("git.", "python.", "platform.", "cuda.", "threads.", "versions.", "device.", "seed.")
    return [
        (key, flat[0].get(key), flat[1].get(key))
        for key in dict.fromkeys([*flat[0], *flat[1]])
        if f"{key}.".startswith(depends) and flat[0].get(key) != flat[1].get(key)
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any]:
    """Commit of the code that runs and whether it was changed since; None outside a checkout."""
    source = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(source), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    # Installed inside an unrelated repository, the package's files are not tracked by it.
    if not git("ls-files", "--", str(source)):
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


class EpochTable:
    """A csv with a row per epoch, rewritten in one piece, that survives resuming.

    Parameters
    ----------
    path
        The csv.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = _epoch_rows(path) if path.exists() else []

    @property
    def epochs(self) -> list[int]:
        """Epochs that have a row, counted from 0."""
        return [int(row["epoch"]) for row in self.rows]

    def write(self, epoch: int, row: Mapping[str, float | int]) -> None:
        """Set figures of the epoch; later rows, left by a training that was taken back, go."""
        kept = [old for old in self.rows if int(old["epoch"]) < epoch]
        own = next((old for old in self.rows if int(old["epoch"]) == epoch), {"epoch": str(epoch)})
        self.rows = [*kept, {**own, **{k: _number(v) for k, v in row.items()}}]
        columns = list(dict.fromkeys(key for one in self.rows for key in one))
        lines = [",".join(columns)]
        lines += [",".join(one.get(column, "") for column in columns) for one in self.rows]
        write_text(self.path, "\n".join(lines) + "\n")


def best_of(metrics: Path, column: str) -> float | None:
    """The highest figure of a column of metrics.csv; None where there is none."""
    figures = [row[column] for row in EpochTable(metrics).rows if row.get(column)]
    return max(map(float, figures), default=None)


def _epoch_rows(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(read_text(path).splitlines(), strict=True))
        epochs = [int(row["epoch"]) for row in rows]
        whole = all(None not in row and None not in row.values() for row in rows)
    except (KeyError, ValueError, TypeError, csv.Error):
        epochs, whole, rows = [], False, []
    if not whole or epochs != sorted(set(epochs)):
        raise PosematchError(f"{path} is no table of epochs; restore it, or start a new run.")
    return rows


def _number(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.9g}"

"""One folder per run: where everything a training leaves behind is found again.

config.yaml        resolved
environment.json   git commit and dirty flag, versions, device, seed, command, schema version
metrics.csv        a row per epoch, deterministic columns only
timing.csv         a row per epoch, times and speeds
predictions/       epoch=NNN.parquet; decoder=NAME/epoch=NNN.parquet of the last validation
truth.json         COCO's annotations of the scored photos (where AP is the metric)
figures/           epoch=NNN.png: heatmaps and skeletons of a few validation people
heatmaps/          epoch=NNN.npz: maps of a few hundred validation people, of the last epoch
checkpoints/       last.ckpt, best.ckpt
result.json        figures of the last checkpoint; written at the end, so it marks a finished run
"""

from __future__ import annotations

import csv
import json
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from posematch.errors import PosematchError

SCHEMA_VERSION = 1
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
    "silence_minutes",
    "data.root",
    "data.cache_folder",
    "data.workers",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)
_FREE_GROUPS = ("debug.", "logger.", "pictures.", "decoders.")
# These too, under a schedule that does not depend on the training's length.
_LENGTH_KEYS = ("trainer.max_epochs", "trainer.max_steps")


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
    def truth(self) -> Path:
        return self.path / "truth.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    def figure(self, epoch: int) -> Path:
        return self.path / "figures" / f"epoch={epoch:03d}.png"

    def heatmaps(self, epoch: int) -> Path:
        return self.path / "heatmaps" / f"epoch={epoch:03d}.npz"

    def predictions(self, epoch: int, decoder: str | None = None) -> Path:
        """By the run's own decoder, or by the further one of that name."""
        folder = self.path / "predictions"
        folder = folder if decoder is None else folder / f"decoder={decoder}"
        return folder / f"epoch={epoch:03d}.parquet"


def new_run_folder(root: Path, name: str) -> RunFolder:
    """Make a folder that no other run has, even one started in the same second."""
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


def runs_of(root: Path, config: DictConfig) -> Iterator[RunFolder]:
    """Runs below ``root`` with this resolved configuration, the newest first."""
    for path in sorted(root.glob("*/config.yaml"), reverse=True):
        if not config_differences(OmegaConf.load(path), config):
            yield RunFolder(path.parent)


def check_space(root: Path, needed_bytes: int) -> None:
    """Raise a sentence unless the disk of ``root`` has that much space left."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise PosematchError(
            f"run_root={root} has {free / 2**20:.0f} MiB left and the run's checkpoints need about"
            f" {needed_bytes / 2**20:.0f} MiB; free some or set run_root to another disk."
        )


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
            if folder.last_checkpoint.exists() and not folder.result.exists():
                return folder
        return None
    path = Path(resume).expanduser()
    if path.is_file():
        if path.name != "last.ckpt":
            raise PosematchError(
                f"resume={resume}: a training goes on from checkpoints/last.ckpt alone; name that"
                " file or its run folder."
            )
        path = path.parent.parent
    folder = RunFolder(path)
    if not folder.config.exists() or not folder.last_checkpoint.exists():
        raise PosematchError(
            f"resume={resume} is not a run with a checkpoint (config.yaml and"
            f" checkpoints/last.ckpt are looked for in {path})."
        )
    differences = config_differences(OmegaConf.load(folder.config), config)
    if differences:
        key, old, new = differences[0]
        raise PosematchError(
            f"resume={resume} was trained with {key}={old}, this command says {new}"
            f" ({len(differences)} differences); repeat the run's own overrides, or start a new"
            " run."
        )
    return folder


def config_differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every key that matters and differs; names of choices come first.

    Parameters
    ----------
    old, new
        Configurations, as OmegaConf's or as nested dicts. Keys that say where, how long or how
        loudly to run are not looked at.
    """
    flat_old, flat_new = _flatten(_plain(old)), _flatten(_plain(new))
    any_length = str(flat_new.get("schedule._target_")).endswith(".multistep")
    free = {*_FREE_KEYS, *(_LENGTH_KEYS if any_length else ())}
    return [
        (key, flat_old.get(key, "nothing"), flat_new.get(key, "nothing"))
        for key in sorted(
            flat_old.keys() | flat_new.keys(), key=lambda key: (not key.endswith(".name"), key)
        )
        if key not in free
        and not f"{key}.".startswith(_FREE_GROUPS)
        and flat_old.get(key) != flat_new.get(key)
    ]


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write json in one piece."""
    _replace_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


class EpochTable:
    """A csv with a row per epoch, rewritten in one piece, that survives resuming.

    Parameters
    ----------
    path
        The csv.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def write(self, epoch: int, row: Mapping[str, float | int]) -> None:
        """Set figures of the epoch; later rows, left by a training that was taken back, go."""
        kept = [old for old in self.rows if int(old["epoch"]) < epoch]
        own = next((old for old in self.rows if int(old["epoch"]) == epoch), {"epoch": str(epoch)})
        self.rows = [*kept, {**own, **{k: _number(v) for k, v in row.items()}}]
        columns = list(dict.fromkeys(key for one in self.rows for key in one))
        lines = [",".join(columns)]
        lines += [",".join(one.get(column, "") for column in columns) for one in self.rows]
        _replace_text(self.path, "\n".join(lines) + "\n")


def _number(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)

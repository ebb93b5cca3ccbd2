"""What a command of scripts/evaluate.py means: the run's configuration, and what overrides it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posematch.config import check_type
from posematch.errors import PosematchError

SOURCES = ("checkpoint", "predictions", "run")
# Of scripts/evaluate.py's keys, those that each source reads; a key stands for all below it.
_OF_FILES = ("data.name", "data.root", "data.valid_annotations", "data.detections", "output")
_OF_NETWORKS = (
    *("backbone", "loss", "decoder", "data", "output", "boxes"),
    *("flip_test", "channels_last", "compile", "silence_minutes"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "strategy", "precision")),
    *("trainer.deterministic", "trainer.profiler"),
)
READ = {
    "checkpoint": _OF_NETWORKS,
    "predictions": _OF_FILES,
    "run": ("output",),
}
# ... but not these: they are about training.
UNREAD = (
    *(f"data.{key}" for key in ("train_people", "geometry", "appearance", "sigma", "seed")),
    *(f"backbone.{key}" for key in ("pretrained", "head_init_std", "head_init_bias")),
    *(f"backbone.{key}" for key in ("freeze_norm", "activation_checkpointing")),
)
_GROUPS = {
    "checkpoint": ("backbone", "loss", "decoder", "data", "trainer"),
    "predictions": ("data",),
    "run": (),
}


def source_of(cfg: DictConfig) -> str:
    """Which of `SOURCES` is to be scored.

    Raises
    ------
    PosematchError
        None or more than one is given, or one is no text.
    """
    given = [key for key in SOURCES if cfg.get(key) is not None]
    if len(given) != 1:
        raise PosematchError(
            "Name what is to be scored: checkpoint=FILE, predictions=FILE or run=FOLDER"
            + (f", not {' and '.join(given)} at once." if given else ".")
        )
    for key in (*given, "output"):
        check_type(key, cfg.get(key), str | None)
    return given[0]


def check_read(source: str, overrides: Iterable[str]) -> None:
    """Refuse an override that nothing would read.

    Raises
    ------
    PosematchError
        The sentence names it.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in SOURCES or key in _GROUPS[source]:
            continue
        if _is_below(key, READ[source]) and not _is_below(key, UNREAD):
            continue
        raise PosematchError(
            f"{override.input_line}: nothing reads {key} where {_WHAT[source]} is scored."
        )


_WHAT = {
    "checkpoint": "a checkpoint",
    "predictions": "a prediction file",
    "run": "a run's own predictions",
}


def _is_below(key: str, owners: Sequence[str]) -> bool:
    return f"{key}.".startswith(tuple(f"{owner}." for owner in owners))


def checkpoint_file(checkpoint: str) -> Path:
    """The file that ``checkpoint=`` means: of a run folder its last checkpoint."""
    path = Path(checkpoint).expanduser()
    last = path / "checkpoints" / "last.ckpt"
    return last if last.is_file() else path


def run_config(checkpoint: Path) -> DictConfig | None:
    """The configuration of the run that a checkpoint lies in; None for a file by itself.

    Raises
    ------
    PosematchError
        It cannot be read.
    """
    file = checkpoint.absolute().parent.parent / "config.yaml"
    if checkpoint.absolute().parent.name != "checkpoints" or not file.is_file():
        return None
    try:
        cfg = OmegaConf.create(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise PosematchError(f"{file} cannot be read ({type(error).__name__}).") from error
    needed = ("backbone", "data", "loss", "decoder", "optimizer", "schedule")
    if not isinstance(cfg, DictConfig) or any(key not in cfg for key in needed):
        raise PosematchError(f"{file} is no configuration of a training.")
    return cfg


def _same(chosen: DictConfig, of_run: DictConfig) -> bool:
    """Whether a group's choice is the run's own: then it only makes its keys known to Hydra."""
    names = ("name", "_target_")
    return "name" in chosen and all(chosen.get(one) == of_run.get(one) for one in names)


def copied(cfg: DictConfig) -> DictConfig:
    """A copy that takes further keys."""
    copy = OmegaConf.create(OmegaConf.to_container(cfg))
    assert isinstance(copy, DictConfig)
    return copy


def settings_of(cfg: DictConfig, run: DictConfig | None, overrides: Sequence[str]) -> DictConfig:
    """The configuration to build the network, its data and its decoder by.

    Parameters
    ----------
    cfg
        As scripts/evaluate.py composes it.
    run
        Of the run that the checkpoint lies in, if it does. Everything is as in that run but for
        the trainer, and what was overridden; naming the run's own choice of a group changes
        nothing. Other data keep the run's size of crops and its convention, which the network was
        trained for.
    overrides
        Of the command.

    Returns
    -------
    A configuration of its own, complete as `posematch.training.build` reads it.
    """
    OmegaConf.resolve(cfg)
    settings = copied(cfg if run is None else run)
    if run is not None:
        settings.trainer = cfg.trainer
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        chosen = [one.key_or_group for one in parsed if one.key_or_group not in SOURCES]
        replaced = [
            key for key in chosen if key in _GROUPS["checkpoint"] and not _same(cfg[key], run[key])
        ]
        for key in replaced:
            settings[key] = cfg[key]
        if "data" in replaced:
            for name in ("input_size", "convention", "batch_size"):
                settings.data[name] = run.data[name]
        for key in chosen:
            if key not in _GROUPS["checkpoint"]:
                OmegaConf.update(settings, key, OmegaConf.select(cfg, key), force_add=True)
    nothing: dict[str, Any] = {
        "callbacks": {},
        "measure": {},
        "decoders": {},
        "reference_batch_size": None,
    }
    for key, value in nothing.items():
        settings[key] = value
    # About training: not made, not fetched.
    settings.data.geometry = settings.data.appearance = settings.data.train_people = None
    settings.backbone.pretrained = False
    return settings

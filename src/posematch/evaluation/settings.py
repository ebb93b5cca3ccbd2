"""What a command of scripts/evaluate.py means: the run's configuration, and what overrides it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from posematch.config import SETTINGS, check_type
from posematch.data.synthetic import MOST_PHOTO_PX, MOST_PHOTOS
from posematch.errors import PosematchError
from posematch.files import below
from posematch.trust import check_trusted
from posematch.untrusted import own_file, read_yaml

SOURCES = ("checkpoint", "predictions", "run")
# Of scripts/evaluate.py's keys, those that each source reads; a key stands for all below it.
_OF_FILES = ("data.name", "data.root", "data.valid_annotations", "data.detections", "output")
_OF_NETWORKS = (
    *("backbone", "loss", "decoder", "data", "output", "boxes"),
    *("flip_test", "channels_last", "compile", "silence_minutes"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "strategy", "precision")),
    *("trainer.deterministic", "trainer.profiler", "trust"),
)
# Where conf/data has each data set: a run that says so says nothing about its owner's disk.
DEFAULT_ROOTS = ("data", "data/mpii", "data/coco")
_STORED_NAMES = (
    *("train_annotations", "valid_annotations", "train_images", "valid_images", "detections"),
)
# What is built of a run's configuration to score its network, and how.
_PARTS = ("backbone", "data", "loss", "decoder")
_SWITCHES = ("flip_test", "channels_last", "compile")


def _between(least: int, most: int) -> Any:
    return Annotated[
        int, Field(ge=least, le=most, description=f"an integer from {least} to {most}")
    ]


# Stored values that would ask for more memory, time or disk than any training had.
_STORED: Mapping[str, Any] = {
    "loss.name": SETTINGS["loss.name"],
    "data.name": SETTINGS["data.name"],
    "data.root": Annotated[str, Field(min_length=1, description="a folder")],
    "data.input_size": list[_between(64, 4096)],  # type: ignore[misc]
    "data.batch_size": _between(1, 2**14),
    "data.valid_batch_size": _between(1, 2**14) | None,
    "data.workers": _between(0, 256) | None,
    "data.spec.train_photos": _between(0, MOST_PHOTOS) | None,
    "data.spec.valid_photos": _between(0, MOST_PHOTOS) | None,
    "data.spec.max_photo_px": _between(1, MOST_PHOTO_PX) | None,
    "backbone.deconv_channels": _between(1, 2**13) | None,
    "decoder.kernel": _between(1, 2**10) | None,
}
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
    """The file that ``checkpoint=`` means: of a run folder its last checkpoint.

    Raises
    ------
    PosematchError
        That one is a link that leads out of the folder.
    """
    path = Path(checkpoint).expanduser()
    last = path / "checkpoints" / "last.ckpt"
    return own_file(path, last) if last.is_file() else path


def trusted_packages(trust: Any) -> list[str]:
    """The ``trust=...`` of a script: a package, or a list of them.

    Raises
    ------
    PosematchError
        It is neither.
    """
    named = list(trust) if isinstance(trust, ListConfig) else trust
    check_type("trust", named, str | list[str])
    return [named] if isinstance(named, str) else list(named)


def run_config(
    checkpoint: Path, trust: Sequence[str] = (), built: Sequence[str] = _PARTS
) -> DictConfig | None:
    """What scoring needs of the configuration of the run that a checkpoint lies in.

    Parameters
    ----------
    checkpoint
        The file.
    trust
        Packages besides posematch that its targets may be of.
    built
        Of its parts, those that objects are going to be made of.

    Returns
    -------
    The parts, and how the network is run; None for a file by itself.

    Raises
    ------
    PosematchError
        It cannot be read, is no training's, or names what must not be built.
    """
    file = checkpoint.absolute().parent.parent / "config.yaml"
    if checkpoint.absolute().parent.name != "checkpoints" or not os.path.lexists(file):
        return None
    content = read_yaml(own_file(file.parent, file))
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), dict) for key in _PARTS
    ):
        raise PosematchError(
            f"{file} is no configuration of a training ({', '.join(_PARTS)} are looked for)."
        )
    # Scoring has no use for the rest of it. Checked before OmegaConf, which would look an
    # interpolation up.
    content = {key: content[key] for key in (*_PARTS, *_SWITCHES) if key in content}
    for key in ("geometry", "appearance"):
        content["data"][key] = None
    for key in built:
        if not isinstance(content[key], dict) or "_target_" not in content[key]:
            raise PosematchError(f"{file}: {key} does not say what it is (_target_); restore it.")
    try:
        check_trusted({key: content[key] for key in built}, file, trust)
        cfg = OmegaConf.create(
            {key: content[key] for key in content if key in built or key in _SWITCHES}
        )
    except (ValueError, OmegaConfBaseException) as error:
        raise PosematchError(f"{file} cannot be read ({type(error).__name__}).") from error
    for key, hint in _STORED.items():
        value: Any = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if key.partition(".")[0] in built:
            if isinstance(value, dict):
                raise PosematchError(f"{file}: {key} is a mapping, which it never is.")
            check_type(f"{file}: {key}", value, hint)
    assert isinstance(cfg, DictConfig)
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


def settings_of(
    cfg: DictConfig, run: DictConfig | None, overrides: Sequence[str], where: Path | str = ""
) -> DictConfig:
    """The configuration to build the network, its data and its decoder by.

    Parameters
    ----------
    cfg
        As scripts/evaluate.py composes it.
    run
        Of the run that the checkpoint lies in, if it does. Everything is as in that run but for
        the trainer, and what was overridden; naming the run's own choice of a group changes
        nothing. Other data keep the run's size of crops and its convention, which the network was
        trained for. Paths are never the run's, but for the default folder of its data.
    overrides
        Of the command.
    where
        The run's configuration file, for messages.

    Returns
    -------
    A configuration of its own, complete as `posematch.training.build` reads it.

    Raises
    ------
    PosematchError
        The run's data are in a folder that the command does not name.
    """
    OmegaConf.resolve(cfg)
    settings = copied(cfg if run is None else run)
    if run is not None:
        settings.trainer = cfg.trainer
        for key in _SWITCHES:
            settings.setdefault(key, cfg[key])
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        chosen = [one.key_or_group for one in parsed if one.key_or_group not in (*SOURCES, "trust")]
        replaced = [key for key in chosen if key in _PARTS and not _same(cfg[key], run[key])]
        for key in replaced:
            settings[key] = cfg[key]
        if "data" in replaced:
            for name in ("input_size", "convention", "batch_size"):
                if name in run.data:
                    settings.data[name] = run.data[name]
        for key in chosen:
            if key not in _GROUPS["checkpoint"]:
                OmegaConf.update(settings, key, OmegaConf.select(cfg, key), force_add=True)
        if "data" not in replaced:
            follow_no_paths(settings.data, chosen, str(cfg.data.root), where)
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


def follow_no_paths(
    data: DictConfig, chosen: Sequence[str], default_root: str, where: Path | str
) -> None:
    """Leave no path in a run's data that a stranger may have put there."""
    if "data.root" not in chosen and data.root not in (default_root, *DEFAULT_ROOTS):
        raise PosematchError(
            f"{where}: the run's data were in {data.root}, which is not opened on a file's word;"
            " say where they are with data.root=FOLDER."
        )
    if "cache_folder" in data and "data.cache_folder" not in chosen:
        data.cache_folder = None
    root = Path(str(data.root)).expanduser()
    for name in _STORED_NAMES:
        stored = data.get(name)
        if stored is not None and f"data.{name}" not in chosen:
            below(root, str(stored), f"{where}: data.{name}")

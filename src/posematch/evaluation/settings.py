"""What a command of scripts/evaluate.py means: the run's configuration, and what overrides it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf

from posematch.app.objects import plain
from posematch.app.settings import check_type
from posematch.errors import PosematchError
from posematch.runs.stored_config import PARTS, SWITCHES, follow_no_paths, without_sources

if TYPE_CHECKING:
    from posematch.model_record import ModelRecord

SOURCES = ("checkpoint", "predictions", "run")
# Of scripts/evaluate.py's keys, those that each source reads; a key stands for all below it.
_OF_FILES = (
    *(f"data.{key}" for key in ("name", "root", "valid_annotations", "detections", "oks_sigmas")),
    *("data.own_skeleton", "output"),
)
_OF_NETWORKS = (
    *("backbone", "loss", "decoder", "data", "output", "boxes"),
    *("flip_test", "channels_last", "compile", "silence_minutes"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "strategy", "precision")),
    *("trainer.deterministic", "trainer.profiler", "trust"),
)
READ = {
    "checkpoint": _OF_NETWORKS,
    "predictions": _OF_FILES,
    "run": ("output",),
}
# ... but not these: they are about training.
UNREAD = (
    *(f"data.{key}" for key in ("train_people", "geometry", "appearance", "sigma", "seed")),
    *(f"backbone.{key}" for key in ("pretrained", "weights", "head_init_std", "head_init_bias")),
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


def is_named(group: str, overrides: Sequence[str]) -> bool:
    """Whether the command chooses a group, or a key in it."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return any(_is_below(one.key_or_group, (group,)) for one in parsed)


def run_of_record(record: ModelRecord, cfg: DictConfig) -> DictConfig:
    """The run that a checkpoint by itself is of, as far as it says; the rest is the command's."""
    OmegaConf.resolve(cfg)
    run = copied(OmegaConf.create({key: cfg[key] for key in (*PARTS, *SWITCHES)}))
    run.backbone, run.decoder = record.backbone, record.decoder
    run.data.input_size, run.data.convention = record.input_size, record.convention
    run.flip_test, run.channels_last = record.flip_test, record.channels_last
    return run


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
        for key in SWITCHES:
            settings.setdefault(key, cfg[key])
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        chosen = [one.key_or_group for one in parsed if one.key_or_group not in (*SOURCES, "trust")]
        replaced = [key for key in chosen if key in PARTS and not _same(cfg[key], run[key])]
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
    settings.backbone = without_sources(plain(settings.backbone)) | {"pretrained": False}
    return settings

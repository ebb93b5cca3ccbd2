"""A run's config.yaml as a file from strangers: what scoring or loading its network reads of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from posematch.app.settings import SETTINGS, check_type
from posematch.data.synthetic_spec import MOST_PHOTO_PX, MOST_PHOTOS
from posematch.errors import PosematchError
from posematch.files import below
from posematch.published import model_file
from posematch.runs.folder import upgraded
from posematch.trust import check_trusted
from posematch.untrusted import own_file, read_yaml

# What is built of a run's configuration to score its network, and how.
PARTS = ("backbone", "data", "loss", "decoder")
SWITCHES = ("flip_test", "channels_last", "compile")
# Where conf/data has each data set: a run that says so says nothing about its owner's disk.
DEFAULT_ROOTS = ("data", "data/mpii", "data/coco", "data/lspet")
_STORED_NAMES = (
    *("train_annotations", "valid_annotations", "train_images", "valid_images", "detections"),
)


def _between(least: int, most: int) -> Any:
    return Annotated[
        int, Field(ge=least, le=most, description=f"an integer from {least} to {most}")
    ]


# Stored values that would ask for more memory, time or disk than any training had.
STORED: Mapping[str, Any] = {
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
    "decoder.radius_px": _between(0, 64) | None,
}


def without_sources(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """A ``backbone`` whose weights come from a checkpoint: it fetches and opens nothing."""
    kept = {key: value for key, value in backbone.items() if key != "weights"}
    return {**kept, "pretrained": False} if "pretrained" in kept else kept


def checkpoint_file(checkpoint: str) -> Path:
    """The file that ``checkpoint=`` means: of a run folder its last checkpoint.

    Parameters
    ----------
    checkpoint
        A file, a run folder, or a published model as `posematch.published` has it: its
        folder, the name of one that comes with posematch, or ``https://...#sha256=...``.

    Raises
    ------
    PosematchError
        It is a link that leads out of the run folder, or cannot be downloaded.
    """
    if published := model_file(checkpoint):
        return published
    path = Path(checkpoint).expanduser()
    last = path / "checkpoints" / "last.ckpt"
    return own_file(path, last) if last.is_file() else path


def is_of_run(checkpoint: Path) -> bool:
    """Whether a checkpoint lies in a run folder, and not by itself."""
    folder = checkpoint.absolute().parent
    return folder.name == "checkpoints" and os.path.lexists(folder.parent / "config.yaml")


def run_config(
    checkpoint: Path, trust: Sequence[str] = (), built: Sequence[str] = PARTS
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
    if not is_of_run(checkpoint):
        return None
    file = checkpoint.absolute().parent.parent / "config.yaml"
    content = read_yaml(own_file(file.parent, file))
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), dict) for key in PARTS
    ):
        raise PosematchError(
            f"{file} is no configuration of a training ({', '.join(PARTS)} are looked for)."
        )
    content = upgraded(content)
    # Scoring has no use for the rest of it. Checked before OmegaConf, which would look an
    # interpolation up.
    content = {key: content[key] for key in (*PARTS, *SWITCHES) if key in content}
    content["backbone"] = without_sources(content["backbone"])
    for key in ("geometry", "appearance"):
        content["data"][key] = None
    for key in built:
        if not isinstance(content[key], dict) or "_target_" not in content[key]:
            raise PosematchError(f"{file}: {key} does not say what it is (_target_); restore it.")
    try:
        check_trusted({key: content[key] for key in built}, file, trust)
        cfg = OmegaConf.create(
            {key: content[key] for key in content if key in built or key in SWITCHES}
        )
    except (ValueError, OmegaConfBaseException) as error:
        raise PosematchError(f"{file} cannot be read ({type(error).__name__}).") from error
    for key, hint in STORED.items():
        value: Any = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if key.partition(".")[0] in built:
            if isinstance(value, dict):
                raise PosematchError(f"{file}: {key} is a mapping, which it never is.")
            check_type(f"{file}: {key}", value, hint)
    assert isinstance(cfg, DictConfig)
    return cfg


def follow_no_paths(
    data: DictConfig, chosen: Sequence[str], default_root: str, where: Path | str
) -> None:
    """Leave no path in a run's data that a stranger may have put there."""
    if "data.root" not in chosen and data.root not in (default_root, *DEFAULT_ROOTS):
        raise PosematchError(
            f"{where}: the run's data were in {data.root}, which is not opened on a file's word;"
            " say where they are with data.root=FOLDER."
        )
    # Of a second data set. rerun has no key for it: there a link from its default is the way.
    second = data.get("lspet_root")
    if second is not None and "data.lspet_root" not in chosen and second not in DEFAULT_ROOTS:
        raise PosematchError(
            f"{where}: the run's data were also in {second}, which is not opened on a file's word;"
            " say where they are with data=mpii_lspet data.lspet_root=FOLDER, or link that folder"
            " to data/lspet."
        )
    if "cache_folder" in data and "data.cache_folder" not in chosen:
        data.cache_folder = None
    root = Path(str(data.root)).expanduser()
    for name in _STORED_NAMES:
        stored = data.get(name)
        if stored is not None and f"data.{name}" not in chosen:
            below(root, str(stored), f"{where}: data.{name}")

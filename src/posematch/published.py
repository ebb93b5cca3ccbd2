"""A model as a folder that can be passed on, and what names one.

``model.safetensors`` holds the network's tensors, ``config.json`` what `posematch.model_record`
checks, the sha256 of the weights and notes of where they come from, ``README.md`` the card. It is
named by its path, by the name of a model that comes with posematch, or by an address and the
sha256 of its ``config.json``, which in turn vouches for the weights.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from posematch.errors import PosematchError
from posematch.files import sha256_of
from posematch.untrusted import MIB, read_json

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = "posematch model"
MODELS = Path(__file__).resolve().parent / "models"  # those that come with posematch
MOST_WEIGHTS = 4096 * MIB
_MOST_CONFIG = 4 * MIB
_ADDRESS = re.compile(r"(?P<folder>https?://[^#]+?)/?(#(sha256=(?P<sha256>[0-9a-fA-F]{64})$)?.*)?")


def packaged_models() -> list[str]:
    """Names of the models that come with posematch."""
    return sorted(file.parent.name for file in MODELS.glob(f"*/{CONFIG}"))


def model_file(named: str) -> Path | None:
    """The file of weights that a folder, a name or an address means; None for anything else.

    Parameters
    ----------
    named
        A path to a folder of this kind, a name of `packaged_models`, or
        ``https://HOST/FOLDER#sha256=HEX`` with the sha256 of its ``config.json``.

    Raises
    ------
    PosematchError
        It cannot be downloaded, or is not what the checksum is of.
    """
    path = Path(named).expanduser()
    known = packaged_models()
    if found := _ADDRESS.fullmatch(named):
        return _downloaded(found["folder"], found["sha256"])
    # An output folder of that name is no model, and does not hide it.
    if named in known and not path.is_file() and not {CONFIG, "checkpoints"} & _names_in(path):
        path = MODELS / named
    elif not os.path.lexists(path) and (near := difflib.get_close_matches(named, known, n=1)):
        raise PosematchError(
            f"checkpoint={named} does not exist; of the models that come with posematch the nearest"
            f" is {near[0]}."
        )
    if path.name == CONFIG and path.is_file():
        path = path.parent
    return path / WEIGHTS if (path / CONFIG).is_file() and (path / WEIGHTS).is_file() else None


def _names_in(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()} if folder.is_dir() else set()


def _downloaded(folder: str, sha256: str | None) -> Path:
    if sha256 is None:
        raise PosematchError(
            f"{folder}: a model from an address needs the sha256 of its {CONFIG}, 64 digits, behind"
            f" it, {folder}#sha256=..., as posematch publish prints it."
        )
    from posematch.data.preparing.fetching import Patience, Wanted, fetch

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = cache / "posematch" / "models" / sha256.lower()
    config = Wanted(False, _MOST_CONFIG, "download the folder by other means and name it")
    weights = Wanted(False, MOST_WEIGHTS, config.otherwise)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not (place / CONFIG).is_file() or sha256_of(place / CONFIG) != sha256.lower():
            fetch(f"{folder}/{CONFIG}", place / CONFIG, Patience(), sha256, wanted=config)
        wanted = stored_model(place / CONFIG)["weights"]["sha256"]
        if not (place / WEIGHTS).is_file() or sha256_of(place / WEIGHTS) != wanted:
            fetch(f"{folder}/{WEIGHTS}", place / WEIGHTS, Patience(), wanted, wanted=weights)
    except OSError as error:
        raise PosematchError(
            f"{place} cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder."
        ) from error
    return place / WEIGHTS


def stored_model(config: Path) -> dict[str, Any]:
    """``config.json``, checked as far as it is looked at before its record is.

    Raises
    ------
    PosematchError
        It is none of ours, or damaged.
    """
    stored = read_json(config, _MOST_CONFIG)
    if not isinstance(stored, dict):
        stored = {}
    weights = stored.get("weights")
    sha256 = weights.get("sha256") if isinstance(weights, dict) else None
    if stored.get("format") != FORMAT:
        raise PosematchError(f"{config} is of no model of posematch (format is not {FORMAT!r}).")
    if not isinstance(sha256, str) or not isinstance(stored.get("model"), dict):
        raise PosematchError(f"{config} is damaged: it lacks the model or the weights' sha256.")
    return dict(stored)

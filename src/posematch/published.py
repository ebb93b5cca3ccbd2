"""A model as a folder that can be passed on, and what names one.

``model.safetensors`` holds the network's tensors, ``config.json`` what `posematch.model_record`
checks, the sha256 of the weights and notes of where they come from, ``README.md`` the card. It is
named by its path, by the name of a model that comes with posematch, or by an address and the
sha256 of its ``config.json``, which in turn vouches for the weights.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from posematch.errors import PosematchError
from posematch.untrusted import MIB, read_json

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = "posematch model"
MODELS = Path(__file__).resolve().parent / "models"  # those that come with posematch
MOST_WEIGHTS = 4096 * MIB
_MOST_CONFIG = 4 * MIB
_ADDRESS = re.compile(r"(?P<folder>https?://[^#]+?)/?(#sha256=(?P<sha256>[0-9a-fA-F]{64}))?")


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
    if not os.path.lexists(path) and named in packaged_models():
        path = MODELS / named
    elif found := _ADDRESS.fullmatch(named):
        return _downloaded(found["folder"], found["sha256"])
    if path.name == CONFIG and path.is_file():
        path = path.parent
    return path / WEIGHTS if (path / CONFIG).is_file() and (path / WEIGHTS).is_file() else None


def _downloaded(folder: str, sha256: str | None) -> Path:
    if sha256 is None:
        raise PosematchError(
            f"{folder}: a model from an address needs the sha256 of its {CONFIG} behind it,"
            f" {folder}#sha256=..., as posematch publish prints it and its card says."
        )
    from posematch.data.preparing.fetching import Patience, Wanted, digest, fetch

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = cache / "posematch" / "models" / sha256.lower()
    config = Wanted(False, _MOST_CONFIG, "download the folder by other means and name it")
    weights = Wanted(False, MOST_WEIGHTS, config.otherwise)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not (place / CONFIG).is_file():
            fetch(f"{folder}/{CONFIG}", place / CONFIG, Patience(), sha256, wanted=config)
        wanted = stored_model(place / CONFIG)["weights"]["sha256"]
        if not (place / WEIGHTS).is_file() or digest(place / WEIGHTS) != wanted:
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
    weights = stored.get("weights") if isinstance(stored, dict) else None
    sha256 = weights.get("sha256") if isinstance(weights, dict) else None
    if stored.get("format") != FORMAT if isinstance(stored, dict) else True:
        raise PosematchError(f"{config} is of no model of posematch (format is not {FORMAT!r}).")
    if not isinstance(sha256, str) or not isinstance(stored.get("model"), dict):
        raise PosematchError(f"{config} is damaged: it lacks the model or the weights' sha256.")
    return dict(stored)

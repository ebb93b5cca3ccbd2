"""Weights from files: read as tensors and plain values, never unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posematch.errors import PosematchError

_COMPILED = "_orig_mod."  # what torch.compile puts into names,
_PARALLEL = "module."  # what DataParallel puts before them,
_OURS = "network."  # and our Lightning module
_HEAD = "to_heatmaps."


def load_weights(network: nn.Module, path: Path) -> list[str]:
    """Start a network from the weights of a posematch checkpoint or of a bare state dict.

    Parameters
    ----------
    network
        Gets the weights.
    path
        ``checkpoints/last.ckpt`` of a run (with ``callbacks=ema`` its averaged weights), or a file
        that ``torch.save`` wrote from a network's state dict.

    Returns
    -------
    Names of the last layer's weights, if the file has them for another number of joints: they keep
    their initial values. Empty otherwise.

    Raises
    ------
    PosematchError
        No such file, no checkpoint, one that holds more than tensors and plain values, or weights
        of another network.
    """
    weights = _network_weights(_read(path), path)
    own = network.state_dict()
    afresh = [
        name
        for name in own
        if name.startswith(_HEAD) and name in weights and weights[name].shape != own[name].shape
    ]
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(weights.keys() - own.keys())
    misshapen = [
        name
        for name in own
        if name in weights and name not in afresh and weights[name].shape != own[name].shape
    ]
    if missing or unknown or misshapen:
        if misshapen:
            name = misshapen[0]
            detail = (
                f"{name} is {tuple(weights[name].shape)} there and {tuple(own[name].shape)} here"
            )
        else:
            detail = f"it lacks {missing[0]}" if missing else f"it has {unknown[0]} besides"
        count = len(missing) + len(unknown) + len(misshapen)
        raise PosematchError(
            f"checkpoint={path} holds another network than this command's: {detail}"
            f" ({count} differences); choose the backbone and head it was trained with."
        )
    network.load_state_dict({**weights, **{name: own[name] for name in afresh}})
    return afresh


def _read(path: Path) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PosematchError(
            f"checkpoint={path} {what}; name a file such as RUN_FOLDER/checkpoints/last.ckpt."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PosematchError(
            f"checkpoint={path} is no checkpoint, or holds objects besides tensors and plain"
            " values; those could run anything, so they are not loaded: save its state dict alone."
        ) from error
    # A file cut short, or of another kind: torch's zip reader and its unpickler raise all of these.
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise PosematchError(
            f"checkpoint={path} cannot be read as a torch checkpoint ({type(error).__name__}); it"
            " may be cut short."
        ) from error


def _network_weights(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Weights by `HeatmapNetwork`'s own names."""
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in weights.values()
    ):
        raise PosematchError(f"checkpoint={path} holds no state dict of a network.")
    named = {}
    for name, value in weights.items():
        named[str(name).replace(_COMPILED, "").removeprefix(_PARALLEL)] = value
    if any(name.startswith(_OURS) for name in named):
        # Losses and metrics of the Lightning module stand beside the network.
        return {k.removeprefix(_OURS): v for k, v in named.items() if k.startswith(_OURS)}
    return named

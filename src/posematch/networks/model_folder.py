"""Weights as safetensors, and the model folder (`posematch.published`) that they lie in."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from posematch.errors import PosematchError
from posematch.files import write_bytes, write_text
from posematch.published import CONFIG, FORMAT, MOST_WEIGHTS, WEIGHTS, stored_model
from posematch.untrusted import MIB, open_checkpoint, read_bytes

_MOST_HEADER = 16 * MIB
_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8)


def read_safetensors(file: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """The dense tensors of a safetensors file; halves as float32.

    Parameters
    ----------
    file
        The file.
    sha256
        That it must have, as the ``config.json`` beside it says; None: any.

    Raises
    ------
    PosematchError
        There is no such file, it is damaged, another one, or holds tensors of another kind.
    """
    with open_checkpoint(file) as opened:
        head = opened.read(8)
        if len(head) < 8 or struct.unpack("<Q", head)[0] > _MOST_HEADER:
            raise PosematchError(
                f"{file} cannot be read as safetensors (it does not begin as one); restore it."
            )
    content = read_bytes(file, MOST_WEIGHTS, "weights")
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise PosematchError(
            f"{file} is not the file that {file.with_name(CONFIG)} vouches for (its sha256"
            " differs); restore both from one place."
        )
    try:
        found = tensors_of(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise PosematchError(
            f"{file} cannot be read as safetensors ({type(error).__name__}); restore it."
        ) from error
    odd = [name for name, tensor in found.items() if tensor.dtype not in _KINDS]
    if odd:
        kind = str(found[odd[0]].dtype).removeprefix("torch.")
        raise PosematchError(f"{file}: {odd[0]} is of {kind}, which no network here has.")
    return {
        name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        for name, tensor in found.items()
    }


def read_model_folder(weights: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Weights of a safetensors file, and the record beside it where it is of a folder of ours.

    Raises
    ------
    PosematchError
        As `read_safetensors`; or the weights are not those of the ``config.json`` beside them.
    """
    config = weights.parent / CONFIG
    if weights.name != WEIGHTS or not config.is_file():
        return read_safetensors(weights), None
    stored = stored_model(config)
    return read_safetensors(weights, stored["weights"]["sha256"]), stored["model"]


def write_model_folder(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    record: Mapping[str, Any],
    notes: Mapping[str, Any],
    half: bool,
) -> str:
    """Write weights and plain data into a folder that is there.

    Parameters
    ----------
    folder
        Gets the two files.
    weights
        Of the network, by its own names.
    record
        Of `posematch.model_record.ModelRecord`, as plain data.
    notes
        Where the weights come from; plain data.
    half
        Whether floats are written as float16.

    Returns
    -------
    The sha256 of ``config.json``.

    Raises
    ------
    PosematchError
        A weight is beyond float16's range.
    """
    kept = {}
    for name, tensor in weights.items():
        one = tensor.detach().cpu().contiguous()
        if half and one.is_floating_point():
            one = one.half()
            if not one.isfinite().all():
                raise PosematchError(
                    f"{name} has a number that float16 cannot hold; publish with half=false."
                )
        kept[name] = one
    content = bytes_of(kept, {"format": "pt"})
    write_bytes(folder / WEIGHTS, content)
    config = {
        "format": FORMAT,
        "schema_version": 1,
        "weights": {"sha256": hashlib.sha256(content).hexdigest()},
        "model": dict(record),
        **notes,
    }
    text = json.dumps(config, indent=1, allow_nan=False) + "\n"
    write_text(folder / CONFIG, text)
    return hashlib.sha256(text.encode()).hexdigest()

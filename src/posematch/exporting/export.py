"""From a checkpoint to a file that was seen to compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from posematch.decoding import Decoder, check_channels
from posematch.errors import PosematchError
from posematch.exporting.checking import Differences, compare
from posematch.exporting.formats import Format, loaded, written
from posematch.exporting.graph import Graph, about
from posematch.files import replacing
from posematch.loading import load
from posematch.model import PoseModel


def model_to_export(
    checkpoint: str,
    flip_test: bool | None = None,
    decoder: Decoder | None = None,
    trust: Sequence[str] = (),
) -> PoseModel:
    """The model of a checkpoint, as `posematch.load`, with what the command says otherwise.

    Parameters
    ----------
    checkpoint
        A run folder or a file.
    flip_test, decoder
        None: the checkpoint's own.
    trust
        As of `posematch.load`.

    Raises
    ------
    PosematchError
        As `posematch.load`; or the decoder reads other maps than the network has.
    """
    model = load(checkpoint, trust)
    if flip_test is not None:
        model.flip_test = flip_test
    if decoder is not None:
        check_channels(decoder, model.meaning.channels_per_joint)
        model.decoder = decoder
    return model.requires_grad_(False)


def export(
    graph: Graph,
    kind: Format,
    output: Path,
    crops: torch.Tensor,
    decoder: dict[str, Any],
    step: Callable[[str], None] = lambda _: None,
) -> Differences:
    """Write a file, and keep it if it computes what the model does.

    Parameters
    ----------
    graph
        What is written.
    kind
        The format.
    output
        The file; what was there before stays where this fails.
    crops
        (N, 3, H, W) uint8, what the file is checked on.
    decoder
        Configuration of the model's decoder.
    step
        Told what is going to be done.

    Raises
    ------
    PosematchError
        It cannot be written, or differs by more than the tolerances.
    """
    step(f"writing {kind}")
    content = written(graph, kind, about(graph, decoder))
    try:
        with replacing(output) as file:
            file.write(content)
            file.flush()
            step("checking")
            differences = compare(graph, loaded(Path(file.name), kind), crops)
            if not differences.tolerable:
                raise PosematchError(
                    f"{kind} computes something else than the model, {differences}; no file was"
                    " kept, try another format."
                )
    except OSError as error:
        raise PosematchError(
            f"{output} cannot be written ({error.strerror}); set output to another file."
        ) from error
    return differences

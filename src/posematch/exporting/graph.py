"""What an exported file computes, and what it says about itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from posematch.geometry import BOX_PADDING
from posematch.model import PoseModel

INPUT = "crops"
MAPS = "heatmaps"
JOINTS, SCORES = "joints_crop", "scores"
ABOUT = "posematch.json"  # of TorchScript and of torch.export; ONNX: the property `PROPERTY`
PROPERTY = "posematch"
_SCHEMA = 1


class Graph(nn.Module):
    """Crops to maps, or to joints, without anything that a caller could get wrong.

    The colours' mean and deviation, the order of the channels, the flip test and what turns maps
    into masses are all inside.

    Parameters
    ----------
    model
        In eval mode, on the CPU; whether there is a flip test is its ``flip_test``.
    decoded
        Give joints and scores instead of maps.

    Examples
    --------
    >>> import posematch.loading
    >>> graph = Graph(posematch.loading.load("tests/golden/runs/gaussian_mse-0"), decoded=True)
    >>> joints_crop, scores = graph(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    >>> joints_crop.shape, scores.shape
    (torch.Size([2, 16, 2]), torch.Size([2, 16]))
    """

    def __init__(self, model: PoseModel, decoded: bool) -> None:
        super().__init__()
        self.model = model
        self.decoded = decoded

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return (JOINTS, SCORES) if self.decoded else (MAPS,)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W) uint8 RGB crops to ``(heatmaps,)`` or ``(joints_crop, scores)``.

        ``heatmaps`` are (B, K times C, h, w), with C maps a joint, as the decoder gets them;
        ``joints_crop`` (B, K, 2) crop pixels and ``scores`` (B, K).
        """
        _, maps = self.model.maps(crops)
        if not self.decoded:
            return (maps,)
        joints_hm, scores = self.model.decode(maps)
        return self.model.joints_crop(joints_hm), scores


def about(graph: Graph, decoder: dict[str, Any]) -> dict[str, Any]:
    """What a program needs to use the file: plain values, stored in it as json.

    Parameters
    ----------
    graph
        What is written.
    decoder
        Configuration of the model's decoder.
    """
    model = graph.model
    normalisation = model.normalisation
    skeleton = model.record.skeleton
    return {
        "schema_version": _SCHEMA,
        "made_by": "posematch",
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, *model.input_size],
            "type": "uint8",
            "colours": "RGB, 0 to 255",
        },
        "outputs": list(graph.outputs),
        "input_size": list(model.input_size),  # height, width
        "heatmap_size": list(model.heatmap_size),
        "maps_per_joint": model.meaning.channels_per_joint,
        "convention": model.convention,  # of the frames; docs/protocols.md, Frames
        "padding": BOX_PADDING,
        "skeleton": skeleton.name,
        "joints": skeleton.joints,
        "flip_pairs": skeleton.flip_pairs,
        "limbs": skeleton.limbs,
        # Done inside; told for those who compare.
        "normalisation": None if normalisation is None else normalisation.plain(),
        "flip_test": model.flip_test,
        "supply": model.meaning.supply,
        "decoder": decoder,
    }

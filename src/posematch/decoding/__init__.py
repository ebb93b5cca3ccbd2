"""Heatmaps to joints and their scores, batched, on the device."""

from posematch.decoding.decoders import Argmax, Barycentre, Decoder, QuarterOffset
from posematch.decoding.dsnt import DSNTDecoder
from posematch.decoding.flip import flip_average, flip_back

__all__ = [
    "Argmax",
    "Barycentre",
    "DSNTDecoder",
    "Decoder",
    "QuarterOffset",
    "flip_average",
    "flip_back",
]

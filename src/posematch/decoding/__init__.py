"""Heatmaps to joints and their scores, batched, on the device."""

from posematch.decoding.channels import check_channels, decode, first_maps
from posematch.decoding.dark import DARK, EdgeDARK
from posematch.decoding.decoders import Argmax, Barycentre, Decoder, QuarterOffset, SoftArgmax
from posematch.decoding.expected_metric import ExpectedMetric
from posematch.decoding.flip import flip_average, flip_back
from posematch.decoding.mode import Mode
from posematch.decoding.udp import UDP, UDPCombined

__all__ = [
    "DARK",
    "UDP",
    "Argmax",
    "Barycentre",
    "Decoder",
    "EdgeDARK",
    "ExpectedMetric",
    "Mode",
    "QuarterOffset",
    "SoftArgmax",
    "UDPCombined",
    "check_channels",
    "decode",
    "first_maps",
    "flip_average",
    "flip_back",
]

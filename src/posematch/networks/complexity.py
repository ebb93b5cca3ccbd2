"""What a network costs, in the units that papers print."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from posematch.geometry import Size

_PUBLISHED_GIGA = 2**30


@dataclass(frozen=True)
class Complexity:
    """Size and arithmetic of one network.

    Attributes
    ----------
    parameters
        Learnt numbers; running statistics do not count.
    multiply_adds
        Of all convolutions for one crop.
    input_size
        (H, W) of that crop.
    """

    parameters: int
    multiply_adds: int
    input_size: Size

    @property
    def published_gflops(self) -> float:
        """What HRNet's and its successors' tables call GFLOPs: multiply-adds / 2^30."""
        return self.multiply_adds / _PUBLISHED_GIGA

    def __str__(self) -> str:
        height, width = self.input_size
        decimals = 1 if self.published_gflops >= 1 else 2
        return (
            f"{self.parameters / 1e6:.1f} M parameters, {self.published_gflops:.{decimals}f} GFLOPs"
            f" at {height} x {width} as published, which are multiply-adds of convolutions / 2^30"
            f" ({self.multiply_adds / 1e9:.2f}e9)"
        )


@torch.no_grad()
def complexity(network: nn.Module, input_size: Size) -> Complexity:
    """Count by one forward pass of one black crop, on the network's device.

    Parameters
    ----------
    network
        From (1, 3, H, W) uint8 crops.
    input_size
        (H, W).
    """
    training = network.training
    device = next(network.parameters()).device
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros((1, 3, *input_size), dtype=torch.uint8, device=device))
    network.train(training)
    parameters = sum(one.numel() for one in network.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2, input_size)

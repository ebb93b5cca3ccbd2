"""Depthwise convolutions of a network that trains in bf16 on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn


def train_depthwise_in_float32(network: nn.Module) -> None:
    """Let depthwise convolutions compute in float32 where a CPU's autocast has bf16, in place.

    oneDNN has no fast backward pass of them in bf16: it takes up to three quarters of a step of
    EfficientNet-Lite0 there. Without a gradient, and on other devices, nothing changes; nor do
    the names of the weights.
    """
    for layer in network.modules():
        if _is_depthwise(layer):
            layer.forward = functools.partial(_in_float32, layer.forward)


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def _in_float32(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    trains = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    if not (trains and x.device.type == "cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(torch.get_autocast_dtype("cpu"))

"""A network of one's own."""

import torch
from torch import nn


class PlainNetwork(nn.Module):
    """A few convolutions: (B, 3, H, W) crops in 0..255 to (B, K, H/4, W/4) float32 heatmaps.

    Parameters
    ----------
    num_joints
        K; posematch says it, the yaml does not.
    width
        Channels.
    head_init_bias
        posematch puts the loss's own value here where the yaml says null.
    """

    def __init__(self, num_joints: int, width: int = 32, head_init_bias: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stride in (2, 2, 1, 1):
            layers += [
                nn.Conv2d(channels, width, 5, stride, padding=2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.to_heatmaps = nn.Conv2d(width, num_joints, 1)
        self.to_heatmaps.bias = nn.Parameter(torch.full((num_joints,), float(head_init_bias)))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 or float crops to raw heatmaps."""
        features = self.features(crops.float() / 127.5 - 1)
        with torch.autocast(device_type=crops.device.type, enabled=False):
            heatmaps: torch.Tensor = self.to_heatmaps(features.float())
        return heatmaps

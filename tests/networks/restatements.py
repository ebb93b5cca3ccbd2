"""HRNet and SimpleBaseline said again, plainly and by their official names, for the tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812

Weights = Mapping[str, torch.Tensor]


class SimpleBaseline(torchvision.models.ResNet):
    """torchvision's ResNet-50 and three deconvolutions, named as in SimpleBaseline's code."""

    def __init__(self, joints: int) -> None:
        super().__init__(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3])
        del self.fc, self.avgpool
        layers: list[nn.Module] = []
        for channels in (2048, 256, 256):
            layers += [
                nn.ConvTranspose2d(channels, 256, 4, 2, 1, bias=False),
                nn.BatchNorm2d(256),
                nn.ReLU(),
            ]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(256, joints, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.final_layer(self.deconv_layers(x))


def conv_norm(w: Weights, conv: str, norm: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Convolution, padded to keep the size, and batch normalisation by its running statistics."""
    kernel = w[f"{conv}.weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    mean, var = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
    scale = w[f"{norm}.weight"] / (var + 1e-5).sqrt()
    return x * scale[:, None, None] + (w[f"{norm}.bias"] - mean * scale)[:, None, None]


def block(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """A basic block or a bottleneck: whichever has weights under the name."""
    shortcut = x
    if f"{name}.downsample.0.weight" in w:
        shortcut = conv_norm(w, f"{name}.downsample.0", f"{name}.downsample.1", x)
    last = 3 if f"{name}.conv3.weight" in w else 2
    for number in range(1, last):
        x = F.relu(conv_norm(w, f"{name}.conv{number}", f"{name}.bn{number}", x))
    return F.relu(conv_norm(w, f"{name}.conv{last}", f"{name}.bn{last}", x) + shortcut)


def blocks(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    number = 0
    while f"{name}.{number}.conv1.weight" in w:
        x = block(w, f"{name}.{number}", x)
        number += 1
    return x


def transition(w: Weights, name: str, maps: list[torch.Tensor], branches: int):
    """Maps of the next stage: those that are there, adapted where weights say so, and one more."""
    following = []
    for branch in range(branches):
        own = f"{name}.{branch}"
        if f"{own}.0.weight" in w:
            following.append(F.relu(conv_norm(w, f"{own}.0", f"{own}.1", maps[branch])))
        elif f"{own}.0.0.weight" in w:
            following.append(F.relu(conv_norm(w, f"{own}.0.0", f"{own}.0.1", maps[-1], stride=2)))
        else:
            following.append(maps[branch])
    return following


def exchange(w: Weights, name: str, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """One HRNet module: every branch by itself, then each output the sum of all, resampled."""
    maps = [blocks(w, f"{name}.branches.{branch}", x) for branch, x in enumerate(maps)]
    fused = []
    for to in range(len(maps)):
        if not any(key.startswith(f"{name}.fuse_layers.{to}.") for key in w):
            break  # the last module makes the stride-4 map alone
        total = torch.zeros(())
        for source, x in enumerate(maps):
            own = f"{name}.fuse_layers.{to}.{source}"
            if source > to:
                x = conv_norm(w, f"{own}.0", f"{own}.1", x)
                size = 2 ** (source - to)
                x = x.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)
            for step in range(to - source):
                x = conv_norm(w, f"{own}.{step}.0", f"{own}.{step}.1", x, stride=2)
                x = F.relu(x) if step < to - source - 1 else x
            total = total + x
        fused.append(F.relu(total))
    return fused


def hrnet(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """HRNet of any width with the 1x1 head (Sun et al., CVPR 2019), inference only."""
    x = F.relu(conv_norm(w, "conv1", "bn1", x, stride=2))
    x = F.relu(conv_norm(w, "conv2", "bn2", x, stride=2))
    x = blocks(w, "layer1", x)
    maps = [x, x]
    for stage, branches in ((2, 2), (3, 3), (4, 4)):
        # The first transition adapts both of its maps from the stem's single one.
        maps = transition(w, f"transition{stage - 1}", maps, branches)
        module = 0
        while f"stage{stage}.{module}.branches.0.0.conv1.weight" in w:
            maps = exchange(w, f"stage{stage}.{module}", maps)
            module += 1
    return F.conv2d(maps[0], w["final_layer.weight"], w["final_layer.bias"])

"""Crop to heatmaps: a timm backbone at stride 4 and a head.

HRNet keeps a stride-4 branch to its end and needs a single 1x1 convolution (its own code's head);
other backbones end at stride 16 or 32 and get SimpleBaseline's deconvolutions (three from 32).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Literal

import huggingface_hub.constants
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from posematch.errors import PosematchError
from posematch.networks.backbone_weights import load_backbone
from posematch.networks.depthwise import train_depthwise_in_float32
from posematch.networks.normalisation import Choice, Normalisation, chosen_normalisation
from posematch.networks.quiet_timm import timm

HEATMAP_STRIDE = 4
BGR_MARK = "takes_bgr"  # name of the mark in the state dict of a network that takes blue-green-red


class HeatmapNetwork(nn.Module):
    """uint8 crops to raw float32 heatmaps.

    Parameters
    ----------
    name
        Name of a timm model that offers feature maps.
    num_joints
        Heatmaps.
    pretrained
        ImageNet weights by timm's own mechanism.
    head
        ``conv`` (1x1 on the backbone's stride-4 map), ``deconv`` (from its last map), or ``auto``:
        ``conv`` for HRNet, whose stride-4 map has seen the whole picture, else ``deconv``.
    deconv_channels
        Width of the deconvolutions.
    head_init_std
        Standard deviation of the last convolution's initial weights (0.001 in HRNet's code).
    head_init_bias
        Its initial bias (0 in HRNet's code).
    freeze_norm
        Keep all batch normalisation as it is loaded: running statistics, scale and shift.
    activation_checkpointing
        Compute the backbone's activations a second time in the backward pass instead of keeping
        them: less memory, a third more time, the same gradients.
    color
        Order in which the channels of a crop meet the mean and deviation: ``rgb``; ``bgr``, as
        SimpleBaseline's official weights were trained; ``auto``: ``rgb`` until weights are loaded
        that say otherwise, see `posematch.networks.layouts.takes_bgr`.
    normalisation
        Mean and deviation of the colours: ``auto``, those that timm's pretrained weights of this
        backbone were trained with, also where it starts from random ones, until weights are loaded
        that say otherwise; or ``{mean: [R, G, B], std: [R, G, B]}`` of colours in 0..1.
    weights
        File of weights for the backbone, see `posematch.networks.backbone_weights.load_backbone`;
        in place of ``pretrained``, which then fetches nothing. None: no file.

    Raises
    ------
    PosematchError
        Unknown backbone, no usable feature map, no weights to be had, or none that fit.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        name: str,
        num_joints: int,
        pretrained: bool,
        head: Literal["auto", "conv", "deconv"] = "auto",
        deconv_channels: int = 256,
        head_init_std: float = 0.001,
        head_init_bias: float = 0.0,
        freeze_norm: bool = False,
        activation_checkpointing: bool = False,
        color: Literal["auto", "rgb", "bgr"] = "auto",
        normalisation: Choice = "auto",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.freeze_norm = freeze_norm
        self.activation_checkpointing = activation_checkpointing
        self.name = name
        high_resolution = "hrnet" in name
        if head not in ("auto", "conv", "deconv"):
            raise PosematchError(f"backbone.head={head} must be auto, conv or deconv.")
        if head == "auto":
            head = "conv" if high_resolution else "deconv"
        self.backbone, channels, reduction = _backbone(
            name, pretrained and weights is None, head, high_resolution
        )
        if weights is not None:
            load_backbone(self.backbone, name, weights)
        train_depthwise_in_float32(self.backbone)
        upsampling: list[nn.Module] = []
        if head == "deconv":
            for _ in range(round(math.log2(reduction // HEATMAP_STRIDE))):
                upsampling += _deconvolution(channels, deconv_channels)
                channels = deconv_channels
        self.upsampling = nn.Sequential(*upsampling)
        self.to_heatmaps = nn.Conv2d(channels, num_joints, kernel_size=1)
        nn.init.normal_(self.to_heatmaps.weight, std=head_init_std)
        assert self.to_heatmaps.bias is not None
        nn.init.constant_(self.to_heatmaps.bias, head_init_bias)
        # Constants of the input, not weights: kept out of the state dict.
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(1, 3, 1, 1), persistent=False)
        self.normalisation_is_chosen = normalisation != "auto"
        self.normalise_by(chosen_normalisation(normalisation, name))

        if color not in ("auto", "rgb", "bgr"):
            raise PosematchError(f"backbone.color={color} must be auto, rgb or bgr.")
        self.bgr: bool | None = None  # nobody has said
        if color != "auto":
            self.take_bgr(color == "bgr")
        if freeze_norm:
            for layer in _norms(self):
                layer.requires_grad_(False)
            self.train(self.training)  # a new module trains without having been told to
        if activation_checkpointing:
            checkpoint_activations(self.backbone)

    def take_bgr(self, bgr: bool) -> None:
        """Choose the order of colours; blue-green-red leaves a mark among the weights."""
        self.bgr = bgr
        self._buffers.pop(BGR_MARK, None)
        if bgr:
            self.register_buffer(BGR_MARK, torch.ones((), dtype=torch.uint8))

    def normalise_by(self, normalisation: Normalisation) -> None:
        """Take other constants for the colours: those of the weights that are about to come in."""
        self.normalisation = normalisation
        for buffer, values in ((self.mean, normalisation.mean), (self.std, normalisation.std)):
            buffer.copy_(255 * torch.tensor(values).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> HeatmapNetwork:
        super().train(mode)
        if self.freeze_norm:
            for layer in _norms(self):
                layer.eval()
        return self

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) RGB crops in 0..255, uint8 or float, to (B, K, H/4, W/4) float32 maps."""
        if self.bgr:
            crops = crops.flip(1)
        x = (crops.float() - self.mean) / self.std
        features = self.upsampling(self.backbone(x)[-1])
        # The last layer in float32 whatever the autocast: bf16 has 8 bits for a peak's place.
        with torch.autocast(device_type=crops.device.type, enabled=False):
            heatmaps: torch.Tensor = self.to_heatmaps(features.float())
        return heatmaps


def _backbone(
    name: str, pretrained: bool, head: str, high_resolution: bool
) -> tuple[nn.Module, int, int]:
    """The timm backbone, and the channels and stride of the map it ends in."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise PosematchError(f"timm knows no backbone '{name}' (backbone.name){hint}.")
    options: dict[str, Any] = {"features_only": True}
    if high_resolution:
        # '' is the true stride-4 branch (48 channels for W48); timm's default adds a classifier's
        # layers that widen it to 128.
        options["feature_location"] = ""
    try:
        offered = _offered(name, options)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise PosematchError(f"Backbone '{name}' offers no feature maps: {error}") from error
    reductions = list(offered.reduction())
    if head == "conv":
        if HEATMAP_STRIDE not in reductions:
            raise PosematchError(
                f"Backbone '{name}' has maps of stride {reductions} but none of stride 4, which"
                " backbone.head=conv needs; use backbone.head=deconv."
            )
        index = reductions.index(HEATMAP_STRIDE)
    else:
        index = len(reductions) - 1
    # Of a vision transformer they are numbers of its blocks, of which the last three are offered.
    numbers = tuple(offered.out_indices)
    if numbers != tuple(range(len(numbers))):
        options |= _of_any_size(name, options)
    options["out_indices"] = (numbers[index],)
    backbone = _create(name, pretrained, options)
    if isinstance(backbone, timm.models.hrnet.HighResolutionNetFeatures) and head == "conv":
        _prune_hrnet(backbone)
    info = _feature_info(backbone)
    return backbone, info.channels()[-1], info.reduction()[-1]


def _offered(name: str, options: dict[str, Any]) -> Any:
    """timm's record of the maps that a model offers."""
    try:
        with torch.device("meta"):  # no memory, no initialisation: seconds less for a large one
            return _feature_info(timm.create_model(name, **options))
    except (RuntimeError, NotImplementedError):  # reads a value while it is built
        return _feature_info(timm.create_model(name, **options))


def _of_any_size(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What lets a transformer take other crops than of its pretraining's size, if it can."""
    any_size = {"dynamic_img_size": True}
    try:
        _offered(name, options | any_size)
    except TypeError:  # it has no such argument
        return {}
    return any_size


def _feature_info(backbone: nn.Module) -> Any:
    """timm's record of a backbone's maps: ``channels()``, ``reduction()`` and ``out_indices``."""
    return backbone.feature_info


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    try:
        with _offline_if_unreachable():
            return timm.create_model(name, pretrained=True, **options)
    # timm, its hub client and the network below each raise kinds of their own.
    except Exception as error:
        raise PosematchError(
            f"The ImageNet weights of '{name}' could not be loaded"
            f" ({type(error).__name__}); connect to the network, put them into timm's cache,"
            " name a file of them with backbone.weights=FILE, or train from random weights with"
            " backbone.pretrained=false."
        ) from error


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Let the hub's client look only into its cache where the hub cannot be reached.

    Without this it retries for almost a minute before it gives up.
    """
    hub = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    was_offline = huggingface_hub.constants.HF_HUB_OFFLINE
    if not was_offline and not urllib.request.getproxies():
        port = hub.port or (443 if hub.scheme == "https" else 80)
        try:
            socket.create_connection((hub.hostname or "", port), timeout=5).close()
        except OSError:
            huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = was_offline


def _norms(network: nn.Module) -> list[nn.Module]:
    # Also SyncBatchNorm, and timm's subclasses that fuse an activation.
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """Members of its sequences that have parts, such as a bottleneck or a module of HRNet's stages.

    Not the single layers of a stem, whose ReLU writes over what the layer before it gave.
    """
    stages = [stage for stage in backbone.children() if isinstance(stage, nn.Sequential)]
    return [block for stage in stages for block in stage.children() if any(block.children())]


def checkpoint_activations(backbone: nn.Module) -> None:
    """Let each block keep its input alone and compute the rest again in the backward pass.

    Names of weights stay, as the blocks stay.
    """
    for block in blocks_of(backbone):
        block.forward = functools.partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any], x: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(x)
    if isinstance(x, list):
        # HRNet's modules write into the list they get: each computation gets one of its own.
        return _checkpoint(block, lambda *maps: forward(list(maps)), *x)
    return _checkpoint(block, forward, x)


def _checkpoint(block: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(block)),
    )


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch normalisation computes as in training and leaves its running statistics alone.

    They have been updated by the first computation.
    """
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # weight of the new batch
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _prune_hrnet(backbone: timm.models.hrnet.HighResolutionNetFeatures) -> None:
    """Drop what feeds only the lower-resolution outputs and so never gets a gradient."""
    last = backbone.stage4[-1]
    assert isinstance(last, timm.models.hrnet.HighResolutionModule)
    last.fuse_layers = last.fuse_layers[:1]


def _deconvolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    """One doubling of SimpleBaseline's head: 4x4 transposed convolution, BN, ReLU."""
    deconvolution = nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=False)
    nn.init.normal_(deconvolution.weight, std=0.001)
    return [deconvolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]

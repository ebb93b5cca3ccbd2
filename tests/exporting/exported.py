"""Models that are exported in tests: small, of random weights, with maps that have peaks."""

from __future__ import annotations

import torch

from posematch.losses import GaussianMSE, Matching
from posematch.losses.udp_combined import UDPCombined
from posematch.model import PoseModel
from posematch.model_record import ModelRecord
from posematch.skeletons import MPII

TARGET = "posematch.networks.heatmap_network.HeatmapNetwork"
LOSSES = {
    "heights": GaussianMSE(sigma=1.0),
    "relu": Matching(),
    "softmax": Matching(supply="softmax"),
    "sparsemax": Matching(supply="sparsemax", temperature=0.5),
    "combined": UDPCombined(),
}


def model_of(
    name="test_resnet", loss="heights", decoder=None, size=(64, 64), convention="hrnet", **more
) -> PoseModel:
    """A model in eval mode, whose batch normalisation knows noise and whose maps reach about 1."""
    torch.manual_seed(0)
    record = ModelRecord.of(
        backbone={"_target_": TARGET, "name": name, "pretrained": False, "deconv_channels": 32,
                  **more},
        decoder=decoder or LOSSES[loss].decoder_config(),
        meaning=LOSSES[loss].meaning,
        skeleton=MPII,
        input_size=size,
        convention=convention,
        flip_test=True,
        channels_last=True,
    )  # fmt: skip
    model = PoseModel.of(record)
    settle(model, torch.randint(0, 256, (8, 3, *size), dtype=torch.uint8))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def settle(model: PoseModel, crops: torch.Tensor) -> None:
    """Give a network of random weights the statistics of some crops, and maps as high as 1."""
    for layer in model.network.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean of what comes
    model.network.train()
    for part in crops.split(8):
        model.network(part)
    model.network.eval()
    last = model.network.to_heatmaps
    torch.nn.init.normal_(last.weight)
    last.weight /= model.network(crops[:8]).abs().amax()

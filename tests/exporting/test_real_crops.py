"""On 100 crops of real people files are within 1e-4 of the maps' highest value and 0.01 px.

HRNet and ResNet have random weights whose statistics are settled on other real crops; of
EfficientNet-Lite0 the backbone has ImageNet's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from exported import model_of, settle

from posematch.data.crops import CropDataset
from posematch.data.mpii import read_mpii
from posematch.exporting.export import export
from posematch.exporting.graph import Graph

SIZE = (128, 128)


def crops_of(root: Path, split: str, count: int) -> torch.Tensor:
    people = read_mpii(root, split, SIZE)
    dataset = CropDataset(people, SIZE, "hrnet", seed=0)
    places = np.linspace(0, len(dataset) - 1, count).astype(int)
    return torch.stack([dataset[0, int(place)]["crop"] for place in places])


@pytest.fixture(scope="module")
def crops(shared_data):
    return crops_of(shared_data / "mpii", "valid", 100)


@pytest.fixture(scope="module")
def others(shared_data):
    return crops_of(shared_data / "mpii", "train", 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hrnet_w18_small", "tf_efficientnet_lite0", "resnet18"])
def test_real_crops(name, tmp_path, crops, others, shared_data, record_property, capsys):
    model = model_of(name, size=SIZE)
    if name == "tf_efficientnet_lite0":
        file = shared_data / "weights" / "tf_efficientnet_lite0_imagenet_fp16.pth"
        weights = torch.load(file, weights_only=True)
        own = model.network.backbone.state_dict()
        # The stages after the last map that is read are not in the network.
        used = {key: value.float() for key, value in weights.items() if key in own}
        assert {one for one in own if "num_batches" not in one} <= set(used)
        model.network.backbone.load_state_dict(used, strict=False)
    settle(model, others)
    for kind, decode in (("onnx", False), ("torchscript", False), ("onnx", True)):
        graph = Graph(model, decode).eval()
        found = export(graph, kind, tmp_path / kind, crops, model.record.decoder)
        with capsys.disabled():
            print(f"\n{name} {kind} decode={decode}: {found}")
        assert found.tolerable

"""How other projects name the weights of our networks.

All of HRNet's and SimpleBaseline's code, mmpose and timm name the layers of HRNet and ResNet alike;
only what stands before the names differs, and the names of the head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")

BACKBONE, DECONVOLUTIONS, HEAD = "backbone.", "upsampling.", "to_heatmaps."


@dataclass(frozen=True)
class Layout:
    """One project's names.

    Attributes
    ----------
    name
        As ``layout=`` says it.
    project
        For sentences.
    backbone, deconvolutions, head
        What its names begin with where ours begin with ``backbone.``, ``upsampling.`` and
        ``to_heatmaps.``.
    """

    name: str
    project: str
    backbone: str
    deconvolutions: str
    head: str

    def to_ours(self, name: str) -> str:
        """Our name of one of its names; an unknown one stays and so is found to be unknown."""
        for theirs, ours in (
            (self.deconvolutions, DECONVOLUTIONS),
            (self.head, HEAD),
            (self.backbone, BACKBONE),
        ):
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name

    def from_ours(self, name: str) -> str:
        """Its name of one of ours."""
        for theirs, ours in (
            (self.backbone, BACKBONE),
            (self.deconvolutions, DECONVOLUTIONS),
            (self.head, HEAD),
        ):
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        raise ValueError(f"{name} is no weight of a HeatmapNetwork")


POSEMATCH = Layout("posematch", "posematch", BACKBONE, DECONVOLUTIONS, HEAD)
OFFICIAL = Layout(
    "official", "HRNet's and SimpleBaseline's code", "", "deconv_layers.", "final_layer."
)
MMPOSE = Layout("mmpose", "mmpose 1.x", BACKBONE, "head.deconv_layers.", "head.final_layer.")
MMPOSE_0 = Layout(
    "mmpose0", "mmpose 0.x", BACKBONE, "keypoint_head.deconv_layers.", "keypoint_head.final_layer."
)
LAYOUTS = {layout.name: layout for layout in (POSEMATCH, OFFICIAL, MMPOSE, MMPOSE_0)}


def recognised(names: Collection[str]) -> Layout | None:
    """The layout that a state dict is in, by the names of its last layer; None: another thing's."""
    for layout in (POSEMATCH, MMPOSE, MMPOSE_0):
        if any(name.startswith(layout.head) for name in names):
            return layout
    # ImageNet's HRNet files have a final_layer of another kind, and a classifier.
    if f"{OFFICIAL.head}weight" in names and "conv1.weight" in names:
        return OFFICIAL
    return None


def renamed(weights: Mapping[str, Value], layout: Layout) -> dict[str, Value]:
    """Weights by our names."""
    return {layout.to_ours(name): value for name, value in weights.items()}


def takes_bgr(layout: Layout, names: Iterable[str]) -> bool:
    """Whether weights were trained on blue-green-red crops.

    SimpleBaseline's code never swaps what OpenCV reads (``lib/dataset/JointsDataset.py``), and
    HRNet's code keeps it so for ResNets (``COLOR_RGB: false`` in ``experiments/*/resnet/``);
    ImageNet's mean and deviation of red, green, blue are applied in that order all the same.
    HRNets and all of mmpose take red-green-blue.
    """
    return layout is OFFICIAL and any(name.startswith(OFFICIAL.deconvolutions) for name in names)


_STAGE_4_FUSION = re.compile(r"^backbone\.stage4\.(\d+)\.fuse_layers\.[1-9]\d*\.")


def feeds_lower_resolutions_only(name: str, own: Collection[str]) -> bool:
    """Whether a weight belongs to HRNet's last fusion, to an output that nobody reads.

    Our network ends in the stride-4 map and is pruned of what makes the others, as HRNet's pose
    networks are (docs/protocols.md, Networks); files of other HRNets have it.

    Parameters
    ----------
    name
        Our name of the weight.
    own
        Names of the network.
    """
    match = _STAGE_4_FUSION.match(name)
    if match is None or name in own:
        return False
    last = max(
        (int(one.split(".")[2]) for one in own if one.startswith("backbone.stage4.")), default=-1
    )
    return int(match.group(1)) == last


def description(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which network weights are of, as timm names it, by our names and their shapes; or nothing."""
    width = shapes.get("backbone.stage4.0.branches.0.0.conv1.weight", (0,))[0]
    if width:
        blocks = _count(shapes, "backbone.stage4.0.branches.0.")
        network = f"hrnet_w{width}" if blocks == 4 else _SMALL_HRNETS.get(width, "")
    else:
        blocks_of_stages = tuple(_count(shapes, f"backbone.layer{k}.") for k in (1, 2, 3, 4))
        bottleneck = "backbone.layer1.0.conv3.weight" in shapes
        network = _RESNETS.get((bottleneck, blocks_of_stages), "")
    joints = shapes.get(f"{HEAD}weight", (0,))[0]
    return f"{network} with {joints} joints" if network and joints else network


_SMALL_HRNETS = {16: "hrnet_w18_small", 18: "hrnet_w18_small_v2"}
_RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}


def _count(names: Iterable[str], prefix: str) -> int:
    """How many members the sequence has whose names begin with the prefix."""
    inside = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return len({name.split(".")[0] for name in inside})

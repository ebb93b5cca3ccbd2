"""People found by one of torchvision's detectors, with its weights or those of a local file."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
import torchvision.models as models
from torchvision.models import detection

from posematch.data.annotations import PERSON_CATEGORY
from posematch.errors import PosematchError
from posematch.inference.boxes import Boxes
from posematch.inference.sources import Source
from posematch.networks.checkpoint_files import read_checkpoint
from posematch.prediction import Picture

_CATEGORIES = 91  # COCO's, with the gaps of its numbering
# Made for other things than boxes of people of many kinds.
_OTHERS = ("keypointrcnn", "maskrcnn")


class TorchvisionDetector:
    """Boxes of people.

    Parameters
    ----------
    name
        Of a detector in torchvision.models.detection.
    weights
        A local state dict; None: torchvision's own, from its cache or the network.
    min_score
        Boxes below it are left out.
    device
        Where it computes.

    Raises
    ------
    PosematchError
        There is no such detector, or its weights cannot be had.
    """

    def __init__(
        self, name: str, weights: Path | None, min_score: float, device: torch.device
    ) -> None:
        known = [one for one in models.list_models(detection) if not one.startswith(_OTHERS)]
        if name not in known:
            raise PosematchError(f"detector={name} must be one of {', '.join(known)}.")
        network = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=_CATEGORIES
        )
        network.load_state_dict(_weights(name, weights, network))
        self._network = network.eval().to(device)
        self._min_score = min_score
        self._device = device
        self._one_at_a_time = threading.Lock()

    @torch.inference_mode()
    def of(self, source: Source, frame: int | None, picture: Picture) -> Boxes:
        with self._one_at_a_time:
            colours = torch.from_numpy(picture).to(self._device).permute(2, 0, 1) / 255
            (found,) = self._network([colours])
        kept = (found["labels"] == PERSON_CATEGORY) & (found["scores"] >= self._min_score)
        xyxy = found["boxes"][kept].double().cpu().numpy()
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
        with_area = (xywh[:, 2:] > 0).all(axis=1)
        return Boxes(xywh[with_area], found["scores"][kept].double().cpu().numpy()[with_area])

    def image_id(self, source: Source) -> int | None:
        return None

    def check_video(self, source: Source, frames: int) -> None:
        pass


def _weights(name: str, file: Path | None, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    if file is None:
        try:
            default = models.get_model_weights(name).DEFAULT
            return dict(default.get_state_dict(progress=True, check_hash=True))
        # The network below, the cache's folder and torch each raise kinds of their own.
        except Exception as error:
            raise PosematchError(
                f"The weights of detector={name} could not be loaded ({type(error).__name__});"
                " connect to the network, name a local file by detector_weights=FILE, or give"
                " boxes by boxes=FILE.json."
            ) from error
    content = read_checkpoint(file)
    wanted = network.state_dict()
    if not isinstance(content, dict) or set(content) != set(wanted):
        found = len(set(content) & set(wanted)) if isinstance(content, dict) else 0
        raise PosematchError(
            f"detector_weights={file} has {found} of the {len(wanted)} tensors of {name}, and must"
            " have these and no others; is it that detector's state dict?"
        )
    for key, tensor in wanted.items():
        if content[key].shape != tensor.shape:
            raise PosematchError(
                f"detector_weights={file}: {key} has the shape {tuple(content[key].shape)} and must"
                f" have {tuple(tensor.shape)}; is it of COCO's {_CATEGORIES} categories?"
            )
    return dict(content)

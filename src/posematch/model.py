"""A trained network and all that it takes to use it: crops to maps to joints, without a Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from posematch.app.objects import make
from posematch.decoding import Decoder, check_channels, decode, first_maps, flip_average
from posematch.errors import PosematchError
from posematch.geometry import (
    BOX_PADDING,
    Convention,
    apply_affine,
    crop_to_heatmap,
    crop_to_heatmap_lengths,
    heatmap_to_crop,
    invert_affine,
)
from posematch.losses import MapsMeaning
from posematch.model_record import ModelRecord, maps_record
from posematch.networks.heatmap_network import HEATMAP_STRIDE, HeatmapNetwork
from posematch.networks.normalisation import Normalisation
from posematch.prediction import (
    AnyPicture,
    Picture,
    Poses,
    Request,
    as_rgb,
    checked_boxes,
    estimated,
    people_crops,
    whole_picture,
)
from posematch.rendering import skeletons_over
from posematch.skeletons import Skeleton

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """Where the joints of B people are.

    Attributes
    ----------
    joints_hm, joints_crop
        (B, K, 2) in pixels of the maps and of the crops.
    joints_img
        (B, K, 2) float64 photo pixels, on the CPU; None where no affine maps were given.
    scores
        (B, K) in [0, 1], by the decoder.
    maps
        (B, K, h, w) what was decoded: flip-averaged, masses where the loss was of masses; with
        several maps a joint, its first.
    """

    joints_hm: torch.Tensor
    joints_crop: torch.Tensor
    joints_img: torch.Tensor | None
    scores: torch.Tensor
    maps: torch.Tensor


class PoseModel(nn.Module):
    """A network, what its maps mean, and how they are decoded.

    Parameters
    ----------
    network
        (B, 3, H, W) crops in 0..255 to (B, K, H/4, W/4) heatmaps, as
        `posematch.networks.heatmap_network.HeatmapNetwork`; K times the maps that each joint has.
    decoder
        Maps to joints.
    record
        What the two were made from, and the rest, see `ModelRecord`.

    Attributes
    ----------
    meaning
        What the maps mean; a training whose loss changes with the epoch sets it.
    skeleton, input_size, heatmap_size, convention, flip_test
        Of the record; sizes are (H, W).

    Raises
    ------
    PosematchError
        The decoder reads other maps than the network has.

    Examples
    --------
    >>> from posematch.losses import GaussianMSE
    >>> from posematch.skeletons import MPII
    >>> target = "posematch.networks.heatmap_network.HeatmapNetwork"
    >>> model = PoseModel.of(
    ...     ModelRecord.of(
    ...         backbone={"_target_": target, "name": "test_resnet", "pretrained": False},
    ...         decoder={"_target_": "posematch.decoding.QuarterOffset"},
    ...         meaning=GaussianMSE(sigma=1.0).meaning,
    ...         skeleton=MPII,
    ...         input_size=(64, 64),
    ...         convention="hrnet",
    ...         flip_test=True,
    ...         channels_last=False,
    ...     )
    ... ).eval()
    >>> model.normalisation
    Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> crops = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    >>> found = model.estimate(crops)
    >>> found.joints_crop.shape, found.scores.shape, found.maps.shape
    (torch.Size([2, 16, 2]), torch.Size([2, 16]), torch.Size([2, 16, 16, 16]))
    """

    @classmethod
    def of(cls, record: ModelRecord, backbone: Mapping[str, Any] | None = None) -> PoseModel:
        """Build what a record says, with random weights.

        Parameters
        ----------
        record
            The model.
        backbone
            In place of the record's configuration of the network, which never says
            ``pretrained: true`` and names no file of weights.

        Raises
        ------
        PosematchError
            As `posematch.app.objects.make`.
        """
        maps = len(record.skeleton.joints) * len(record.maps.mirror_signs)
        network = make(backbone or record.backbone, "backbone", num_joints=maps)
        return cls(network, make(record.decoder, "decoder"), record)

    def __init__(self, network: nn.Module, decoder: Decoder, record: ModelRecord) -> None:
        super().__init__()
        self._record = record
        self.meaning: MapsMeaning = record.maps.meaning
        check_channels(decoder, self.meaning.channels_per_joint)
        self.decoder = decoder
        self.skeleton: Skeleton = record.skeleton.skeleton
        self.input_size = record.size
        height, width = record.size
        self.heatmap_size = height // HEATMAP_STRIDE, width // HEATMAP_STRIDE
        self.convention: Convention = record.convention
        self.flip_test = record.flip_test
        self.memory_format = (
            torch.channels_last if record.channels_last else torch.contiguous_format
        )
        self.network = network.to(memory_format=self.memory_format)

    @property
    def normalisation(self) -> Normalisation | None:
        """Mean and deviation of colours; None of a network that does not say them."""
        return self.network.normalisation if isinstance(self.network, HeatmapNetwork) else None

    @property
    def record(self) -> ModelRecord:
        """What a checkpoint carries beside the weights, as it is now."""
        backbone = self._record.backbone
        if self.normalisation is not None:
            backbone = {**backbone, "normalisation": self.normalisation.plain()}
        return self._record.model_copy(
            update={"backbone": backbone, "maps": maps_record(self.meaning)}
        )

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) RGB crops in 0..255 to (B, K, H/4, W/4) raw heatmaps."""
        heatmaps: torch.Tensor = self.network(crops.contiguous(memory_format=self.memory_format))
        return heatmaps

    def maps(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw heatmaps of the crops, and the (flip-averaged) maps that are decoded."""
        mass = self.meaning.mass
        if not self.flip_test:
            heatmaps = self(crops)
            return heatmaps, mass(heatmaps)
        both = self(torch.cat([crops, crops.flip(-1)]))
        # Not chunk(2), nor len(): under torch.export both fix the number of people.
        people = crops.shape[0]
        heatmaps, of_mirrored = both[:people], both[people:]
        shift = self.convention == "hrnet"
        signs = self.meaning.mirror_signs
        return heatmaps, flip_average(heatmaps, of_mirrored, self.skeleton, mass, shift, signs)

    def decode(
        self, maps: torch.Tensor, decoder: Decoder | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K, 2) joints in heatmap pixels and (B, K) scores of what `maps` gives second."""
        return decode(decoder or self.decoder, maps, self.meaning.channels_per_joint)

    def first_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, K, h, w): of each joint's maps the first, the one with a peak."""
        return first_maps(maps, self.meaning.channels_per_joint)

    def joints_hm(self, joints_crop: torch.Tensor) -> torch.Tensor:
        """(B, K, 2) crop pixels as heatmap pixels."""
        return crop_to_heatmap(joints_crop, self.input_size, self.heatmap_size, self.convention)

    def lengths_hm(self, lengths_crop: torch.Tensor) -> torch.Tensor:
        """Lengths in crop pixels, of any shape, in heatmap pixels."""
        return crop_to_heatmap_lengths(
            lengths_crop, self.input_size, self.heatmap_size, self.convention
        )

    def joints_crop(self, joints_hm: torch.Tensor) -> torch.Tensor:
        """(B, K, 2) heatmap pixels as crop pixels."""
        return heatmap_to_crop(joints_hm, self.input_size, self.heatmap_size, self.convention)

    def joints_img(self, joints_hm: torch.Tensor, crop_affine: torch.Tensor) -> torch.Tensor:
        """(B, K, 2) heatmap pixels as photo pixels, float64, on the CPU.

        ``crop_affine``: (B, 2, 3), photo to crop pixels, as `posematch.data.crops.Crop` has it.
        """
        joints_crop = self.joints_crop(joints_hm.double().cpu())
        return apply_affine(invert_affine(crop_affine.double().cpu()), joints_crop)

    def calibrated_scores(self, scores: torch.Tensor, box_size_img: ArrayLike) -> Floats:
        """Scores as what ``record.calibration`` says they mean; as they are where it is None.

        Parameters
        ----------
        scores
            (B, K) of `estimate`.
        box_size_img
            (B, 2) width and height of what each crop shows, in photo pixels: the padded box, of
            the crop's aspect, as `posematch.data.people.Person` has it.

        Returns
        -------
        ndarray
            (B, K) float64.
        """
        plain_scores: Floats = scores.detach().double().cpu().numpy().clip(0, 1)
        record = self._record.calibration
        if record is None:
            return plain_scores
        return record.apply(plain_scores, box_size_img, self.input_size)

    @torch.no_grad()
    def estimate(self, crops: torch.Tensor, crop_affine: torch.Tensor | None = None) -> Estimate:
        """Crops to joints, as validation does it.

        Parameters
        ----------
        crops
            (B, 3, H, W) RGB in 0..255, uint8 or float, of `input_size`; they are moved to the
            network's device.
        crop_affine
            (B, 2, 3) photo to crop pixels; None where joints in the photo are not asked for.

        Raises
        ------
        PosematchError
            The crops are of another shape.
        """
        wanted = (3, *self.input_size)
        if crops.ndim != 4 or tuple(crops.shape[1:]) != wanted:
            raise PosematchError(
                f"crops of shape {tuple(crops.shape)} must be (B, {', '.join(map(str, wanted))}):"
                " the size that the network was trained with."
            )
        device = next((one.device for one in self.network.parameters()), crops.device)
        _, maps = self.maps(crops.to(device))
        joints_hm, scores = self.decode(maps)
        return Estimate(
            joints_hm,
            self.joints_crop(joints_hm),
            None if crop_affine is None else self.joints_img(joints_hm, crop_affine),
            scores,
            self.first_maps(maps),
        )

    @property
    def score_means(self) -> str:
        """What the scores of `predict` are, in words."""
        record = self._record.calibration
        if record is None:
            return f"{type(self.decoder).__name__}'s, not calibrated"
        return f"{record.meaning} (calibrated on {record.people} people of {record.data})"

    def predict(
        self,
        image: AnyPicture | Sequence[AnyPicture],
        boxes: Any = None,
        *,
        heatmaps: bool = False,
        batch_size: int = 16,
    ) -> Any:
        """Joints of the people on a picture, or on each of several.

        Parameters
        ----------
        image
            A path, an array (H, W, 3) of uint8 RGB, a tensor (3, H, W) of uint8, an image of
            Pillow's; or a list of them. Files are turned as their EXIF says.
        boxes
            (N, 4) or (4,): x, y, width and height in picture pixels of the people, as tight around
            them as annotated boxes are; of a list of pictures one such for each. None: the whole
            picture is one person's, cut with some air around them.
        heatmaps
            Whether `Poses.maps` and `Poses.masses` are wanted.
        batch_size
            Most people that pass the network at once.

        Returns
        -------
        Poses, or a list of Poses for a list of pictures.

        Raises
        ------
        PosematchError
            A picture that cannot be read, or boxes that are none.

        Examples
        --------
        A run folder of this repository, at its top level:

        >>> import posematch
        >>> model = posematch.load("tests/golden/runs/gaussian_mse-0")
        >>> poses = model.predict("docs/images/synthetic.jpg", boxes=[[10, 20, 90, 100]])
        >>> poses
        Poses(1 person, 16 joints, picture of 1215 x 923)
        >>> poses.names[:2], poses.joints_img.shape, poses.scores.shape
        (('right_ankle', 'right_knee'), (1, 16, 2), (1, 16))
        >>> model.draw("docs/images/synthetic.jpg", poses).shape
        (923, 1215, 3)
        """
        if batch_size < 1:
            raise PosematchError(f"batch_size={batch_size} must be at least 1.")
        several = isinstance(image, Sequence) and not isinstance(image, str)
        pictures: Sequence[Any] = image if several else [image]  # type: ignore[assignment]
        of_each = (boxes if several else [boxes]) if boxes is not None else [None] * len(pictures)
        if len(of_each) != len(pictures):
            raise PosematchError(
                f"boxes are of {len(of_each)} pictures, and there are {len(pictures)}; give one"
                " entry for each, None for the whole picture."
            )
        requests = (
            self._request(number, one, its_boxes, several)
            for number, (one, its_boxes) in enumerate(zip(pictures, of_each, strict=True))
        )
        found = [poses for _, poses in estimated(self, requests, batch_size, heatmaps)]
        return found if several else found[0]

    def _request(
        self, number: int, image: AnyPicture, boxes: ArrayLike | None, several: bool
    ) -> Request[int]:
        which = f" {number}" if several else ""
        picture = as_rgb(image, f"image{which}")
        return self.request(number, picture, boxes, what=f"boxes{which}")

    def request(
        self,
        label: Any,
        picture: Picture,
        boxes: ArrayLike | None,
        box_scores: NDArray[np.float64] | None = None,
        what: str = "boxes",
    ) -> Request[Any]:
        """A picture's people, cut out for `posematch.prediction.estimated`.

        Parameters
        ----------
        label
            What the caller knows the picture by.
        picture
            (H, W, 3) uint8 RGB.
        boxes, box_scores
            (N, 4) as of `predict`, and (N,) confidences; None: 1 each.
        what
            How sentences about the boxes begin.

        Raises
        ------
        PosematchError
            As `posematch.prediction.checked_boxes`.
        """
        size = picture.shape[0], picture.shape[1]
        if boxes is None:
            boxes_img, padding = whole_picture(picture), 1.0
        else:
            boxes_img, padding = checked_boxes(boxes, size, what), BOX_PADDING
        crops = people_crops(picture, boxes_img, self.input_size, self.convention, padding)
        scores = np.ones(len(boxes_img)) if box_scores is None else box_scores
        return Request(label, crops, boxes_img, scores, size)

    def draw(self, image: AnyPicture, poses: Poses | None = None) -> Picture:
        """(H, W, 3) uint8 RGB: a picture with joints and limbs drawn over it, the unsure faint.

        Parameters
        ----------
        image
            As of `predict`.
        poses
            What `predict` found on it; None: it is asked.
        """
        picture = as_rgb(image)
        poses = self.predict(picture) if poses is None else poses
        sizes_px = poses.boxes_img[:, 2:].max(axis=1)
        return skeletons_over(picture, poses.joints_img, poses.scores, self.skeleton, sizes_px)

"""People of many pictures through a network in batches, and back to their pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from posematch.errors import is_out_of_memory
from posematch.geometry import Convention, Size, heatmap_scale
from posematch.metrics.compactness import map_covariance
from posematch.prediction.crops import Crops
from posematch.prediction.poses import Poses
from posematch.skeletons import Skeleton

Label = TypeVar("Label")
# Joints in the picture, scores, covariance on the map, and the maps where they are wanted.
_Found = tuple[NDArray[Any], ...]


class Found(Protocol):
    """What an `Estimator` finds of B people; see `posematch.model.Estimate`."""

    @property
    def joints_img(self) -> torch.Tensor | None:
        """(B, K, 2)."""
        ...

    @property
    def scores(self) -> torch.Tensor:
        """(B, K)."""
        ...

    @property
    def maps(self) -> torch.Tensor:
        """(B, K, h, w)."""
        ...


class Estimator(Protocol):
    """A trained network, as `posematch.model.PoseModel` is one."""

    skeleton: Skeleton
    input_size: Size
    heatmap_size: Size
    convention: Convention

    @property
    def score_means(self) -> str:
        """What the scores that are told mean, in words."""
        ...

    def estimate(self, crops: torch.Tensor, crop_affine: torch.Tensor | None = None) -> Found:
        """(B, 3, H, W) crops to joints."""
        ...

    def calibrated_scores(
        self, scores: torch.Tensor, box_size_img: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(B, K) the decoder's scores as those that are told, of crops that show (B, 2) pixels."""
        ...


@dataclass(frozen=True, eq=False)
class Request(Generic[Label]):
    """A picture's people, cut out.

    Attributes
    ----------
    label
        Whatever the caller knows the picture by.
    crops
        Of N people; N may be 0.
    boxes_img, box_scores
        (N, 4) and (N,).
    picture_size
        (H, W).
    """

    label: Label
    crops: Crops
    boxes_img: NDArray[np.float64]
    box_scores: NDArray[np.float64]
    picture_size: Size


def estimated(
    estimator: Estimator,
    requests: Iterable[Request[Label]],
    batch_size: int,
    keep_maps: bool = False,
) -> Iterator[tuple[Label, Poses]]:
    """Poses of each picture, in order; batches hold people of several pictures.

    Parameters
    ----------
    estimator
        The network.
    requests
        Taken as they are needed.
    batch_size
        Most people that pass the network at once.
    keep_maps
        Whether `Poses.maps` is wanted.
    """
    waiting: list[Request[Label]] = []
    people = 0
    for request in requests:
        waiting.append(request)
        people += len(request.boxes_img)
        # Pictures of nobody wait for no network, and are not many either.
        if people >= batch_size or not people or len(waiting) >= batch_size:
            yield from _of_some(estimator, waiting, batch_size, keep_maps)
            waiting, people = [], 0
    if waiting:
        yield from _of_some(estimator, waiting, batch_size, keep_maps)


def _of_some(
    estimator: Estimator, requests: Sequence[Request[Label]], batch_size: int, keep_maps: bool
) -> Iterator[tuple[Label, Poses]]:
    skeleton, means = estimator.skeleton, estimator.score_means
    names, limbs = skeleton.joints, skeleton.limbs
    with_people = [one for one in requests if len(one.boxes_img)]
    if not with_people:
        for one in requests:
            yield one.label, Poses.nobody(names, one.picture_size, limbs, means)
        return
    crops = torch.cat([one.crops.pixels for one in with_people])
    affines = torch.cat([one.crops.affines for one in with_people])
    parts = _in_batches(estimator, crops, affines, batch_size, keep_maps)
    joints_img, scores, covariance_hm, *maps = (
        np.concatenate(one) for one in zip(*parts, strict=True)
    )
    to_heatmap = _heatmap_affines(estimator, affines.numpy())
    # A photo's pixel in heatmap pixels: the inverse turns a width on the map into one on the photo.
    inverse = np.linalg.inv(to_heatmap[:, None, :, :2])
    covariance_img = inverse @ covariance_hm @ inverse.swapaxes(-1, -2)
    start = 0
    for one in requests:
        own = slice(start, start + len(one.boxes_img))
        start = own.stop
        yield (
            one.label,
            Poses(
                names,
                joints_img[own],
                scores[own],
                means,
                covariance_img[own],
                one.boxes_img,
                one.box_scores,
                one.picture_size,
                limbs,
                to_heatmap[own],
                maps[0][own] if maps else None,
            ),
        )


def _in_batches(
    estimator: Estimator,
    crops: torch.Tensor,
    affines: torch.Tensor,
    batch_size: int,
    keep_maps: bool,
) -> list[_Found]:
    """Batches, of half as many people where the device has no memory for so many."""
    try:
        starts = range(0, len(crops), batch_size)
        parts = [slice(start, start + batch_size) for start in starts]
        return [_found(estimator, crops[part], affines[part], keep_maps) for part in parts]
    except (RuntimeError, MemoryError) as error:
        if batch_size == 1 or not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = -(-min(batch_size, len(crops)) // 2)
    return _in_batches(estimator, crops, affines, half, keep_maps)


def _found(
    estimator: Estimator, crops: torch.Tensor, affines: torch.Tensor, keep_maps: bool
) -> _Found:
    found = estimator.estimate(crops, affines)
    assert found.joints_img is not None
    covariance_hm = map_covariance(found.maps)
    height, width = estimator.input_size
    # What a crop shows of the picture: its size over the affine map's scale.
    scale = affines[:, :, :2].norm(dim=2).numpy()
    return (
        found.joints_img.numpy(),
        estimator.calibrated_scores(found.scores, np.array([width, height]) / scale),
        covariance_hm.double().cpu().numpy(),
        # The largest of all: they stay on the device where nobody wants them.
        *([found.maps.float().cpu().numpy()] if keep_maps else []),
    )


def _heatmap_affines(estimator: Estimator, affines: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = heatmap_scale(estimator.input_size, estimator.heatmap_size, estimator.convention)
    return np.asarray(affines * np.array(scale)[:, None])

"""A data set written as HRNet's original code writes it, to measure ours against.

The steps of its `JointsDataset` and `get_affine_transform`, in our words: the whole photo is read,
mirrored and warped for each sample; joints are mapped and Gaussians drawn one by one, on the CPU;
crops are normalised there, as float32.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from posematch.data.people import People
from posematch.geometry import Size


class PlainDataset(Dataset[Any]):
    """People of a split as (crop, target, weight, meta); ``augmented`` as for MPII."""

    def __init__(
        self, people: People, input_size: Size, sigma: int, augmented: bool = True
    ) -> None:
        self.people = people
        self.size = input_size[::-1]
        self.map_size = (self.size[0] // 4, self.size[1] // 4)
        self.sigma = sigma
        self.rng = np.random.default_rng(0)
        self.augmented = augmented
        self.pairs = people.skeleton.flip_permutation
        self.transform = Compose(
            [ToTensor(), Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]
        )

    def __len__(self) -> int:
        return len(self.people.people)

    def __getitem__(self, index: int) -> Any:
        person = self.people.people[index]
        photo = cv2.imread(str(person.image), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        photo = cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
        joints, visible = person.joints_img.copy(), person.visible.copy()
        center, scale = person.center_img.copy(), person.box_size_img / 200
        rotation = 0.0
        if self.augmented:
            scale = scale * np.clip(self.rng.standard_normal() * 0.25 + 1, 0.75, 1.25)
            turned = self.rng.random() <= 0.6
            rotation = np.clip(self.rng.standard_normal() * 30, -60, 60) if turned else 0.0
        if self.augmented and self.rng.random() <= 0.5:
            photo = photo[:, ::-1, :]
            joints[:, 0] = photo.shape[1] - joints[:, 0] - 1
            joints, visible = joints[list(self.pairs)], visible[list(self.pairs)]
            center[0] = photo.shape[1] - center[0] - 1
        affine = _affine(center, scale, rotation, self.size)
        crop = cv2.warpAffine(photo, affine, self.size, flags=cv2.INTER_LINEAR)
        crop = self.transform(crop)
        for joint in range(len(joints)):
            if visible[joint] > 0:
                joints[joint] = affine @ np.array([joints[joint, 0], joints[joint, 1], 1.0])
        target, weight = self._target(joints, visible)
        meta = {
            "image": str(person.image),
            "joints": joints,
            "joints_vis": visible,
            "center": center,
            "scale": scale,
            "rotation": rotation,
            "score": 1.0,
        }
        return crop, torch.from_numpy(target), torch.from_numpy(weight), meta

    def _target(
        self, joints: NDArray[np.float64], visible: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        width, height = self.map_size
        target = np.zeros((len(joints), height, width), dtype=np.float32)
        weight = visible.astype(np.float32).copy()
        reach = self.sigma * 3
        stride = np.array(self.size) / np.array(self.map_size)
        for joint in range(len(joints)):
            x = int(joints[joint, 0] / stride[0] + 0.5)
            y = int(joints[joint, 1] / stride[1] + 0.5)
            low, high = (x - reach, y - reach), (x + reach + 1, y + reach + 1)
            if low[0] >= width or low[1] >= height or high[0] < 0 or high[1] < 0:
                weight[joint] = 0
                continue
            side = 2 * reach + 1
            grid = np.arange(0, side, 1, np.float32)
            middle = side // 2
            gaussian = np.exp(
                -((grid - middle) ** 2 + (grid[:, None] - middle) ** 2) / (2 * self.sigma**2)
            )
            gx = max(0, -low[0]), min(high[0], width) - low[0]
            gy = max(0, -low[1]), min(high[1], height) - low[1]
            ix = max(0, low[0]), min(high[0], width)
            iy = max(0, low[1]), min(high[1], height)
            if weight[joint] > 0.5:
                target[joint, iy[0] : iy[1], ix[0] : ix[1]] = gaussian[gy[0] : gy[1], gx[0] : gx[1]]
        return target, weight


def _affine(
    center: NDArray[np.float64], scale: NDArray[np.float64], rotation_deg: float, size: Any
) -> NDArray[np.float64]:
    """By three points, as HRNet's code does."""
    angle = np.pi * rotation_deg / 180
    direction = np.array([0.0, scale[0] * 200 * -0.5])
    sine, cosine = np.sin(angle), np.cos(angle)
    turned = np.array(
        [direction[0] * cosine - direction[1] * sine, direction[0] * sine + direction[1] * cosine]
    )
    source, target = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    source[0], source[1] = center, center + turned
    target[0] = size[0] * 0.5, size[1] * 0.5
    target[1] = target[0] + np.array([0, size[0] * -0.5], np.float32)
    for points in (source, target):
        across = points[0] - points[1]
        points[2] = points[1] + np.array([-across[1], across[0]], dtype=np.float32)
    affine: NDArray[np.float64] = cv2.getAffineTransform(source, target)
    return affine

"""albumentations on a batch of crops at once, wherever it lies: `ColorJitter`, `ToGray`, dropout.

What a transform draws is drawn for each sample by albumentations itself, from the sample's seed
(`LookPlan.draw`), and written into a row of numbers; what it does with them is done here for the
whole batch (`LookPlan.apply`), in the steps that albumentations and OpenCV take on bytes, so that
the crops are those of the path through `posematch.data.augmentation.Appearance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from posematch.data.augmentation import Appearance
from posematch.geometry import Size


class _Change(Protocol):
    """One transform: how many numbers it draws, how they are got, and what they do."""

    length: int

    def row(self, drawn: dict[str, Any]) -> Sequence[float]: ...

    def apply(self, crops: torch.Tensor, rows: NDArray[np.float64]) -> torch.Tensor:
        """(B, 3, H, W) integers of 0 to 255 in float32, changed, by (B, length) numbers."""
        ...


class LookPlan:
    """A chain of transforms as numbers.

    Parameters
    ----------
    appearance
        The chain.
    crop_size
        (H, W) of the crops.
    """

    def __init__(self, appearance: Appearance, crop_size: Size) -> None:
        self.appearance = appearance
        self._changes = [_change(one) for one in appearance.transforms]
        # Only its shape is looked at, so it takes no memory.
        self._shape = np.broadcast_to(np.zeros(1, np.uint8), (*crop_size, 3))

    @property
    def length(self) -> int:
        """Numbers of a row; each transform's begin with whether it is applied."""
        return sum(1 + change.length for change in self._changes if change)

    def draw(self, seed: int) -> NDArray[np.float64] | None:
        """What a sample's seed draws, (length,); None where that cannot be done on a batch."""
        row = np.zeros(self.length)
        at = 0
        compose = self.appearance.seeded(seed)
        if not compose.py_random.random() < compose.p:  # drawn first, as albumentations does
            return row
        for transform, change in zip(self.appearance.transforms, self._changes, strict=True):
            applied = transform.should_apply()
            if change is None:
                if applied:
                    return None
                continue
            if applied:
                drawn = transform.get_params()
                data = {"image": self._shape}
                drawn = transform.update_transform_params(params=drawn, data=data)
                drawn |= transform.get_params_dependent_on_data(params=drawn, data=data)
                numbers = change.row(drawn)
                row[at], row[at + 1 : at + 1 + len(numbers)] = 1, numbers
            at += 1 + change.length
        return row

    def apply(self, crops: torch.Tensor, rows: NDArray[np.float64]) -> torch.Tensor:
        """(B, 3, H, W) uint8 RGB crops, changed as (B, length) rows say.

        The rows lie on the host, where who is changed is known without waiting for the device.
        """
        if not rows.any():
            return crops
        crops = crops.clone()
        at = 0
        for change in self._changes:
            if change is None:
                continue
            numbers = rows[:, at + 1 : at + 1 + change.length]
            if len(who := rows[:, at].nonzero()[0]):
                chosen = torch.from_numpy(who).to(crops.device)
                changed = change.apply(crops[chosen].float(), numbers[who])
                crops[chosen] = changed.to(torch.uint8)
            at += 1 + change.length
        return crops


def _change(transform: Any) -> _Change | None:
    """How a transform is done here, or None."""
    name = type(transform).__name__
    if name == "ColorJitter":
        return _ColorJitter()
    if name == "ToGray" and transform.method == "weighted_average":
        return _ToGray()
    if name == "CoarseDropout" and not isinstance(transform.fill, str):
        return _CoarseDropout(transform)
    return None


class _ColorJitter:
    length = 8  # brightness, contrast, saturation, hue; their order

    def row(self, drawn: dict[str, Any]) -> Sequence[float]:
        names = ("brightness", "contrast", "saturation", "hue")
        return [*(drawn[name] for name in names), *drawn["order"]]

    def apply(self, crops: torch.Tensor, rows: NDArray[np.float64]) -> torch.Tensor:
        for step in range(4):
            kinds = rows[:, 4 + step]
            for kind, function in enumerate((_brightness, _contrast, _saturation, _hue)):
                who = (kinds == kind).nonzero()[0]
                if len(who):
                    chosen = torch.from_numpy(who).to(crops.device)
                    factor = torch.from_numpy(rows[who, kind]).to(crops.device)
                    crops[chosen] = function(crops[chosen], factor[:, None, None, None])
        return crops


class _ToGray:
    length = 0

    def row(self, drawn: dict[str, Any]) -> Sequence[float]:
        return []

    def apply(self, crops: torch.Tensor, rows: NDArray[np.float64]) -> torch.Tensor:
        return _gray(crops).expand_as(crops)


class _CoarseDropout:
    def __init__(self, transform: Any) -> None:
        self.length = 4 * int(transform.num_holes_range[1])
        self._fill = torch.as_tensor(transform.fill, dtype=torch.float32).reshape(-1, 1, 1)

    def row(self, drawn: dict[str, Any]) -> Sequence[float]:
        numbers: list[float] = drawn["holes"].ravel().tolist()
        return numbers

    def apply(self, crops: torch.Tensor, rows: NDArray[np.float64]) -> torch.Tensor:
        height, width = crops.shape[-2:]
        holes = torch.from_numpy(rows.reshape(len(rows), -1, 4, 1)).to(crops.device)
        x_low, y_low, x_high, y_high = holes.unbind(2)
        x = torch.arange(width, device=crops.device)
        y = torch.arange(height, device=crops.device)
        in_x, in_y = (x_low <= x) & (x < x_high), (y_low <= y) & (y < y_high)
        inside = (in_y[..., :, None] & in_x[..., None, :]).any(1, keepdim=True)
        return torch.where(inside, self._fill.to(crops.device).trunc(), crops)


def _brightness(crops: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (crops * factor).clamp(0, 255).trunc().float()


def _contrast(crops: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    mean = _gray(crops).double().mean((1, 2, 3), keepdim=True)
    return (crops * factor + mean * (1 - factor)).clamp(0, 255).trunc().float()


def _saturation(crops: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (crops * factor + _gray(crops) * (1 - factor)).round().clamp(0, 255).float()


def _gray(crops: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): OpenCV's weights, in units of 2^-15."""
    red, green, blue = crops.int().unbind(1)
    return ((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15)[:, None].float()


def _hue(crops: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """By way of OpenCV's HSV on bytes: hue in steps of two degrees, saturation in 255ths."""
    red, green, blue = crops.int().unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    # Quotients in units of 2^-12, from a table by the divisor.
    whole = torch.arange(1, 256, dtype=torch.float64)
    by_value = torch.cat([torch.zeros(1), ((255 << 12) / whole).round()]).int().to(crops.device)
    by_spread = torch.cat([torch.zeros(1), ((30 << 12) / whole).round()]).int().to(crops.device)
    saturation = (spread * by_value[value] + (1 << 11)) >> 12
    hue = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = (hue * by_spread[spread] + (1 << 11)) >> 12
    hue = torch.where(hue < 0, hue + 180, hue)
    hue = ((hue + 180 * turns[:, 0]) % 180).int()

    sixth = hue * torch.tensor(6 / 180, dtype=torch.float32, device=crops.device)
    s, v = (one * torch.tensor(1 / 255, device=crops.device) for one in (saturation, value))
    sector = sixth.floor()
    part = sixth - sector
    tones = torch.stack([v, v * (1 - s), v * (1 - s * part), v * (1 - s + s * part)], 1)
    # Of each sixth of the circle, which tone red, green and blue are.
    order = torch.tensor([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])
    chosen = order.to(crops.device)[sector.long() % 6].movedim(-1, 1)
    rgb = (tones.gather(1, chosen) * 255).trunc()
    # What OpenCV's formula leaves as it is; there a turn of 0 is no change at all.
    return torch.where(turns == 0, crops, rgb)

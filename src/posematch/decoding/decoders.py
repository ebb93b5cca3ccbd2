"""Decoders: ``decoder(maps) -> joints_hm (B, K, 2), scores (B, K)``.

``maps`` are raw heatmaps of a loss that fixes the amplitude, or masses (`posematch.losses.to_mass`)
of one that does not. Every decoder takes both. Scores lie in [0, 1]; COCO's AP depends on which
score a decoder gives.

Here are those that read a few pixels; `posematch.decoding.dark` and `posematch.decoding.udp` have
those that fit the peak's shape.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch

from posematch.decoding.peaks import Peaks, in_parts, positive_sums, values_at, window
from posematch.errors import PosematchError

EdgeRule = Literal["hrnet", "mmpose"]


class Decoder(Protocol):
    """(B, K, H, W) maps to (B, K, 2) joints in heatmap pixels and (B, K) scores.

    One that reads several maps a joint says how many in an attribute ``channels_per_joint``; see
    `posematch.decoding.decode`.
    """

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


class Argmax:
    """The highest pixel; its value, cut to [0, 1], is the score.

    A map without a positive value gives (0, 0), as HRNet's code does (docs/protocols.md, Decoders).

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = Argmax()(maps)
    >>> joints_hm
    tensor([[[10.,  8.]]])
    """

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        peaks = Peaks.of(maps)
        return peaks.joints_hm(), peaks.scores


class QuarterOffset:
    """Argmax, moved a quarter pixel an axis towards the higher neighbour, as HRNet does.

    Parameters
    ----------
    edge_rule
        Which peaks move. ``hrnet``: those with 1 < x < W - 1 and 1 < y < H - 1, along both axes.
        ``mmpose``: along x those with 1 < x < W - 1 and y > 0, along y those with 1 < y < H - 1
        and x > 0.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = QuarterOffset()(maps)
    >>> joints_hm
    tensor([[[10.2500,  8.0000]]])
    """

    def __init__(self, edge_rule: EdgeRule = "hrnet") -> None:
        if edge_rule not in ("hrnet", "mmpose"):
            raise PosematchError(f"decoder.edge_rule={edge_rule} must be hrnet or mmpose.")
        self.edge_rule = edge_rule

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        peaks = Peaks.of(maps)
        height, width = maps.shape[-2:]
        x, y = peaks.x, peaks.y
        moves_x = (x > 1) & (x < width - 1)
        moves_y = (y > 1) & (y < height - 1)
        if self.edge_rule == "hrnet":
            moves_x = moves_y = moves_x & moves_y
        else:
            moves_x, moves_y = moves_x & (y > 0), moves_y & (x > 0)
        # The grid's pixels do where the peak does not move.
        left, right = (x - 1).clamp_min(0), (x + 1).clamp_max(width - 1)
        above, below = (y - 1).clamp_min(0), (y + 1).clamp_max(height - 1)
        around = values_at(
            maps, torch.stack([left, right, x, x], -1), torch.stack([y, y, above, below], -1)
        )
        slope = around[..., 1::2] - around[..., ::2]
        moves = torch.stack([moves_x, moves_y], dim=-1)
        return peaks.joints_hm() + 0.25 * slope.sign() * moves, peaks.scores


class Barycentre:
    """Barycentre of the mass in a square window around the highest pixel.

    For masses, and raw maps, whose positive part it takes. The score is the share of the map's
    positive part that lies in the window.

    Parameters
    ----------
    radius_px
        The window is 2 radius + 1 heatmap pixels wide; what falls off the grid is left out.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = Barycentre(radius_px=2)(maps)
    >>> joints_hm
    tensor([[[10.1245,  8.0000]]])
    """

    def __init__(self, radius_px: int = 2) -> None:
        if radius_px < 1:
            raise PosematchError(f"decoder.radius_px={radius_px} must be at least 1.")
        self.radius_px = radius_px

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        peaks = Peaks.of(maps)
        mass, _, _ = window(maps, peaks.x, peaks.y, self.radius_px)
        mass = mass.clamp_min(0)
        tiny = torch.finfo(maps.dtype).tiny
        near = mass.sum((-2, -1))
        reach = torch.arange(-self.radius_px, self.radius_px + 1, device=maps.device).to(maps)
        # From the middle: whole coordinates would cost digits.
        moments = torch.stack([mass.sum(-2) @ reach, mass.sum(-1) @ reach], dim=-1)
        joints_hm = peaks.joints_hm() + moments / near.clamp_min(tiny)[..., None]
        return joints_hm, (near / positive_sums(maps).clamp_min(tiny)).clamp(0, 1)


class SoftArgmax:
    """Barycentre of the whole map, sharpened: the soft-argmax (Nibali et al. 2018, DSNT).

    The weights are the map's positive part to the power 1 / temperature. On the mass of a loss
    with softmax supply that is softmax(h / temperature) of the raw map; at temperature 1 the mass
    itself, the coordinates that `posematch.losses.DSNT` trains. A raw map has a background that
    pulls towards the grid's middle: it wants a temperature well below 1.

    The score is the share of the weights within a square around the joint.

    Parameters
    ----------
    temperature
        Below 1 it sharpens: towards 0 the highest pixel is left.
    radius_px
        Half the square's width, heatmap pixels.

    Examples
    --------
    >>> from posematch.losses import gaussian_targets
    >>> maps = gaussian_targets(torch.tensor([[[10.3, 8.0]]]), (16, 20), 2.0, "subpixel")
    >>> joints_hm, scores = SoftArgmax()(maps)
    >>> joints_hm
    tensor([[[10.3000,  7.9995]]])
    """

    def __init__(self, temperature: float = 1.0, radius_px: float = 2) -> None:
        if not temperature > 0:
            raise PosematchError(f"decoder.temperature={temperature} must be positive.")
        if radius_px <= 0:
            raise PosematchError(f"decoder.radius_px={radius_px} must be positive.")
        self.temperature = temperature
        self.radius_px = radius_px

    def __call__(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Bounded by 1 before the power: nothing overflows, and the peak never underflows.
        scale = None if self.temperature == 1 else maps.amax((-2, -1))
        columns, rows = self._marginals(maps, scale)
        tiny = torch.finfo(maps.dtype).tiny
        total = columns.sum(-1).clamp_min(tiny)
        height, width = maps.shape[-2:]
        x = columns @ torch.arange(width, device=maps.device).to(maps) / total
        y = rows @ torch.arange(height, device=maps.device).to(maps) / total
        # Pixels no farther than the radius from the joint are no farther than this from its pixel.
        reach = int(self.radius_px + 0.5)
        middle_x, middle_y = (x + 0.5).long(), (y + 0.5).long()
        values, _, _ = window(maps, middle_x, middle_y, reach)
        weights = self._weights(values, scale)
        steps = torch.arange(-reach, reach + 1, device=maps.device)
        near_x = (middle_x[..., None] + steps - x[..., None]).abs() <= self.radius_px
        near_y = (middle_y[..., None] + steps - y[..., None]).abs() <= self.radius_px
        near = (weights * near_x[..., None, :] * near_y[..., :, None]).sum((-2, -1))
        return torch.stack([x, y], dim=-1), (near / total).clamp(0, 1)

    def _marginals(
        self, maps: torch.Tensor, scale: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K, W) and (B, K, H) sums of the weights over rows and over columns."""
        parts = in_parts(maps)
        scales = [None] * len(parts) if scale is None else in_parts(scale)
        columns, rows = [], []
        for part, of_part in zip(parts, scales, strict=True):
            weights = self._weights(part, of_part)
            columns.append(weights.sum(-2))
            rows.append(weights.sum(-1))
        people, joints = maps.shape[:2]
        return (
            torch.cat(columns).view(people, joints, -1),
            torch.cat(rows).view(people, joints, -1),
        )

    def _weights(self, values: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        weights = values.clamp_min(0)
        if scale is not None:
            least = torch.finfo(values.dtype).tiny
            weights = (weights / scale.clamp_min(least)[..., None, None]).pow(1 / self.temperature)
        return weights

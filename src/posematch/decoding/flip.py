"""The flip test: the mirrored crop's heatmaps, mirrored back and averaged (PROTOCOLS 2.8)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from posematch.skeletons import Skeleton


def flip_back(heatmaps: torch.Tensor, skeleton: Skeleton, shift: bool) -> torch.Tensor:
    """Heatmaps of mirrored crops as heatmaps of the crops.

    Parameters
    ----------
    heatmaps
        (B, K, H, W).
    skeleton
        Says which joints change places.
    shift
        Move them one pixel to the right, column 0 kept, as HRNet's SHIFT_HEATMAP: under the
        convention ``hrnet`` mirroring misses by one crop pixel short of a stride.
    """
    back = heatmaps.flip(-1)[:, list(skeleton.flip_permutation)]
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
    return back


def flip_average(
    heatmaps: torch.Tensor,
    heatmaps_of_mirrored: torch.Tensor,
    skeleton: Skeleton,
    mass: Callable[[torch.Tensor], torch.Tensor],
    shift: bool,
) -> torch.Tensor:
    """Mean of both views.

    Parameters
    ----------
    heatmaps, heatmaps_of_mirrored
        (B, K, H, W) raw.
    skeleton, shift
        See `flip_back`.
    mass
        The loss's `posematch.losses.HeatmapLoss.mass`: where a loss leaves the amplitude free, the
        views' masses are averaged, not their maps.

    Returns
    -------
    (B, K, H, W) maps for the decoder.
    """
    back = flip_back(heatmaps_of_mirrored, skeleton, shift)
    return 0.5 * (mass(heatmaps) + mass(back))

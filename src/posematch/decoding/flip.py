"""The flip test: the mirrored crop's heatmaps, mirrored back and averaged.

Source: docs/protocols.md, Flip test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from posematch.skeletons import Skeleton


def flip_back(
    heatmaps: torch.Tensor,
    skeleton: Skeleton,
    shift: bool,
    mirror_signs: Sequence[float] = (1.0,),
) -> torch.Tensor:
    """Heatmaps of mirrored crops as heatmaps of the crops.

    Parameters
    ----------
    heatmaps
        (B, K, H, W), or (B, K times C, H, W) with C maps a joint, one after another.
    skeleton
        Says which joints change places.
    shift
        Move them one pixel to the right, column 0 kept, as HRNet's SHIFT_HEATMAP: under the
        convention ``hrnet`` mirroring misses by one crop pixel short of a stride, so that this
        leaves the mean of both views half a crop pixel too far right. Under ``udp`` it is exact
        without.
    mirror_signs
        C signs that a joint's maps take, see `posematch.losses.HeatmapLoss.mirror_signs`.

    Examples
    --------
    >>> from posematch.skeletons import MPII
    >>> maps = torch.zeros(1, 16, 1, 4)
    >>> maps[0, 0, 0, 0] = 1.0  # the right ankle, at the left end
    >>> flip_back(maps, MPII, shift=False)[0, 5]  # the left one, at the right end
    tensor([[0., 0., 0., 1.]])
    """
    channels = len(mirror_signs)
    order = [channels * k + c for k in skeleton.flip_permutation for c in range(channels)]
    back = heatmaps.flip(-1)[:, order]
    if any(sign != 1 for sign in mirror_signs):
        signs = back.new_tensor(mirror_signs).repeat(skeleton.num_joints)
        back = back * signs[:, None, None]
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
    return back


def flip_average(
    heatmaps: torch.Tensor,
    heatmaps_of_mirrored: torch.Tensor,
    skeleton: Skeleton,
    mass: Callable[[torch.Tensor], torch.Tensor],
    shift: bool,
    mirror_signs: Sequence[float] = (1.0,),
) -> torch.Tensor:
    """Mean of both views.

    Parameters
    ----------
    heatmaps, heatmaps_of_mirrored
        (B, K, H, W) raw, or (B, K times C, H, W).
    skeleton, shift, mirror_signs
        See `flip_back`.
    mass
        The loss's `posematch.losses.HeatmapLoss.mass`: where a loss leaves the amplitude free, the
        views' masses are averaged, not their maps.

    Returns
    -------
    Maps for the decoder, of the same shape.

    Examples
    --------
    >>> from posematch.skeletons import MPII
    >>> maps = torch.rand(1, 16, 8, 8)
    >>> mirrored = flip_back(maps, MPII, shift=False)
    >>> torch.equal(flip_average(maps, mirrored, MPII, mass=lambda maps: maps, shift=False), maps)
    True
    """
    back = flip_back(heatmaps_of_mirrored, skeleton, shift, mirror_signs)
    return 0.5 * (mass(heatmaps) + mass(back))

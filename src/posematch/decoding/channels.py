"""Networks with several maps a joint: which of them a decoder, or another loss, reads."""

from __future__ import annotations

import torch

from posematch.arithmetic import full_float32
from posematch.decoding.decoders import Decoder
from posematch.errors import PosematchError


def channels_per_joint(decoder: Decoder) -> int:
    """Maps of each joint that a decoder reads; 1 for most."""
    return int(getattr(decoder, "channels_per_joint", 1))


def check_channels(decoder: Decoder, channels: int) -> None:
    """Raise a sentence if a decoder needs other maps than the ``channels`` a joint that there are.

    Raises
    ------
    PosematchError
        It reads several maps a joint, and there are more or fewer. One that reads a single map
        takes each joint's first, see `decode`.

    Examples
    --------
    >>> from posematch.decoding import Argmax
    >>> check_channels(Argmax(), 3)  # it reads the first
    """
    needed = channels_per_joint(decoder)
    if needed not in (1, channels):
        raise PosematchError(
            f"The decoder {type(decoder).__name__} reads {needed} maps a joint, and the network has"
            f" {channels}; use decoder=auto, or train with the loss that the decoder is made for."
        )


def first_maps(maps: torch.Tensor, channels: int) -> torch.Tensor:
    """(B, K, H, W): the first of each joint's maps, of (B, K times ``channels``, H, W).

    Examples
    --------
    >>> first_maps(torch.zeros(2, 3 * 16, 64, 48), channels=3).shape
    torch.Size([2, 16, 64, 48])
    """
    return maps if channels == 1 else maps[:, ::channels]


def decode(
    decoder: Decoder, maps: torch.Tensor, channels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joints and scores, computed in float32 or float64 whatever the autocast.

    Parameters
    ----------
    decoder
        Gets all maps if it reads as many a joint, else the first of each joint.
    maps
        (B, K times ``channels``, H, W), those of a joint one after another.
    channels
        The loss's `posematch.losses.HeatmapLoss.channels_per_joint`.

    Returns
    -------
    joints_hm, scores
        (B, K, 2) heatmap pixels and (B, K).

    Raises
    ------
    PosematchError
        See `check_channels`.

    Examples
    --------
    >>> from posematch.decoding import Argmax
    >>> joints_hm, scores = decode(Argmax(), torch.zeros(2, 3 * 16, 64, 48), channels=3)
    >>> joints_hm.shape, scores.shape
    (torch.Size([2, 16, 2]), torch.Size([2, 16]))
    """
    check_channels(decoder, channels)
    chosen = maps if channels_per_joint(decoder) == channels else first_maps(maps, channels)
    with full_float32(maps.device.type):
        chosen = chosen.to(torch.promote_types(maps.dtype, torch.float32))
        # Networks' maps are channels_last: copied once here, not by every step of the decoder.
        return decoder(chosen.contiguous())

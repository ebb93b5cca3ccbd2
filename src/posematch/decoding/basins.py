"""What decoders share that look for a sum's maximum: widths, basins, windows, the decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from posematch.arithmetic import is_recorded
from posematch.decoding.peaks import accurate, grid, in_parts, window
from posematch.errors import PosematchError


def widths_of(
    widths_px: float | Sequence[float], smallest: float, largest: float, name: str
) -> list[float]:
    """Checked widths: one for all joints or one for each; PosematchError of ``name`` otherwise."""
    widths = [widths_px] if isinstance(widths_px, int | float) else list(widths_px)
    if not widths or not all(smallest <= one <= largest for one in widths):
        raise PosematchError(
            f"{name}={widths_px} must be a number from {smallest:g} to {largest:g} heatmap pixels,"
            " or one for each joint."
        )
    return [float(one) for one in widths]


def widths_on(widths_px: Sequence[float], maps: torch.Tensor, name: str) -> torch.Tensor:
    """(K,) widths of the joints of (B, K, H, W) maps, on their device and in their dtype."""
    joints = maps.shape[1]
    if len(widths_px) not in (1, joints):
        raise PosematchError(
            f"{name} has {len(widths_px)} widths, and the maps are of {joints} joints."
        )
    return torch.tensor(widths_px, device=maps.device).to(maps).expand(joints)


def local_maxima(
    values: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, K, C) columns, rows and values of the highest local maxima of (B, K, H, W) values >= 0.

    Places beyond a map's last local maximum have the value -1.
    """
    height, width = grid(values)
    found = []
    for part in in_parts(values):
        local = torch.where(part == highest_around(part), part, -1.0).flatten(-2)
        found.append(local.topk(min(count, height * width), -1))
    value, place = (torch.cat(one).view(*values.shape[:2], -1) for one in zip(*found, strict=True))
    return place % width, place // width, value


def highest_around(values: torch.Tensor) -> torch.Tensor:
    """(..., H, W) the highest of each 3 x 3 of (..., H, W) values >= -1.

    `torch.nn.functional.max_pool2d` takes ten times as long on a CPU.
    """
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1), value=-1.0)
    rows = torch.maximum(padded[..., :-2, :], padded[..., 2:, :])
    rows = torch.maximum(rows, padded[..., 1:-1, :])
    return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 2:]), rows[..., 1:-1])


def climbed(
    climb: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    open_: torch.Tensor,
    *inputs: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (B, K, C, 2) and values (B, K, C) that ``climb`` finds; -1 where it need not look.

    Parameters
    ----------
    climb
        Takes rows of the inputs, gives (..., 2) places and (...) values.
    open_
        (B, K, C) bool: where to look.
    inputs
        (B, K, C, ...) each.
    """
    if is_recorded():  # how many are open is not known then
        places, values = climb(*inputs)
        return places, values.masked_fill(~open_, -1)
    found, height = climb(*(one[open_] for one in inputs))
    places, values = found.new_zeros(*open_.shape, 2), height.new_full(open_.shape, -1)
    places[open_], values[open_] = found, height
    return places, values


def windows(
    maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor, radius: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K, C, N, N) masses around (B, K, C) pixels, and those pixels (B, K, C, 2)."""
    around = [window(maps, x[..., one], y[..., one], radius)[0] for one in range(x.shape[-1])]
    return accurate(torch.stack(around, 2)), accurate(torch.stack([x, y], -1))


def decided(
    value: torch.Tensor, places: torch.Tensor, whole: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joints and scores of the highest of several places.

    Parameters
    ----------
    value
        (B, K, C) the score of each place.
    places
        (B, K, C, 2).
    whole
        (B, K) all mass: where there is none, joint and score are 0.
    dtype
        Of the maps; the result's is float32 at least.
    """
    value, best = value.max(-1)
    found = places.gather(2, best[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    has_mass = whole > 0
    dtype = torch.promote_types(dtype, torch.float32)
    joints_hm = torch.where(has_mass[..., None], found, 0.0)
    return joints_hm.to(dtype), torch.where(has_mass, value, 0.0).clamp(0, 1).to(dtype)

"""What a loss does to one heatmap: its gradient, and where a free heatmap goes under it.

No network and no run: a few drawn maps with a dot, the same for every loss. A loss that reads its
map through another supply than ReLU gets the map whose mass is the drawn one (`written_for`), so
every loss starts from the same distribution and answers in its own terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from posematch.app.objects import make
from posematch.losses import HeatmapLoss, Matching, to_mass

SIZE = (32, 32)
NEAR_PX = 3.0  # radius of what counts as the mass at a peak
# Standard deviation of the faint ripple that every drawn map has, as trained maps have: half of the
# pixels off the peaks are negative, where a ReLU has no gradient.
RIPPLE = 0.01
# Share of the mean mass that a pixel without any gets before its logarithm is taken.
FLOOR = 0.01


@dataclass(frozen=True, eq=False)
class Scene:
    """A heatmap and a dot.

    Attributes
    ----------
    name, title
        For files and for people.
    heatmap
        (H, W) float64, highest value at most 1.
    dot_hm
        (2,) the annotated place, heatmap pixels.
    far_hm
        (2,) middle of the mass that lies elsewhere; None where there is none.
    """

    name: str
    title: str
    heatmap: torch.Tensor
    dot_hm: torch.Tensor
    far_hm: torch.Tensor | None = None


def blob(x: float, y: float, sigma: float, height: float) -> torch.Tensor:
    """(H, W) a Gaussian with that peak."""
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in SIZE)
    profile_y = torch.exp(-((rows - y) ** 2) / (2 * sigma**2))
    return height * profile_y[:, None] * torch.exp(-((columns - x) ** 2) / (2 * sigma**2))


def scenes() -> list[Scene]:
    """The drawn maps, always the same."""
    ripple = torch.from_numpy(np.random.default_rng(0).normal(0, RIPPLE, SIZE))

    def scene(
        name: str,
        title: str,
        heatmap: torch.Tensor,
        dot: tuple[float, float],
        far: tuple[float, float] | None = None,
    ) -> Scene:
        place = torch.tensor(dot, dtype=torch.float64)
        elsewhere = None if far is None else torch.tensor(far, dtype=torch.float64)
        return Scene(name, title, heatmap + ripple, place, elsewhere)

    return [
        scene(
            "two_peaks", "two peaks: a low one near the dot, a high one on the wrong limb",
            blob(9, 11, 1.5, 0.5) + blob(24, 21, 1.5, 0.8), (8.3, 10.4), (24, 21),
        ),
        scene(
            "occluded", "an occluded joint: a low, broad map that misses",
            blob(18, 18, 5, 0.2), (14.3, 13.6),
        ),
        scene(
            "off_grid", "a sharp peak on the dot's pixel; the dot lies between pixels",
            blob(16, 15, 1, 0.9), (16.4, 14.7),
        ),
        scene(
            "far_blob", "all of the mass far from the dot",
            blob(24, 22, 1.5, 0.8), (8.3, 8.6), (24, 22),
        ),
    ]  # fmt: skip


def written_for(loss: HeatmapLoss, heatmap: torch.Tensor) -> torch.Tensor:
    """The map that this loss reads as the drawn one.

    Itself, times the temperature, for losses of raw maps and of their ReLU. For softmax, and
    softplus, the map whose mass is relu(h) / sum relu(h), no pixel below `FLOOR` of the mean; for
    sparsemax, which has zeros, the drawn map over its positive part's sum.
    """
    if loss.supply in ("none", "relu"):
        return loss.temperature * heatmap  # relu's mass does not change with it
    if loss.supply == "sparsemax":
        return loss.temperature * heatmap / heatmap.relu().sum((-2, -1), keepdim=True)
    mass = to_mass(heatmap, "relu")
    pixels = mass.shape[-2] * mass.shape[-1]
    mass = mass.clamp_min(FLOOR / pixels)
    mass = mass / mass.sum((-2, -1), keepdim=True)
    if loss.supply == "softmax":
        return loss.temperature * mass.log()
    # softplus of this is the mass times the number of pixels; their sum is not read.
    values = mass * pixels
    return loss.temperature * (values + torch.log(-torch.expm1(-values)))


def own_mass(loss: HeatmapLoss, heatmaps: torch.Tensor) -> torch.Tensor:
    """(..., H, W) a loss's maps as what they say of the joint; of raw maps the positive part."""
    supply = "relu" if loss.supply == "none" else loss.supply
    return to_mass(heatmaps, supply, loss.temperature)


def losses_of(loss: HeatmapLoss, heatmaps: torch.Tensor, dots_hm: torch.Tensor) -> torch.Tensor:
    """(N,) losses of (N, H, W) maps, each a joint of its own, with (N, 2) dots.

    Of a loss with several channels a joint the first is the map, the others are 0.
    """
    visible = heatmaps.new_ones(len(heatmaps), 1)
    return loss.per_joint(_channels(loss, heatmaps), dots_hm[:, None], visible)[:, 0]


def gradient(loss: HeatmapLoss, scene: Scene) -> torch.Tensor:
    """(H, W) derivative of the loss in the map that is `written_for` it."""
    heatmap = written_for(loss, scene.heatmap).requires_grad_()
    value = losses_of(loss, heatmap[None], scene.dot_hm[None]).sum()
    (found,) = torch.autograd.grad(value, heatmap)
    return found


def numbers(loss: HeatmapLoss, scene: Scene) -> dict[str, float]:
    """What a small step of gradient descent, of length 1 in the map's values, would do.

    Returns
    -------
    loss
        Its value.
    gradient_norm
        Euclidean.
    zero_gradient_share
        Pixels whose gradient is exactly 0.
    near_rate, far_rate
        Change of the share of mass within `NEAR_PX` of the dot, and of the scene's far peak (NaN
        without one), per step.
    distance_rate_px
        Change of the mass's mean distance from the dot, per step; negative: towards it.
    sub_pixel_rate_px
        Change of the distance between the dot and the barycentre of the mass within `NEAR_PX` of
        it, per step; negative where the loss sees between which pixels the dot lies.
    """
    step = gradient(loss, scene)
    norm = float(step.norm())
    start = written_for(loss, scene.heatmap)
    value = float(losses_of(loss, start[None], scene.dot_hm[None]).detach())
    direction = -step / norm if norm > 0 else torch.zeros_like(step)
    distance = distances_px(scene.dot_hm)
    near = (distance <= NEAR_PX).double()

    def rate(of_mass: Callable[[torch.Tensor], torch.Tensor]) -> float:
        heatmap = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(of_mass(own_mass(loss, heatmap)), heatmap)
        return float((slope * direction).sum())

    rates = {
        "near_rate": rate(lambda mass: (mass * near).sum()),
        "far_rate": float("nan"),
        "distance_rate_px": rate(lambda mass: (mass * distance).sum()),
    }
    if scene.far_hm is not None:
        far = (distances_px(scene.far_hm) <= NEAR_PX).double()
        rates["far_rate"] = rate(lambda mass: (mass * far).sum())
    rates["sub_pixel_rate_px"] = rate(
        lambda mass: torch.linalg.vector_norm(_centre(mass * near) - scene.dot_hm)
    )
    return {
        "loss": value,
        "gradient_norm": norm,
        "zero_gradient_share": float((step == 0).double().mean()),
        **rates,
    }


def numbers_table(losses: Mapping[str, HeatmapLoss], of: Sequence[Scene]) -> pd.DataFrame:
    """`numbers` of every loss on every scene, a row each."""
    return pd.DataFrame(
        [
            {"scene": scene.name, "name": name, **numbers(loss, scene)}
            for scene in of
            for name, loss in losses.items()
        ]
    )


def matching_variants() -> dict[str, HeatmapLoss]:
    """The matching loss with one choice changed at a time; the first is its default."""
    return {
        "epsilon 0.1 (default)": Matching(),
        **{f"epsilon {one:g}": Matching(epsilon=one) for one in (0.5, 1.0, 3.0)},
        "cost squared_l2": Matching(cost="squared_l2"),
        "cost oks, 3 px": Matching(cost="oks", scale_px=3),
        "cost log1p, 2 px": Matching(cost="log1p", scale_px=2),
        "cost truncated, 6 px": Matching(cost="truncated", scale_px=6),
        **{f"relaxation {one:g}": Matching(relaxation=one) for one in (30.0, 10.0, 3.0)},
        "supply softmax": Matching(supply="softmax"),
        "supply sparsemax": Matching(supply="sparsemax"),
    }


@dataclass(frozen=True, eq=False)
class Film:
    """A free heatmap of each scene under one loss.

    Attributes
    ----------
    steps
        (T,) of the kept frames.
    mass
        (T, N, H, W) float32 what the maps say, see `own_mass`, N in the scenes' order.
    error_px
        (T, N) distance of the decoded joint (by the loss's own decoder) from the dot.
    """

    steps: NDArray[np.int64]
    mass: NDArray[np.float32]
    error_px: NDArray[np.float64]


def descend(loss: HeatmapLoss, of: Sequence[Scene], steps: int, every: int, rate: float) -> Film:
    """Minimise a loss over the pixels themselves with Adam, from the scenes' maps.

    Parameters
    ----------
    loss
        Which.
    of
        Scenes; each has a map of its own.
    steps
        Of the optimizer.
    every
        Steps between kept frames; the first and the last are kept.
    rate
        Adam's.
    """
    heatmaps = torch.stack([written_for(loss, scene.heatmap) for scene in of]).float()
    dots_hm = torch.stack([scene.dot_hm for scene in of]).float()
    heatmaps.requires_grad_()
    decoder = make(dict(loss.decoder_config()), "decoder")
    optimizer = torch.optim.Adam([heatmaps], lr=rate)
    kept, masses, errors = [], [], []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            with torch.no_grad():
                places = decoder(loss.mass(_channels(loss, heatmaps)))[0][:, 0]
                kept.append(step)
                masses.append(own_mass(loss, heatmaps).numpy().copy())
                errors.append((places - dots_hm).norm(dim=1).double().numpy())
        optimizer.zero_grad()
        value = losses_of(loss, heatmaps, dots_hm).sum()
        (heatmaps.grad,) = torch.autograd.grad(value, heatmaps)
        optimizer.step()
    return Film(np.array(kept), np.stack(masses), np.stack(errors))


def distances_px(place_hm: torch.Tensor) -> torch.Tensor:
    """(H, W) distance of every pixel from a place."""
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in SIZE)
    return torch.hypot(columns[None, :] - place_hm[0], rows[:, None] - place_hm[1])


def _channels(loss: HeatmapLoss, heatmaps: torch.Tensor) -> torch.Tensor:
    """(N, H, W) maps as (N, C, H, W) network output; a joint's further channels are 0."""
    more = heatmaps.new_zeros(len(heatmaps), loss.channels_per_joint - 1, *heatmaps.shape[1:])
    return torch.cat([heatmaps[:, None], more], dim=1)


def _centre(weights: torch.Tensor) -> torch.Tensor:
    """(2,) barycentre of (H, W) weights."""
    rows, columns = (torch.arange(length, dtype=weights.dtype) for length in SIZE)
    total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.stack([weights.sum(0) @ columns, weights.sum(1) @ rows]) / total

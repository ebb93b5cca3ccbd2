"""Online hard keypoint mining: the Gaussian MSE of each person's worst joints."""

from __future__ import annotations

import torch

from posematch.errors import PosematchError
from posematch.losses.base import Mask
from posematch.losses.gaussian_mse import Centre, GaussianMSE


class OHKM(GaussianMSE):
    """Mean over each person's ``top_k`` counted joints of highest Gaussian MSE.

    Chen et al., Cascaded Pyramid Network (CVPR 2018). A person with fewer counted
    joints brings all of them; every chosen joint of the batch weighs the same (its ``visible``).
    The published code divides by ``top_k`` whatever is labelled, and halves: the same gradient
    direction only where everybody has ``top_k`` joints. `per_joint` is every joint's MSE; the
    choice is `selection`, made for each person alone.

    Parameters
    ----------
    sigma, centre, mask, temperature
        See `GaussianMSE`.
    top_k
        Joints a person; 8 of COCO's 17 in the paper.

    Examples
    --------
    >>> heatmaps, visible = torch.zeros(1, 2, 4, 4), torch.ones(1, 2)
    >>> heatmaps[0, 0] = 1  # the worse of two joints
    >>> dots = torch.ones(1, 2, 2)
    >>> loss = OHKM(1.0, top_k=1)
    >>> loss(heatmaps, dots, visible) == loss.per_joint(heatmaps, dots, visible)[0, 0]
    tensor(True)
    """

    def __init__(
        self,
        sigma: float,
        top_k: int = 8,
        centre: Centre = "quantised",
        mask: Mask = "inside",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(sigma, centre, mask=mask, temperature=temperature)
        if top_k < 1:
            raise PosematchError(f"loss.top_k={top_k} must be at least 1.")
        self.top_k = top_k

    def selection(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        top_k = min(self.top_k, losses.shape[1])
        # Joints that do not count come last, and keep their weight of 0 where they are chosen.
        ranked = torch.where(weights > 0, losses, torch.full_like(losses, -1.0))
        hardest = ranked.topk(top_k, dim=1).indices
        return weights * torch.zeros_like(weights).scatter(1, hardest, 1.0)

"""Theorem 1 of the paper on real heatmaps: both risks, both inner products and the constant."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from posematch.losses import gaussian_targets
from posematch.losses.gaussian_mse import Centre
from posematch.metrics.columns import TERMS


class Risks(Metric):
    """The terms of Theorem 1 (supplement, equation 4), expectations over images.

    With h the raw heatmap of a joint, g its Gaussian with peak 1 on the dot's pixel, d the one-hot
    map of that pixel, and sums over all pixels and counted joints of an image::

        E|h - d|^2 = E|h - g|^2 + 2 E<h, g> - 2 E<h, d> - E|g - d|^2

    Every term is summed by itself, in float64, none from the others, so that the residual of the
    identity tells. What is counted is one fixed set of joints: labelled, and with the dot on the
    grid. An image is a person's crop.

    Parameters
    ----------
    sigma
        Of the Gaussian, heatmap pixels.
    centre
        ``quantised`` meets the theorem's condition <g, d> = |d|^2 (equation 5); ``subpixel`` does
        not, and the identity is then off by 2 E sum (1 - g(dot's pixel)).
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    bits: Tensor

    def __init__(self, sigma: float, centre: Centre = "quantised") -> None:
        super().__init__()
        self.sigma = sigma
        self.centre: Centre = centre
        # Sums of the terms, joints, images: float64 bits in integers, which a device without
        # float64 and half-precision casts of the module leave alone. Processes' rows are stacked.
        empty = torch.zeros(len(TERMS) + 2, dtype=torch.int64)
        self.add_state("bits", empty, dist_reduce_fx=None)

    def update(self, heatmaps: Tensor, joints_hm: Tensor, visible: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        heatmaps
            (B, K, H, W), raw.
        joints_hm
            (B, K, 2) dots in heatmap pixels.
        visible
            (B, K); labelled where positive.
        """
        device = torch.device("cpu") if heatmaps.device.type == "mps" else heatmaps.device
        height, width = heatmaps.shape[-2:]
        dots = joints_hm.to(device, torch.float64)
        size = dots.new_tensor([width, height])
        counted = (visible.to(device) > 0) & ((dots >= -0.5) & (dots < size - 0.5)).all(-1)
        maps = heatmaps.to(device)[counted].double().flatten(-2)  # (J, H W), J counted joints
        dots = dots[counted]
        pixel = (dots + 0.5).trunc().long()
        index = (pixel[:, 1] * width + pixel[:, 0])[:, None]
        gaussians = gaussian_targets(dots, (height, width), self.sigma, self.centre).flatten(-2)

        def from_dot(field: Tensor) -> Tensor:
            return field.scatter(-1, index, field.gather(-1, index) - 1)

        sums = [
            (maps - gaussians).square().sum(),
            from_dot(maps).square().sum(),
            (maps * gaussians).sum(),
            maps.gather(-1, index).sum(),
            from_dot(gaussians).square().sum(),
            counted.sum().double(),
            dots.new_tensor(len(heatmaps)),
        ]
        before = self.bits.cpu().view(torch.float64)
        self.bits = (before + torch.stack(sums).cpu()).view(torch.int64).to(self.bits.device)

    def compute(self) -> dict[str, float]:
        """`TERMS` by name, and ``residual``; empty where no joint counted.

        Returns
        -------
        dict
            The residual is the identity's two sides' difference over its largest term, 0 but for
            rounding, about 1e-15.
        """
        sums = self.bits.cpu().view(torch.float64).reshape(-1, len(TERMS) + 2).sum(0)
        joints, images = float(sums[-2]), float(sums[-1])
        if joints == 0:
            return {}
        terms = dict(zip(TERMS, (sums[:-2] / images).tolist(), strict=True))
        return terms | {"residual": residual(terms)}


def residual(terms: dict[str, float]) -> float:
    """How far Theorem 1 is from holding for `TERMS`, relative to the largest of them."""
    parts = [
        terms["gaussian_risk"],
        2 * terms["gaussian_product"],
        -2 * terms["dot_product"],
        -terms["constant"],
    ]
    largest = max(abs(one) for one in (terms["dot_risk"], *parts))
    return abs(terms["dot_risk"] - sum(parts)) / largest if largest else 0.0

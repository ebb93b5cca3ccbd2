"""Heatmap losses: ``loss(heatmaps, joints_hm, visible) -> scalar``; see `HeatmapLoss`."""

from posematch.losses.base import HeatmapLoss
from posematch.losses.dot_mse import DotMSE
from posematch.losses.gaussian_mse import GaussianMSE, gaussian_targets
from posematch.losses.mass import to_mass
from posematch.losses.matching import Matching

__all__ = ["DotMSE", "GaussianMSE", "HeatmapLoss", "Matching", "gaussian_targets", "to_mass"]

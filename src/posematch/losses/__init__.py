"""Heatmap losses: ``loss(heatmaps, joints_hm, visible) -> scalar``; see `HeatmapLoss`."""

from posematch.arithmetic import NotFiniteError
from posematch.losses.adaptive_wing import AdaptiveWing
from posematch.losses.annealed import Annealed
from posematch.losses.base import HeatmapLoss
from posematch.losses.combined import Scheduled, WeightedSum
from posematch.losses.divergences import JSDivergence, KLDivergence
from posematch.losses.dot_mse import DotMSE
from posematch.losses.dsnt import DSNT
from posematch.losses.gaussian_mass import gaussian_log_mass
from posematch.losses.gaussian_mse import (
    GaussianMSE,
    GaussianMSEBestScale,
    gaussian_targets,
)
from posematch.losses.marginal import MarginalCrossEntropy, MarginalTransport
from posematch.losses.mass import MapsMeaning, to_mass
from posematch.losses.matching import Matching
from posematch.losses.ohkm import OHKM
from posematch.losses.spatial_cross_entropy import SpatialCrossEntropy
from posematch.losses.udp_combined import UDPCombined

__all__ = [
    "DSNT",
    "OHKM",
    "AdaptiveWing",
    "Annealed",
    "DotMSE",
    "GaussianMSE",
    "GaussianMSEBestScale",
    "HeatmapLoss",
    "JSDivergence",
    "KLDivergence",
    "MapsMeaning",
    "MarginalCrossEntropy",
    "MarginalTransport",
    "Matching",
    "NotFiniteError",
    "Scheduled",
    "SpatialCrossEntropy",
    "UDPCombined",
    "WeightedSum",
    "gaussian_log_mass",
    "gaussian_targets",
    "to_mass",
]

"""Names of figures, and what they are of; without anything that computes."""

from __future__ import annotations

PRIMARY = "PCKh@0.5"
PLAIN_MEAN = f"{PRIMARY}(plain mean)"
# What HRNet, SimpleBaseline, DARK and UDP publish as "Mean@0.1" is entry 11 of arange(0, 0.51,
# 0.01), which is 0.11; comparisons with their tables need that one, under a name that says so.
THRESHOLDS = {PRIMARY: 0.5, "PCKh@0.1": 0.1, "PCKh@0.11(legacy)": 0.11}
COLUMNS = {
    "Head": ("head_top",),
    "Shoulder": ("left_shoulder", "right_shoulder"),
    "Elbow": ("left_elbow", "right_elbow"),
    "Wrist": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ankle": ("left_ankle", "right_ankle"),
}
NOT_IN_MEANS = ("pelvis", "thorax")
# The order of COCOeval's stats.
FIGURES = ("AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR", "AR50", "AR75", "AR(M)", "AR(L)")
# Of Theorem 1, see `posematch.metrics.risks`.
TERMS = ("gaussian_risk", "dot_risk", "gaussian_product", "dot_product", "constant")

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
# Beside COCO's where the boxes are annotated ones, so that every person has a prediction: mean OKS
# of people, mean distance of joints in pixels and in the longer side of the person's box, and the
# percentage of joints within a fraction of that side.
NEARNESS = ("OKS", "EPE", "EPE(box)", "PCK@0.1(box)", "PCK@0.2(box)")
PCK_THRESHOLDS = {"PCK@0.1(box)": 0.1, "PCK@0.2(box)": 0.2}
# In percent as they are; the others are fractions, or pixels.
PERCENT = ("PCK",)
LOWER_IS_BETTER = ("EPE", "spread_px")
# What `metric=` may choose, the first by itself: of MPII, of COCO's 17 joints, of joints of one's
# own, on which AP may be 0 for a whole training.
CHOICES = {
    "mpii": (PRIMARY, "PCKh@0.1"),
    "coco": ("AP", "OKS", "AP50", "AP75", "AR", *PCK_THRESHOLDS),
    "own": ("OKS", "AP", "AP50", "AP75", "AR", *PCK_THRESHOLDS),
}
# Of Theorem 1, see `posematch.metrics.risks`.
TERMS = ("gaussian_risk", "dot_risk", "gaussian_product", "dot_product", "constant")


def lower_is_better(figure: str) -> bool:
    """Whether a figure of that name should be low."""
    return figure.split("/")[0].split("(")[0] in LOWER_IS_BETTER


def to_percent(figure: str) -> float:
    """What makes a figure of that name percent; pixels and shares of a box stay as they are."""
    return 1.0 if figure.startswith(PERCENT) or lower_is_better(figure) else 100.0

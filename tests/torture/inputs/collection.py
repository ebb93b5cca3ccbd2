"""All cases, and the few that stand for them where time is short."""

from __future__ import annotations

from collections import Counter

from inputs.case import Case
from inputs.checkpoints import checkpoints
from inputs.configs import configs
from inputs.healthy import healthy
from inputs.hostile import hostile
from inputs.malformed import malformed

MALFORMED = [*malformed(), *checkpoints(), *configs()]
HOSTILE = [*hostile()]
HEALTHY = [*healthy()]
ALL: dict[str, Case] = {one.name: one for one in [*MALFORMED, *HOSTILE, *HEALTHY]}
assert len(ALL) == len(MALFORMED) + len(HOSTILE) + len(HEALTHY), [
    name for name, n in Counter(c.name for c in [*MALFORMED, *HOSTILE, *HEALTHY]).items() if n > 1
]


def counts() -> dict[str, int]:
    """Cases by kind; of the malformed ones those alone that must be refused."""
    kinds = Counter(one.kind for one in MALFORMED if one.ends == "refused")
    return {**kinds, "hostile": len(HOSTILE), "good": len(HEALTHY)}


# One of each kind of file and damage; the good ones are what the others are compared with.
SHORT = frozenset(
    (
        "good-run",
        "good-compare",
        "good-checkpoint-of-a-run-mpii",
        "good-coco-with-detections",
        "good-config-dir",
        "config.yaml-half-evaluate_run",
        "config.yaml-a_pipe-evaluate_checkpoint",
        "environment.json-version_text-evaluate_run",
        "result.json-nested-evaluate_run",
        "metrics.csv-ragged-report",
        "predictions/epoch=000.parquet-noise-evaluate_run",
        "parquet-x_text-run",
        "truth.json-keypoints_short",
        "npz-peaks_complex",
        "weights-one_nan-evaluate",
        "weights-meta-evaluate",
        "ckpt-cut_3_8-evaluate",
        "ckpt-a_pipe-train",
        "config-alias",
        "override-bracket_open",
        "p.mat-half",
        "p.h5-complex",
        "mpii-joints_ragged",
        "gt_valid.mat-joints_sparse",
        "photo-png_40000",
        "target-loss_mask-evaluate",
        "target-posematch.training.run.shutil.rmtree",
        "pickle.ckpt-zip",
        "stored-data-root-compare",
        "maps-photo-link",
        "h5-external",
        "aliases-evaluate_checkpoint",
        "text-escape-evaluate",
        "text-markup-path",
        "network-hf-hub:someone/model",
    )
)
assert ALL.keys() >= SHORT, SHORT - ALL.keys()

"""What ``posematch predict`` is asked for; nothing large is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class Wanted:
    """Keys of conf/predict.yaml."""

    checkpoint: str
    input: str
    output: str
    boxes: str
    detector: str
    detector_weights: str | None
    min_box_score: Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
    format: Literal["csv", "parquet"]
    coco: bool
    draw: bool
    heatmaps: bool
    flip_test: bool | None
    device: str
    batch_size: (
        Annotated[int, Field(ge=1, description="an integer of at least 1")] | Literal["auto"]
    )
    trust: str | list[str]

"""What a training need not compute where a test looks at something else: half of its time."""

from __future__ import annotations

LIGHT = (
    *("measure=none", "decoders=none", "pictures.every_n_epochs=0", "pictures.heatmaps_of=0"),
    "pictures.results=false",
)

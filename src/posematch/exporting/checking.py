"""A written file against the model that it was made of, on the same crops."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from posematch.errors import PosematchError
from posematch.exporting.formats import Run
from posematch.exporting.graph import Graph
from posematch.model import PoseModel

BATCH_SIZES = (1, 2, 5)
MAPS_TOLERANCE = 1e-4  # of the maps' largest value; the scores', absolute
JOINTS_TOLERANCE_PX = 0.01  # of the crop
_IN_SMALL_BATCHES = 10  # so many crops are run at each size, the others in the largest batches
_DRAWS = 32


@dataclass(frozen=True)
class Differences:
    """The largest differences between a file and its model.

    Attributes
    ----------
    crops, joints
        How many were compared.
    maps
        Over the maps' largest value; None where the file gives joints.
    joints_px, scores
        In crop pixels, and as they are; of a file that gives maps, after its decoder. Joints that
        their maps do not determine are left out.
    undetermined, undetermined_px
        How many of those there are that differ by more than `JOINTS_TOLERANCE_PX`, and the largest
        of their differences; see `compare`.
    """

    crops: int
    joints: int
    maps: float | None
    joints_px: float
    scores: float
    undetermined: int
    undetermined_px: float

    @property
    def tolerable(self) -> bool:
        """Whether all are within the tolerances; NaN is not."""
        maps = 0.0 if self.maps is None else self.maps
        return (
            maps <= MAPS_TOLERANCE
            and self.scores <= MAPS_TOLERANCE
            and self.joints_px <= JOINTS_TOLERANCE_PX
        )

    def __str__(self) -> str:
        maps = "" if self.maps is None else f"maps {self.maps:.1e} of the highest, "
        sizes = ", ".join(map(str, BATCH_SIZES))
        told = (
            f"largest differences on {self.crops} crops, in batches of {sizes}:"
            f" {maps}joints {self.joints_px:.1e} px, scores {self.scores:.1e}"
        )
        if self.undetermined:
            told += (
                f"; left out: {self.undetermined} of {self.joints} joints, up to"
                f" {self.undetermined_px:.2f} px, which the model itself moves as far where its"
                f" maps change by {MAPS_TOLERANCE:.0e} of the highest"
            )
        return told


@torch.no_grad()
def compare(graph: Graph, run: Run, crops: torch.Tensor) -> Differences:
    """Run a file beside its model.

    Arithmetic in another order changes the last digits of a map. Where two pixels are equally high,
    or a fit to the peak is singular, such digits move the joint: the model's own joint is as
    arbitrary. So a joint that differs by more than the tolerance counts unless the model's decoder
    moves it as far when noise of `MAPS_TOLERANCE` times the highest value is put on its map.

    Parameters
    ----------
    graph
        What the file was made of.
    run
        The file, see `posematch.exporting.formats.loaded`.
    crops
        (N, 3, H, W) uint8; the first ten are run at each of `BATCH_SIZES`, all at the largest.

    Raises
    ------
    PosematchError
        The file's outputs have other shapes.
    """
    model = graph.model
    # At one size for all: the convolutions' own digits depend on it.
    maps = torch.cat([model.maps(part)[1] for part in torch.split(crops, BATCH_SIZES[-1])])
    highest = max(float(maps.abs().max()), torch.finfo(maps.dtype).tiny)
    joints_crop, scores = _decoded(model, maps)
    of_maps, of_scores = (0.0, torch.zeros_like(scores))
    of_joints = torch.zeros_like(scores)
    for size in BATCH_SIZES:
        count = len(crops) if size == BATCH_SIZES[-1] else min(len(crops), _IN_SMALL_BATCHES)
        parts = [run(part) for part in torch.split(crops[:count], size)]
        outputs = [torch.cat(one) for one in zip(*parts, strict=True)]
        wanted = [one[:count] for one in ([joints_crop, scores] if graph.decoded else [maps])]
        if [one.shape for one in outputs] != [one.shape for one in wanted]:
            raise PosematchError(
                f"the file gives {[tuple(one.shape) for one in outputs]} for {count} crops;"
                " try another format."
            )
        if not graph.decoded:
            apart = float((outputs[0] - wanted[0]).abs().max())
            of_maps = _larger(of_maps, apart / highest)
            outputs = list(_decoded(model, outputs[0]))
        px = torch.linalg.vector_norm(outputs[0] - joints_crop[:count], dim=-1)
        of_joints[:count] = torch.maximum(of_joints[:count], px)
        off = (outputs[1] - scores[:count]).abs()
        of_scores[:count] = torch.maximum(of_scores[:count], off)
    beyond = of_joints > JOINTS_TOLERANCE_PX
    people = beyond.any(-1).nonzero()[:, 0]
    excused = torch.zeros_like(beyond)
    if len(people):
        moved = _moves(model, maps[people], joints_crop[people], highest)
        excused[people] = beyond[people] & (moved + JOINTS_TOLERANCE_PX >= of_joints[people])
    return Differences(
        len(crops),
        scores.numel(),
        None if graph.decoded else of_maps,
        float(of_joints.masked_fill(excused, 0).max()),
        float(of_scores.masked_fill(excused, 0).max()),
        int(excused.sum()),
        float(of_joints[excused].max()) if excused.any() else 0.0,
    )


def _larger(one: float, other: float) -> float:
    """The larger of two; NaN if one is."""
    return other if not other <= one else one


def _decoded(model: PoseModel, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K, 2) joints in crop pixels and (N, K) scores."""
    joints_hm, scores = model.decode(maps)
    return model.joints_crop(joints_hm), scores


def _moves(
    model: PoseModel, maps: torch.Tensor, joints_crop: torch.Tensor, highest: float
) -> torch.Tensor:
    """(N, K) how far noise on the maps moves the model's joints, crop pixels."""
    generator = torch.Generator().manual_seed(0)
    farthest = torch.zeros(joints_crop.shape[:2])
    for _ in range(_DRAWS):
        noise = 2 * torch.rand(maps.shape, generator=generator) - 1
        moved, _ = _decoded(model, maps + MAPS_TOLERANCE * highest * noise)
        farthest = torch.maximum(farthest, torch.linalg.vector_norm(moved - joints_crop, dim=-1))
    return farthest

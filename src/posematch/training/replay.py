"""A step that was skipped, computed again from its dump: which loss or gradient is not finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from posematch.app.objects import make, plain
from posematch.data.crops import Batch
from posematch.errors import PosematchError
from posematch.geometry import crop_to_heatmap, crop_to_heatmap_lengths
from posematch.losses import HeatmapLoss, NotFiniteError
from posematch.networks.checkpoints import read_checkpoint
from posematch.runs.folder import RunFolder, read_config, upgraded
from posematch.runs.named import dump_of
from posematch.runs.stored_config import without_sources
from posematch.training.build import build_loss
from posematch.training.divergence import DUMP_VERSION
from posematch.trust import check_trusted

_HALVES = {"16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Replay:
    """What a step has come to, computed again.

    Attributes
    ----------
    file
        The dump.
    epoch, step
        Of the training.
    cause
        ``loss`` or ``gradient``: what was not finite in the training.
    loss
        Mean over the step's batches; NaN where a batch has none.
    gradient_norm
        Of that mean, before clipping; NaN where there is no loss.
    people
        For each person of the step: id, and whether the maps, the loss and the gradient are
        finite. A person without a finite loss has no finite gradient.
    """

    file: Path
    epoch: int
    step: int
    cause: str
    loss: float
    gradient_norm: float
    people: tuple[tuple[int, bool, bool, bool], ...]

    @property
    def reproduced(self) -> bool:
        """Whether the same is not finite as in the training."""
        found = "gradient" if math.isfinite(self.loss) else "loss"
        return found == self.cause and not math.isfinite(self.gradient_norm + self.loss)


def replay(run: Path, step: int | None, device: str, trusted: Sequence[str] = ()) -> Replay:
    """Compute a dumped step again, by the configuration of its run.

    Parameters
    ----------
    run
        Run folder.
    step
        Which of the dumps in its ``divergence/``; None: the newest.
    device
        Where to compute, as torch names it; ``auto``: a GPU where there is one.
    trusted
        Packages besides posematch whose classes the run's configuration may name.

    Raises
    ------
    PosematchError
        There is no such dump or device, dump or configuration cannot be read, or they do not fit.
    """
    place = _device(device)
    folder = RunFolder(run)
    file = dump_of(run, step)
    dump = _read(file)
    stored = upgraded(read_config(folder.config))
    if not all(isinstance(stored.get(key), dict) for key in ("loss", "backbone")):
        raise PosematchError(f"{folder.config} is no configuration of a training.")
    check_trusted({key: stored[key] for key in ("loss", "backbone")}, folder.config, trusted)
    config = OmegaConf.create(stored)
    loss = build_loss(config.loss).to(place)
    loss.start_epoch(dump["epoch"])
    config.backbone = without_sources(plain(config.backbone)) | {"pretrained": False}
    maps = loss.channels_per_joint * dump["batches"][0]["visible"].shape[1]
    network = make(config.backbone, "backbone", num_joints=maps)
    try:
        network.load_state_dict(dump["network"])
    except RuntimeError as error:
        raise PosematchError(
            f"{file} holds other weights than those of the network in {folder.config}."
        ) from error
    layout = torch.channels_last if config.get("channels_last") else torch.contiguous_format
    network.to(device=place, memory_format=layout).train()
    parts = []
    for one in dump["batches"]:
        batch: Batch = {name: value.to(place) for name, value in one.items()}  # type: ignore[assignment]
        parts.append(_Part(network, loss, batch, dump))
    value = sum(part.backward(len(parts)) for part in parts) / len(parts)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients)) if math.isfinite(value) else math.nan
    people = [row for part in parts for row in part.people(not math.isfinite(norm))]
    return Replay(file, dump["epoch"], dump["step"], dump["cause"], value, norm, tuple(people))


class _Part:
    """One batch of the step, after its forward pass."""

    def __init__(
        self, network: nn.Module, loss: HeatmapLoss, batch: Batch, dump: dict[str, Any]
    ) -> None:
        self.network = network
        self.loss = loss
        self.batch = batch
        precision, _, mixed = str(dump["precision"]).partition("-")
        half = _HALVES.get(precision)
        kind = batch["crop"].device.type
        if half is not None and mixed == "mixed":
            arithmetic: Any = torch.autocast(kind, half)
        else:
            arithmetic = contextlib.nullcontext()
            network.to({"64": torch.float64}.get(precision, half or torch.float32))
        with arithmetic:
            self.maps = network(batch["crop"])
        self.maps.retain_grad()
        (height, width), (map_height, map_width) = batch["crop"].shape[-2:], self.maps.shape[-2:]
        frames: Any = (height, width), (map_height, map_width), dump["convention"]
        joints_hm = crop_to_heatmap(batch["joints_crop"], *frames)
        self.targets: tuple[torch.Tensor, ...] = joints_hm, batch["visible"]
        if loss.takes_widths:
            self.targets += (crop_to_heatmap_lengths(batch["widths_crop"], *frames),)
        self.value: torch.Tensor | None = None

    def backward(self, parts: int) -> float:
        """The batch's loss; its gradient, divided by that number, is added to the weights'."""
        try:
            self.value = self.loss(self.maps, *self.targets)
        except FloatingPointError:
            return math.nan
        (self.value / parts).backward(retain_graph=True)
        return float(self.value.detach())

    def people(self, closer: bool) -> list[tuple[int, bool, bool, bool]]:
        """Id, and whether maps, loss and gradient are finite; ``closer``: something is not."""
        ids = self.batch["person_id"].tolist()
        maps = self.maps.detach().isfinite().flatten(1).all(1).tolist()
        losses = [fine and self._loss_is_finite(row) for row, fine in enumerate(maps)]
        gradients = list(losses)
        if self.maps.grad is not None:
            at_maps = self.maps.grad.isfinite().flatten(1).all(1).tolist()
            gradients = [one and other for one, other in zip(losses, at_maps, strict=True)]
        if closer and all(gradients):
            # It comes up within the network: one backward pass for each person.
            gradients = [self._gradient_is_finite(row) for row in range(len(ids))]
        return list(zip(ids, maps, losses, gradients, strict=True))

    def _loss_is_finite(self, row: int) -> bool:
        one = slice(row, row + 1)
        try:
            with torch.no_grad():
                self.loss(self.maps.detach()[one], *(part[one] for part in self.targets))
        except NotFiniteError:
            return False
        return True

    def _gradient_is_finite(self, row: int) -> bool:
        one = slice(row, row + 1)
        value = self.loss(self.maps[one], *(part[one] for part in self.targets))
        weights = [p for p in self.network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        norm = nn.utils.get_total_norm([one for one in gradients if one is not None])
        return math.isfinite(float(norm))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # no such name; torch without CUDA
        raise PosematchError(f"device={name} is not to be had here; try device=cpu.") from error


def _read(file: Path) -> dict[str, Any]:
    """A dump: tensors and plain values, of the kinds that `posematch.training.divergence` writes.

    Raises
    ------
    PosematchError
        It is damaged, or something else.
    """
    try:
        dump = read_checkpoint(file)
    except PosematchError as error:
        raise PosematchError(f"{file} cannot be read; it is damaged or no dump.") from error
    kinds = {
        "version": int,
        "epoch": int,
        "step": int,
        "cause": str,
        "precision": str,
        "convention": str,
        "network": dict,
        "batches": list,
    }
    if isinstance(dump, dict) and isinstance(dump.get("batches"), list):
        dump["batches"] = [_with_widths(one) for one in dump["batches"]]
    whole = (
        isinstance(dump, dict)
        and all(isinstance(dump.get(key), kind) for key, kind in kinds.items())
        and dump["version"] == DUMP_VERSION
        and dump["convention"] in ("hrnet", "udp")
        and dump["batches"]
        and all(_is_batch(one) for one in dump["batches"])
    )
    if not whole:
        raise PosematchError(f"{file} is no dump of a step that this version of posematch reads.")
    assert isinstance(dump, dict)
    return dump


def _with_widths(batch: Any) -> Any:
    """A batch with unknown widths where it is of a version that had none."""
    if not isinstance(batch, dict) or not isinstance(batch.get("visible"), torch.Tensor):
        return batch
    return {"widths_crop": torch.zeros_like(batch["visible"]), **batch}


def _is_batch(values: Any) -> bool:
    """Whether it is a `Batch` whose tensors fit each other."""
    if not (isinstance(values, dict) and values.keys() == Batch.__annotations__.keys()):
        return False
    if not all(isinstance(one, torch.Tensor) for one in values.values()):
        return False
    crop, visible = values["crop"], values["visible"]
    if (crop.ndim, visible.ndim) != (4, 2) or crop.shape[1] != 3:
        return False
    people, joints = visible.shape
    return bool(
        len(crop) == people
        and values["joints_crop"].shape == (people, joints, 2)
        and values["widths_crop"].shape == (people, joints)
        and values["person_id"].shape == (people,)
    )

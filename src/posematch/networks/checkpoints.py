"""Weights from files and into files: read as tensors and plain values, never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posematch.errors import PosematchError
from posematch.files import replacing
from posematch.networks.checkpoint_files import RECORD
from posematch.networks.checkpoint_files import read_checkpoint as read_checkpoint
from posematch.networks.heatmap_network import BGR_MARK, HeatmapNetwork
from posematch.networks.layouts import (
    HEAD,
    LAYOUTS,
    MMPOSE,
    MMPOSE_0,
    OFFICIAL,
    POSEMATCH,
    Layout,
    description,
    feeds_lower_resolutions_only,
    recognised,
    renamed,
    takes_bgr,
)
from posematch.networks.normalisation import IMAGENET, Normalisation, chosen_normalisation
from posematch.networks.quiet_timm import timm

_COMPILED = "_orig_mod."  # what torch.compile puts into names,
_PARALLEL = "module."  # what DataParallel puts before them,
_OURS = "network."  # and our Lightning module
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class LoadedWeights:
    """What was found in a file.

    Attributes
    ----------
    layout
        Whose names it has.
    afresh
        Names of the last layer's weights where the file has them for another number of joints:
        they keep their initial values.
    left_out
        Names in the file that feed only HRNet's lower-resolution outputs, which our networks lack.
    counters_missing
        Whether the file is of a PyTorch before 0.4.1, which did not count the batches that running
        statistics come from. Nothing here reads those counts.
    bgr
        Whether the network takes blue-green-red from here on.
    """

    layout: Layout
    afresh: tuple[str, ...]
    left_out: tuple[str, ...]
    counters_missing: bool
    bgr: bool

    def told(self, path: Path | str) -> list[str]:
        """Sentences about what did not simply come in."""
        sentences = []
        if self.layout is not POSEMATCH:
            order = "blue-green-red" if self.bgr else "red-green-blue"
            sentences.append(
                f"{path} has the names of {self.layout.project}; the network gets {order} crops."
            )
        if self.afresh:
            sentences.append(f"From {path}, but for {', '.join(self.afresh)}, which start afresh.")
        if self.left_out:
            sentences.append(
                f"{len(self.left_out)} tensors of {path} are left out: they make only outputs at"
                " lower resolutions, which are not used."
            )
        if self.counters_missing:
            sentences.append(f"{path} does not count batches ({_COUNTER}); nothing needs it.")
        return sentences


def load_weights(
    network: nn.Module, path: Path, new_head: bool = True, content: Any = None
) -> LoadedWeights:
    """Start a network from the weights of a posematch checkpoint or of another project's file.

    Parameters
    ----------
    network
        Gets the weights; a `HeatmapNetwork` also the order of colours and the normalisation they
        were trained with, unless it was made with one.
    path
        ``checkpoints/last.ckpt`` of a run (with ``callbacks=ema`` its averaged weights), a state
        dict of ours, or one of HRNet's or SimpleBaseline's code or of mmpose, bare or as
        ``state_dict``. Which it is, its names tell.
    new_head
        Whether a last layer for another number of joints may start afresh (to train it).
    content
        Of the file, where it has been read.

    Raises
    ------
    PosematchError
        As `read_checkpoint`; or weights that are not exactly this network's, no floating-point
        numbers, NaN or infinite. Then the network is as it was.
    """
    content = read_checkpoint(path) if content is None else content
    found = _network_weights(content, path)
    layout = recognised(found)
    if layout is None:
        if isinstance(network, HeatmapNetwork):
            projects = ", ".join(one.project for one in LAYOUTS.values())
            raise PosematchError(
                f"checkpoint={path} has no last layer that makes heatmaps under a name of"
                f" {projects} (it has {next(iter(found))} and {len(found) - 1} others)."
            )
        layout = POSEMATCH
    weights = renamed(found, layout)
    normalisation = normalisation_in(content, path)
    bgr = BGR_MARK in weights or takes_bgr(layout, found)
    weights.pop(BGR_MARK, None)
    own = {name: tensor for name, tensor in network.state_dict().items() if name != BGR_MARK}

    left_out = [name for name in weights if feeds_lower_resolutions_only(name, own)]
    for name in left_out:
        del weights[name]
    counters = {name: own[name] for name in own if name.endswith(_COUNTER)}
    counters_missing = layout is not POSEMATCH and bool(counters.keys() - weights.keys())
    if counters_missing and not counters.keys() & weights.keys():
        weights |= counters
    afresh = [
        name
        for name in own
        if new_head
        and name.startswith(HEAD)
        and name in weights
        and weights[name].shape != own[name].shape
    ]
    _check_same(weights, own, afresh, layout, path)
    _check_values(weights, own, layout, path)
    weights |= {name: own[name] for name in afresh}
    if isinstance(network, HeatmapNetwork):
        if network.bgr is None:
            network.take_bgr(bgr)
        if not network.normalisation_is_chosen:
            network.normalise_by(normalisation)
        bgr = bool(network.bgr)
        if bgr:
            weights[BGR_MARK] = network.state_dict()[BGR_MARK]
    network.load_state_dict(weights)
    return LoadedWeights(layout, tuple(afresh), tuple(left_out), counters_missing, bgr)


def normalisation_in(content: Any, path: Path) -> Normalisation:
    """How the network of a file that was read was normalised.

    ImageNet's where the file does not say: so were all networks of posematch before their
    checkpoints said it, and are those of the other projects.
    """
    record = content.get(RECORD) if isinstance(content, Mapping) else None
    backbone = record.get("backbone") if isinstance(record, Mapping) else None
    if not isinstance(backbone, Mapping) or "normalisation" not in backbone:
        return IMAGENET
    stored = backbone["normalisation"]
    try:
        if not isinstance(stored, Mapping):
            raise PosematchError("backbone.normalisation has no numbers.")
        return chosen_normalisation(stored, "")
    except PosematchError as error:
        raise PosematchError(f"checkpoint={path} is damaged: {error}") from None


def maps_in(path: Path, content: Any) -> int | None:
    """How many heatmaps the network of a file that was read makes; None if no name tells.

    Raises
    ------
    PosematchError
        As `load_weights`, where the file is no checkpoint.
    """
    found = _network_weights(content, path)
    layout = recognised(found)
    last = renamed(found, layout).get(f"{HEAD}weight") if layout else None
    return None if last is None else len(last)


def save_weights(
    network: HeatmapNetwork, layout: str, path: Path, record: Mapping[str, Any] | None = None
) -> list[str]:
    """Write a network's weights under another project's names.

    Parameters
    ----------
    network
        An HRNet with the 1x1 head, or a plain ResNet with the deconvolutions; any for
        ``posematch``.
    layout
        ``official`` (HRNet's and SimpleBaseline's code), ``mmpose`` (1.x), ``mmpose0`` (0.x) or
        ``posematch``.
    path
        Written in one piece.
    record
        What else is known of the model, see `posematch.model_record`; only the layout
        ``posematch`` has a place for it.

    Returns
    -------
    Sentences about what the other project has to be told, if any.

    Raises
    ------
    PosematchError
        An unknown layout, or a network that the project does not have.
    """
    if layout not in LAYOUTS:
        raise PosematchError(f"layout={layout} must be one of {', '.join(LAYOUTS)}.")
    chosen = LAYOUTS[layout]
    state = network.state_dict()
    sentences = []
    if chosen is not POSEMATCH:
        _check_known_elsewhere(network, chosen)
        state.pop(BGR_MARK, None)
        its_own = takes_bgr(chosen, map(chosen.from_ours, state))
        if its_own != bool(network.bgr):
            order, key = ("BGR", "false") if network.bgr else ("RGB", "true")
            how = (
                f"DATASET.COLOR_RGB: {key} in HRNet's code"
                if chosen is OFFICIAL
                else "bgr_to_rgb=False in its data_preprocessor (mean and std stay in their order)"
            )
            sentences.append(f"These weights take {order} crops; set {how}.")
        if network.normalisation != IMAGENET:
            mean, std = (", ".join(f"{one:g}" for one in part) for part in network.normalisation)
            sentences.append(
                f"These weights take colours in 0..1 less {mean}, over {std} (red, green, blue);"
                " that project is set to ImageNet's."
            )
    weights: Any = {chosen.from_ours(name): tensor for name, tensor in state.items()}
    if chosen in (MMPOSE, MMPOSE_0):
        weights = {"meta": {}, "state_dict": weights}
    elif chosen is POSEMATCH and record is not None:
        weights = {"state_dict": weights, RECORD: dict(record)}
    try:
        with replacing(path) as file:
            torch.save(weights, file)
    except (OSError, RuntimeError) as error:
        raise PosematchError(
            f"{path} cannot be written ({type(error).__name__}); name another output."
        ) from error
    return sentences


def _check_known_elsewhere(network: HeatmapNetwork, layout: Layout) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    known = description(shapes)
    deconvolved = len(network.upsampling) > 0
    # A ResNet by its shapes may still be a variant with a stem or shortcuts of its own.
    is_resnet = known.startswith(f"{network.name} ") and deconvolved
    is_hrnet = (
        isinstance(network.backbone, timm.models.hrnet.HighResolutionNetFeatures)
        and not deconvolved
    )
    if not (is_resnet or is_hrnet):
        raise PosematchError(
            f"{layout.project} has no network of these weights ({network.name}):"
            f" layout={layout.name} is for HRNet with the 1x1 head and for resnet18 to resnet152"
            " with the deconvolutions."
        )


def _check_same(
    weights: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    afresh: list[str],
    layout: Layout,
    path: Path,
) -> None:
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    misshapen = [
        name
        for name in own
        if name in weights and name not in afresh and weights[name].shape != own[name].shape
    ]
    if not (missing or unknown or misshapen):
        return
    if misshapen:
        name = misshapen[0]
        detail = (
            f"{_theirs(name, layout)} is {tuple(weights[name].shape)} there and"
            f" {tuple(own[name].shape)} here"
        )
    elif missing:
        detail = f"it lacks {_theirs(missing[0], layout)}"
    else:
        detail = f"it has {_theirs(unknown[0], layout)} besides"
    count = len(missing) + len(unknown) + len(misshapen)
    theirs = description({name: tuple(tensor.shape) for name, tensor in weights.items()})
    raise PosematchError(
        f"checkpoint={path} holds another network than this command's: {detail}"
        f" ({count} difference{'s' * (count > 1)}); choose the backbone, head and data it was"
        f" trained with{f' (its shapes are those of {theirs})' if theirs else ''}."
    )


def _check_values(
    weights: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    layout: Layout,
    path: Path,
) -> None:
    """Refuse what loads without a word and scores as nonsense."""
    for name, tensor in weights.items():
        where = f"checkpoint={path}: {_theirs(name, layout)}"
        real = own[name].is_floating_point()
        if tensor.is_floating_point() != real or tensor.is_complex():
            kind = str(tensor.dtype).removeprefix("torch.")
            wanted = "floating-point" if real else "whole"
            raise PosematchError(f"{where} is of {kind}, and {wanted} numbers belong there.")
        # As the network will have them: a large double is infinite in single precision.
        if real and not bool(torch.isfinite(tensor.to(own[name].dtype)).all()):
            raise PosematchError(
                f"{where} has values that are NaN or infinite; take a checkpoint from before the"
                " training diverged."
            )


def _theirs(name: str, layout: Layout) -> str:
    try:
        return layout.from_ours(name)
    except ValueError:  # one that nobody knows
        return name


def _network_weights(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Weights by the file's own names, without what wrappers put before them."""
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(value, torch.Tensor) for value in weights.values())
    ):
        raise PosematchError(f"checkpoint={path} holds no state dict of a network.")
    named = {}
    for name, value in weights.items():
        named[str(name).replace(_COMPILED, "").removeprefix(_PARALLEL)] = value
    if any(name.startswith(_OURS) for name in named):
        # Losses and metrics of the Lightning module stand beside the network.
        return {k.removeprefix(_OURS): v for k, v in named.items() if k.startswith(_OURS)}
    return named

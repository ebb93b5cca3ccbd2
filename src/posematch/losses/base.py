"""The contract of a heatmap loss and its one reduction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import nn

from posematch.arithmetic import FiniteCheck, NotFiniteError, are_put_off
from posematch.errors import PosematchError
from posematch.losses.mass import MapsMeaning, Supply

Mask = Literal["inside", "hrnet"]
# Radius of the reference code's Gaussian patch in sigmas (docs/protocols.md, Targets).
PATCH_RADIUS_SIGMAS = 3.0


class HeatmapLoss(nn.Module, ABC):
    """A loss of heatmaps against joints; it makes its own target, on the device, for the batch.

    Subclasses write `joint_losses`; counting, averaging and checking happen here, once.

    Parameters
    ----------
    mask
        Which labelled joints count. ``inside``: the dot lies on the grid, that is, nearest to one
        of its pixels; the same joints for every loss. ``hrnet``: its Gaussian patch touches the
        grid (docs/protocols.md, Targets), which needs ``mask_sigma``.
    mask_sigma
        Sigma of that patch, heatmap pixels.

    Attributes
    ----------
    supply
        How `posematch.losses.mass.to_mass` turns this loss's maps into probabilities; ``none``
        where the loss fixes the heatmap's amplitude.
    temperature
        Of that function.
    default_decoder
        Configuration of the decoder that suits the loss, as in ``conf/decoder``.
    mirror_signs
        One entry for each channel that a joint has in the network's output: the sign it takes when
        the crop is mirrored, -1 for a horizontal offset.
    initial_bias
        What the network's last bias should start from: 0, or a value that gives every pixel mass.
    measures_mass
        Whether validation measures it on the training loss's masses in place of the raw maps: for
        what has no meaning on maps whose amplitude or sign the training leaves free.
    takes_widths
        Whether it is to be given how wide each joint is, `posematch.data.widths` in heatmap pixels.
    health
        Scalars about the last call that training logs; empty for most losses.

    Examples
    --------
    >>> class Brightness(HeatmapLoss):
    ...     def joint_losses(self, heatmaps, joints_hm, counted):
    ...         return heatmaps.square().mean((-2, -1))
    ...
    >>> Brightness()(torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 2), torch.ones(1, 2))
    tensor(1.)
    """

    supply: Supply = "none"
    temperature: float = 1.0
    mirror_signs: tuple[float, ...] = (1.0,)
    initial_bias: float = 0.0
    measures_mass: bool = False
    takes_widths: bool = False
    default_decoder: ClassVar[Mapping[str, Any]] = {"_target_": "posematch.decoding.QuarterOffset"}

    def __init__(self, mask: Mask = "inside", mask_sigma: float | None = None) -> None:
        super().__init__()
        if mask not in ("inside", "hrnet"):
            raise PosematchError(f"loss.mask={mask} must be inside or hrnet.")
        if mask == "hrnet" and mask_sigma is None:
            raise PosematchError("loss.mask=hrnet is about Gaussian patches: use gaussian_mse.")
        self.mask: Mask = mask
        self.mask_sigma = mask_sigma
        self.health: dict[str, torch.Tensor] = {}

    @property
    def meaning(self) -> MapsMeaning:
        """What the maps of a network that it trains mean now; kept with the trained network."""
        return MapsMeaning(self.supply, self.temperature, tuple(self.mirror_signs))

    @final
    def mass(self, heatmaps: torch.Tensor) -> torch.Tensor:
        """Raw heatmaps as what decoders get: probabilities by this loss's supply, or heights.

        There is no other rule for a loss: a trained network is used without it, by its `meaning`.
        """
        return self.meaning.mass(heatmaps)

    def second_opinion(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, visible: torch.Tensor
    ) -> dict[str, float]:
        """Checks of the loss's own computation on one batch, by name; none for most losses.

        Validation asks once an epoch and logs them as ``val/<loss>/<name>``; arguments as
        `per_joint`.
        """
        return {}

    @property
    def channels_per_joint(self) -> int:
        """Maps that the network has for each joint, one after another: channels K, times this."""
        return len(self.mirror_signs)

    def decoder_config(self) -> Mapping[str, Any]:
        """What ``decoder=auto`` means; `default_decoder` unless it depends on the loss's values."""
        return self.default_decoder

    def start_epoch(self, epoch: int) -> None:
        """Learn the training's epoch, from 0; called before its first step, also when resumed.

        Validation calls it, too, with the epoch whose weights it scores.
        """

    @abstractmethod
    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        """Loss of each joint.

        Parameters
        ----------
        heatmaps
            (B, K, H, W) float32 or float64, raw; K times `channels_per_joint` maps. Where they are
            not finite, the answer is thrown away.
        joints_hm
            (B, K, 2) dots in heatmap pixels, same dtype; any finite value where not counted.
        counted
            (B, K) bool.

        Returns
        -------
        (B, K); values where not counted are ignored, but must be finite, gradients too.
        """

    def joint_losses_of(
        self,
        heatmaps: torch.Tensor,
        joints_hm: torch.Tensor,
        counted: torch.Tensor,
        widths_hm: torch.Tensor | None,
    ) -> torch.Tensor:
        """`joint_losses`, with widths as of `per_joint`; what a loss that takes them overrides."""
        return self.joint_losses(heatmaps, joints_hm, counted)

    def check_health(self) -> None:
        """Warn about what `health` shows; called when the last call's values are at hand."""

    def weights(
        self, joints_hm: torch.Tensor, visible: torch.Tensor, heatmap_size: tuple[int, int]
    ) -> torch.Tensor:
        """(B, K) weight of each joint: its ``visible`` where the mask holds, else 0."""
        height, width = heatmap_size
        x, y = joints_hm.unbind(-1)
        if self.mask == "inside":
            holds = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
        else:
            assert self.mask_sigma is not None
            radius = PATCH_RADIUS_SIGMAS * self.mask_sigma
            # trunc, as the reference's int(): it rounds towards 0 left of the grid.
            center = (joints_hm + 0.5).trunc()
            first_x, first_y = (center - radius).trunc().unbind(-1)
            last = (center + radius + 1).trunc()
            holds = (first_x < width) & (first_y < height) & (last >= 0).all(-1)
        return visible * holds

    def per_joint(
        self,
        heatmaps: torch.Tensor,
        joints_hm: torch.Tensor,
        visible: torch.Tensor,
        widths_hm: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Loss of each joint, 0 where it does not count; what analysis reads.

        Parameters
        ----------
        heatmaps
            (B, K, H, W), raw, any float dtype.
        joints_hm
            (B, K, 2) dots in heatmap pixels.
        visible
            (B, K) in [0, 1].
        widths_hm
            (B, K) how wide the joints are, heatmap pixels, 0 where nobody knows; None: nowhere.
            Of use to losses that say so, `takes_widths`.

        Returns
        -------
        (B, K) in float32 (float64 for float64 heatmaps), not weighted by ``visible``.

        Raises
        ------
        NotFiniteError
            A FloatingPointError: a heatmap has NaN or inf; the first such sample is named.
        """
        return self._losses_and_weights(heatmaps, joints_hm, visible, widths_hm)[0]

    def _losses_and_weights(
        self,
        heatmaps: torch.Tensor,
        joints_hm: torch.Tensor,
        visible: torch.Tensor,
        widths_hm: torch.Tensor | None,
        losses_too: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`per_joint`'s losses, and `weights`, both (B, K) and of one dtype.

        ``losses_too``: raise for losses that are not finite as well, not for heatmaps alone.
        """
        if heatmaps.dtype != torch.float64:
            # A channels_last network's maps in the order that losses read them, in the same pass.
            heatmaps = heatmaps.to(torch.float32, memory_format=torch.contiguous_format)
        joints_hm = joints_hm.to(heatmaps.dtype)
        if widths_hm is not None:
            widths_hm = widths_hm.to(heatmaps.dtype)
        with FiniteCheck(heatmaps, "NaN or inf in its heatmaps"):
            weights = self.weights(joints_hm, visible, _size(heatmaps)).to(heatmaps.dtype)
            counted = weights > 0
            with torch.autocast(device_type=heatmaps.device.type, enabled=False):
                losses = self.joint_losses_of(heatmaps, joints_hm, counted, widths_hm)
            losses = torch.where(counted, losses, 0.0)
            of_losses = FiniteCheck(losses, "a loss that is NaN or inf") if losses_too else None
        if not are_put_off():  # else who has put checks off asks for this one, too
            self.check_health()
        if of_losses is not None:
            of_losses.confirm()
        return losses, weights

    def forward(
        self,
        heatmaps: torch.Tensor,
        joints_hm: torch.Tensor,
        visible: torch.Tensor,
        widths_hm: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted mean over the counted joints of all processes; arguments as `per_joint`.

        Returns
        -------
        Scalar; 0 with a zero gradient for a batch without counted joints. Under DDP every process
        gets the same value, and the mean of their gradients is the gradient of that value.

        Raises
        ------
        NotFiniteError
            In all processes, if in one of them a heatmap, or the loss of a counted joint, is NaN
            or infinite; within `posematch.arithmetic.put_off_checks` later.
        """
        try:
            losses, weights = self._losses_and_weights(
                heatmaps, joints_hm, visible, widths_hm, losses_too=True
            )
        except FloatingPointError:
            _raise_together(heatmaps.device, here=True)
            raise
        _raise_together(heatmaps.device, here=False)
        weights = self.selection(losses.detach(), weights)
        return self.reduce(losses, weights)

    def selection(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(B, K) weights again, after what depends on the losses themselves; see `OHKM`.

        Each person's must follow from that person alone: validation sums over batches, DDP over
        processes.
        """
        return weights

    def reduce(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(B, K) losses and weights to the scalar."""
        return mean_over_processes((losses * weights).sum(), weights.sum())


def mean_over_processes(total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``total / weight``, both summed over all processes; 0 where there is no weight."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed:
        return total / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    sums = torch.stack([total.detach(), weight.detach()])
    torch.distributed.all_reduce(sums)
    everywhere = sums[1].clamp_min(torch.finfo(weight.dtype).tiny)
    # DDP averages gradients over processes, so this process's part counts world_size times.
    own = total * torch.distributed.get_world_size() / everywhere
    return own + (sums[0] / everywhere - own).detach()


def _raise_together(device: torch.device, here: bool) -> None:
    """Under DDP let every process know that one of them stops; they would wait for it forever."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    somewhere = torch.tensor([float(here)], device=device)
    torch.distributed.all_reduce(somewhere)
    if not here and bool(somewhere > 0):
        raise NotFiniteError("another process has NaN or inf in its heatmaps or losses")


def _size(heatmaps: torch.Tensor) -> tuple[int, int]:
    return heatmaps.shape[-2], heatmaps.shape[-1]

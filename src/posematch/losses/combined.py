"""Losses made of losses: a weighted sum, and one after the other."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from posematch.errors import PosematchError
from posematch.losses.base import HeatmapLoss


class CombinedLoss(HeatmapLoss):
    """Sum of the members' losses by `shares`; each member keeps its own reduction.

    Health is the members', as ``<member>/<name>``; the initial bias is the first one's.

    Parameters
    ----------
    members
        Losses by name; all count the same joints and have as many channels a joint.

    Attributes
    ----------
    leader
        The member that says what the maps mean now: its are ``supply`` and ``temperature``.
    """

    def __init__(self, members: Mapping[str, HeatmapLoss]) -> None:
        first_name, first = next(iter(members.items()))
        super().__init__(first.mask, first.mask_sigma)
        for name, one in members.items():
            other_patch = self.mask == "hrnet" and one.mask_sigma != self.mask_sigma
            if one.mask != self.mask or other_patch:
                raise PosematchError(
                    f"loss: {name} counts other joints than {first_name}; give all parts the same"
                    " mask."
                )
            if one.mirror_signs != first.mirror_signs:
                raise PosematchError(
                    f"loss: {name} needs {one.channels_per_joint} maps a joint and {first_name}"
                    f" {first.channels_per_joint}; they cannot share a network."
                )
        self.mirror_signs = first.mirror_signs
        self.initial_bias = first.initial_bias
        self.takes_widths = any(one.takes_widths for one in members.values())
        self.members = nn.ModuleDict(members)
        self.lead_by(first)

    def lead_by(self, leader: HeatmapLoss) -> None:
        """Take on what a member says the maps mean."""
        self.leader = leader
        self.supply, self.temperature = leader.supply, leader.temperature

    @abstractmethod
    def shares(self) -> dict[str, float]:
        """Factor of each member now; those of 0 may be left out."""

    def active(self) -> list[tuple[str, float, HeatmapLoss]]:
        """Name, factor and loss of the members that are computed now."""
        chosen = []
        for name, share in self.shares().items():
            member = self.members[name]
            assert isinstance(member, HeatmapLoss)
            if share != 0:
                chosen.append((name, share, member))
        return chosen

    def start_epoch(self, epoch: int) -> None:
        for member in self.members.values():
            assert isinstance(member, HeatmapLoss)
            member.start_epoch(epoch)

    def second_opinion(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, visible: torch.Tensor
    ) -> dict[str, float]:
        """Those of the members that are computed now, as ``<member>/<name>``."""
        return {
            f"{name}/{key}": value
            for name, _, member in self.active()
            for key, value in member.second_opinion(heatmaps, joints_hm, visible).items()
        }

    def joint_losses(
        self, heatmaps: torch.Tensor, joints_hm: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        return self.joint_losses_of(heatmaps, joints_hm, counted, None)

    def joint_losses_of(
        self,
        heatmaps: torch.Tensor,
        joints_hm: torch.Tensor,
        counted: torch.Tensor,
        widths_hm: torch.Tensor | None,
    ) -> torch.Tensor:
        losses = heatmaps.new_zeros(counted.shape)
        for _, share, member in self.active():
            of_member = member.joint_losses_of(heatmaps, joints_hm, counted, widths_hm)
            losses = losses + share * of_member
        return losses

    def check_health(self) -> None:
        for _, _, member in self.active():
            member.check_health()

    def forward(
        self,
        heatmaps: torch.Tensor,
        joints_hm: torch.Tensor,
        visible: torch.Tensor,
        widths_hm: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sum of the members' own scalars; see `HeatmapLoss.forward`."""
        self.health = {}
        total = heatmaps.new_zeros((), dtype=torch.promote_types(heatmaps.dtype, torch.float32))
        for name, share, member in self.active():
            # Only to members that ask: a package's own may take three arguments alone.
            more = (widths_hm,) if member.takes_widths else ()
            total = total + share * member(heatmaps, joints_hm, visible, *more)
            self.health |= {f"{name}/{key}": value for key, value in member.health.items()}
        return total

    def selection(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The only active member's; all counted joints where several are added."""
        active = self.active()
        return active[0][2].selection(losses, weights) if len(active) == 1 else weights


class WeightedSum(CombinedLoss):
    """Sum of losses, each times its weight.

    Mass, decoder and initial bias are the first loss's; name first the one that says what the maps
    mean. The validation's figure is the weighted sum of the members' losses of each joint,
    averaged over all counted joints; a member's own reduction (`OHKM`'s choice) is the training's.

    Parameters
    ----------
    losses
        By name, in order.
    weights
        Factors by the same names; 1 where nothing is said.

    Examples
    --------
    >>> from posematch.losses import DotMSE, GaussianMSE
    >>> loss = WeightedSum({"dot": DotMSE(), "gaussian": GaussianMSE(1.0)}, {"gaussian": 0.5})
    >>> loss.shares()
    {'dot': 1.0, 'gaussian': 0.5}
    """

    def __init__(
        self, losses: Mapping[str, HeatmapLoss], weights: Mapping[str, float] | None = None
    ) -> None:
        if not isinstance(losses, Mapping) or not losses:
            raise PosematchError("loss.losses must be a mapping of at least one loss by name.")
        for name, one in losses.items():
            if not isinstance(one, HeatmapLoss):
                raise PosematchError(
                    f"loss.losses.{name} must be a mapping whose _target_ makes one."
                )
        for name, weight in (weights or {}).items():
            if name not in losses:
                raise PosematchError(
                    f"loss.weights.{name}: there is no such loss, only {', '.join(losses)}."
                )
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not (is_number and 0 <= weight < math.inf):
                raise PosematchError(
                    f"loss.weights.{name}={weight} must be a number of at least 0."
                )
        super().__init__(losses)
        self.weights_by_name = {name: float((weights or {}).get(name, 1)) for name in losses}
        if not any(self.weights_by_name.values()):
            raise PosematchError("loss.weights: at least one must be positive.")

    def shares(self) -> dict[str, float]:
        return self.weights_by_name

    def decoder_config(self) -> Mapping[str, Any]:
        return self.leader.decoder_config()

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.lead_by(self.leader)  # it may be a schedule itself


class Scheduled(CombinedLoss):
    """One loss for the first epochs, then another.

    The decoder is the last one's from the beginning, so that all epochs are scored alike; the mass
    that it and the flip test get is that of the loss with the larger share. A loss that no training
    has told its epoch is at epoch 0.

    Parameters
    ----------
    first, then
        The two losses.
    switch_epoch
        Epochs, from 0, before this one belong to ``first`` alone.
    blend_epochs
        From the switch on, for so many epochs, both: ``then`` has the share 1 / (blend_epochs + 1)
        in the first of them, one more of these parts in each following. 0: no blend.

    Examples
    --------
    >>> from posematch.losses import DotMSE, GaussianMSE
    >>> loss = Scheduled(GaussianMSE(1.0), DotMSE(), switch_epoch=2, blend_epochs=1)
    >>> loss.start_epoch(2)
    >>> loss.shares()
    {'first': 0.5, 'then': 0.5}
    """

    def __init__(
        self, first: HeatmapLoss, then: HeatmapLoss, switch_epoch: int, blend_epochs: int = 0
    ) -> None:
        if switch_epoch < 0:
            raise PosematchError(f"loss.switch_epoch={switch_epoch} must be at least 0.")
        if blend_epochs < 0:
            raise PosematchError(f"loss.blend_epochs={blend_epochs} must be at least 0.")
        super().__init__({"first": first, "then": then})
        self.switch_epoch = switch_epoch
        self.blend_epochs = blend_epochs
        self.first = first
        self.then = then
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        part = (epoch - self.switch_epoch + 1) / (self.blend_epochs + 1)
        self.share_of_then = min(max(part, 0.0), 1.0)
        self.lead_by(self.then if self.share_of_then >= 0.5 else self.first)

    def shares(self) -> dict[str, float]:
        return {"first": 1 - self.share_of_then, "then": self.share_of_then}

    def decoder_config(self) -> Mapping[str, Any]:
        return self.then.decoder_config()

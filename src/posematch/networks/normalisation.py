"""What is subtracted from a crop's colours, and what they are divided by, before a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from posematch.errors import PosematchError

# Of `HeatmapNetwork`, in configurations.
OUR_NETWORK = "posematch.networks.heatmap_network.HeatmapNetwork"
# What `HeatmapNetwork` takes: a choice, or the values.
Choice = Literal["auto"] | Mapping[str, Sequence[float]]


class Normalisation(NamedTuple):
    """Mean and standard deviation of red, green and blue, of colours in 0..1.

    Examples
    --------
    >>> normalisation_of_weights("tf_efficientnet_lite0")
    Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> normalisation_of_weights("hrnet_w48") == IMAGENET
    True
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def plain(self) -> dict[str, list[float]]:
        """As ``backbone.normalisation`` has it in a configuration."""
        return {"mean": list(self.mean), "std": list(self.std)}


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalisation_of_weights(name: str) -> Normalisation:
    """How timm's pretrained weights of a model were trained, by timm's own record.

    Parameters
    ----------
    name
        Of a model that timm has, with the tag of its weights or without: then the default ones.
    """
    from posematch.networks.quiet_timm import timm

    found = timm.models.get_pretrained_cfg(name)
    if found is None:  # a model without published weights
        return IMAGENET
    return _checked(found.mean, found.std, f"timm's record of {name}")


def chosen_normalisation(choice: Any, name: str) -> Normalisation:
    """What ``backbone.normalisation`` means for the timm model ``name``.

    Raises
    ------
    PosematchError
        It is neither ``auto`` nor a mapping of ``mean`` and ``std``, three numbers each.
    """
    if choice == "auto":
        return normalisation_of_weights(name)
    if not isinstance(choice, Mapping) or set(choice) != {"mean", "std"}:
        raise PosematchError(
            f"backbone.normalisation={choice} must be auto (as the weights were trained) or"
            " {mean:[R,G,B],std:[R,G,B]} of colours in 0..1."
        )
    return _checked(choice["mean"], choice["std"], "backbone.normalisation")


def with_normalisation(backbone: Any) -> Any:
    """A stored ``backbone`` of before there was a choice: every network had ImageNet's then.

    A network of another package normalises by itself, and is returned as it is.
    """
    if not isinstance(backbone, Mapping) or backbone.get("_target_") != OUR_NETWORK:
        return backbone
    return {"normalisation": IMAGENET.plain(), **backbone}


def _checked(mean: Any, std: Any, where: str) -> Normalisation:
    for name, values in (("mean", mean), ("std", std)):
        numbers = isinstance(values, list | tuple) and all(
            isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
            for one in values
        )
        if not numbers or len(values) != 3:
            raise PosematchError(f"{where}: {name}={values} must be three numbers, [R,G,B].")
    if min(std) <= 0:
        raise PosematchError(f"{where}: std={list(std)} must be positive.")
    red, green, blue = (float(one) for one in mean)
    by_red, by_green, by_blue = (float(one) for one in std)
    return Normalisation((red, green, blue), (by_red, by_green, by_blue))

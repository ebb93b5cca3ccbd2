"""Composed configuration: its resolvers, and the objects it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from posematch.errors import PosematchError


def register_resolvers() -> None:
    """``${heatmap_sigma:[H,W]}``: 1, 2, 3 for heatmaps 32, 64, 96 pixels high."""
    OmegaConf.register_new_resolver(
        "heatmap_sigma",
        # A wrong input_size is the data module's to tell.
        lambda size: size[0] / 128 if isinstance(size, Sequence) else 0.0,
        replace=True,
    )


def make(config: Any, **more: Any) -> Any:
    """`hydra.utils.instantiate`, with its errors as one sentence and our own as they are."""
    try:
        return instantiate(config, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, PosematchError):
            raise error.__cause__ from None
        target = config.get("_target_", "the object")
        cause = error.__cause__ or error
        raise PosematchError(f"{target} cannot be made from its configuration: {cause}") from error


def plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    """A resolved mapping as plain Python."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}

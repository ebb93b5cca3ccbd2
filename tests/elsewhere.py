"""Tensors that act as if they lay on another device, for machines that have one device only."""

from __future__ import annotations

from typing import Any

import torch

# What brings values out of tensors.
_OUT = {"tolist", "item", "numpy", "__bool__", "__int__", "__float__", "__repr__"}


class Elsewhere(torch.Tensor):
    """A tensor that may not meet tensors of the CPU, but for numbers, until ``.cpu()``."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            if name == "cpu":
                return args[0].detach().clone().as_subclass(torch.Tensor)
            if name in _OUT:
                return func(*args, **(kwargs or {}))
            for one in [*args, *(kwargs or {}).values()]:
                for tensor in one if isinstance(one, tuple | list) else [one]:
                    foreign = isinstance(tensor, torch.Tensor) and not isinstance(tensor, cls)
                    if foreign and tensor.ndim:
                        raise RuntimeError("Expected all tensors to be on the same device")
            result = func(*args, **(kwargs or {}))
        return result.as_subclass(cls) if isinstance(result, torch.Tensor) else result


def elsewhere(tensor: torch.Tensor) -> Elsewhere:
    """The same values, on another device as it were."""
    return tensor.as_subclass(Elsewhere)

"""torch's fused optimizers: the whole update in one kernel (on a CPU one loop) for all weights."""

from __future__ import annotations

import torch

_DEVICES = ("cuda", "cpu")  # for which torch has them


def prefer_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Let an optimizer that has a fused form use it, unless its configuration says ``fused``.

    Called for a new optimizer and again once it has a checkpoint's state, which was perhaps written
    on another device: what a training goes on with is what this machine is best at.

    Not by the optimizer's own argument, by which it would also take over what a gradient scaler
    does, and Lightning refuse to clip its gradients.

    Parameters
    ----------
    optimizer
        Any; one that knows no ``fused`` stays as it is.

    Returns
    -------
    Whether it is fused now.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> prefer_fused(torch.optim.AdamW([weight])), prefer_fused(torch.optim.Rprop([weight]))
    (True, False)
    """
    if "fused" not in optimizer.defaults:
        return False
    fused = optimizer.defaults["fused"]
    weights = [one for group in optimizer.param_groups for one in group["params"]]
    if fused is None:
        fused = all(one.device.type in _DEVICES and one.is_floating_point() for one in weights)
        fused = fused and not any(
            group.get(key)
            for group in optimizer.param_groups
            for key in ("foreach", "differentiable")
        )
    # None, not False, where it only does not apply: torch then chooses its other fast form itself.
    said = optimizer.defaults["fused"]
    for group in optimizer.param_groups:
        group["fused"] = fused or said
        for weight in group["params"]:
            count = optimizer.state.get(weight, {}).get("step")
            if isinstance(count, torch.Tensor) and not group.get("capturable"):
                # The fused form counts where the weights are, the other where nobody waits.
                place = weight.device if fused else torch.device("cpu")
                optimizer.state[weight]["step"] = count.to(place, torch.float32)
    return bool(fused)

"""A network through ``torch.compile``, whole or block by block; names of weights stay.

Torch keeps what it has compiled on disk (``TORCHINDUCTOR_CACHE_DIR``), so a second training of the
same network on the same machine waits for a fraction of the first one's time.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from posematch.networks.heatmap_network import HeatmapNetwork, blocks_of

Compile = bool | Literal["regional"]


def compile_network(network: nn.Module, how: Compile) -> None:
    """Have a network compiled at its first pass, in place.

    Parameters
    ----------
    network
        Any.
    how
        ``compile``: true, the whole; ``regional``, each block of its backbone, of which those of a
        kind are compiled once; false, nothing. One whose blocks are not known is compiled whole.
    """
    if how is False:
        return
    blocks = (
        blocks_of(network.backbone)
        if how == "regional" and isinstance(network, HeatmapNetwork)
        else []
    )
    for one in blocks or [network]:
        one.compile()

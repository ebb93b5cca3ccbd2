"""CUDA graphs on a CPU: ``torch.cuda.make_graphed_callables`` itself, over a recorder of its own.

What a CUDA graph is, is done here for real: while it records, every operation and the places in
memory that it writes to are kept; a replay does the same operations on the same places again,
whatever lies there now, and nothing of the Python around them. Only CUDA's streams, which order
what a CPU orders by itself, are left out.
"""

from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph:
    """Stands for ``torch.cuda.CUDAGraph``."""

    def __init__(self, *_, **__):
        self.operations = []
        self.replays = 0

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, results in self.operations:
                again = function(*args, **kwargs)
                for place, value in zip(results, tree_leaves(again), strict=True):
                    if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("operation not permitted when stream is capturing")
        results = function(*args, **(kwargs or {}))
        self.graph.operations.append((function, args, kwargs or {}, tree_leaves(results)))
        return results


@contextlib.contextmanager
def recording(graph, pool=None, stream=None, capture_error_mode="global", **_):
    """Stands for ``torch.cuda.graph``."""
    assert capture_error_mode == "thread_local"  # else a loader's thread ends it
    with _Recorder(graph):
        yield


class Graphs:
    """Those that were made, so that a test can count replays."""

    def __init__(self):
        self.made = []

    def new(self, *_, **__):
        self.made.append(Graph())
        return self.made[-1]

    @property
    def replays(self):
        return sum(one.replays for one in self.made)


def install(patch) -> Graphs:
    """Let the CPU be a device whose work is captured."""
    from posematch.training import graphs

    made = Graphs()
    patch.setattr(graphs, "DEVICES", ("cuda", "cpu"))
    patch.setattr(torch.cuda, "CUDAGraph", made.new)
    patch.setattr(torch.cuda, "graph", recording)
    patch.setattr(torch.cuda, "synchronize", lambda *_: None)
    patch.setattr(torch.cuda, "Stream", lambda *_, **__: None)
    patch.setattr(torch.cuda, "stream", lambda *_: contextlib.nullcontext())
    patch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: (0, 0))
    return made

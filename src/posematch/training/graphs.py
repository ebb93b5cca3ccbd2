"""The network's forward and backward pass in a training on a GPU, each launched at once.

HRNet's passes are thousands of small kernels, and a host that launches one in 15 us keeps a fast
GPU waiting. A CUDA graph is those launches, written down once for one shape of batch and fixed
places in memory, and given out as one. Only the training's steps use it: validation, another shape
of batch and all that asks for no gradient go through the network itself, which stays what it was,
names of weights included.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning.pytorch as pl
import torch
from torch import nn

from posematch.console import tell
from posematch.errors import PosematchError
from posematch.networks.heatmap_network import HeatmapNetwork

if TYPE_CHECKING:  # it has one of these
    from posematch.training.module import PoseModule

Wish = Literal["auto"] | bool
DEVICES = ("cuda",)  # whose launches can be captured
_WARM_UPS = 3  # passes in which cuDNN chooses its algorithms


class CudaGraphs(pl.Callback):
    """Lets the training's steps run the network from a capture, where it can be captured.

    Parameters
    ----------
    wish
        ``trainer.cuda_graphs``: ``auto``, where that is known to be the same training, and a
        sentence says why not (but on a machine without a GPU, where nobody expects it); true,
        also for networks of others and compiled ones; false.

    Raises
    ------
    PosematchError
        With ``true``, when the training begins or at its first step: it cannot be captured.
    """

    def __init__(self, wish: Wish) -> None:
        self.wish = wish

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = _pose(pl_module)
        module.captured = None
        if self.wish is False:
            return
        reason = why_not(module.network, trainer, self.wish)
        if reason is None:
            module.captured = CapturedModel(module.model, required=self.wish is True)
        elif self.wish is True:
            raise PosematchError(f"trainer.cuda_graphs=true: {reason}.")
        elif trainer.strategy.root_device.type in DEVICES:
            _tell_eager(reason)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (captured := _pose(pl_module).captured) is not None:
            captured.look_for_changes()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _pose(pl_module).captured = None  # gives its memory back

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        _pose(pl_module).captured = None


def why_not(network: nn.Module, trainer: pl.Trainer, wish: Wish) -> str | None:
    """What keeps a training's steps from being captured, in words; None: nothing that is known."""
    modules = list(network.modules())
    if trainer.strategy.root_device.type not in DEVICES:
        return "there is no GPU"
    if trainer.world_size > 1:
        # DistributedDataParallel's nodes of each weight belong to the stream that it was made on;
        # a capture on another one would have to wait for that, which ends it.
        return "several processes train together"
    if trainer.accumulate_grad_batches > 1:
        # Autograd takes the capture's memory for the weight's gradient, and the next pass would
        # write over what is to be added to.
        return "gradients of several batches are added (trainer.accumulate_grad_batches)"
    if any(isinstance(one, nn.SyncBatchNorm) for one in modules):
        return "batch statistics are those of several processes (trainer.sync_batchnorm)"
    if getattr(network, "activation_checkpointing", False):
        return "activations are computed twice to save memory (backbone.activation_checkpointing)"
    if wish == "auto" and any(one._compiled_call_impl is not None for one in modules):
        return "the network is compiled (compile); trainer.cuda_graphs=true tries both"
    if wish == "auto" and not isinstance(network, HeatmapNetwork):
        # What its Python does besides would happen once, at the capture.
        return f"{type(network).__name__} is not ours; trainer.cuda_graphs=true tries it"
    return None


class CapturedModel:
    """A model's training passes from a capture of the first batch's shape.

    Parameters
    ----------
    model
        (B, 3, H, W) crops to heatmaps; its weights and buffers stay in their places in memory.
    required
        Whether an error at the capture is one of the training.

    Raises
    ------
    PosematchError
        At a call: the capture failed, and it is required.
    """

    def __init__(self, model: nn.Module, required: bool = False) -> None:
        self.model = model
        self.required = required
        self._replay: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._kind: object = None  # of the batches that are replayed
        self._state: object = None  # of the model at the capture
        self._gave_up = self._told_shape = False

    @property
    def is_captured(self) -> bool:
        """Whether there is a capture now."""
        return self._replay is not None

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) crops to raw heatmaps, which the next call overwrites."""
        if self._replay is None and not self._gave_up and torch.is_grad_enabled():
            self._capture(crops)
        if self._replay is None or not torch.is_grad_enabled():
            return cast(torch.Tensor, self.model(crops))
        if _kind_of(crops) != self._kind:
            if not self._told_shape:
                self._told_shape = True
                tell(
                    f"A batch of {len(crops)} people is of another kind than the captured ones: it"
                    " goes through the network itself, and so do others like it."
                )
            return cast(torch.Tensor, self.model(crops))
        return self._replay(crops)

    def look_for_changes(self) -> None:
        """Forget the capture if a weight lies elsewhere, is frozen or thawed, or a layer's mode is.

        The next call captures again.
        """
        if self._replay is not None and _state_of(self.model) != self._state:
            self._replay = None

    def _capture(self, crops: torch.Tensor) -> None:
        try:
            self._replay = capture(self.model, crops)
        except Exception as error:  # of CUDA, of torch, or of what the network does
            self._gave_up = True
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0].rstrip('.')}"
            if self.required:
                raise PosematchError(
                    f"trainer.cuda_graphs=true: the network cannot be captured ({why})."
                ) from error
            _tell_eager(f"the network cannot be captured ({why})")
        else:
            self._kind, self._state = _kind_of(crops), _state_of(self.model)


class _Passes(nn.Module):
    """A model with the autocast around it inside, where weights are cast at each pass anew."""

    def __init__(self, model: nn.Module, device_type: str) -> None:
        super().__init__()
        self.model = model
        self.autocast = functools.partial(
            torch.autocast,
            device_type,
            dtype=torch.get_autocast_dtype(device_type),
            enabled=torch.is_autocast_enabled(device_type),
            cache_enabled=False,
        )

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            return cast(torch.Tensor, self.model(crops))


def capture(model: nn.Module, crops: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model as captured for batches like this one, forward and backward.

    Nothing of the model has changed afterwards: buffers and random generators are as before.

    Parameters
    ----------
    model
        In the mode, and under the autocast, that it is to be captured in.
    crops
        (B, 3, H, W); only their shape matters.

    Returns
    -------
    Takes crops, gives heatmaps that the next call overwrites. Gradients lie in the capture's own
    memory: those of a step are to be used up (``set_to_none``) before the next one's backward pass.
    """
    passes = _Passes(model, crops.device.type)
    make: Any = torch.cuda.make_graphed_callables
    options: dict[str, Any] = {"num_warmup_iters": _WARM_UPS, "allow_unused_input": True}
    # A loader's thread pins memory meanwhile, which ends a capture that watches all threads.
    told = "capture_error_mode" in inspect.signature(make).parameters
    if told:
        options["capture_error_mode"] = "thread_local"
    with (
        passes.autocast(),
        _nothing_changed(model, crops.device),
        contextlib.nullcontext() if told else _thread_local_captures(),
    ):
        return cast(
            "Callable[[torch.Tensor], torch.Tensor]", make(passes, (crops.clone(),), **options)
        )


@contextlib.contextmanager
def _thread_local_captures() -> Iterator[None]:
    """What ``capture_error_mode="thread_local"`` says, for versions of torch that cannot be told.

    Theirs make the graphs by ``torch.cuda.graph``, which takes it.
    """
    before = torch.cuda.graph
    setattr(torch.cuda, "graph", functools.partial(before, capture_error_mode="thread_local"))  # noqa: B010 - mypy lets no class be assigned
    try:
        yield
    finally:
        setattr(torch.cuda, "graph", before)  # noqa: B010


@contextlib.contextmanager
def _nothing_changed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back running statistics, and the places of random generators, after the warm-up."""
    buffers = list(model.buffers())
    before = [one.clone() for one in buffers]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def _kind_of(crops: torch.Tensor) -> object:
    where = crops.device
    precision = torch.is_autocast_enabled(where.type), torch.get_autocast_dtype(where.type)
    return tuple(crops.shape), crops.dtype, where, precision


def _state_of(model: nn.Module) -> object:
    """What a capture takes for granted."""
    weights = [(one.data_ptr(), one.requires_grad) for one in model.parameters()]
    buffers = [one.data_ptr() for one in model.buffers()]
    return weights, buffers, [one.training for one in model.modules()]


def _tell_eager(reason: str) -> None:
    tell(f"Training steps launch the network kernel by kernel, not as CUDA graphs: {reason}.")


def _pose(module: pl.LightningModule) -> PoseModule:
    return cast("PoseModule", module)

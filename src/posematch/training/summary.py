"""What a network is and costs, from its configuration or a checkpoint, without data or a run."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posematch.app.objects import make
from posematch.model import PoseModel
from posematch.networks.complexity import Complexity, complexity
from posematch.networks.heatmap_network import HeatmapNetwork
from posematch.training.build import (
    build_datamodule,
    build_loss,
    build_model,
    resolve_by_loss,
)

_WARM_UP = 2
_LEAST_RUNS = 3
_MAPS = {
    "none": "heights, as the loss fixes them",
    "relu": "masses: relu over its sum",
    "softplus": "masses: softplus over its sum",
    "softmax": "masses: softmax",
    "sparsemax": "masses: sparsemax",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors, by their shapes: what libraries take for themselves is not counted.

    Attributes
    ----------
    weights
        Parameters and buffers.
    forward
        Peak of one crop's forward pass, the weights included.
    step
        Peak of a training step in float32: weights, gradients, two moments of Adam for each weight,
        and what the network keeps; without the loss's own.
    """

    weights: int
    forward: int
    step: int


def configured_model(cfg: DictConfig) -> PoseModel:
    """The untrained model of a training's configuration; no data are read, no weights fetched.

    Raises
    ------
    PosematchError
        A value that does not fit; or the joints are those of an annotation file that is not there.
    """
    cfg.backbone.pretrained = False
    datamodule = build_datamodule(cfg)
    loss = build_loss(cfg.loss)
    resolve_by_loss(cfg, loss)
    return build_model(cfg, loss.meaning, datamodule.skeleton, datamodule).eval()


def costs(model: PoseModel, batch_size: int) -> tuple[Complexity, Memory]:
    """Arithmetic and memory of a model's network, by shapes alone.

    Parameters
    ----------
    model
        Whatever its weights.
    batch_size
        People of a training step.
    """
    height, width = model.input_size
    with FakeTensorMode():  # shapes without arithmetic
        maps = model.skeleton.num_joints * model.meaning.channels_per_joint
        network = make(model.record.backbone, "backbone", num_joints=maps)
        cost = complexity(network, model.input_size)
        weights = sum(one.nbytes for one in network.state_dict().values())
        learnt = sum(one.nbytes for one in network.parameters() if one.requires_grad)

        def crops(people: int) -> torch.Tensor:
            return torch.zeros((people, 3, height, width), dtype=torch.uint8)

        with torch.no_grad():
            forward = _peak_bytes(lambda: network.eval()(crops(1)))
        step = _peak_bytes(lambda: network.train()(crops(batch_size)).sum().backward())
    return cost, Memory(weights, weights + forward, weights + 2 * learnt + step)


def crops_per_second(network: torch.nn.Module, crops: torch.Tensor, seconds: float) -> float:
    """Median speed of forward passes.

    Parameters
    ----------
    network
        In eval mode.
    crops
        (B, 3, H, W), on the network's device.
    seconds
        About so long, but at least a few passes.
    """

    def passed() -> float:
        begun = time.perf_counter()
        network(crops)
        if crops.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    with torch.inference_mode():
        for _ in range(_WARM_UP):
            passed()
        times = [passed()]
        while len(times) < _LEAST_RUNS or sum(times) < seconds:
            times.append(passed())
    return len(crops) / statistics.median(times)


def summary(
    model: PoseModel,
    batch_size: int,
    seconds: float,
    step: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """What is told of a model, by name.

    Parameters
    ----------
    model
        In eval mode.
    batch_size
        People of a training step.
    seconds
        For each of the two speeds, see `crops_per_second`; 0: they are not measured.
    step
        Told what is going to be done.
    """
    step("counting")
    cost, memory = costs(model, batch_size)
    (height, width), (map_h, map_w) = model.input_size, model.heatmap_size
    skeleton, channels = model.skeleton, model.meaning.channels_per_joint
    several = f", {channels} maps each" if channels > 1 else ""
    flip = {"hrnet": "mirrored maps shifted by a pixel", "udp": "mirrored maps not shifted"}
    told = {
        "network": _network(model),
        "input": f"{height} x {width}, convention {model.convention}",
        "heatmaps": f"{map_h} x {map_w}",
        "joints": f"{skeleton.num_joints} ({skeleton.name}){several}",
        "parameters": _parameters(model, cost),
        "arithmetic": f"{cost.published_gflops:.2f} GFLOPs as published (multiply-adds of"
        f" convolutions / 2^30), {cost.multiply_adds / 1e9:.2f}e9 multiply-adds, a crop",
        "maps": _MAPS[model.meaning.supply],
        "decoder": _decoder(model.record.decoder),
        "flip test": flip[model.convention] if model.flip_test else "none",
        "weights": _mib(memory.weights),
        "forward, 1 crop": f"{_mib(memory.forward)}, with the weights",
        f"training, {batch_size} crops": f"{_mib(memory.step)}: weights, gradients, Adam's moments,"
        " what the network keeps; float32, without the loss",
    }
    if seconds:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        where = (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads"
        )
        network = model.network.to(device)
        for people in dict.fromkeys((1, batch_size)):
            step(f"measuring {people} crops at a time")
            crops = torch.zeros((people, 3, height, width), dtype=torch.uint8, device=device)
            crops = crops.contiguous(memory_format=model.memory_format)
            speed = crops_per_second(network, crops, seconds)
            told[f"speed, {people} at a time"] = (
                f"{speed:.3g} crops/s forward without flip test ({where}, median)"
            )
    return told


def _network(model: PoseModel) -> str:
    network = model.network
    if not isinstance(network, HeatmapNetwork):
        return type(network).__name__
    doublings = sum(isinstance(one, torch.nn.ConvTranspose2d) for one in network.upsampling)
    head = f"{doublings} deconvolutions and " if doublings else ""
    return f"{network.name}, {head}a 1 x 1 convolution"


def _parameters(model: PoseModel, cost: Complexity) -> str:
    told = f"{cost.parameters / 1e6:.2f} M"
    if isinstance(model.network, HeatmapNetwork):
        backbone = sum(one.numel() for one in model.network.backbone.parameters())
        head = cost.parameters - backbone
        told += f": backbone {backbone:,}, head {head:,}"
    return told


def _decoder(config: Mapping[str, Any]) -> str:
    options = {key: value for key, value in config.items() if key not in ("_target_", "name")}
    name = str(config["_target_"]).rpartition(".")[2]
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def _peak_bytes(work: Callable[[], Any]) -> int:
    """Most bytes of storage that tensors made by some work hold at once."""
    counted = _Storages()
    with counted:
        work()
    return counted.peak


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations make, from when they are made until nobody has them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inputs = {one.untyped_storage()._cdata for one in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for one in _tensors(result):
            storage = one.untyped_storage()
            if storage._cdata not in inputs and storage not in self._known:
                self._known.add(storage)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return result

    def _freed(self, size: int) -> None:
        self._now -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]

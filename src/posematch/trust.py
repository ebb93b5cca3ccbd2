"""Configurations from run folders name what is built: only posematch's own, each in its place.

A run folder may come from anybody, and Hydra builds whatever a ``_target_`` names, with whatever
arguments. So before anything is built from a stored configuration, every target in it is looked
up by hand, step by step, and has to be a class or function that posematch (or a package that the
user trusts) defines itself, of the kind that belongs there.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from posematch.errors import PosematchError

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_PACKAGE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MODEL = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_OURS = "posematch"
# Where what a trainer keeps for later may be built: Hydra then makes a function of the target.
_PARTIAL = ("optimizer", "schedule", "logger")
# Arguments by which a transform of albumentations reads files or calls functions.
_READS_FILES = re.compile(r"(_fn|_path|_images|templates|metadata_key)$")


def check_trusted(
    config: Mapping[Any, Any], where: Path | str, packages: Sequence[str] = ()
) -> None:
    """Refuse a stored configuration by which something foreign would be built.

    Nothing outside of posematch and the trusted packages is imported for it.

    Parameters
    ----------
    config
        Plain values; the parts from which objects are going to be made.
    where
        The file, for messages.
    packages
        Top-level packages whose targets are taken as they are (``trust=PACKAGE``).

    Raises
    ------
    PosematchError
        A target of another package, or of posematch but of the wrong kind for its place; a key
        that only Hydra reads; an interpolation; a backbone that is no model of timm's.
    """
    for package in packages:
        if not _PACKAGE.fullmatch(str(package)):
            raise PosematchError(f"trust={package} must be the name of a package, without dots.")
    _visit(config, (), where, (_OURS, *packages))


def _visit(node: Any, key: tuple[str, ...], where: Path | str, packages: Sequence[str]) -> None:
    if isinstance(node, str) and "${" in node:
        raise _refused(where, key, f"is {node!r}: a stored configuration has no interpolations")
    if isinstance(node, list | tuple):
        for one in node:
            _visit(one, key, where, packages)
    if not isinstance(node, Mapping):
        return
    for name in node:
        full = (*key, str(name))
        if "${" in str(name):
            raise _refused(where, full, "is an interpolation")
        partial = name == "_partial_" and key[:1] and key[0] in _PARTIAL and node[name] is True
        if str(name).startswith("_") and name != "_target_" and not partial:
            raise _refused(
                where, full, "is a key that only Hydra reads and no training writes here"
            )
    if "_target_" in node:
        _check_target(node, key, where, packages)
    for name, value in node.items():
        _visit(value, (*key, str(name)), where, packages)


def _check_target(
    node: Mapping[Any, Any], key: tuple[str, ...], where: Path | str, packages: Sequence[str]
) -> None:
    name = node["_target_"]
    full = (*key, "_target_")
    if not isinstance(name, str) or not _DOTTED.fullmatch(name):
        raise _refused(where, full, f"is {str(name)[:200]!r}, which is no dotted name")
    place = _place(key)
    package = name.partition(".")[0]
    if place is _optimizer or place is _transform:
        # The two places where other libraries' objects belong; both are installed with posematch.
        if not place(name, None):
            raise _refused(where, full, f"is {name}, which does not belong there")
        return
    if package not in packages:
        raise _refused(
            where,
            full,
            f"is {name}, which is not of {' or '.join(packages)}: it could run anything, so it is"
            " not built"
            + (
                ""
                if package in sys.stdlib_module_names
                else f"; if you trust that package, add trust={package}"
            ),
        )
    target = _resolved(name, package)
    if target is None:
        raise _refused(where, full, f"is {name}, which {package} does not define")
    if package == _OURS and (place is None or not place(name, target)):
        raise _refused(where, full, f"is {name}, which does not belong there")
    if key == ("backbone",) and package == _OURS:
        _check_model(node.get("name"), where)


def _resolved(name: str, package: str) -> Any:
    """The class or function; None unless the package itself defines it, reached by its modules."""
    first, *between, last = name.split(".")
    module = importlib.import_module(first)
    for part in between:
        found = getattr(module, part, None)
        if found is None:
            try:
                found = importlib.import_module(f"{module.__name__}.{part}")
            except ModuleNotFoundError:
                return None
        if not isinstance(found, ModuleType) or not _is_of(found.__name__, package):
            return None
        module = found
    target = vars(module).get(last)
    if not (inspect.isclass(target) or inspect.isfunction(target)):
        return None
    return target if _is_of(str(target.__module__), package) else None


def _is_of(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _place(key: tuple[str, ...]) -> Callable[[str, Any], bool] | None:
    """What tells whether a target belongs where it stands; None: nothing is built there."""
    match key:
        case ("loss", *_) | ("measure", _, *_):
            return _loss
        case ("decoder",) | ("decoders", _):
            return _decoder
        case ("backbone",):
            return _backbone
        case ("data",):
            return _data
        case ("data", "spec"):
            return _spec
        case ("data" | "augmentation", "geometry"):
            return _geometry
        case ("data" | "augmentation", "appearance"):
            return _appearance
        case ("data" | "augmentation", "appearance", "transforms"):
            return _transform
        case ("optimizer",):
            return _optimizer
        case ("schedule",):
            return _schedule
        case ("callbacks", _):
            return _callback
        case ("logger", _):
            return _logger
        case _:
            return None


def _loss(name: str, target: Any) -> bool:
    from posematch.losses import HeatmapLoss

    return inspect.isclass(target) and issubclass(target, HeatmapLoss)


def _decoder(name: str, target: Any) -> bool:
    from posematch import decoding

    classes = [one for one in vars(decoding).values() if inspect.isclass(one)]
    return target in classes and target is not decoding.Decoder


def _backbone(name: str, target: Any) -> bool:
    from posematch.networks.heatmap_network import HeatmapNetwork

    return target is HeatmapNetwork


def _data(name: str, target: Any) -> bool:
    from posematch.data.datamodule import PoseDataModule

    return (
        inspect.isclass(target)
        and issubclass(target, PoseDataModule)
        and not inspect.isabstract(target)
    )


def _spec(name: str, target: Any) -> bool:
    from posematch.data.synthetic import SyntheticSpec

    return target is SyntheticSpec


def _geometry(name: str, target: Any) -> bool:
    from posematch.data.augmentation import GeometricAugmentation

    return target is GeometricAugmentation


def _appearance(name: str, target: Any) -> bool:
    from posematch.data.augmentation import Appearance

    return target is Appearance


def _transform(name: str, target: Any) -> bool:
    """albumentations' transforms of pixels that read no file and call no function."""
    package, _, transform = name.partition(".")
    if package != "albumentations" or "." in transform:
        return False
    from posematch.data.augmentation import pixel_transforms

    found = pixel_transforms().get(transform)
    return found is not None and not any(
        _READS_FILES.search(one) for one in inspect.signature(found).parameters
    )


def _optimizer(name: str, target: Any) -> bool:
    module, _, optimizer = name.rpartition(".")
    if module != "torch.optim":
        return False
    import torch

    found = vars(torch.optim).get(optimizer)
    return (
        inspect.isclass(found)
        and issubclass(found, torch.optim.Optimizer)
        and _is_of(found.__module__, "torch.optim")
    )


def _schedule(name: str, target: Any) -> bool:
    return (
        inspect.isfunction(target)
        and target.__module__ == "posematch.training.schedules"
        and not target.__name__.startswith("_")
    )


def _callback(name: str, target: Any) -> bool:
    from lightning.pytorch import Callback

    return inspect.isclass(target) and issubclass(target, Callback)


def _logger(name: str, target: Any) -> bool:
    return (
        inspect.isfunction(target)
        and target.__module__ == "posematch.training.loggers"
        and target.__name__ in ("wandb_logger", "tensorboard_logger")
    )


def _check_model(name: Any, where: Path | str) -> None:
    from posematch.networks.quiet_timm import timm

    if not (isinstance(name, str) and _MODEL.fullmatch(name) and timm.is_model(name)):
        raise _refused(
            where,
            ("backbone", "name"),
            f"is {str(name)[:200]!r}, which is no model of timm's own; nothing is fetched or opened"
            " on a stored configuration's word",
        )


def _refused(where: Path | str, key: tuple[str, ...], why: str) -> PosematchError:
    return PosematchError(f"{where}: {'.'.join(key)} {why}.")

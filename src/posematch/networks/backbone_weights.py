"""Weights for a timm backbone from a local file: whose names they may have, and which are refused.

A file of ImageNet weights holds a whole classifier, under timm's names or torchvision's, perhaps as
a part of something larger, and a network takes the layers below its heads alone. So what fits is
found by names; and a file that fits only in part, which trains as from random weights without a
word, is refused.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posematch.errors import PosematchError
from posematch.files import sha256_of
from posematch.networks.checkpoint_files import read_checkpoint
from posematch.networks.quiet_timm import timm
from posematch.untrusted import open_checkpoint

# Of a network's numbers: with fewer the file is of something else.
LEAST_SHARE = 0.9
_COUNTER = "num_batches_tracked"
# What a file may hold several networks under, the one that is meant first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "student", "backbone", "encoder")
_MOST_WRAPPED = 3  # levels of mappings
_MOST_PREFIX = 5  # parts of a name before the network's own
# How timm's modules call the functions that know other projects' names of a network.
_FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
_NAMED = 3  # names in a sentence


@dataclass(frozen=True)
class BackboneWeights:
    """What came out of a file.

    Attributes
    ----------
    path, sha256
        The file, as it was named, and what was in it.
    network
        timm's name of the network.
    taken
        Names of its tensors that have the file's values.
    kept
        Those that keep their initial values, since the file has none; not the counters of batches,
        which nothing reads.
    ignored
        Names in the file that the network has no place for: classifiers and other heads.
    """

    path: Path
    sha256: str
    network: str
    taken: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]

    def told(self) -> str:
        """One sentence."""
        total = len(self.taken) + len(self.kept)
        parts = [
            f"backbone.weights={self.path} gives {len(self.taken)} of the {total} tensors of"
            f" {self.network} their values"
        ]
        if self.kept:
            parts.append(f"{_some(self.kept)} keep their initial ones")
        if self.ignored:
            verb = "is" if len(self.ignored) == 1 else "are"
            parts.append(f"of the file {_some(self.ignored)} {verb} ignored")
        return f"{'; '.join(parts)}."


def load_backbone(backbone: nn.Module, name: str, path: Path | str) -> BackboneWeights:
    """Give a backbone the weights of a file.

    Parameters
    ----------
    backbone
        Of timm, with feature maps (`posematch.networks.heatmap_network.HeatmapNetwork.backbone`).
    name
        timm's name of it.
    path
        ``.safetensors``, or a file of `torch.save`, of which nothing is unpickled but tensors and
        plain values. Names are timm's, those of its networks with feature maps, or those that timm
        itself renames; behind any prefix (``module.``, ``backbone.``), below ``state_dict``,
        ``model``, ``teacher`` and their like.

    Returns
    -------
    What came in; half precision in single.

    Raises
    ------
    PosematchError
        There is no such file, it is damaged, it has less than `LEAST_SHARE` of the network's
        numbers, a tensor of another shape, layers of a larger network, or values that are NaN or
        infinite. Then the network is as it was.
    """
    path = Path(path).expanduser()
    content, digest = _read(path)
    own = backbone.state_dict()
    best = max(
        (_fitting(one, own) for one in _networks(content)),
        key=lambda one: one.share(own),
        default=_Fitting({}, {}),
    )
    if best.share(own) < LEAST_SHARE or best.misshapen(own):
        best = _by_timm(best, name, own) or best
    _check_fit(best, own, name, path)
    weights = {key: tensor.to(own[key].dtype) for key, (_, tensor) in best.found.items()}
    for key, (theirs, _) in best.found.items():
        if not bool(torch.isfinite(weights[key]).all()):
            raise PosematchError(
                f"backbone.weights={path}: {theirs} has values that are NaN or infinite; take"
                " another file."
            )
    backbone.load_state_dict({**own, **weights})
    counted = [key for key in own if not key.endswith(_COUNTER) or key in weights]
    return BackboneWeights(
        path,
        digest,
        name,
        tuple(key for key in counted if key in weights),
        tuple(key for key in counted if key not in weights),
        tuple(best.ignored),
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file of weights; errors as `posematch.untrusted.open_checkpoint`."""
    with _said_of(path):
        open_checkpoint(path).close()
    return sha256_of(path)


def _read(path: Path) -> tuple[Any, str]:
    digest = digest_of(path)
    with _said_of(path):
        return read_checkpoint(path), digest


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Errors of those who read checkpoints, with the key that this file has."""
    try:
        yield
    except PosematchError as error:
        said = str(error).removeprefix(f"checkpoint={path}").removeprefix(str(path))
        said = said.replace("a checkpoint is looked for there", "weights are looked for there")
        raise PosematchError(f"backbone.weights={path}{said}") from None


@dataclass(frozen=True)
class _Fitting:
    """Tensors of a file beside those of a network.

    ``found``: the file's name and tensor, by the network's name. ``ignored``: the others, by the
    file's name without what stands before all of them.
    """

    found: dict[str, tuple[str, torch.Tensor]]
    ignored: dict[str, torch.Tensor]

    def share(self, own: Mapping[str, torch.Tensor]) -> float:
        """Of the network's numbers, how many have a value here."""
        total = sum(one.numel() for key, one in own.items() if not key.endswith(_COUNTER))
        found = sum(own[key].numel() for key in self.found if not key.endswith(_COUNTER))
        return found / max(total, 1)

    def misshapen(self, own: Mapping[str, torch.Tensor]) -> list[str]:
        return [key for key, (_, one) in self.found.items() if one.shape != own[key].shape]

    @property
    def stripped(self) -> dict[str, torch.Tensor]:
        """All of them under the file's names, without what stands before."""
        return {**dict(self.found.values()), **self.ignored}


def _networks(content: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Mappings of names to tensors, wherever they are, those first that are meant first."""
    waiting = [(content, 0)]
    while waiting:
        node, depth = waiting.pop(0)
        if not isinstance(node, Mapping):
            continue
        named = {str(key): one for key, one in node.items() if isinstance(one, torch.Tensor)}
        if named:
            yield named
        if depth < _MOST_WRAPPED:
            below = [key for key in node if isinstance(node[key], Mapping)]
            below.sort(key=lambda key: _WRAPPERS.index(key) if key in _WRAPPERS else len(_WRAPPERS))
            waiting += [(node[key], depth + 1) for key in below]


def _fitting(weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> _Fitting:
    counts: Counter[str] = Counter()
    for name in weights:
        start = 0
        for _ in range(_MOST_PREFIX):
            if _own_name(name[start:], own) is not None:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    prefix = max(counts, key=lambda one: (counts[one], -len(one)), default="")
    found: dict[str, tuple[str, torch.Tensor]] = {}
    ignored = {}
    for name, tensor in weights.items():
        rest = name.removeprefix(prefix)
        key = _own_name(rest, own) if name.startswith(prefix) else None
        if key is None or key in found:
            ignored[rest] = tensor
        else:
            found[key] = rest, tensor
    return _Fitting(found, ignored)


def _own_name(name: str, own: Collection[str]) -> str | None:
    """timm's name of a tensor as its network with feature maps has it, if that has the tensor.

    FeatureListNet takes the members out of a network's sequences (``stages.0`` becomes
    ``stages_0``), FeatureGetterNet has the whole network below ``model``.
    """
    for one in (name, name.replace(".", "_", 1), f"model.{name}"):
        if one in own:
            return one
    return None


def _by_timm(best: _Fitting, name: str, own: Mapping[str, torch.Tensor]) -> _Fitting | None:
    """What timm's own function makes of another project's names, if it has one and that helps."""
    module = sys.modules[timm.model_entrypoint(name).__module__]
    filters = [vars(module)[one] for one in _FILTERS if one in vars(module)]
    if not filters or not best.stripped:
        return None
    try:
        try:
            renamed = filters[0](best.stripped, _whole(name))
        except TypeError:  # one that takes the weights alone
            renamed = filters[0](best.stripped)
        tensors = {k: v for k, v in renamed.items() if isinstance(v, torch.Tensor)}
        fitting = _fitting(tensors, own)
    # It was written for its own project's files, and this is none.
    except Exception:
        return None
    better = (fitting.share(own), -len(fitting.misshapen(own)))
    return fitting if better > (best.share(own), -len(best.misshapen(own))) else None


def _whole(name: str) -> nn.Module:
    """timm's network with its classifier, its values of no use."""
    try:
        with torch.device("meta"):  # no memory, no initialisation
            return timm.create_model(name)
    except (RuntimeError, NotImplementedError):  # reads a value while it is built
        return timm.create_model(name)


def _check_fit(best: _Fitting, own: Mapping[str, torch.Tensor], name: str, path: Path) -> None:
    where = f"backbone.weights={path}"
    advice = "choose the backbone that the file is of (backbone.name), or another file"
    if not best.found and not best.ignored:
        raise PosematchError(f"{where} holds no state dict of a network.")
    share = best.share(own)
    if share < LEAST_SHARE:
        lacks = next((key for key in own if key not in best.found), "")
        has = f", and has {_some(list(best.ignored))}" if best.ignored else ""
        raise PosematchError(
            f"{where} has {len(best.found)} of the {len(own)} tensors of {name}, {share:.0%} of its"
            f" numbers: it lacks {lacks}{has}; {advice}."
        )
    if wrong := best.misshapen(own):
        theirs, tensor = best.found[wrong[0]]
        raise PosematchError(
            f"{where} is of another network than {name}: {theirs} is {tuple(tensor.shape)} there"
            f" and {tuple(own[wrong[0]].shape)} here ({len(wrong)} such); {advice}."
        )
    for key, (theirs, tensor) in best.found.items():
        if tensor.is_complex() or tensor.is_floating_point() != own[key].is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise PosematchError(f"{where}: {theirs} is of {kind}; take another file.")
    if more := _of_larger(best.ignored, own, name):
        raise PosematchError(
            f"{where} is of a larger network than {name}, which has no {_some(more)}; {advice}."
        )


def _of_larger(ignored: Collection[str], own: Collection[str], name: str) -> list[str]:
    """Names inside the network's own parts that even the whole network does not have.

    ResNet-101's file has all tensors of ResNet-50, of the same shapes, and more in its third stage.
    """
    parts = {key.partition(".")[0] for key in own}
    inside = [
        one
        for one in ignored
        if not one.endswith(_COUNTER)
        and {one.partition(".")[0], "_".join(one.split(".")[:2])} & parts
    ]
    if not inside:
        return []
    whole = _whole(name).state_dict()
    return [one for one in inside if one not in whole]


def _some(names: Collection[str]) -> str:
    """``a``, ``a and b``, ``a, b, c and 7 others``."""
    shown, others = list(names)[:_NAMED], max(len(names) - _NAMED, 0)
    if others:
        return f"{', '.join(shown)} and {others} other{'s' * (others > 1)}"
    return " and ".join([", ".join(shown[:-1])] * (len(shown) > 1) + shown[-1:])

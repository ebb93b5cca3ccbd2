"""Checkpoints that are not what they should be."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inputs.case import LAST, Bench, Case, Command
from inputs.damage import DAMAGES, cut_short, flipped, without_last

Weights = dict[str, torch.Tensor]
NAN, INFINITE = float("nan"), float("inf")


def _first(weights: Weights) -> str:
    return next(name for name, tensor in weights.items() if tensor.dim() == 4)


def _each(change: Callable[[torch.Tensor], Any]) -> Callable[[Weights], Any]:
    return lambda weights: {name: change(tensor) for name, tensor in weights.items()}


def _one(change: Callable[[torch.Tensor], Any]) -> Callable[[Weights], Any]:
    return lambda weights: weights | {_first(weights): change(weights[_first(weights)])}


# The bare state dict of a network, and what is done to it.
_WEIGHTS: dict[str, Callable[[Weights], Any]] = {
    "all_nan": _each(lambda one: one * NAN if one.is_floating_point() else one),
    "one_nan": _one(lambda one: one.clone().index_fill_(0, torch.tensor([0]), NAN)),
    "one_infinite": _one(lambda one: one.clone().index_fill_(0, torch.tensor([0]), INFINITE)),
    "one_minus_infinite": _one(lambda one: one * -INFINITE),
    "integers": _one(lambda one: one.to(torch.int32)),
    "bytes": _one(lambda one: one.to(torch.uint8)),
    "booleans": _one(lambda one: one > 0),
    "complex": _one(lambda one: one.to(torch.complex64)),
    "double_too_large": _one(lambda one: one.double() * 1e300),
    "sparse": _one(lambda one: one.to_sparse()),
    "sparse_csr": _one(lambda one: one.flatten(1).to_sparse_csr()),
    "meta": _one(lambda one: one.to("meta")),
    "quantized": _one(lambda one: torch.quantize_per_tensor(one.float(), 0.1, 0, torch.qint8)),
    "float8": _one(lambda one: (one * NAN).to(torch.float8_e5m2)),
    "scalar": _one(lambda one: torch.tensor(1.0)),
    "transposed": _one(lambda one: one.transpose(0, 2)),
    "flat": _one(lambda one: one.flatten()),
    "no_numbers": _one(lambda one: one[:0]),
    "larger": _one(lambda one: torch.cat([one, one])),
    "one_missing": lambda weights: {k: v for k, v in weights.items() if k != _first(weights)},
    "one_more": lambda weights: weights | {"network.body.extra.weight": torch.zeros(3)},
    "head_missing": lambda weights: dict(list(weights.items())[:-2]),
    "half_missing": lambda weights: dict(list(weights.items())[: len(weights) // 2]),
    "only_one": lambda weights: dict(list(weights.items())[:1]),
    "renamed": lambda weights: {f"x.{name}": tensor for name, tensor in weights.items()},
    "names_numbers": lambda weights: dict(enumerate(weights.values())),
    "names_tuples": lambda weights: {(name, 1): tensor for name, tensor in weights.items()},
    "names_empty": lambda weights: {"": next(iter(weights.values()))},
    "nobody": lambda weights: {},
    "a_list": lambda weights: list(weights.values()),
    "a_tensor": lambda weights: next(iter(weights.values())),
    "a_number": lambda weights: 5,
    "a_text": lambda weights: "weights",
    "nothing": lambda weights: None,
    "values_text": lambda weights: dict.fromkeys(weights, "weight"),
    "values_lists": lambda weights: {name: [1.0] for name in weights},
    "state_dict_text": lambda weights: {"state_dict": "weights"},
    "state_dict_empty": lambda weights: {"state_dict": {}},
    "state_dict_twice": lambda weights: {"state_dict": {"state_dict": weights}},
    "state_dict_list": lambda weights: {"state_dict": [weights]},
    "model_inside": lambda weights: {"model": {"weights": weights}},
    "deep": lambda weights: _nested(300),
    "cyclic": lambda weights: _cyclic(),
}


def _nested(levels: int) -> Any:
    content: Any = 1
    for _ in range(levels):
        content = {"state_dict": content}
    return content


def _cyclic() -> Any:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    return content


def _bare(bench: Bench, name: str = "mpii") -> Weights:
    content = torch.load(bench.good.runs[name] / LAST, map_location="cpu", weights_only=True)
    return dict(content["state_dict"])


_TRAINED_ON = ("one_nan", "complex", "sparse", "meta", "head_missing", "one_missing", "nobody")


def states() -> Iterator[Case]:
    """Files that PyTorch reads and that hold something else than this network's weights."""
    for name, change in _WEIGHTS.items():
        # Training on them reads them as scoring does, but a last layer may start afresh.
        for how in ("evaluate", "train") if name in _TRAINED_ON else ("evaluate",):

            def make(bench: Bench, change: Any = change, how: str = how) -> Command:
                file = bench.inputs / "weights.pth"
                torch.save(change(_bare(bench)), file)
                if how == "train":
                    return bench.train(f"checkpoint={file}")
                return bench.evaluate_weights(file)

            yield Case(f"weights-{name}-{how}", "checkpoint", make, ("weights.pth",))


# last.ckpt of a run, and what is done to it; resume= reads all of it.
_TRAINING: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no_state_dict": lambda content: content.pop("state_dict"),
    "no_optimizer": lambda content: content.pop("optimizer_states"),
    "no_loops": lambda content: content.pop("loops"),
    "no_epoch": lambda content: content.pop("epoch"),
    "no_step": lambda content: content.pop("global_step"),
    "no_version": lambda content: content.pop("pytorch-lightning_version"),
    "epoch_text": lambda content: content.update(epoch="one"),
    "step_huge": lambda content: content.update(global_step=10**400),
    "loops_list": lambda content: content.update(loops=[1]),
    "loops_empty": lambda content: content.update(loops={}),
    "optimizer_text": lambda content: content.update(optimizer_states="adam"),
    "optimizer_none": lambda content: content.update(optimizer_states=[]),
    "optimizer_two": lambda content: content.update(
        optimizer_states=content["optimizer_states"] * 2
    ),
    "schedulers_text": lambda content: content.update(lr_schedulers="cosine"),
    "callbacks_list": lambda content: content.update(callbacks=[]),
    "weights_nan": lambda content: next(
        tensor for tensor in content["state_dict"].values() if tensor.is_floating_point()
    ).fill_(NAN),
    "weights_list": lambda content: content.update(state_dict=[]),
    "version_other": lambda content: content.update({"pytorch-lightning_version": "99.0"}),
    "version_number": lambda content: content.update({"pytorch-lightning_version": 3}),
}


def resumed() -> Iterator[Case]:
    for name, change in _TRAINING.items():

        def make(bench: Bench, change: Any = change) -> Command:
            run = bench.run()
            content = torch.load(run / LAST, map_location="cpu", weights_only=True)
            (run / LAST).unlink()
            change(content)
            torch.save(content, run / LAST)
            return bench.resume(run)

        # Another version's is read if all that is needed is there.
        ends = "either" if "version" in name else "refused"
        yield Case(f"resume-{name}", "checkpoint", make, ("last.ckpt", "resume="), ends)


def bytes_of_files() -> Iterator[Case]:
    damages = {f"cut_{eighths}_8": cut_short(eighths) for eighths in range(1, 8)}
    damages |= {f"without_last_{number}": without_last(number) for number in (1, 22, 100, 5000)}
    damages |= {f"flipped_{place}": flipped(place) for place in (0.3, 0.6, 0.97, 0.999, 1.0)}
    for name, damage in damages.items():
        for how in ("evaluate", "resume"):

            def make(bench: Bench, damage: Any = damage, how: str = how) -> Command:
                run = bench.run()
                damage(run / LAST)
                return bench.resume(run) if how == "resume" else bench.evaluate_checkpoint(run)

            # The very end is an archive's list of what is in it, with dates that nobody reads.
            ends = "either" if name in ("flipped_0.999", "flipped_1.0") else "refused"
            yield Case(f"ckpt-{name}-{how}", "checkpoint", make, ("last.ckpt",), ends)
    for damage_name in DAMAGES:
        for how in ("export", "train") if damage_name.startswith("a_") else ("export",):

            def make_file(bench: Bench, damage: str = damage_name, how: str = how) -> Command:
                file = bench.copy(bench.good.runs["mpii"] / LAST, "weights.ckpt")
                DAMAGES[damage](file)
                return bench.export(file) if how == "export" else bench.train(f"checkpoint={file}")

            title = f"ckpt-{damage_name}-{how}"
            yield Case(title, "checkpoint", make_file, ("weights.ckpt",))
    for name, content in _OTHER_FORMATS.items():

        def make_other(bench: Bench, content: Any = content) -> Command:
            suffix = ".safetensors" if "safetensors" in str(content) else ".pth"
            file = bench.replace(bench.inputs / f"weights{suffix}", content())
            return bench.evaluate_weights(file)

        yield Case(f"format-{name}", "checkpoint", make_other, ("weights.",))


def _zip(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def _safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


def safetensors_header_short() -> bytes:
    return _safetensors(b"{", 1)


def safetensors_header_longer_than_the_file() -> bytes:
    return _safetensors(b"{}", 2**40)


def safetensors_not_json() -> bytes:
    return _safetensors(b"x" * 64)


def safetensors_outside() -> bytes:
    tensor = {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}
    return _safetensors(json.dumps({"a": tensor}).encode())


def safetensors_empty() -> bytes:
    return b""


_OTHER_FORMATS: dict[str, Callable[[], bytes]] = {
    "zip": lambda: _zip({"readme.txt": b"hello"}),
    "zip_empty": lambda: _zip({}),
    "zip_of_a_checkpoint_without_tensors": lambda: _zip(
        {"x/data.pkl": pickle.dumps({"state_dict": 1}, 2), "x/version": b"3"}
    ),
    "npy": _npy,
    "pickle_of_numbers": lambda: pickle.dumps([1, 2, 3]),
    "pickle_cut": lambda: pickle.dumps(list(range(1000)))[:200],
    "gzip": lambda: b"\x1f\x8b\x08\0\0\0\0\0",
    "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(600),
    "tar": lambda: b"x".ljust(257, b"\0") + b"ustar\0" + bytes(600),
    "html": lambda: b"<!doctype html><title>404 not found</title>",
    "git_lfs_pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "safetensors_header_short": safetensors_header_short,
    "safetensors_long_header": safetensors_header_longer_than_the_file,
    "safetensors_not_json": safetensors_not_json,
    "safetensors_outside": safetensors_outside,
    "safetensors_empty": safetensors_empty,
}


def checkpoints() -> Iterator[Case]:
    """All of this file."""
    yield from states()
    yield from resumed()
    yield from bytes_of_files()


def last_checkpoint(bench: Bench) -> Path:
    return bench.copy(bench.good.runs["mpii"] / LAST, "weights.ckpt")

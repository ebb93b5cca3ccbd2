"""Checkpoints as files from strangers: looked at before anything of them is in memory.

A checkpoint of today's PyTorch is a zip archive of stored records, one per tensor, and a pickle
that says what they are; one of before 1.6 is pickles with the tensors behind them. Neither is
unpickled freely, and neither may ask for more memory than the file has bytes.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from posematch.errors import PosematchError
from posematch.networks.model_folder import read_model_folder
from posematch.untrusted import MIB, open_checkpoint

# Beside the weights, in our files: what they are the weights of, see posematch.model_record.
RECORD = "model"
# The pickle that says what the tensors are: 40 KB for HRNet-W48. Each byte of it may cost a
# hundred in memory, and a microsecond.
_MOST_PICKLE = 4 * MIB
# Of a class that a pickle names. In a longer one PyTorch looks for words of its own error message
# for minutes.
_LONGEST_NAME = 500
_MOST_RECORDS = 100_000
_MOST_NESTED = 50
_END = 22  # bytes of a zip archive's last record


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray[Any, Any]:
    """What numpy's pickles begin with; with another shape it would claim memory."""
    if kind is not np.ndarray or shape != (0,):
        raise ValueError("an array that does not begin empty")
    return np.ndarray((0,), dtype=np.int8)


# mmpose 1.x notes numpy arrays (OKS sigmas, colours) beside the weights. Files of older versions
# have older names of numpy's functions.
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
    *((function, f"numpy.{core}.multiarray.{name}")
      for name, function in (("_reconstruct", _empty_array),
                             ("scalar", np._core.multiarray.scalar))  # type: ignore[attr-defined]
      for core in ("core", "_core")),
]  # fmt: skip


def read_checkpoint(path: Path) -> Any:
    """The whole content of a checkpoint: dense tensors, arrays and plain values.

    Every record's checksum is verified, which PyTorch does not, and every tensor is of ordinary,
    dense memory that the file itself fills. Values are not looked at.

    Parameters
    ----------
    path
        A file of `torch.save`, of any version; or one of safetensors, which comes as
        ``state_dict`` and, of a published model, the record beside it.

    Raises
    ------
    PosematchError
        There is no such file, it is damaged, it holds more than tensors, arrays and plain values,
        or it claims more than it has.
    """
    if path.suffix == ".safetensors":
        weights, record = read_model_folder(path)
        return {"state_dict": weights} | ({} if record is None else {RECORD: record})
    with open_checkpoint(path) as file:
        if file.read(4) == b"PK\x03\x04":
            size = _check_archive(file, path)
            content = _loaded(file, path)
        else:
            size = file.seek(0, io.SEEK_END)
            content = _loaded(_Pickles(file), path)
    _check_content(content, size, path)
    return content


def _loaded(file: Any, path: Path) -> Any:
    file.seek(0)
    try:
        with torch.serialization.safe_globals(_ARRAYS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors and storages, which are refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except _TooLongError:
        raise PosematchError(
            f"checkpoint={path} has more than {_MOST_PICKLE // MIB} MiB besides its tensors, or a"
            " name longer than any; is it a checkpoint?"
        ) from None
    # torch's zip reader, its unpickler and numpy fail in their own, undocumented ways.
    except Exception as error:
        if "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            raise PosematchError(
                f"checkpoint={path} is no checkpoint, or holds objects besides tensors, arrays and"
                " plain values; those could run anything, so they are not loaded: save its state"
                " dict alone."
            ) from error
        raise PosematchError(
            f"checkpoint={path} cannot be read as a torch checkpoint ({type(error).__name__}); it"
            " may be cut short."
        ) from error


def _check_archive(file: BinaryIO, path: Path) -> int:
    """Refuse an archive that unpacks to more than it is, or is damaged; its size in bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _END, 0))
    end = file.read()
    count, length = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    # 0xFFFF and 0xFFFFFFFF: the numbers of large archives are elsewhere, and zipfile finds them.
    if not end.startswith(b"PK\x05\x06") or (
        length != 2**32 - 1 and (count > _MOST_RECORDS or length > size)
    ):
        raise _damaged(path, "the end of its archive is missing")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda one: one.header_offset)
            if len(entries) > _MOST_RECORDS or any(
                one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size
                for one in entries
            ):
                raise PosematchError(
                    f"checkpoint={path} has compressed records, which torch.save never writes: a"
                    " few kilobytes of them can fill any memory; save its state dict again."
                )
            ends = [one.header_offset + one.file_size for one in entries]
            starts = [one.header_offset for one in entries[1:]]
            if len({one.filename for one in entries}) < len(entries) or any(
                end > start for end, start in zip(ends, [*starts, archive.start_dir], strict=True)
            ):
                raise _damaged(path, "its records lie over each other")
            for one in entries:
                if one.filename.endswith("data.pkl") and one.file_size > _MOST_PICKLE:
                    raise _TooLongError
            broken = archive.testzip()
            for one in entries:
                if broken is None and one.filename.endswith("data.pkl"):
                    _check_names(archive.read(one))
    except _TooLongError:
        raise PosematchError(
            f"checkpoint={path} has more than {_MOST_PICKLE // MIB} MiB besides its tensors, or a"
            " name longer than any; is it a checkpoint?"
        ) from None
    except PosematchError:
        raise
    # zipfile's own errors, and those of what lies in a damaged directory.
    except Exception as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    if broken is not None:
        raise _damaged(path, f"the checksum of its record {broken} is wrong")
    return size


def _check_names(pickled: bytes) -> None:
    """Raise if a pickle names a class by a line longer than any name."""
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name in ("GLOBAL", "INST") and len(str(argument)) > _LONGEST_NAME:
                raise _TooLongError
    except ValueError:  # no whole pickle: its reader will tell
        return


class _TooLongError(Exception):
    """More to unpickle than any checkpoint has."""


class _Pickles:
    """A file of before 1.6 that gives its unpickler no more than `_MOST_PICKLE`.

    Tensors are read by ``readinto``, pickles by the others. Without a file number PyTorch does not
    look for the tar archives of before 0.2, which it would unpack to disk.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _MOST_PICKLE

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            raise _TooLongError
        return self._counted(self._file.read(size))

    def readline(self) -> bytes:
        line = self._file.readline(_LONGEST_NAME + 1)
        if len(line) > _LONGEST_NAME:
            raise _TooLongError
        return self._counted(line)

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise _TooLongError
        return content

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _check_content(content: Any, size: int, path: Path) -> None:
    """Refuse tensors that are not memory of the file, and what is nested without an end."""
    waiting: list[tuple[Any, int]] = [(content, 0)]
    seen: set[int] = set()
    while waiting:
        node, depth = waiting.pop()
        if depth > _MOST_NESTED:
            raise _odd(path, f"is nested more than {_MOST_NESTED} levels deep")
        if isinstance(node, torch.Tensor):
            _check_tensor(node, size, path)
        elif isinstance(node, np.ndarray):
            if node.dtype.kind not in "?biuf" or node.nbytes > size:
                raise _odd(path, f"has an array of {node.dtype} {node.shape} that it does not hold")
        elif isinstance(node, bytes | bytearray):
            if len(node) > size:
                raise _odd(path, "has more bytes than it holds")
        elif isinstance(node, Mapping | list | tuple | set | frozenset):
            if id(node) in seen:  # a list of itself, or one of lists that share their parts
                continue
            seen.add(id(node))
            below = [*node.keys(), *node.values()] if isinstance(node, Mapping) else node
            waiting += [(one, depth + 1) for one in below]


def _check_tensor(tensor: torch.Tensor, size: int, path: Path) -> None:
    what = f"has a tensor of {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise _odd(path, f"{what} that is sparse, quantised or nested")
    if tensor.device.type != "cpu" or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise _odd(path, f"{what} without values ({tensor.device.type})")
    needed = tensor.numel() * tensor.element_size()
    if needed > min(size, tensor.untyped_storage().nbytes()):
        raise _odd(path, f"{what}, more values than it holds")


def _odd(path: Path, why: str) -> PosematchError:
    return PosematchError(
        f"checkpoint={path} {why}; no training writes that: save its state dict, of dense tensors,"
        " again."
    )


def _damaged(path: Path, why: str) -> PosematchError:
    return PosematchError(
        f"checkpoint={path} is damaged: {why.rstrip('.')}; take another one, or fetch it again."
    )

"""Random changes of bytes, of json-like trees, of archives and of arrays; one generator decides."""

from __future__ import annotations

import copy
import io
import random
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

_NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, -(2**31),
            2**32 - 1, 2**53, 2**63 - 1, -(2**63), 2**64, 10**20, 10**400)  # fmt: skip
_TEXTS = ("", "x", "null", "nan", "-inf", "1e999", "0x10", "../../..", "/etc/passwd", "a\0b", "é",
          "\ud800", "\x1b[31m", "[bold]", "${a}", "${oc.env:HOME}", "_target_", "???", "*a", "&a",
          "!!python/name:os.system", "9" * 5000, "[" * 2000, "x" * 100_000)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *_NUMBERS, *_TEXTS, None, True, False, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"),
    float("-inf"), [], {}, [[]], [0], [None], {"a": 1}, [1, 2], [1] * 51, {"_target_": "os.system"},
)  # fmt: skip
_TYPES = ("?", "b", "u1", "i2", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "S4", "U3",
          "M8[s]", "m8[s]", "V8")  # fmt: skip


def bytes_of(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to eight changes of the bytes themselves."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        place = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 16, 100, 1000, len(changed) // 4 + 1))
        match rng.randrange(9):
            case 0 if changed:
                changed[min(place, len(changed) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                changed[place : place + length] = rng.randbytes(length)
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = rng.randbytes(min(length, 64))
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                del changed[place:]
            case 6:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(_NUMBERS) % 2 ** (8 * size)
                order = rng.choice(("little", "big"))
                changed[place : place + size] = number.to_bytes(size, order)  # type: ignore[arg-type]
            case 7:
                number_at = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(changed[:200_000])))
                if number_at:
                    found = rng.choice(number_at)
                    value = str(rng.choice(VALUES)).encode("utf-8", "surrogatepass")
                    changed[found.start() : found.end()] = value
            case 8 if others:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                changed[place : place + length] = other[start : start + length]
    return bytes(changed)


def tree_of(content: Any, rng: random.Random) -> Any:
    """One to three changes of a tree of dictionaries, lists and values."""
    changed = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        changed = _changed_once(changed, rng)
    return changed


def _changed_once(tree: Any, rng: random.Random) -> Any:
    holder, key = None, None
    node = tree
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.85):
        holder = node
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = node[key]
    if holder is None:
        return copy.deepcopy(rng.choice(VALUES))
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1:
            holder[key] = [node]
        case 2 if isinstance(holder, list):
            holder.extend(copy.deepcopy(holder))
        case 2 | 3 if isinstance(holder, dict):
            holder[str(rng.choice(VALUES))[:50]] = node
        case 4:
            name = rng.choice(("other", "0", ""))
            holder[key] = {name: node}
        case _:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def array_of(array: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    """Another type, shape or values."""
    with np.errstate(all="ignore"):
        match rng.randrange(8):
            case 0:
                kind = rng.choice(_TYPES)
                try:
                    return array.astype(kind)
                except (ValueError, TypeError):
                    return np.zeros(array.shape, kind)
            case 1:
                return array.reshape(-1)
            case 2:
                return array[..., None]
            case 3:
                return array[: rng.randrange(3)]
            case 4:
                return array.T
            case 5:
                return np.concatenate([array, array]) if array.ndim else array
            case 6:
                return np.array(rng.choice((0, -1, 0.5, "x", 1j, True)))
            case _:
                changed = np.array(array)
                if changed.size and changed.dtype.kind in "fiu":
                    spot = rng.randrange(changed.size)
                    value = rng.choice((0, -1, 1, 2**31, 1e38, float("nan"), float("inf")))
                    floats = changed.astype(np.float64)
                    floats.flat[spot] = value
                    changed = floats.astype(changed.dtype)
                return changed


def zip_of(content: bytes, rng: random.Random) -> bytes:
    """An archive of which one entry has other bytes, and a checksum that is right for them."""
    parts: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    names = sorted(parts, key=lambda name: len(parts[name]))  # the short ones say what it all is
    name = names[min(int(rng.expovariate(0.3)), len(names) - 1)]
    if rng.random() < 0.1:
        del parts[name]
    else:
        parts[name] = bytes_of(parts[name], [], rng)
    for pickled in (one for one in parts if one.endswith("data.pkl") and rng.random() < 0.5):
        parts[pickled] = bytes_of(parts[pickled], [], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return packed.getvalue()

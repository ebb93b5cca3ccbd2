"""What may happen to any file, whatever it holds: each damage is a name and a function."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def _rewritten(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(change(content))

    return damage


def _replaced(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _noise(content: bytes) -> bytes:
    return random.Random(len(content)).randbytes(max(len(content) // 2, 4096))


def _sparse(path: Path) -> None:
    """Three gigabytes that take no room on the disk."""
    with path.open("wb") as file:
        file.truncate(3 * 2**30)


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


DAMAGES: dict[str, Damage] = {
    "missing": _replaced(lambda path: None),
    "empty": _rewritten(lambda content: b""),
    "one_byte": _rewritten(lambda content: content[:1]),
    "half": _rewritten(lambda content: content[: len(content) // 2]),
    "zeros": _rewritten(lambda content: bytes(len(content))),
    "noise": _rewritten(_noise),
    "latin1": _rewritten(lambda content: "é: [ÿ]".encode("latin-1")),
    "nul_bytes": _rewritten(lambda content: b"a\0b\n" + content),
    "nested": _rewritten(lambda content: b"[" * 100_000),
    "braces": _rewritten(lambda content: b'{"a":' * 100_000),
    "three_gigabytes": _replaced(_sparse),
    "a_folder": _replaced(lambda path: path.mkdir()),
    "a_pipe": _replaced(lambda path: os.mkfifo(path)),
    "dangling_link": _replaced(lambda path: path.symlink_to("nowhere")),
    "link_to_itself": _replaced(_link_to_itself),
}


def cut_short(eighths: int) -> Damage:
    """The first so many eighths of a file."""
    return _rewritten(lambda content: content[: len(content) * eighths // 8])


def without_last(number: int) -> Damage:
    """All but the last so many bytes."""
    return _rewritten(lambda content: content[:-number])


def flipped(place: float) -> Damage:
    """One bit turned over; ``place`` is a share of the file."""

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[int(place * (len(changed) - 1))] ^= 0x10
        return bytes(changed)

    return _rewritten(change)


def in_place_of(path: Path, folder: Path) -> None:
    """Put a folder where a file was."""
    path.unlink()
    shutil.copytree(folder, path)

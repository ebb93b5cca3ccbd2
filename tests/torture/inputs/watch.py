"""What a process opens, deletes and starts: Python's audit events, and the kernel's of a folder."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_READ = 0x001 | 0x020 | 0x010  # IN_ACCESS, IN_OPEN, IN_CLOSE_NOWRITE
_WRITE = 0x002 | 0x004 | 0x0C0 | 0x100 | 0x200 | 0x400 | 0x800  # modified, moved, made, deleted
_EVENT = struct.Struct("iIII")
# Events of sys.addaudithook that start something, reach out, or take something away.
_WATCHED = {
    "os.remove": "delete",
    "os.rmdir": "delete",
    "shutil.rmtree": "delete",
    "os.truncate": "write",
    "os.rename": "rename",
    "os.chmod": "write",
    "os.symlink": "write",
    "os.link": "write",
    "os.mkdir": "write",
    "os.system": "start",
    "os.exec": "start",
    "os.posix_spawn": "start",
    "subprocess.Popen": "start",
    "pty.spawn": "start",
    "socket.connect": "connect",
    "socket.getaddrinfo": "connect",
    "urllib.Request": "connect",
    "ctypes.dlopen": "library",
    "os.listdir": "read",
    "os.scandir": "read",
}


# posematch's own way to read MATLAB files, whose reader may crash.
_MATLAB_READER = ["-P", "-m", "posematch.data.matlab_process"]


def record_events(handle: int, harmless: Iterable[Path]) -> None:
    """Write a line of json for everything this process does to files and others from here on.

    Parameters
    ----------
    handle
        Open for writing.
    harmless
        What is read below these folders, the interpreter's own, is not written down.
    """
    system = tuple(f"{folder}/" for folder in harmless)

    def on_event(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            if not isinstance(path, str | bytes | os.PathLike):
                return  # a handle
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            kind = "write" if writes or any(one in (mode or "") for one in "wax+") else "read"
        elif event in _WATCHED:
            kind, path = _WATCHED[event], args[0] if args else None
            if kind in ("read", "delete") and isinstance(path, int):
                return
        else:
            return
        if event == "subprocess.Popen" and list(args[1])[1:4] == _MATLAB_READER:
            return
        if kind in ("start", "connect"):
            what = " ".join(str(one) for one in args[:2])
        else:
            what = os.path.realpath(os.fsdecode(path if path is not None else "."))
            if kind == "delete":  # of a link the link goes, not what it leads to
                named = Path(os.fsdecode(path))
                what = f"{os.path.realpath(named.parent)}/{named.name}"
            if kind in ("read", "library") and f"{what}/".startswith(system):
                return
        os.write(handle, (json.dumps([kind, event, what]) + "\n").encode())

    sys.addaudithook(on_event)


class FolderWatch:
    """The kernel's events in a folder and below it, also those of libraries written in C."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK)
        self._folders: dict[int, Path] = {}
        if folder.exists():
            for one in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
                number = self._libc.inotify_add_watch(
                    self._handle, os.fsencode(one), _READ | _WRITE
                )
                self._folders[number] = one

    def close(self) -> list[str]:
        """What was touched, in words."""
        touched: dict[str, None] = {}
        while True:
            try:
                events = os.read(self._handle, 65536)
            except BlockingIOError:
                break
            place = 0
            while place < len(events):
                number, mask, _, length = _EVENT.unpack_from(events, place)
                name = events[place + _EVENT.size :][:length].rstrip(b"\0")
                place += _EVENT.size + length
                how = "changed" if mask & _WRITE else "read"
                where = self._folders.get(number, Path("?")) / os.fsdecode(name)
                touched[f"{how} {where}"] = None
        os.close(self._handle)
        return list(touched)

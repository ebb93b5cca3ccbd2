"""Files that are whole or not there: the one way posematch writes, and the one lock.

Everything is written into a hidden partial file beside its place, forced to the disk and renamed:
whenever a process or the machine dies, the old file or the new one is there. A partial file is
locked while its writer lives, so that what a killed one left is known and swept away by the next.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is swept there
    fcntl = None  # type: ignore[assignment]

from posematch.errors import PosematchError

_SUFFIX = ".partial"
_OURS = re.compile(r"\..+\.[0-9a-f]{8}\.(partial|draft)")  # nothing else is ever swept
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what such a file system answers
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` once the block has ended well.

    Parameters
    ----------
    path
        Its folder is made if it is not there.

    Yields
    ------
    A file to write to and to seek in; a hidden one beside ``path``, on the same disk.

    Raises
    ------
    OSError
        The folder cannot be written, or the disk is full; then ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_partials(path.parent, path.name)
    partial, file = _new_partial(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal digits; OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write in one piece; errors as `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 in one piece; errors as `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def write_output(path: Path, content: bytes | str) -> Path:
    """Write a table, page or figure that the user asked for, in one piece; makes the folder.

    Raises
    ------
    PosematchError
        It cannot be written.
    """
    try:
        write_bytes(path, content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise PosematchError(
            f"{path} cannot be written ({error.strerror}); set output to another folder."
        ) from error
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write json in one piece; errors as `replacing`, and ValueError for NaN."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def link(file: Path, name: Path) -> None:
    """Give a file a second name, in one step; a copy where the file system has no links.

    What ``name`` was before is gone then; errors as `replacing`.
    """
    draft = name.with_name(f".{name.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        os.link(file, draft)
    except OSError:
        with file.open("rb") as source, replacing(name) as copy:
            shutil.copyfileobj(source, copy, 2**24)
        return
    draft.replace(name)
    draft.unlink(missing_ok=True)  # renaming onto the same file does nothing
    sync_folder(name.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep_partials(folder: Path, name: str = "*") -> None:
    """Remove what killed writers of a file (or of any file of the folder) have left."""
    if fcntl is None:
        return
    pattern = "*" if name == "*" else glob.escape(name)
    for partial in folder.glob(f".{pattern}.*{_SUFFIX}"):
        if not _OURS.fullmatch(partial.name):
            continue
        with contextlib.suppress(OSError), partial.open("rb") as file:
            if _lock(file):  # its writer is gone
                partial.unlink()


@contextlib.contextmanager
def drafting(place: Path) -> Iterator[Path]:
    """A hidden folder beside ``place`` to write in; `put` moves it there, else it goes.

    What killed writers of any folder beside it have left is swept away first; a draft whose writer
    lives is not touched.

    Raises
    ------
    OSError
        The folder above ``place`` cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep_partials(place.parent)
    sweep_drafts(place.parent)
    partial, file = _new_partial(place)  # its lock says that the draft's writer lives
    draft = partial.with_suffix(".draft")
    try:
        with file:
            draft.mkdir()
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        partial.unlink(missing_ok=True)


def put(draft: Path, place: Path) -> None:
    """Force a draft to the disk and move it to its place, which may be an empty folder.

    Raises
    ------
    OSError
        Something else is there, or the disk is full.
    """
    for written in draft.rglob("*"):
        handle = os.open(written, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    draft.replace(place)
    sync_folder(place.parent)


def set_aside(place: Path) -> Path:
    """Rename a folder to what `sweep_drafts` removes; processes that have it open keep it."""
    aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.draft")
    return place.replace(aside)


def sweep_drafts(folder: Path) -> None:
    """Remove the drafts in a folder whose writers are gone."""
    if fcntl is None:
        return
    for draft in folder.glob(".*.draft"):
        if not _OURS.fullmatch(draft.name) or draft.is_symlink() or not draft.is_dir():
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):  # then the writer is gone, too
                if not _lock(stack.enter_context(draft.with_suffix(_SUFFIX).open("rb"))):
                    continue
            shutil.rmtree(draft, ignore_errors=True)
            draft.with_suffix(_SUFFIX).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[IO[bytes]]:
    """Hold a lock file; it is gone afterwards, and that of a killed holder is taken over.

    Who finds that the file was removed under it asks again for the one that is there now: so it
    can be removed, which filelock leaves undone.

    Parameters
    ----------
    path
        Its folder is there.
    waiting
        Called several times a second while another process holds it; may raise.

    Yields
    ------
    The file, for a note of who holds it. On a file system without locks nobody is kept out.

    Raises
    ------
    OSError
        The file cannot be made.
    """
    while (file := _try_lock(path)) is None:
        if waiting is not None:
            waiting()
        time.sleep(_POLL_SECONDS)
    with file:
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file at this moment."""
    if not path.exists():
        return False
    file = _try_lock(path)
    if file is None:
        return path.exists()
    file.close()
    return False


def remove_free_lock(path: Path) -> None:
    """Remove a lock file that nobody holds, as a killed holder leaves it."""
    with contextlib.suppress(OSError):
        file = _try_lock(path)
        if file is not None:
            with file:
                path.unlink()


def remove_unless_held(folder: Path, lock: str) -> None:
    """Remove a folder whose lock file of that name is there and surely free, holding it meanwhile.

    On a file system without locks, where nobody can tell, it stays.
    """
    with contextlib.suppress(OSError):
        if (folder / lock).exists() and (file := _try_lock(folder / lock, surely=True)) is not None:
            with file:
                shutil.rmtree(folder, ignore_errors=True)


def _try_lock(path: Path, surely: bool = False) -> IO[bytes] | None:
    """The locked file; None where another process holds it or has just removed it.

    ``surely``: None, too, on a file system without locks.
    """
    file = path.open("ab+")
    try:
        if not _lock(file) and surely:
            file.close()
            return None
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def below(root: Path, name: str, where: str) -> Path:
    """The path that ``name`` means below ``root``, links followed.

    Parameters
    ----------
    root
        A folder that the user named.
    name
        A relative path, from a file that nobody vouches for.
    where
        What names it, for the message.

    Raises
    ------
    PosematchError
        It leads out of the folder.
    """
    path = root / name
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL byte
        inside = False
    if not inside or Path(name).is_absolute():
        raise PosematchError(
            f"{where} names {name!r}, which lies outside {root}; only files below that folder are"
            " opened."
        )
    return path


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file; False on a file system, or a system, without locks.

    Raises
    ------
    BlockingIOError
        Another process holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return False
    return True


def _new_partial(path: Path) -> tuple[Path, IO[bytes]]:
    """A locked, empty file of a name of its own; made again where a sweep met it unlocked."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
        file = partial.open("xb+")
        try:
            _lock(file)
            if os.fstat(file.fileno()).st_nlink:
                return partial, file
        except BlockingIOError:  # a sweep looks at it, and will remove it
            pass
        except BaseException:
            file.close()
            raise
        file.close()

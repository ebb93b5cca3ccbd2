"""Strangers' archives, unpacked: no path leaves the folder, no links, no more than was told."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from tqdm import tqdm

from posematch.data.preparing.fetching import check_room
from posematch.errors import PosematchError
from posematch.untrusted import MIB, open_file

_PIECE = MIB
MOST_MEMBERS = 1_000_000  # COCO's largest has 120 thousand
_MOST_HEADER = MIB  # of a tar, which tarfile reads in one piece
# Photos do not shrink, json by a factor of ten at most. Small archives may: they do no harm.
_MOST_RATIO = 50
_SMALL_BYTES = 16 * MIB
_MOST_ARCHIVE = 200 * 1024 * MIB


class BadArchiveError(PosematchError):
    """The archive itself is at fault, not the disk it is unpacked to."""


@dataclass(frozen=True)
class _Member:
    """A file of an archive: its name, its size by the metadata, and how it is opened."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, wanted: Callable[[str], str | None]) -> tuple[int, int]:
    """Unpack what is wanted of a zip or a tar (packed by gzip or not).

    Parameters
    ----------
    archive
        May be anything.
    folder
        A draft: what is in it is worth nothing if this ends badly.
    wanted
        Takes a member's path with ``/``; gives the path below ``folder``, or None for what is left
        out.

    Returns
    -------
    Files and bytes that were unpacked.

    Raises
    ------
    BadArchiveError
        It is none or damaged; a member (also one that is not wanted) is a link or a device, leads
        out of the folder, or comes twice; it unpacks to much more than itself.
    PosematchError
        There is no such file, or no room for what is in it.
    OSError
        The disk is full, or may not be written.
    """
    files = total = 0
    with open_file(archive, _MOST_ARCHIVE, "an archive") as content:
        size = archive.stat().st_size
        try:
            for member in _members(content, archive, size, folder):
                inside = wanted(member.name)
                if inside is None:
                    continue
                place = folder / inside
                place.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, place.open("xb") as file:
                    shutil.copyfileobj(source, file, _PIECE)
                if place.stat().st_size != member.size:
                    raise EOFError("a member is shorter than it says")
                files, total = files + 1, total + member.size
        except (FileExistsError, NotADirectoryError) as error:
            raise _refused(archive, f"it has {Path(error.filename).name!r} twice") from None
        # What the libraries raise about damaged archives.
        except (
            zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError,
            RuntimeError, ValueError, UnicodeError,
        ) as error:  # fmt: skip
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise _refused(archive, f"it is no archive that is read, or damaged ({reason})") from (
                error
            )
        except OSError as error:
            if error.errno is not None:
                raise
            # gzip's own, of a file that is none or has a wrong checksum.
            raise _refused(archive, f"it is damaged ({error})") from error
    return files, total


def _members(content: IO[bytes], archive: Path, size: int, folder: Path) -> Iterator[_Member]:
    """Every file of the archive, looked at before it is opened."""
    if zipfile.is_zipfile(content):
        yield from _of_zip(content, archive, size, folder)
    else:
        yield from _of_tar(content, archive, folder)


def _of_zip(content: IO[bytes], archive: Path, size: int, folder: Path) -> Iterator[_Member]:
    """All of a zip's metadata is looked at before the first member is given."""
    with zipfile.ZipFile(content) as packed:
        entries = [one for one in packed.infolist() if not one.is_dir()]
        _check_count(archive, len(entries))
        for one in entries:
            kind = stat.S_IFMT(one.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refused(archive, f"{one.filename!r} in it is a link or no ordinary file")
            _check_name(archive, one.filename)
        unpacked = sum(one.file_size for one in entries)
        _check_ratio(archive, unpacked, size)
        check_room(folder, unpacked, f"Unpacking {archive.name}")
        for one in tqdm(entries, archive.name, unit="file", disable=None):
            # At most file_size bytes are read of a member, whatever is packed there.
            yield _Member(one.filename, one.file_size, partial(packed.open, one))


def _of_tar(content: IO[bytes], archive: Path, folder: Path) -> Iterator[_Member]:
    """A tar has no list of its members: each is looked at where it comes, in one pass."""
    import gzip

    content.seek(0)
    is_packed = content.read(2) == b"\x1f\x8b"
    content.seek(0)
    plain = gzip.GzipFile(fileobj=content) if is_packed else content
    unpacked = count = 0
    careful = cast(IO[bytes], _Careful(plain, content, archive))
    with tarfile.open(fileobj=careful, mode="r:") as tar:
        bar = tqdm(desc=archive.name, unit="file", disable=None)
        with bar:
            while (one := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if one.isdir():
                    _check_name(archive, one.name)
                    continue
                if not one.isreg() or one.issparse():
                    raise _refused(archive, f"{one.name!r} in it is a link or no ordinary file")
                _check_name(archive, one.name)
                unpacked, count = unpacked + one.size, count + 1
                _check_count(archive, count)
                check_room(folder, one.size, f"Unpacking {archive.name}")
                yield _Member(one.name, one.size, partial(_content, tar, one))
                bar.update()
    if not count:
        raise tarfile.ReadError("it has no files")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None, "not a regular file"
    return content


class _Careful:
    """A tar's bytes: no piece is larger than a header may be, and no more come than are plausible.

    tarfile reads headers that tell their own size in one piece.
    """

    def __init__(self, plain: Any, packed: IO[bytes], archive: Path) -> None:
        self._plain, self._packed, self._archive = plain, packed, archive

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise _refused(self._archive, f"a header in it claims {size} bytes")
        found: bytes = self._plain.read(size)
        self._look()
        return found

    def seek(self, place: int) -> int:
        # gzip goes forward by reading.
        while self._plain is not self._packed and (here := self._plain.tell()) < place:
            if not self._plain.read(min(_PIECE, place - here)):
                break
            self._look()
        return int(self._plain.seek(place))

    def tell(self) -> int:
        return int(self._plain.tell())

    def _look(self) -> None:
        if self._plain is not self._packed:
            _check_ratio(self._archive, self._plain.tell(), self._packed.tell())


def _check_name(archive: Path, name: str) -> None:
    """Refuse a name that could mean another place than one below the folder, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in name or not path.parts:
        raise _refused(archive, f"{name!r} in it would lie outside of its folder")


def _check_count(archive: Path, count: int) -> None:
    if count > MOST_MEMBERS:
        raise _refused(archive, f"it has more than {MOST_MEMBERS} files")


def _check_ratio(archive: Path, unpacked: int, packed: int) -> None:
    if unpacked > _SMALL_BYTES and unpacked > _MOST_RATIO * packed:
        raise _refused(
            archive,
            f"it unpacks to more than {_MOST_RATIO} times its own size, which no data set does",
        )


def _refused(archive: Path, why: str) -> BadArchiveError:
    return BadArchiveError(f"{archive} was not unpacked: {why}; get the archive again.")

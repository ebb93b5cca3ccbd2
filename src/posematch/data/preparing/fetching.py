"""One file from an address: resumed where the server can, whole or not there at the end.

Pooch, which would be the library for it, starts a broken download from the beginning; COCO's
photos are 19 GB.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from posematch.errors import PosematchError
from posematch.files import sha256_of, sync_folder, write_json
from posematch.untrusted import MIB, read_json

_PIECE = MIB
_LEAST_BYTES_A_SECOND = 1024  # below it, over the whole of a silence, a server counts as silent
_SPARE = 64 * MIB  # of the disk, left free
_MOST_WAIT_SECONDS = 60.0
# What a server says that may be otherwise a little later.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
# What the archives that are read begin with: zip, an empty zip, gzip, and (further in) tar.
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b")
_TAR_AT = 257
_HEAD = 512  # bytes that tell it


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes
    ----------
    silence_seconds
        To connect, and without (nearly) any byte, until the connection counts as broken.
    retries
        Attempts in a row that bring no byte before the download ends; each byte starts them anew.
    wait_seconds
        Before the second attempt; twice as long before each further one, at most a minute.
    """

    silence_seconds: float = 30.0
    retries: int = 5
    wait_seconds: float = 1.0


@dataclass(frozen=True)
class Wanted:
    """What an address must answer with.

    Attributes
    ----------
    archive
        A zip or tar; else whatever it is.
    most_bytes
        Larger files are not downloaded.
    otherwise
        How the user may do without the download, for messages.
    """

    archive: bool = True
    most_bytes: int = 2**50
    otherwise: str = "say source=FILE of what you have"


ARCHIVE = Wanted()


@dataclass(frozen=True)
class _Told:
    """What is kept beside a partial file: whose it is, so that no two files are put together."""

    address: str
    total: int | None
    tag: str | None

    @classmethod
    def read(cls, file: Path) -> _Told | None:
        with contextlib.suppress(PosematchError, TypeError):
            return cls(**read_json(file))
        return None


class _BrokenError(Exception):
    """An attempt that another may follow; the text says what was wrong with it."""


class _UnwantedError(_BrokenError):
    """The same, and what is there of the file is worth nothing."""


def fetch(
    address: str,
    place: Path,
    patience: Patience,
    sha256: str | None = None,
    room: Callable[[int], int] = lambda total: total,
    wanted: Wanted = ARCHIVE,
) -> str:
    """Download a file to its place.

    What is there of it is kept in ``NAME.part`` beside the place until it is whole, also when the
    process is killed, and the next call goes on there.

    Parameters
    ----------
    address
        ``http://`` or ``https://``.
    place
        Where the file gets; its folder is there.
    patience
        Time limits.
    sha256
        That the file must have; None: any.
    room
        Bytes that have to be free for an archive of so many bytes and what follows; asked before
        the download begins.
    wanted
        What it must be.

    Returns
    -------
    The file's sha256.

    Raises
    ------
    PosematchError
        There is no such file, no network, no room, no end, another file than demanded, or not
        what is wanted.
    OSError
        The disk is full, or may not be written.
    """
    partial, notes = place.with_name(f"{place.name}.part"), place.with_name(f"{place.name}.told")
    try:
        _repeat(address, partial, notes, patience, room, wanted)
    finally:
        if not _size(partial):
            _forget(partial, notes)
    found = sha256_of(partial)
    if sha256 is not None and found != sha256.lower():
        _forget(partial, notes)
        raise PosematchError(
            f"{address} has the sha256 {found}, not {sha256.lower()} as demanded; it was not kept:"
            " ask for the right file, or check sha256."
        )
    partial.replace(place)
    notes.unlink(missing_ok=True)
    sync_folder(place.parent)
    return found


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise a sentence unless so many bytes, and a little more, are free."""
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise PosematchError(
            f"{what} needs {(needed + _SPARE) / MIB:.0f} MiB, and {folder} has {free / MIB:.0f} MiB"
            " free; free some space or set root to another disk."
        )


def is_archive(first: bytes) -> bool:
    """Whether a file that begins so is a zip or a tar, packed or not."""
    return first.startswith(_ARCHIVES) or first[_TAR_AT : _TAR_AT + 5] == b"ustar"


def _repeat(
    address: str,
    partial: Path,
    notes: Path,
    patience: Patience,
    room: Callable[[int], int],
    wanted: Wanted,
) -> None:
    """Attempts until the partial file is whole; errors as `fetch`."""
    with requests.Session() as session:
        failed, most, wait = 0, _size(partial), patience.wait_seconds
        while True:
            try:
                _attempt(session, address, partial, notes, patience, room, wanted)
                return
            except _UnwantedError as error:
                _forget(partial, notes)
                reason = str(error)
            except (_BrokenError, requests.RequestException, urllib3.exceptions.HTTPError) as error:
                _refuse_for_good(error, address, wanted)
                reason = _reason(error)
            failed += 1
            # More than ever before: a server that begins anew each time does not count as one that
            # gets on.
            if _size(partial) > most:
                failed, most, wait = 1, _size(partial), patience.wait_seconds
            if failed > patience.retries:
                raise PosematchError(_gave_up(address, reason, failed, _size(partial), wanted))
            time.sleep(wait)
            wait = min(2 * wait, _MOST_WAIT_SECONDS)


def _attempt(
    session: requests.Session,
    address: str,
    partial: Path,
    notes: Path,
    patience: Patience,
    room: Callable[[int], int],
    wanted: Wanted,
) -> None:
    """Get what is missing of the partial file; ends well only if all of it is there."""
    have, told = _size(partial), _Told.read(notes)
    if have and (told is None or told.address != address):
        _forget(partial, notes)
        have, told = 0, None
    if told is not None and have and have == told.total:
        return
    headers = {"Accept-Encoding": "identity"}  # the file itself is packed, and has a length
    if have and told is not None:
        headers["Range"] = f"bytes={have}-"
        if told.tag:
            headers["If-Range"] = told.tag
    limits = (patience.silence_seconds, patience.silence_seconds)
    with session.get(address, headers=headers, stream=True, timeout=limits) as answer:
        begin, total = _begin(answer, have, told, wanted)
        pieces = _pieces(answer, patience.silence_seconds)
        check_room(partial.parent, room(total or 0) - begin, address)
        if begin == 0:
            head = _head(pieces)
            if wanted.archive and not is_archive(head) and (len(head) >= _HEAD or _is_text(head)):
                raise PosematchError(
                    f"{address} is no archive: it answers with"
                    f" {answer.headers.get('Content-Type', 'something else')!r}; check the address,"
                    " or a proxy that answers for it."
                )
            # Not before it is known that something better comes.
            partial.unlink(missing_ok=True)
            # Only a tag that says "the same bytes" can be resumed by; weak ones do not.
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            tag = None if tag is None or tag.startswith("W/") else tag
            write_json(notes, asdict(_Told(address, total, tag)))
            pieces = itertools.chain((head,), pieces)
        with partial.open("ab") as file:
            bar = tqdm(
                initial=begin, total=total, desc=partial.stem, unit="B", unit_scale=True,
                disable=None,
            )  # fmt: skip
            with bar:
                for piece in pieces:
                    if file.tell() + len(piece) > wanted.most_bytes:
                        raise _too_large(address, wanted)
                    file.write(piece)
                    file.flush()  # or a kill would take the last of it
                    bar.update(len(piece))
            os.fsync(file.fileno())
    have = _size(partial)
    if total is not None and have < total:
        raise _BrokenError(f"the connection ended after {have} of {total} bytes")
    if total is not None and have > total:
        raise _UnwantedError(f"it has more than the {total} bytes that it told")
    if have == 0:
        raise _BrokenError("it is empty")


def _begin(
    answer: requests.Response, have: int, told: _Told | None, wanted: Wanted
) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the file's size if it is told."""
    code = answer.status_code
    if code in _PASSING:
        raise _BrokenError(f"the server answers {code} {answer.reason}".rstrip())
    if code == 416:
        raise _UnwantedError("the server has fewer bytes than are here already")
    if code == 206:
        part = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if part is None or int(part[1]) != have:
            raise _UnwantedError("the server resumes at another place than was asked for")
        total = int(part[3])
        if told is not None and told.total not in (None, total):
            raise _UnwantedError("the file has changed at its server")
        return have, total
    if code != 200:
        raise PosematchError(
            f"{answer.url} cannot be downloaded: the server answers {code} {answer.reason}; check"
            f" the address, or {wanted.otherwise}."
        )
    length = answer.headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
    if size is not None and size > wanted.most_bytes:
        raise _too_large(answer.url, wanted)
    return 0, size


def _too_large(address: str, wanted: Wanted) -> PosematchError:
    return PosematchError(
        f"{address} has more than the {wanted.most_bytes / 2**20:.0f} MiB that such a file may"
        " have; check the address."
    )


def _pieces(answer: requests.Response, silence_seconds: float) -> Iterator[bytes]:
    """The body as it comes; ends also where the connection is cut off.

    A server that sends a byte now and then does not count as one that sends.
    """
    window, arrived = time.monotonic(), 0
    while True:
        piece: bytes = answer.raw.read1(_PIECE)
        if not piece:
            return
        yield piece
        arrived += len(piece)
        passed = time.monotonic() - window
        if passed > silence_seconds:
            if arrived < _LEAST_BYTES_A_SECOND * passed:
                raise _BrokenError(f"only {arrived} bytes came in {passed:.0f} seconds")
            window, arrived = time.monotonic(), 0


def _head(pieces: Iterator[bytes]) -> bytes:
    """As much as tells what a file is; less where it ends before that."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _HEAD:
            break
    return head


def _is_text(head: bytes) -> bool:
    """Whether a short answer is a page, or a message."""
    return bool(head) and b"\0" not in head


def _gave_up(address: str, reason: str, attempts: int, kept: int, wanted: Wanted) -> str:
    goes_on = (
        f"{kept} bytes are kept, and the same command goes on from there"
        if kept
        else "check the network"
    )
    return (
        f"{address} was not downloaded: {reason} ({attempts} attempts in a row); {goes_on}, or"
        f" {wanted.otherwise}."
    )


def _refuse_for_good(error: Exception, address: str, wanted: Wanted) -> None:
    """Raise the sentence of what no further attempt would mend."""
    match error:
        case requests.TooManyRedirects():
            reason = "its redirects lead in a circle"
        case requests.exceptions.SSLError():
            reason = "its certificate is not accepted"
        case (
            requests.exceptions.InvalidURL()
            | requests.exceptions.InvalidSchema()
            | requests.exceptions.MissingSchema()
        ):
            reason = "that is no address of http or https"
        case _:
            return
    raise PosematchError(
        f"{address} cannot be downloaded: {reason}; check the address, or {wanted.otherwise}."
    ) from None


def _reason(error: Exception) -> str:
    match error:
        case _BrokenError():
            return str(error)
        case requests.ConnectTimeout():
            return "the server does not answer"
        case requests.Timeout() | urllib3.exceptions.TimeoutError():
            return "the server has fallen silent"
        case requests.ConnectionError() if "timed out" in str(error).lower():
            return "the server has fallen silent"
        case requests.ConnectionError() if "resolve" in str(error):
            return "its name is not known, so there may be no network"
        case requests.ConnectionError() | urllib3.exceptions.HTTPError():
            return "the connection failed or was cut off"
    return type(error).__name__


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _forget(partial: Path, notes: Path) -> None:
    partial.unlink(missing_ok=True)
    notes.unlink(missing_ok=True)

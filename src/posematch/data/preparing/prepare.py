"""A data set's folder: what is there, what is missing, and how the missing gets there.

An archive is downloaded beside its place, unpacked into a draft, and each file or folder of it is
moved to its place in one step: whenever the process or the machine dies, what is in the folder is
whole, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posematch.console import say, tell
from posematch.data.preparing import lspet, mpii_release
from posematch.data.preparing.data_sets import DATA_SETS, DataSet, Item, Part
from posematch.data.preparing.fetching import Patience, check_room, fetch
from posematch.data.preparing.unpacking import BadArchiveError, unpack
from posematch.errors import PosematchError
from posematch.files import drafting, locked, sha256_of, sync_folder, write_json, write_text
from posematch.untrusted import LARGE_BYTES, read_json

RECORD = "prepare.json"
_LOCK = ".prepare.lock"
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Request:
    """What is to be prepared, and how.

    Attributes
    ----------
    what
        Of `DATA_SETS`.
    root
        Its folder.
    parts
        Names of the archives that may be downloaded; None: all.
    source
        An archive, or the folder or address of the archives; None: the data sets' own sites.
    sha256
        That the one archive must have.
    keep_archives
        After they are unpacked.
    patience
        With servers.
    """

    what: str
    root: Path
    parts: Sequence[str] | None = None
    source: str | None = None
    sha256: str | None = None
    keep_archives: bool = False
    patience: Patience = field(default_factory=Patience)

    @property
    def data_set(self) -> DataSet:
        return DATA_SETS[self.what]


def show(request: Request) -> list[str]:
    """What is in the root, a line for each file and folder that the data set's reader reads."""
    lines = [f"{request.what} in {request.root}:"]
    for item in request.data_set.items:
        lines.append(f"  {item.place:46} {_state(request, item)}")
    return lines


def prepare(request: Request) -> None:
    """Get and make what is missing; tells what it does.

    Raises
    ------
    PosematchError
        Something cannot be had, or is not what it should be; what is in the root is whole.
    """
    _check(request)
    root, was_there = request.root, request.root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / _LOCK, waiting=lambda: _refuse_second(root)):
            _prepare(request)
    except BrokenPipeError:
        raise  # whoever read what is told has gone
    except OSError as error:
        raise PosematchError(
            f"{error.filename or root} cannot be written ({error.strerror}); free some space, or"
            " set root to another folder."
        ) from error
    finally:
        if not was_there:
            with contextlib.suppress(OSError):
                root.rmdir()  # only if nothing is in it


def _check(request: Request) -> None:
    """Raise a sentence about what the request gets wrong by itself."""
    names = [part.name for part in request.data_set.parts]
    for name in request.parts or ():
        if name not in names:
            raise PosematchError(
                f"parts={name} must be of {', '.join(names)}, the archives of {request.what}."
            )
    _single_archive(request.source)
    if request.root.exists() and not request.root.is_dir():
        raise PosematchError(f"root={request.root} is no folder.")
    before = _record(request.root).get("what", request.what)
    if before != request.what:
        raise PosematchError(
            f"{request.root} has been prepared for {before}; set root to another folder."
        )


def _prepare(request: Request) -> None:
    needed = _needed(request)
    chosen = [part for part in needed if request.parts is None or part.name in request.parts]
    one = _single_archive(request.source)
    if one is not None:
        chosen = _meant(request, one, chosen)
    if request.sha256 is not None and len(chosen) > 1:
        raise PosematchError(
            f"sha256 is of one archive, and {len(chosen)} are missing; name one by"
            f" parts=[{chosen[0].name}]."
        )
    for part in chosen:
        _get(request, part)
    _make(request)


def _state(request: Request, item: Item) -> str:
    path = request.root / item.place
    if not _is_there(path):
        if item.part is None:
            return f"missing: {item.by_hand}"
        if _source_of(request, item) is not None:
            return "missing; is made of what is there"
        return f"missing; is in {_part(request, item.part).archive}"
    if not path.is_dir():
        return "there"
    with os.scandir(path) as entries:
        names = {entry.name for entry in entries}
    listed = {name for file in item.lists for name in _listed(request.root / file)}
    lacking = sorted(name for name in listed if name not in names)
    if not lacking:
        return f"there: {len(names)} files"
    return (
        f"incomplete: {len(lacking)} of {len(listed)} listed photos are missing, the first is"
        f" {lacking[0]}; move the folder away, and it is made anew"
    )


def _listed(file: Path) -> list[str]:
    """Names of the photos that a json file of COCO's or HRNet's layout names."""
    if not file.is_file():
        return []
    try:
        content = read_json(file, LARGE_BYTES)
    except PosematchError:
        return []  # its reader tells
    rows, key = (content, "image") if isinstance(content, list) else (None, "file_name")
    if isinstance(content, dict):
        rows = content.get("images")
    rows = rows if isinstance(rows, list) else []
    return [str(row[key]) for row in rows if isinstance(row, dict) and key in row]


def _is_there(path: Path) -> bool:
    """An empty folder is nothing."""
    if path.is_dir():
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    return os.path.lexists(path)


def _source_of(request: Request, item: Item) -> Path | None:
    """The file that an item is made of, if it is there."""
    paths = (request.root / place for place in item.made_from)
    return next((path for path in paths if path.is_file()), None)


def _part(request: Request, name: str) -> Part:
    return next(part for part in request.data_set.parts if part.name == name)


def _needed(request: Request) -> list[Part]:
    """Archives that something missing is in."""
    names = {item.part for item in _lacking(request)}
    return [part for part in request.data_set.parts if part.name in names]


def _lacking(request: Request) -> list[Item]:
    """What is not there, nor what it is made of."""
    return [
        item
        for item in request.data_set.items
        if not _is_there(request.root / item.place) and _source_of(request, item) is None
    ]


# --- from an archive to its places ---


def _single_archive(source: str | None) -> str | None:
    """The file name of ``source`` if it is an archive itself."""
    if source is None:
        return None
    if _is_address(source):
        name = urlsplit(source).path.rpartition("/")[2]
        return name if name.lower().endswith(_SUFFIXES) else None
    path = Path(source).expanduser()
    if not path.exists():
        raise PosematchError(
            f"source={source} does not exist; name an archive, or the folder or address (http, "
            "https) where the archives are."
        )
    return None if path.is_dir() else path.name


def _is_address(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _public(address: str) -> str:
    """An address without what may be secret in it: a user's name and word, a signature."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _meant(request: Request, archive: str, chosen: Sequence[Part]) -> list[Part]:
    """The part that a single archive is: by its name, else the only one that is asked for."""
    named = [part for part in request.data_set.parts if part.archive == archive]
    if named:
        return [part for part in named if part in chosen]
    if len(chosen) > 1:
        names = " or ".join(f"parts=[{part.name}]" for part in chosen)
        raise PosematchError(
            f"source={request.source} is one archive, and {len(chosen)} are missing: say which one"
            f" it is by {names}."
        )
    return list(chosen)


def _get(request: Request, part: Part) -> None:
    """Download and unpack one archive, and record what it was."""
    root = request.root
    before = _record(root).get("archives", {}).get(part.name, {})
    archive, sha256, address = _archive(request, part)
    say(f"{archive.name}: sha256 {sha256}")
    if before.get("sha256") not in (None, sha256):
        seen = before["sha256"]
        tell(f"{archive.name} was another file at an earlier call: sha256 {seen}.")
    # Of an earlier call that was stopped before it unpacked, or of this one; not the user's own.
    ours = address is not None or (
        archive == root / part.archive
        and before.get("downloaded") is True
        and before.get("sha256") == sha256
    )
    noted = {
        "file": archive.name,
        "source": _public(address) if address else before["source"] if ours else str(archive),
        "downloaded": ours,
        "sha256": sha256,
        "bytes": archive.stat().st_size,
    }
    _note(request, "archives", part.name, noted)
    items = [item for item in _lacking(request) if item.part == part.name]
    missing = [place for item in items for place in (item.place, *item.made_from)]

    def wanted(member: str) -> str | None:
        place = part.takes(member)
        if place is None:
            return None
        top = next((one for one in missing if place == one or place.startswith(f"{one}/")), None)
        return place if top is not None and not _is_there(root / top) else None

    try:
        with drafting(root / part.name) as draft:
            files, unpacked = unpack(archive, draft, wanted)
            places = [one for one in dict.fromkeys(missing) if (draft / one).exists()]
            for item in items:
                if not {item.place, *item.made_from} & set(places):
                    raise BadArchiveError(
                        f"{archive} has nothing for {item.place} in it; is it the right archive"
                        f" of {request.what}?"
                    )
            _put(draft, root, places)
    except BadArchiveError:
        if ours:
            archive.unlink()  # it would be in the way of a better one
        raise
    _note(request, "archives", part.name, noted | {"files": files, "unpacked_bytes": unpacked})
    if ours and not request.keep_archives:
        archive.unlink()


def _archive(request: Request, part: Part) -> tuple[Path, str, str | None]:
    """Where the archive is, its sha256, and the address if it was downloaded now."""
    source = request.source
    place = request.root / part.archive
    if source is not None and not _is_address(source):
        path = Path(source).expanduser()
        place = path / part.archive if path.is_dir() else path
        if not place.is_file():
            raise PosematchError(
                f"{place} does not exist: source={source} is a folder in which {part.archive} is"
                f" looked for; put it there, or leave it out by parts=[...]."
            )
    if place.is_file():
        found = sha256_of(place)
        if request.sha256 is not None and found != request.sha256.lower():
            raise PosematchError(
                f"{place} has the sha256 {found}, not {request.sha256.lower()} as demanded; get the"
                " file again, or check sha256."
            )
        return place, found, None
    address = part.address if source is None else source
    if source is not None and _single_archive(source) is None:
        address = f"{source.rstrip('/')}/{part.archive}"
    say(f"{part.archive} from {address}")
    found = fetch(
        address,
        place,
        request.patience,
        request.sha256,
        room=lambda total: int((1 + part.growth) * total),
    )
    return place, found, address


def _put(draft: Path, root: Path, places: Sequence[str]) -> None:
    """Move what was unpacked to its places, each in one step, once all of it is on the disk."""
    if hasattr(os, "sync"):
        os.sync()  # a hundred thousand photos, one by one, would take longer than unpacking them
    for place in places:
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        (draft / place).replace(target)
        sync_folder(target.parent)


# --- what the readers read, of what the sites have ---


def _make(request: Request) -> None:
    match request.what:
        case "mpii":
            _make_mpii(request)
        case "lspet":
            _make_lspet(request)


def _make_mpii(request: Request) -> None:
    """``annot/train.json`` of MPII's release, without the photos of a ``valid.json``."""
    root = request.root
    item = next(one for one in request.data_set.items if one.made_from)
    place, mat_file = root / item.place, _source_of(request, item)
    if mat_file is None:
        return
    valid = root / "annot" / "valid.json"
    held_out = sha256_of(valid) if valid.is_file() else None
    if _is_there(place):
        made = _record(root).get("made", {}).get(item.place, {})
        if made.get("without") == held_out or made.get("sha256") != sha256_of(place):
            return  # up to date, or somebody else's
        say(f"{item.place} is made anew, without the people of valid.json's photos")
    people = mpii_release.read_release(mat_file, frozenset(_listed(valid)))
    _write(request, item.place, people.rows, people.told(), without=held_out)


def _make_lspet(request: Request) -> None:
    root = request.root
    missing = [item for item in request.data_set.items
               if item.made_from and not _is_there(root / item.place)]  # fmt: skip
    mat_file = _source_of(request, missing[0]) if missing else None
    if mat_file is None or not _is_there(root / "photos"):
        return
    with os.scandir(root / "photos") as entries:
        photos = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
    splits = lspet.convert(mat_file, photos)
    for item in missing:
        split = splits[item.place.removesuffix(".json")]
        _write(request, item.place, split.content, split.told())


def _write(request: Request, place: str, content: Any, told: str, **noted: Any) -> None:
    """Write a json file in one step, and record that it is ours."""
    root, file = request.root, request.root / place
    text = json.dumps(content, allow_nan=False)
    check_room(root, len(text), f"Writing {file}")
    write_text(file, text)
    _note(request, "made", place, {"sha256": sha256_of(file), **noted})
    say(f"{place}: {told}")


def _note(request: Request, kind: str, name: str, noted: dict[str, Any]) -> None:
    """Add to the record of the root."""
    record = _record(request.root) | {"what": request.what}
    record.setdefault(kind, {})[name] = noted
    write_json(request.root / RECORD, record)


def _record(root: Path) -> dict[str, Any]:
    """What earlier calls have noted; nothing where there is no such file, or none that is read."""
    file = root / RECORD
    if not file.is_file():
        return {}
    found = read_json(file)
    parts = (found.get("archives", {}), found.get("made", {})) if isinstance(found, dict) else ()
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise PosematchError(f"{file} is not what prepare_data writes; remove it.")
    return dict(found)


def _refuse_second(root: Path) -> None:
    raise PosematchError(f"Another prepare_data works in {root} at this moment; wait for it.")

"""``posematch predict``: find what is to be looked at, read, compute and write, all at once."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import torch

from posematch.errors import PosematchError
from posematch.files import is_locked, locked, sha256_of
from posematch.inference import outputs
from posematch.inference.boxes import BoxFinder, GivenBoxes, WholePicture
from posematch.inference.detector import TorchvisionDetector
from posematch.inference.journal import LOCK, Journal
from posematch.inference.reading import Read, Reader
from posematch.inference.sources import Source, Sources, find_sources
from posematch.inference.videos import VideoFile
from posematch.inference.wanted import Wanted
from posematch.loading import load
from posematch.model import PoseModel
from posematch.prediction import Poses, Request, estimated
from posematch.runs.stored_config import checkpoint_file

_BATCH = {"cpu": 16, "cuda": 128}
# Parts are written when either is reached: what a kill costs.
_PART_ROWS, _PART_SECONDS = 4096, 10.0
Progress = Callable[[int, int], None]  # pictures and people that are done


@dataclass(frozen=True)
class Done:
    """What a prediction came to.

    Attributes
    ----------
    pictures, people
        That are in the tables.
    looked_at
        People who passed the network this time.
    seconds
        That this took.
    unreadable
        Sentences about inputs that could not be read, or not be drawn on.
    read
        Inputs that could be.
    written
        Below the output.
    """

    pictures: int
    people: int
    looked_at: int
    seconds: float
    unreadable: list[str]
    read: int
    written: list[Path]


def predict(it: Wanted, progress: Callable[[str, int], Any], told: Callable[[str], None]) -> Done:
    """Predict, and write.

    Parameters
    ----------
    it
        What is wanted.
    progress
        Given what is done and how many pictures there are, a context whose value is called with
        pictures and people as they are done.
    told
        Called with sentences about how it begins.

    Raises
    ------
    PosematchError
        Nothing is there to be looked at, boxes that cannot be read, a checkpoint that cannot be
        loaded, or an output that belongs to something else.
    """
    output = Path(it.output).expanduser()
    found = find_sources(it.input, output)
    device = chosen_device(it.device)
    finder = _finder(it, device, found.sources)
    model = load(it.checkpoint, it.trust)  # before the output is touched
    if it.flip_test is not None:
        model.flip_test = it.flip_test
    model.to(device)
    settings = _settings(it, model)
    with _alone_in(output):
        journal = Journal(output, settings)
        left, first_frames = _left(found, journal, output if it.draw else None)
        if found.passed_over:
            kinds = ", ".join(f"{ending} {n}" for ending, n in sorted(found.passed_over.items()))
            told(f"Passed over, neither photos nor videos by their endings: {kinds}.")
        if len(left) < len(found.sources):
            done = len(found.sources) - len(left)
            told(f"{done} of {len(found.sources)} inputs are done already, and kept.")
        began = time.monotonic()
        task = _Task(it, model, output, journal, found.drawn)
        with progress("predict", _pictures(left, first_frames)) as tick:
            reader = Reader(model, finder, it.draw, _cores())
            task.run(reader.read(left, first_frames), finder, tick)
        seconds = time.monotonic() - began
        rows = journal.read(found.sources)
        fresh = {one.name for one in left}
        written = _write(it, model, output, found, rows, fresh, progress)
        unreadable = outputs.write_unreadable(output, rows) + task.not_drawn
    return Done(
        len(rows[rows["width"].notna()].drop_duplicates(["input", "frame"])),
        int(rows["person"].notna().sum()),
        task.people,
        seconds,
        unreadable,
        rows.loc[rows["width"].notna(), "input"].nunique(),
        written,
    )


def chosen_device(named: str) -> torch.device:
    """The device that ``device=`` names; ``auto``: a GPU if there is one.

    Raises
    ------
    PosematchError
        There is no such device.
    """
    if named == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(named)
        torch.empty(0, device=device)
    # PyTorch raises AssertionError where it was built without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError):
        raise PosematchError(
            f"device={named} is not to be had here; take auto, cpu, or cuda:N of an NVIDIA GPU."
        ) from None
    return device


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Hold the folder, which is made; refuse where another process does."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if is_locked(output / LOCK):
            raise PosematchError(
                f"output={output} is being written by another process; wait for it, or name"
                " another folder."
            )
        with locked(output / LOCK):
            yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PosematchError(
            f"output={output} cannot be written: {error.strerror}{where}; free some space, or name"
            " another folder. What is done is kept, and the same command goes on."
        ) from error


def _cores() -> int:
    return max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 1)


def _finder(it: Wanted, device: torch.device, sources: Sequence[Source]) -> BoxFinder:
    if it.boxes == "whole":
        return WholePicture()
    if it.boxes == "detector":
        file = None if it.detector_weights is None else Path(it.detector_weights).expanduser()
        return TorchvisionDetector(it.detector, file, it.min_box_score, device)
    return GivenBoxes(Path(it.boxes).expanduser(), it.min_box_score, sources)


def _settings(it: Wanted, model: PoseModel) -> dict[str, Any]:
    """What the predictions follow from, as plain data; kept beside them."""
    of_boxes = it.boxes
    if it.boxes not in ("whole", "detector"):
        of_boxes = _digest(Path(it.boxes).expanduser())
    return {
        "schema_version": 1,
        "input": str(Path(it.input).expanduser().absolute()),
        "checkpoint": _digest(checkpoint_file(it.checkpoint)),
        "model": hashlib.sha256(model.record.model_dump_json().encode()).hexdigest(),
        "boxes": of_boxes,
        "detector": [it.detector, it.detector_weights] if it.boxes == "detector" else None,
        "min_box_score": it.min_box_score,
        "flip_test": model.flip_test,
        "draw": it.draw,
        "heatmaps": it.heatmaps,
        "joints": list(model.skeleton.joints),
        "score": model.score_means,
    }


def _digest(file: Path) -> str:
    return f"{file.name} {sha256_of(file)}"


def _left(
    found: Sources, journal: Journal, drawn: Path | None
) -> tuple[list[Source], dict[str, int]]:
    """What has not been looked at, or drawn below ``drawn``, and where in a video to go on."""
    rows = journal.read(found.sources)
    # Looked at again: whoever mended a file means it to be read, even within its time stamp.
    rows = rows[rows["error"].isna() | rows["frame"].notna() | rows["frames"].notna()]
    photos = set(rows.loc[rows["frame"].isna() & rows["frames"].isna(), "input"])
    if drawn is not None:
        names = found.drawn
        photos = {one for one in photos if outputs.drawn_file(drawn, names[one]).is_file()}
    ended = set(rows.loc[rows["frames"].notna(), "input"])
    frames = rows[rows["frame"].notna()].groupby("input")["frame"].max() + 1
    left = [one for one in found.sources if one.name not in (ended if one.is_video else photos)]
    return left, {str(name): int(frame) for name, frame in frames.items()}


def _pictures(sources: list[Source], first_frames: dict[str, int]) -> int:
    """As many as the files say; a video's container may be wrong by some."""
    number = 0
    for one in sources:
        if not one.is_video:
            number += 1
            continue
        try:
            number += max(VideoFile(one.path).frames_said - first_frames.get(one.name, 0), 0)
        except PosematchError:
            number += 1
    return number


class _Task:
    """From what is read to the journal."""

    def __init__(
        self,
        it: Wanted,
        model: PoseModel,
        output: Path,
        journal: Journal,
        drawn: dict[str, str],
    ) -> None:
        self.people = 0
        self.not_drawn: list[str] = []  # sentences
        self._it = it
        self._model = model
        self._output = output
        self._journal = journal
        self._drawn = drawn
        automatic = _BATCH.get(chosen_device(it.device).type, 16)
        self._batch_size = automatic if it.batch_size == "auto" else it.batch_size
        self._writing: deque[Future[None]] = deque()

    def run(self, reads: Iterator[Request[Read]], finder: BoxFinder, tick: Progress) -> None:
        """Compute and write until all is read; stopped, what is done is in the journal."""
        flushed = time.monotonic()
        failed = False
        with ThreadPoolExecutor(_cores(), "write") as pool, _opencv_threads(1):
            try:
                found = estimated(self._model, reads, self._batch_size, self._it.heatmaps)
                for read, poses in found:
                    self._keep(read, poses, finder, pool)
                    tick(int(read.frames is None), len(poses))
                    if (
                        self._journal.unsaved >= _PART_ROWS
                        or time.monotonic() - flushed > _PART_SECONDS
                    ):
                        self._flush()
                        flushed = time.monotonic()
            except OSError:
                failed = True  # what is not on the disk is not noted as done
                raise
            finally:
                if not failed:
                    self._flush()

    def _keep(self, read: Read, poses: Poses, finder: BoxFinder, pool: ThreadPoolExecutor) -> None:
        self.people += len(poses)
        place = read.place
        if read.frames is not None:
            return self._journal.add_end(place.source, read.frames, read.error, read.stamp)
        if read.error:
            return self._journal.add_error(place, read.error, read.stamp)
        if read.picture is not None:
            file = outputs.drawn_file(self._output, self._drawn[place.source.name])
            skeleton = self._model.skeleton
            self._submit(pool.submit(outputs.write_drawn, file, read.picture, poses, skeleton))
        if self._it.heatmaps:
            file = outputs.heatmap_file(self._output, place)
            self._submit(pool.submit(outputs.write_heatmaps, file, poses))
        image_id = finder.image_id(place.source) if place.frame is None else None
        return self._journal.add(place, poses, image_id, read.stamp)

    def _submit(self, writing: Future[None]) -> None:
        self._writing.append(writing)
        while len(self._writing) > 32:  # pictures in memory
            self._finish(self._writing.popleft())

    def _finish(self, writing: Future[None]) -> None:
        try:
            writing.result()
        except PosematchError as error:  # of this picture alone
            self.not_drawn.append(str(error))

    def _flush(self) -> None:
        while self._writing:
            self._finish(self._writing.popleft())
        self._journal.flush()


def _write(
    it: Wanted,
    model: PoseModel,
    output: Path,
    found: Sources,
    rows: pd.DataFrame,
    fresh: set[str],
    progress: Callable[[str, int], Any],
) -> list[Path]:
    written = [outputs.write_tables(output, rows, model.skeleton, it.format)]
    if it.coco:
        written += outputs.write_coco(output, rows, model.skeleton)
    if not it.draw:
        return written
    if any(not one.is_video for one in found.sources):
        written.append(output / "drawn")
    drawn = found.drawn
    for source in found.sources:
        file = outputs.drawn_file(output, drawn[source.name])
        if not source.is_video or (file.exists() and source.name not in fresh):
            continue
        of_it = rows[rows["input"] == source.name]
        if not of_it["frames"].notna().any():
            continue
        with progress(f"draw {source.name}", int(of_it["frames"].max())) as tick:
            outputs.write_video(file, source, of_it, model.skeleton, tick)
        written.append(file)
    return written


@contextmanager
def _opencv_threads(number: int) -> Iterator[None]:
    """The network has the cores; OpenCV's own threads would take them from it in turns."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(number)
    try:
        yield
    finally:
        cv2.setNumThreads(before)

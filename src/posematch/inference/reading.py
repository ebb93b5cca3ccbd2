"""Pictures read and cut in threads, while the network computes: OpenCV works without Python."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from posematch.errors import PosematchError
from posematch.inference.boxes import BoxFinder
from posematch.inference.journal import Place, stamp_of
from posematch.inference.sources import Source
from posematch.inference.videos import VideoFile
from posematch.model import PoseModel
from posematch.prediction import Crops, Picture, Request, read_upright

_WHOLE = 0.95  # of the frames that a container says, which may count wrong by some
_AHEAD = 64  # pictures read before they are asked for; of a large photo 36 MB


@dataclass(frozen=True, eq=False)
class Read:
    """A picture that was read, and cut; or why not; or a video's end.

    Attributes
    ----------
    place, stamp
        Which, see `posematch.inference.journal`.
    picture
        Itself, where it is drawn.
    error
        Why it could not be read.
    frames
        Of a video that has ended: how many it had.
    """

    place: Place
    stamp: str
    picture: Picture | None = None
    error: str = ""
    frames: int | None = None


class Reader:
    """Pictures of sources, in order.

    Parameters
    ----------
    model
        Whose crops are cut.
    finder
        Boxes of people.
    keep_pictures
        Whether photos are going to be drawn on.
    threads
        That read; one more reads videos.
    """

    def __init__(
        self, model: PoseModel, finder: BoxFinder, keep_pictures: bool, threads: int
    ) -> None:
        self._model = model
        self._finder = finder
        self._keep_pictures = keep_pictures
        self._threads = threads

    def read(
        self, sources: Sequence[Source], first_frames: dict[str, int]
    ) -> Iterator[Request[Read]]:
        """Read ahead of who iterates, at most some dozens of pictures.

        What could not be read, and a video's end, come as requests of nobody, in their place.

        Parameters
        ----------
        sources
            What is read.
        first_frames
            Of videos by name: the frame to begin with.
        """
        stopped = threading.Event()
        ahead: queue.Queue[Future[Request[Read]] | None] = queue.Queue(_AHEAD)

        def put(future: Future[Request[Read]] | None) -> None:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    ahead.put(future, timeout=0.2)
                    return

        def feed(pool: ThreadPoolExecutor) -> None:
            try:
                for source in sources:
                    if stopped.is_set():
                        return
                    if source.is_video:
                        self._feed_video(source, first_frames.get(source.name, 0), pool, put)
                    else:
                        put(pool.submit(self._photo, source))
            except BaseException as error:
                failed: Future[Request[Read]] = Future()
                failed.set_exception(error)
                put(failed)
            finally:
                put(None)

        with ThreadPoolExecutor(self._threads, "read") as pool:
            feeder = threading.Thread(target=feed, args=(pool,), name="feed", daemon=True)
            feeder.start()
            try:
                while (future := ahead.get()) is not None:
                    yield future.result()
            finally:
                stopped.set()
                feeder.join()
                pool.shutdown(cancel_futures=True)

    def _photo(self, source: Source) -> Request[Read]:
        place, stamp = Place(source, None), stamp_of(source.path)
        try:
            return self._cut(place, stamp, read_upright(source.path))
        except PosematchError as error:
            return _nobody(Read(place, stamp, error=str(error)))
        except (cv2.error, MemoryError) as error:
            said = f"The photo {source.path} cannot be cut ({type(error).__name__})."
            return _nobody(Read(place, stamp, error=said))

    def _feed_video(
        self,
        source: Source,
        first: int,
        pool: ThreadPoolExecutor,
        put: Callable[[Future[Any]], None],
    ) -> None:
        stamp = stamp_of(source.path)
        ended: Future[Request[Read]] = Future()
        try:
            frames = first
            video = VideoFile(source.path)
            self._finder.check_video(source, video.frames_said)
            for number, picture in video.frames(first):
                put(pool.submit(self._frame, Place(source, number), stamp, picture))
                frames = number + 1
            cut = ""
            if frames < _WHOLE * video.frames_said:
                cut = (
                    f"The video {source.path} has {video.frames_said} frames, as it says, and"
                    f" {frames} could be read; it may be cut short."
                )
            end = Read(Place(source, None), stamp, error=cut, frames=frames)
            ended.set_result(_nobody(end))
            if frames == 0:
                raise PosematchError(f"The video {source.path} has no frame that can be read.")
        except PosematchError as error:
            ended = Future()
            ended.set_result(_nobody(Read(Place(source, None), stamp, error=str(error))))
        put(ended)

    def _frame(self, place: Place, stamp: str, picture: Picture) -> Request[Read]:
        try:
            return self._cut(place, stamp, picture)
        except PosematchError as error:
            return _nobody(Read(place, stamp, error=f"{place.told}: {error}"))
        except (cv2.error, MemoryError) as error:
            return _nobody(Read(place, stamp, error=f"{place.told}: {type(error).__name__}."))

    def _cut(self, place: Place, stamp: str, picture: Picture) -> Request[Read]:
        boxes = self._finder.of(place.source, place.frame, picture)
        # Videos are drawn afterwards, in one go: a file of frames cannot be gone on with.
        kept = picture if self._keep_pictures and not place.source.is_video else None
        read = Read(place, stamp, picture=kept)
        what = f"boxes of {place.told}"
        return self._model.request(read, picture, boxes.boxes_img, boxes.scores, what)


def _nobody(read: Read) -> Request[Read]:
    crops = Crops(torch.zeros((0, 3, 0, 0), dtype=torch.uint8), torch.zeros((0, 2, 3)).double())
    return Request(read, crops, np.zeros((0, 4)), np.zeros(0), (0, 0))

"""Frames of a video, upright, one after another; and the video again with them changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from posematch.data.pictures import MOST_PIXELS
from posematch.errors import PosematchError
from posematch.files import drafting, sync_folder
from posematch.prediction import Picture
from posematch.untrusted import open_file

_MOST_BYTES = 2**40
# FFmpeg follows what a playlist names, also over the network: local files alone.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")


class VideoFile:
    """A video.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    PosematchError
        There is no ordinary file, or it has no frame that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        open_file(path, _MOST_BYTES, "a video").close()
        capture = self._opened()
        try:
            self.frames_said = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = float(fps) if np.isfinite(fps) and 0 < fps <= 1000 else 25.0
        finally:
            capture.release()

    def _opened(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG)
        width, height = (
            capture.get(one) for one in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if not capture.isOpened() or not 0 < width * height <= MOST_PIXELS:
            capture.release()
            raise PosematchError(
                f"The video {self.path} is not readable; convert it, for example to MP4 with H.264."
            )
        return capture

    def frames(self, first: int = 0) -> Iterator[tuple[int, Picture]]:
        """Number and (H, W, 3) RGB of the frames from one on, turned as the file says."""
        capture = self._opened()
        try:
            for _ in range(first):  # by decoding: seeking is not exact in all containers
                if not capture.grab():
                    return
            number = first
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield number, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                number += 1
        finally:
            capture.release()

    def write_again(self, file: Path, change: Callable[[int, Picture], Picture]) -> None:
        """Write all frames, each as ``change`` of its number and pixels returns it, as MP4.

        Raises
        ------
        PosematchError
            It cannot be written.
        """
        with drafting(file) as draft:
            self._write(draft / file.name, change)
            (draft / file.name).replace(file)
            sync_folder(file.parent)

    def _write(self, draft: Path, change: Callable[[int, Picture], Picture]) -> None:
        writer = None
        try:
            for number, picture in self.frames():
                drawn = change(number, picture)
                if writer is None:
                    size = drawn.shape[1], drawn.shape[0]
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(draft), cv2.CAP_FFMPEG, code, self.fps, size)
                    if not writer.isOpened():
                        raise PosematchError(
                            f"The video of {self.path} with joints cannot be written (MP4,"
                            f" {size[0]} x {size[1]}); set draw=false."
                        )
                writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        finally:
            if writer is not None:
                writer.release()
        if writer is None:
            raise PosematchError(f"The video {self.path} has no frame; set draw=false.")

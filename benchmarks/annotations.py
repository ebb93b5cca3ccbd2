"""Opening annotation files of full size, and what a forked loader worker copies of them.

    python benchmarks/annotations.py [--mpii 25000] [--coco 150000] [--files FOLDER]

An MPII-like json (HRNet's layout, with no truth for PCKh: the training split) and a COCO-like one
are drawn by numbers alone, the same each time, and opened by our readers, each in a process of its
own. Told are its seconds, CPU seconds and peak of resident memory; then, as before a training, the
annotations are forgotten, a worker is forked, and reads joints, box and path of every person, as
crops do: what it copies is the growth of its private, written memory (``Private_Dirty`` of
/proc/self/smaps_rollup), which Python's counting of references makes of every object's page.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from posematch.data.annotations import forget_annotations
from posematch.data.coco import read_coco
from posematch.data.mpii import read_mpii
from posematch.data.people import People
from posematch.skeletons import COCO

SIZE = (256, 192)


def write_mpii(folder: Path, people: int) -> None:
    """``annot/train.json`` of so many people, one to three a photo."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(1, 1200, (people, 16, 2)).round(4)
    visible = (rng.uniform(size=(people, 16)) < 0.9).astype(int)
    photo = np.cumsum(rng.uniform(size=people) < 0.6)
    rows = [
        {
            "image": f"{photo[one]:09d}.jpg",
            "center": joints[one].mean(axis=0).round(1).tolist(),
            "scale": round(float(rng.uniform(0.5, 6)), 6),
            "joints": joints[one].tolist(),
            "joints_vis": visible[one].tolist(),
        }
        for one in range(people)
    ]
    (folder / "annot").mkdir(parents=True, exist_ok=True)
    (folder / "annot" / "train.json").write_text(json.dumps(rows))


def write_coco(folder: Path, people: int) -> None:
    """``train.json`` of so many people with labelled joints, two and a half a photo."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(20), np.log(300), (people, 2)))
    first = rng.uniform(0, 1, (people, 2)) * ([640, 480] - np.minimum(sides, 470))
    joints = (first[:, None] + rng.uniform(0, 1, (people, 17, 2)) * sides[:, None]).astype(int)
    flags = rng.choice(3, (people, 17), p=[0.35, 0.1, 0.55])
    flags[:, 0] = 2
    keypoints = np.concatenate([joints, flags[..., None]], axis=2)
    keypoints[flags == 0] = 0
    photos = max(1, int(people / 2.5))
    content = {
        "images": [
            {"id": 7 * one, "file_name": f"{one:012d}.jpg", "width": 640, "height": 480}
            for one in range(photos)
        ],
        "annotations": [
            {
                "id": one + 1,
                "image_id": 7 * (one % photos),
                "category_id": 1,
                "keypoints": keypoints[one].ravel().tolist(),
                "num_keypoints": int((flags[one] > 0).sum()),
                "area": round(float(sides[one].prod()) / 2, 4),
                "bbox": [*first[one].round(2).tolist(), *sides[one].round(2).tolist()],
                "iscrowd": 0,
            }
            for one in range(people)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": COCO.joints}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.json").write_text(json.dumps(content))


def read(which: str, folder: Path) -> People:
    """All people of one of the files."""
    if which == "mpii":
        return read_mpii(folder / "mpii", "train", (256, 256))
    return read_coco(folder / "coco" / "train.json", folder / "photos", "train", SIZE)


def memory(key: str, file: str = "smaps_rollup") -> float:
    """MiB of this process, by the kernel's count."""
    for line in Path(f"/proc/self/{file}").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def _worker(people: People, told: Connection) -> None:
    before = memory("Private_Dirty")
    total = 0.0
    start = time.process_time()
    for row in range(len(people.people)):
        one = people.people[row]
        total += float(one.joints_img[0, 0] + one.visible[0] + one.center_img[0])
        total += one.box_size_img[0] + len(one.image.name)
    seconds = time.process_time() - start
    told.send((memory("Private_Dirty") - before, seconds))


def measure(which: str, folder: Path) -> dict[str, Any]:
    """What the table tells, of one file."""
    start, cpu = time.perf_counter(), time.process_time()
    people = read(which, folder)
    seconds = time.perf_counter() - start, time.process_time() - cpu
    peak = memory("VmHWM", "status")
    forget_annotations()
    gc.collect()
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=_worker, args=(people, there))
    worker.start()
    copied, reading = here.recv()
    worker.join()
    return {
        "people": len(people.people),
        "wall": seconds[0],
        "cpu": seconds[1],
        "peak": peak,
        "left": memory("Private_Dirty"),
        "copied": copied,
        "us a person": 1e6 * reading / len(people.people),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mpii", type=int, default=25_000)
    parser.add_argument("--coco", type=int, default=150_000)
    parser.add_argument("--files", type=Path, help="a folder of files that are kept")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.files)))
        return
    columns = ("people", "s", "CPU s", "peak MiB", "kept MiB", "a worker copies MiB")
    table = Table("file", *columns, "us a person")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.files or Path(scratch)
        for which, write, many in (
            ("mpii", write_mpii, options.mpii),
            ("coco", write_coco, options.coco),
        ):
            if not (folder / which).is_dir():
                write(folder / which, many)
            command = [sys.executable, __file__, "--measure", which, "--files", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            told = json.loads(done.stdout.splitlines()[-1])
            numbers = [told[one] for one in ("wall", "cpu", "peak", "left", "copied")]
            cells = [f"{one:.1f}" for one in (*numbers, told["us a person"])]
            table.add_row(which, str(told["people"]), *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

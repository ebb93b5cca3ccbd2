"""Seconds and memory of scoring a detector's poses on a file of the size of COCO's val2017.

    python benchmarks/scoring.py [--photos 5000] [--people 11004] [--poses 100000] [--draws 1000]
        [--repeats 1] [--only NAME,...]

Files are drawn by numbers alone, the same each time: an annotation file of so many photos and
people (two fifths of them without labelled joints and 3 % crowds, as in val2017), and a results
json of so many poses: a third are people with noise of several sizes, the others near duplicates
of these and poses that are nobody's. Each part is measured in a process of its own, which reads the
files first: its own seconds and CPU seconds, and the process's peak of resident memory.

| part | what |
|---|---|
| ``read`` | the results json and the annotations, by our readers, and their arrays |
| ``nms`` | OKS-NMS at 0.9 of all poses, by photo |
| ``score`` | what is left of them, COCO's ten figures |
| ``conventions`` | the four tables of `posematch evaluate` (hard, soft, damped, no suppression) |
| ``bootstrap`` | AP of so many draws of the photos with replacement |
| ``plain`` | the same poses without suppression, pycocotools' own ``loadRes`` and ``COCOeval`` |
| ``hotcoco``, ``faster`` | ``plain`` by hotcoco and faster-coco-eval, where they are installed |
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from posematch.data.annotations import read_annotations
from posematch.data.people import OKSTruth
from posematch.data.predictions import read_coco_results
from posematch.metrics.coco_results import CocoPoses
from posematch.metrics.coco_truth import coco_figures, coco_people
from posematch.metrics.conventions import coco_conventions
from posematch.metrics.suppression import oks_nms
from posematch.runs.predictions import PredictionTable
from posematch.skeletons import COCO
from posematch.statistics.average_precision import average_precision

Floats = NDArray[np.float64]
WITHOUT_JOINTS, CROWDS = 0.42, 0.03
WIDTH, HEIGHT = 640, 480


def write_files(folder: Path, photos: int, people: int, poses: int) -> None:
    """``truth.json`` and ``results.json``, and ``areas.npy`` of the padded boxes of the latter."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(20), np.log(400), (people, 2)))
    first = rng.uniform(0, 1, (people, 2)) * np.maximum([WIDTH, HEIGHT] - sides, 1)
    joints = first[:, None] + rng.uniform(0, 1, (people, 17, 2)) * sides[:, None]
    flags = rng.choice(3, (people, 17), p=[0.35, 0.1, 0.55])
    flags[rng.uniform(size=people) < WITHOUT_JOINTS] = 0
    crowds = rng.uniform(size=people) < CROWDS
    flags[crowds] = 0
    photo_of = np.sort(rng.integers(0, photos, people))
    keypoints = np.concatenate([joints.round(), flags[..., None]], axis=2)
    keypoints[flags == 0] = 0
    areas = sides.prod(axis=1) * rng.uniform(0.3, 0.7, people)
    annotations = [
        {
            "id": 1000 + person,
            "image_id": 7 * int(photo_of[person]),
            "category_id": 1,
            "keypoints": keypoints[person].astype(int).ravel().tolist(),
            "num_keypoints": int((flags[person] > 0).sum()),
            "area": round(float(areas[person]), 4),
            "bbox": [*first[person].round(2).tolist(), *sides[person].round(2).tolist()],
            "iscrowd": int(crowds[person]),
        }
        for person in range(people)
    ]
    images = [
        {"id": 7 * one, "file_name": f"{one:012d}.jpg", "width": WIDTH, "height": HEIGHT}
        for one in range(photos)
    ]
    category = {"id": 1, "name": "person", "keypoints": COCO.joints}
    truth = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "truth.json").write_text(json.dumps(truth))

    of = rng.integers(0, people, poses)
    # A third where the person is, a third twice, the rest anywhere in the photo.
    kind = rng.integers(0, 3, poses)
    of[kind == 1] = of[rng.integers(0, max(1, poses // 3), int((kind == 1).sum()))]
    noise = rng.choice([0.01, 0.03, 0.1], poses)[:, None, None] * sides[of].max(1)[:, None, None]
    found = joints[of] + noise * rng.standard_normal((poses, 17, 2))
    found[kind == 2] += rng.uniform(-100, 100, (int((kind == 2).sum()), 1, 2))
    scores = rng.beta(2, 2, (poses, 17))
    box_scores = rng.beta(1, 2, poses)
    found = np.concatenate([found, scores[..., None]], axis=2)
    results = [
        {
            "image_id": 7 * int(photo_of[of[pose]]),
            "category_id": 1,
            "keypoints": found[pose].round(3).ravel().tolist(),
            "score": float(box_scores[pose]),
        }
        for pose in range(poses)
    ]
    (folder / "results.json").write_text(json.dumps(results))
    np.save(folder / "areas.npy", 1.25**2 * sides[of].prod(axis=1))


def read(folder: Path) -> tuple[OKSTruth, list[dict[str, Any]], CocoPoses]:
    """The truth, the results as they are, and as poses before suppression."""
    file = folder / "truth.json"
    photos = tuple(one["id"] for one in read_annotations(file, COCO).content["images"])
    results = read_coco_results(folder / "results.json")
    poses = CocoPoses(
        np.array([one["image_id"] for one in results], np.int64),
        np.array([one["keypoints"] for one in results]).reshape(-1, 17, 3),
        np.array([one["score"] for one in results]),
        np.load(folder / "areas.npy"),
    )
    coco_people(file, COCO)
    return OKSTruth(file, photos, "detector.json", COCO), results, poses


def of_plain(folder: Path, COCO_: Any, COCOeval: Any) -> dict[str, float]:
    """AP as the library's own README has it, from the files as they are."""
    with redirect_stdout(StringIO()):
        truth = COCO_(str(folder / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": float(evaluation.stats[0])}


def of_part(part: str, folder: Path, draws: int) -> tuple[Callable[[], Mapping[str, Any]], Any]:
    """The call that is measured, after what it needs was read."""
    if part == "read":
        return lambda: {"poses": len(read(folder)[1])}, None
    if part == "plain":
        from pycocotools.coco import COCO as PlainCOCO  # noqa: N811
        from pycocotools.cocoeval import COCOeval

        return lambda: of_plain(folder, PlainCOCO, COCOeval), None
    if part == "hotcoco":
        from hotcoco import COCO as HotCOCO  # noqa: N811
        from hotcoco import COCOeval as HotEval

        return lambda: of_plain(folder, HotCOCO, HotEval), None
    if part == "faster":
        from faster_coco_eval import COCO as FasterCOCO  # noqa: N811
        from faster_coco_eval import COCOeval_faster

        return lambda: of_plain(folder, FasterCOCO, COCOeval_faster), None
    truth, results, poses = read(folder)
    if part == "nms":
        areas = poses.box_areas
        arrays = (poses.keypoints, poses.box_scores, areas, COCO.oks_sigmas, 0.9, poses.image_ids)
        return lambda: {"kept": len(oks_nms(*arrays))}, None
    if part == "score":
        kept = poses.results(COCO.oks_sigmas)
        return lambda: coco_figures(truth.annotation_file, kept, truth.image_ids), None
    if part == "conventions":
        return lambda: {"rows": len(coco_conventions(poses, truth).frame)}, None
    table = PredictionTable(
        skeleton=COCO,
        person_ids=np.arange(1),
        image_ids=np.zeros(1, np.int64),
        joints_img=np.zeros((1, 17, 2)),
        true_img=np.zeros((1, 17, 2)),
        labelled=np.zeros((1, 17), np.bool_),
        area=np.ones(1),
        truth_file=truth.annotation_file,
        results=results,
    )

    def bootstrap() -> Mapping[str, Any]:
        measure = average_precision(table, ["AP"])
        rng = np.random.default_rng(0)
        photos = len(truth.image_ids)
        weights = rng.multinomial(photos, np.full(photos, 1 / photos), draws).astype(np.float64)
        found = np.concatenate([measure(weights[at : at + 100]) for at in range(0, draws, 100)])
        return {"AP": float(found.mean()), "+-": float(found.std())}

    return bootstrap, None


PARTS = (
    *("read", "nms", "score", "conventions", "bootstrap"),
    *("plain", "hotcoco", "faster"),
)


def measure(part: str, folder: Path, draws: int) -> None:
    """Print one line of json: wall and CPU seconds, MiB, and what was found."""
    call, _ = of_part(part, folder, draws)
    start, cpu = time.perf_counter(), time.process_time()
    found = call()
    seconds = time.perf_counter() - start, time.process_time() - cpu
    # Not getrusage: a child that was forked is told its parent's peak.
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    print(json.dumps({"wall": seconds[0], "cpu": seconds[1], "MiB": peak, "found": dict(found)}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--people", type=int, default=11004)
    parser.add_argument("--poses", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--files", type=Path, help="a folder of files that are kept")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.files, options.draws)
        return
    table = Table("part", "s", "CPU s", "peak MiB", "found")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.files or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "areas.npy").is_file():
            write_files(folder, options.photos, options.people, options.poses)
        for part in options.only.split(",") * options.repeats:
            command = [sys.executable, __file__, "--measure", part, "--files", str(folder)]
            done = subprocess.run(
                [*command, "--draws", str(options.draws)], capture_output=True, text=True
            )
            if done.returncode:
                table.add_row(part, done.stderr.strip().splitlines()[-1])
                continue
            told = json.loads(done.stdout.splitlines()[-1])
            found = ", ".join(
                f"{key} {value:.6g}" for key, value in list(told["found"].items())[:2]
            )
            table.add_row(
                part, f"{told['wall']:.2f}", f"{told['cpu']:.2f}", f"{told['MiB']:.0f}", found
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

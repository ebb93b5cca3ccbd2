"""The embedded data set: drawn people, written once to disk in the layouts of MPII and of COCO.

Photos and annotations follow from a `SyntheticSpec` and nothing else: every photo has its own
random generators, keyed by (seed, split, number). First a photo is *staged* (who stands where, in
which pose; all that MPII's rows need), then drawn (which settles what COCO wants to know beyond:
silhouettes, and which joints something hides).

Conventions written: MPII's json and .mat are 1-based, a joint outside the photo is (-1, -1) with
visibility 0, ``scale`` is the standing height over 200 px and ``center`` lies 15 ``scale`` above
the middle of the person, where readers put it back (docs/protocols.md, MPII boxes). COCO's json is
0-based; v = 0 for what is outside the photo or on the far side of the head, 1 for what something
hides, 2 for the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.io import savemat
from tqdm import tqdm

from posematch.data.synthetic_drawing import (
    PARTS,
    Owners,
    draw_background,
    draw_figure,
    draw_occluder,
    owner_id,
    owners_around,
)
from posematch.data.synthetic_figure import Figure, FloatArray, is_face_point, pose_figure
from posematch.data.synthetic_spec import SyntheticSpec as SyntheticSpec  # named in run folders
from posematch.errors import PosematchError
from posematch.files import drafting, put
from posematch.skeletons import COCO, MPII

# Raise it whenever the same spec would give other files: folders written before are then left
# alone, and a new one is written beside them.
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "valid")
_COCO_SPLITS = {"train": "train2017", "valid": "val2017"}
# Photos and people are numbered from here in each split: MPII keeps both splits in one folder.
_FIRST_ID = {"train": 1, "valid": 1_000_001}
_MPII_MAT_JOINTS = (
    "rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor",
    "neck", "head", "rwri", "relb", "rsho", "lsho", "lelb", "lwri",
)  # fmt: skip
_MIN_JOINTS_INSIDE = 8  # of MPII's 16: whom the photo's border cuts more is staged anew


@dataclass(frozen=True)
class StagedPerson:
    """A person with their place in a photo and what is said of it.

    ``middle_img`` is (2,) the middle of the box; ``said_height_px`` the annotated standing height;
    both are a little off on purpose. ``occluded_at_img`` is (2,) where something stands in front.
    """

    figure: Figure
    middle_img: FloatArray
    said_height_px: float
    occluded_at_img: FloatArray | None


@dataclass(frozen=True)
class Scene:
    """A photo before it is drawn: its size in pixels and its people, from far to near."""

    image_id: int
    width: int
    height: int
    people: tuple[StagedPerson, ...]
    distant: Figure | None

    @property
    def file_name(self) -> str:
        return f"{self.image_id:012d}.jpg"  # COCO's readers make the name from the id

    def contains(self, joints_img: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(K,) which (K, 2) joints lie in the photo."""
        high = (self.width - 1, self.height - 1)
        return np.asarray(((joints_img >= 0) & (joints_img <= high)).all(axis=1))


# ------------------------------------------------------------------------------------------ staging


def _generator(spec: SyntheticSpec, split: str, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, SPLITS.index(split), index, stream])


def _random_figure(spec: SyntheticSpec, rng: np.random.Generator, height_px: float) -> Figure:
    return pose_figure(
        rng,
        height_px,
        facing_front_share=spec.facing_front_share,
        tilt_std_deg=spec.tilt_std_deg,
        tumbled_share=spec.tumbled_share,
        free_arm_share=spec.free_arm_share,
        free_leg_share=spec.free_leg_share,
        side_contrast=spec.side_contrast,
    )


def _placed(
    rng: np.random.Generator, figure: Figure, photo_px: FloatArray, truncated: bool
) -> Figure | None:
    """The figure somewhere in the photo, or across its border; None if it does not fit."""
    joints_img = figure.joints_img(MPII.joints)
    margin_px = 0.05 * figure.height_px  # bodies reach beyond their joints
    low, high = joints_img.min(axis=0) - margin_px, joints_img.max(axis=0) + margin_px
    room_px = photo_px - 1 - (high - low)
    if (room_px < 0).any():
        return None
    shift_px = rng.uniform(0, room_px) - low
    if truncated:
        axis, far_end = rng.integers(2), rng.random() < 0.5
        beyond_px = rng.uniform(0.12, 0.4) * (high - low)[axis]
        shift_px[axis] = (room_px[axis] + beyond_px if far_end else -beyond_px) - low[axis]
    return figure.moved(shift_px)


def _stage_person(
    spec: SyntheticSpec, rng: np.random.Generator, scene: Scene
) -> StagedPerson | None:
    """One more person for a scene; None if no place is found."""
    photo_px = np.array([scene.width, scene.height], dtype=np.float64)
    truncated = rng.random() < spec.truncated_share
    for _ in range(60):
        height_px = rng.uniform(spec.min_height_px, spec.max_height_px)
        figure = _placed(rng, _random_figure(spec, rng, height_px), photo_px, truncated)
        if figure is None:
            continue
        joints_img = figure.joints_img(MPII.joints)
        inside = scene.contains(joints_img)
        if inside.all() == truncated or inside.sum() < _MIN_JOINTS_INSIDE:
            continue
        seen_img = joints_img[inside]
        middle_img = 0.5 * (seen_img.min(axis=0) + seen_img.max(axis=0))
        distances = [
            np.linalg.norm(middle_img - other.middle_img)
            / (0.5 * (height_px + other.figure.height_px))
            for other in scene.people
        ]
        if distances and min(distances) < spec.min_separation:
            continue
        hidden = rng.random() < spec.occluder_share
        return StagedPerson(
            figure=figure,
            middle_img=middle_img + rng.normal(0, spec.center_jitter * height_px, size=2),
            said_height_px=height_px * (1 + rng.uniform(-spec.scale_jitter, spec.scale_jitter)),
            occluded_at_img=seen_img[rng.integers(len(seen_img))] if hidden else None,
        )
    return None


def stage(spec: SyntheticSpec, split: str, index: int) -> Scene:
    """Decide who is in a photo, where and in which pose, without drawing it."""
    rng = _generator(spec, split, index, stream=0)
    width, height = rng.integers(spec.min_photo_px, spec.max_photo_px, size=2, endpoint=True)
    distant = None
    if rng.random() < spec.distant_share:
        place = rng.uniform((0, 0), (width, height))
        distant = _random_figure(spec, rng, rng.uniform(0.3, 0.5) * spec.min_height_px).moved(place)
    scene = Scene(_FIRST_ID[split] + index, int(width), int(height), (), distant)
    weights = np.array(spec.people_weights) / sum(spec.people_weights)
    for _ in range(1 + int(rng.choice(len(weights), p=weights))):
        person = _stage_person(spec, rng, scene)
        if person is not None:
            # The taller, the nearer, the later drawn.
            people = sorted((*scene.people, person), key=lambda one: one.figure.height_px)
            scene = Scene(scene.image_id, scene.width, scene.height, tuple(people), distant)
    return scene


# ---------------------------------------------------------------------------------------- drawing


def draw(
    spec: SyntheticSpec, split: str, index: int, scene: Scene
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Owners]:
    """Draw a staged photo.

    Returns
    -------
    photo
        (H, W, 3) uint8 BGR.
    owners
        (H, W) which part of whom is on top at each pixel, see `owner_id`.
    """
    rng = _generator(spec, split, index, stream=1)
    shape = (scene.height, scene.width)
    photo = draw_background(rng, scene.width, scene.height, spec.clutter)
    owners = np.zeros(shape, np.uint16)
    grain = rng.standard_normal(shape, dtype=np.float32)
    if scene.distant is not None:
        draw_figure(photo, owners, grain, scene.distant, len(scene.people))
    for i, person in enumerate(scene.people):
        draw_figure(photo, owners, grain, person.figure, i)
        if person.occluded_at_img is not None:
            size_px = spec.occluder_size * person.figure.height_px * rng.uniform(0.7, 1.4)
            draw_occluder(rng, photo, owners, person.occluded_at_img, size_px)
    photo *= rng.uniform(0.8, 1.15)  # exposure
    photo += rng.standard_normal((*shape, 1), dtype=np.float32) * np.float32(spec.sensor_noise)
    return np.clip(photo, 0, 255).astype(np.uint8), owners


# ------------------------------------------------------------------------------------- annotations


def mpii_row(scene: Scene, person: StagedPerson) -> dict[str, Any]:
    """A person in the json layout of MPII (1-based)."""
    joints_img = person.figure.joints_img(MPII.joints)
    inside = scene.contains(joints_img)
    joints = np.where(inside[:, None], np.round(joints_img + 1, 2), -1.0)
    scale = person.said_height_px / 200
    center = person.middle_img + 1 - (0, 15 * scale)
    return {
        "image": scene.file_name,
        "center": np.round(center, 2).tolist(),
        "scale": round(scale, 5),
        "joints": joints.tolist(),
        "joints_vis": inside.astype(int).tolist(),
    }


def coco_annotation(scene: Scene, figure_index: int, owners: Owners) -> dict[str, Any] | None:
    """A person as an annotation of COCO (0-based) but for its id; None if nothing of them shows."""
    figure = scene.people[figure_index].figure
    first = owner_id(figure_index, PARTS[0])
    silhouette = ((owners >= first) & (owners < first + len(PARTS))).astype(np.uint8)
    area = int(silhouette.sum())
    if area == 0:
        return None
    joints_img = figure.joints_img(COCO.joints)
    keypoints: list[float] = []
    labelled = 0
    for name, joint_img, inside in zip(
        COCO.joints, joints_img, scene.contains(joints_img), strict=True
    ):
        if not inside or (is_face_point(name) and not figure.faces_viewer(name)):
            keypoints += [0, 0, 0]
            continue
        x, y = np.round(joint_img).astype(int)
        seen = int(owners[y, x]) in owners_around(figure_index, name)
        keypoints += [*np.round(joint_img, 2).tolist(), 2 if seen else 1]
        labelled += 1
    contours, _ = cv2.findContours(silhouette, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [contour.reshape(-1).tolist() for contour in contours if len(contour) > 2]
    x, y, width, height = (int(v) for v in cv2.boundingRect(silhouette))
    box = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "image_id": scene.image_id,
        "category_id": 1,
        "bbox": [x, y, width, height],
        "area": area,
        "segmentation": polygons or [box],
        "iscrowd": 0,
        "num_keypoints": labelled,
        "keypoints": keypoints,
    }


def _coco_file(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    person = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO.joints),
        "skeleton": [[a + 1, b + 1] for a, b in COCO.limbs],
    }
    info = {"description": "posematch synthetic people", "version": str(FORMAT_VERSION)}
    return {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [person],
    }


def _ground_truth_mat(
    rows: list[dict[str, Any]], head_boxes_img: list[FloatArray]
) -> dict[str, Any]:
    """The fields of MPII's ``gt_valid.mat``, people in the order of the rows (1-based)."""
    names = np.empty((1, MPII.num_joints), dtype=object)
    names[0] = _MPII_MAT_JOINTS
    joints = np.array([row["joints"] for row in rows], dtype=np.float64)
    missing = 1 - np.array([row["joints_vis"] for row in rows], dtype=np.uint8)
    joints[missing == 1] = 0
    return {
        "dataset_joints": names,
        "jnt_missing": missing.T,
        "pos_gt_src": joints.transpose(1, 2, 0),
        "headboxes_src": np.stack(head_boxes_img, axis=-1) + 1,
    }


# ----------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Drawn:
    """What one drawn photo adds to the annotation files; lists hold an entry a person."""

    image: dict[str, Any]
    rows: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    head_boxes_img: list[FloatArray]


def _write_photo(job: tuple[Path, SyntheticSpec, str, int]) -> _Drawn:
    root, spec, split, index = job
    scene = stage(spec, split, index)
    photo, owners = draw(spec, split, index, scene)
    encoded, jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, spec.jpeg_quality])
    if not encoded:
        raise PosematchError(f"OpenCV could not encode {scene.file_name} as a JPEG.")
    path = root / "mpii" / "images" / scene.file_name
    path.write_bytes(jpeg.tobytes())
    twin = root / "coco" / _COCO_SPLITS[split] / scene.file_name
    try:
        os.link(path, twin)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, twin)

    image = {
        "id": scene.image_id,
        "file_name": scene.file_name,
        "width": scene.width,
        "height": scene.height,
    }
    drawn = _Drawn(image, [], [], [])
    for i, person in enumerate(scene.people):
        annotation = coco_annotation(scene, i, owners)
        if annotation is not None:
            drawn.rows.append(mpii_row(scene, person))
            drawn.annotations.append(annotation)
            drawn.head_boxes_img.append(person.figure.head_box_img())
    return drawn


def _dump(content: object, path: Path) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _save_mat(fields: dict[str, Any], path: Path) -> None:
    file = BytesIO()
    savemat(file, fields)
    content = bytearray(file.getvalue())
    # The first 116 bytes are a free text into which scipy writes the time of day.
    content[:116] = b"MATLAB 5.0 MAT-file, posematch synthetic people".ljust(116)
    path.write_bytes(content)


def _drawn_photos(root: Path, spec: SyntheticSpec, workers: int) -> Iterator[tuple[str, _Drawn]]:
    jobs = [(root, spec, split, i) for split in SPLITS for i in range(spec.photos(split))]
    # disable=None: no bar where there is no terminal to draw it on.
    with tqdm(jobs, "drawing the synthetic data set", unit="photo", disable=None) as bar:
        if workers == 1:
            for job in jobs:
                yield job[2], _write_photo(job)
                bar.update()
            return
        # Spawned, not forked: the caller may hold threads (torch, OpenCV) that a fork would break.
        pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
        )
        with pool:
            for job, drawn in zip(jobs, pool.map(_write_photo, jobs, chunksize=16), strict=True):
                yield job[2], drawn
                bar.update()


def _end_with(parent: int) -> None:
    """End this process when its parent is killed; it would wait for photos to draw for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_synthetic(root: Path, spec: SyntheticSpec, workers: int = 1) -> None:
    """Write ``mpii/`` and ``coco/`` into a folder.

    Parameters
    ----------
    root
        The folder; made if it is not there. `ensure_synthetic` is the safe way to call this.
    spec
        What to write.
    workers
        Processes that draw. The files do not depend on it.
    """
    for folder in ("mpii/images", "mpii/annot", "coco/annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in _COCO_SPLITS.values():
        (root / "coco" / name).mkdir(exist_ok=True)

    by_split: dict[str, list[_Drawn]] = {split: [] for split in SPLITS}
    for split, drawn in _drawn_photos(root, spec, workers):
        by_split[split].append(drawn)
    for split, photos in by_split.items():
        rows = [row for photo in photos for row in photo.rows]
        _dump(rows, root / "mpii" / "annot" / f"{split}.json")
        annotations = [
            {"id": _FIRST_ID[split] + i, **annotation}
            for i, annotation in enumerate(a for photo in photos for a in photo.annotations)
        ]
        coco = _coco_file([photo.image for photo in photos], annotations)
        name = f"person_keypoints_{_COCO_SPLITS[split]}.json"
        _dump(coco, root / "coco" / "annotations" / name)
        if split == "valid":
            if not rows:  # scoring has nothing to score, and the .mat no shape
                raise PosematchError(
                    f"Nobody fits into the {len(photos)} validation photos of"
                    f" {spec.min_photo_px} to {spec.max_photo_px} px; raise data.spec.valid_photos"
                    " or data.spec.max_photo_px, or lower data.spec.min_height_px."
                )
            head_boxes_img = [box for photo in photos for box in photo.head_boxes_img]
            _save_mat(_ground_truth_mat(rows, head_boxes_img), root / "mpii/annot/gt_valid.mat")


def _manifest(spec: SyntheticSpec) -> dict[str, Any]:
    # Through json and back, so that it compares equal to one read from disk (tuples, lists).
    manifest: dict[str, Any] = json.loads(
        json.dumps({"format_version": FORMAT_VERSION, "spec": asdict(spec)}, sort_keys=True)
    )
    return manifest


def _is_written(folder: Path, spec: SyntheticSpec) -> bool:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == _manifest(spec))


def ensure_synthetic(root: Path, spec: SyntheticSpec, workers: int = 1) -> Path:
    """Write the data set unless it is there.

    It is written into a folder of its own beside its place and moved there at the end, so that
    nobody ever sees half of it and processes that write at the same time do not meet. What a
    killed drawing leaves is swept away by the next one in the same folder.

    Parameters
    ----------
    root
        Folder of all synthetic data sets; made if it is not there.
    spec
        What the data set holds.
    workers
        Processes that draw it.

    Returns
    -------
    Path
        ``<root>/synthetic-<hash of the spec>``, holding ``mpii/``, ``coco/`` and a manifest.

    Raises
    ------
    PosematchError
        If the place cannot be written, or something else is in it.
    """
    text = json.dumps(_manifest(spec), sort_keys=True)
    folder = root / f"synthetic-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    if folder.exists():  # it appears in one step, so what is there is whole
        if _is_written(folder, spec):
            return folder
        raise PosematchError(
            f"{folder} is in the way: it is not a complete synthetic data set; remove it or choose "
            "another data.root."
        )
    try:
        with drafting(folder) as draft:
            write_synthetic(draft, spec, workers)
            _dump(_manifest(spec), draft / MANIFEST)
            put(draft, folder)
    except OSError as error:
        if _is_written(folder, spec):  # another process was faster
            return folder
        raise PosematchError(
            f"Cannot write the synthetic data set into {root} ({error.strerror or error}); choose "
            "a data.root that can be written."
        ) from error
    return folder

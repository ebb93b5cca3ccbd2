"""Run folders, prediction files, images and annotations that are not what they should be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
import scipy.io
import yaml

from inputs.case import LAST, MAPS, TABLE, VALID, Bench, Case, Command
from inputs.damage import DAMAGES

Change = Callable[[Any], Any]
INFINITE, NAN = math.inf, math.nan
HUGE = 10**400


def _set(*path: Any) -> Change:
    """A change that puts the last argument at the place that the others name."""
    *keys, value = path

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def _drop(*keys: Any) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def _whole(value: Any) -> Change:
    return lambda content: value


# --- run folders: every file, damaged in every way, by everybody who reads it


def _evaluate_run(bench: Bench, run: Path) -> Command:
    return bench.evaluate_run(run)


def _evaluate_checkpoint(bench: Bench, run: Path) -> Command:
    return bench.evaluate_checkpoint(run)


def _resume(bench: Bench, run: Path) -> Command:
    return bench.resume(run)


def _compare(bench: Bench, run: Path) -> Command:
    return bench.compare(run, bench.copy(bench.good.runs["mpii"], "a"), "people=0")


def _qualitative(bench: Bench, run: Path) -> Command:
    return bench.qualitative(bench.copy(bench.good.runs["other"], "a"), run)


def _report(bench: Bench, run: Path) -> Command:
    bench.copy(bench.good.runs["other"], "run_other")
    return bench.report(bench.inputs, "joints=0")


_READERS: tuple[tuple[str, str, Callable[[Bench, Path], Command]], ...] = (
    ("config.yaml", "mpii", _evaluate_run),
    ("config.yaml", "mpii", _evaluate_checkpoint),
    ("config.yaml", "mpii", _resume),
    ("environment.json", "mpii", _evaluate_run),
    ("result.json", "mpii", _evaluate_run),
    ("metrics.csv", "mpii", _report),
    ("metrics.csv", "mpii", _resume),
    (TABLE, "mpii", _evaluate_run),
    (TABLE, "mpii", _compare),
    ("truth.json", "coco", _evaluate_run),
    (MAPS, "mpii", _qualitative),
    (LAST, "mpii", _evaluate_checkpoint),
    (LAST, "mpii", _resume),
)
# Not a damage there: a report leaves out a folder that is no run; without its configuration a
# checkpoint is a file by itself; without its last checkpoint a run goes on from the one before it;
# a zip archive may have anything before it.
_FINE = {
    ("config.yaml", "_evaluate_checkpoint", "missing"),
    (LAST, "_resume", "missing"),
    (MAPS, "_qualitative", "nul_bytes"),
}


_TELLING = ("missing", "empty", "half", "noise", "nested", "a_folder", "a_pipe", "dangling_link")


def run_files() -> Iterator[Case]:
    seen: set[str] = set()
    for file, run_name, reader in _READERS:
        # A file's further readers get those damages alone that readers differ in.
        damages = _TELLING if file in seen else DAMAGES
        seen.add(file)
        for damage in damages:

            def make(
                bench: Bench,
                file: str = file,
                run_name: str = run_name,
                reader: Any = reader,
                damage: str = damage,
            ) -> Command:
                run = bench.run(run_name)
                DAMAGES[damage](run / file)
                return reader(bench, run)

            says = (
                (Path(file).name, f"run_{run_name}") if damage == "missing" else (Path(file).name,)
            )
            fine = (file, reader.__name__, damage) in _FINE
            yield Case(
                f"{file}-{damage}-{reader.__name__[1:]}",
                "run",
                make,
                () if fine else says,
                "either" if fine else "refused",
            )


_ENVIRONMENT: dict[str, Change] = {
    "no_version": _drop("schema_version"),
    "version_text": _set("schema_version", "one"),
    "version_newer": _set("schema_version", 10**6),
    "version_null": _set("schema_version", None),
    "version_list": _set("schema_version", [1]),
    "version_nan": _set("schema_version", NAN),
    "a_list": _whole([]),
    "a_number": _whole(5),
    "null": _whole(None),
}
_RESULT: dict[str, Change] = {
    "no_figures": _drop("figures"),
    "figures_list": _set("figures", [1]),
    "no_last": _drop("figures", "last"),
    "last_text": _set("figures", "last", "good"),
    "last_null": _set("figures", "last", None),
    "no_metric": _drop("metric"),
    "metric_list": _set("metric", ["AP"]),
    "no_protocol": _drop("protocol"),
    "protocol_mapping": _set("protocol", {}),
    "a_list": _whole([]),
    "a_text": _whole("finished"),
    "a_number": _whole(5),
}
_REPORTED: dict[str, Change] = {
    "figure_text": _set("figures", "last", "PCKh@0.5", "high"),
    "figure_nan": _set("figures", "last", "PCKh@0.5", NAN),
    "figure_infinite": _set("figures", "last", "PCKh@0.5", INFINITE),
    "figure_list": _set("figures", "last", "PCKh@0.5", [1]),
    "no_primary_figure": _drop("figures", "last", "PCKh@0.5"),
    "metric_unknown": _set("metric", "F1"),
    "epoch_text": _set("epoch", "last"),
    "no_epoch": _drop("epoch"),
}
_CONFIG: dict[str, Change] = {
    "no_backbone": _drop("backbone"),
    "no_data": _drop("data"),
    "no_loss": _drop("loss"),
    "no_decoder": _drop("decoder"),
    "backbone_number": _set("backbone", 5),
    "backbone_no_target": _drop("backbone", "_target_"),
    "backbone_name_unknown": _set("backbone", "name", "hrnet_w18_huge"),
    "backbone_name_number": _set("backbone", "name", 7),
    "backbone_name_list": _set("backbone", "name", ["hrnet_w18_small"]),
    "backbone_head_unknown": _set("backbone", "head", "top"),
    "backbone_extra_key": _set("backbone", "width", 3),
    "deconv_channels_huge": _set("backbone", {"_target_":
        "posematch.networks.heatmap_network.HeatmapNetwork", "name": "hrnet_w18_small",
        "head": "deconv", "deconv_channels": 10**12}),
    "data_list": _set("data", []),
    "data_text": _set("data", "mpii"),
    "data_no_target": _drop("data", "_target_"),
    "target_unknown": _set("data", "_target_", "posematch.data.datamodule.Nothing"),
    "target_no_class": _set("data", "_target_", "posematch.data.datamodule"),
    "target_number": _set("data", "_target_", 5),
    "target_empty": _set("data", "_target_", ""),
    "skeleton_unknown": _set("data", "skeleton", "spider"),
    "skeleton_list": _set("data", "skeleton", ["mpii"]),
    "input_size_one": _set("data", "input_size", [64]),
    "input_size_text": _set("data", "input_size", "big"),
    "input_size_negative": _set("data", "input_size", [-64, -64]),
    "input_size_zero": _set("data", "input_size", [0, 0]),
    "input_size_huge": _set("data", "input_size", [640000, 640000]),
    "input_size_float": _set("data", "input_size", [64.5, 64]),
    "batch_size_zero": _set("data", "batch_size", 0),
    "batch_size_text": _set("data", "batch_size", "four"),
    "convention_unknown": _set("data", "convention", "dark"),
    "spec_number": _set("data", "spec", 3),
    "spec_photos_negative": _set("data", "spec", "valid_photos", -1),
    "spec_photos_text": _set("data", "spec", "valid_photos", "many"),
    "spec_photo_size_huge": _set("data", "spec", "max_photo_px", 10**9),
    "spec_extra_key": _set("data", "spec", "wings", 2),
    "loss_text": _set("loss", "dot_mse"),
    "loss_empty": _set("loss", {}),
    "loss_no_name": _drop("loss", "name"),
    "decoder_list": _set("decoder", [1]),
    "decoder_unknown_argument": _set("decoder", "speed", 1),
    "flip_test_text": _set("flip_test", "maybe"),
    "flip_test_number": _set("flip_test", 3),
    "interpolation_missing": _set("flip_test", "${nothing.there}"),
    "interpolation_circular": _set("flip_test", "${flip_test}"),
    "resolver_unknown": _set("flip_test", "${sudo:1}"),
    "missing_mark": _set("flip_test", "???"),
}  # fmt: skip
# A run's name of its loss is a name and no more; scoring takes no size of batches from strangers.
_OF_THE_FLIP_TEST = {
    name for name in _CONFIG if name.startswith(("interpolation_", "resolver_", "missing_mark"))
}
# A value that is marked as missing is the command's own.
_HARMLESS_CONFIG = {
    *("loss_no_name", "batch_size_zero", "batch_size_text", "flip_test_number", "missing_mark"),
}
_RESUMED: dict[str, Change] = {
    "no_trainer": _drop("trainer"),
    "seed_text": _set("seed", "zero"),
    "lr_text": _set("optimizer", "lr", "fast"),
    "other_loss": _set("loss", "name", "kl"),
    "nested_list": _set("optimizer", [[[[1]]]]),
    "interpolation_missing": _set("seed", "${nothing.there}"),
    "missing_mark": _set("seed", "???"),
    "data_null": _set("data", None),
}


def edit_yaml(bench: Bench, path: Path, change: Change) -> None:
    content = yaml.safe_load(path.read_text("utf-8"))
    changed = change(content)
    bench.replace(path, yaml.safe_dump(content if changed is None else changed))


def run_values() -> Iterator[Case]:
    tables: tuple[tuple[str, dict[str, Change], Any], ...] = (
        ("environment.json", _ENVIRONMENT, _evaluate_run),
        ("result.json", _RESULT, _evaluate_run),
        ("result.json", _REPORTED, _report),
    )
    for file, changes, reader in tables:
        for name, change in changes.items():

            def make(
                bench: Bench, file: str = file, change: Change = change, reader: Any = reader
            ) -> Command:
                run = bench.run()
                if name_is_null(change):
                    bench.replace(run / file, "null")
                else:
                    bench.edit_json(run / file, change)
                return reader(bench, run)

            # NaN and infinity may be told or shown as what they are.
            ends = "either" if name in ("figure_nan", "figure_infinite") else "refused"
            says = (file, "run_mpii")
            yield Case(f"{file}-{name}-{reader.__name__[1:]}", "run", make, says, ends)
    for changes, reader in ((_CONFIG, _evaluate_checkpoint), (_RESUMED, _resume)):
        for name, change in changes.items():

            def make_config(bench: Bench, change: Change = change, reader: Any = reader) -> Command:
                run = bench.run()
                edit_yaml(bench, run / "config.yaml", change)
                return reader(bench, run)

            harmless = name in _HARMLESS_CONFIG and reader is _evaluate_checkpoint
            key = "flip_test" if name in _OF_THE_FLIP_TEST else name.split("_")[0]
            says = () if harmless else ("config.yaml", "run_mpii", key, "last.ckpt")
            ends = "either" if harmless else "refused"
            yield Case(f"config.yaml-{name}-{reader.__name__[1:]}", "run", make_config, says, ends)


def name_is_null(change: Change) -> bool:
    return change is _ENVIRONMENT["null"]


_CSV: dict[str, tuple[Callable[[str], str], str]] = {
    # What is done to metrics.csv; how report= ends. Others are told, these may be shown.
    "no_epoch": (lambda text: text.replace("epoch,", "era,", 1), "refused"),
    "epoch_text": (lambda text: text.replace("\n0,", "\nfirst,", 1), "refused"),
    "epoch_nan": (lambda text: text.replace("\n0,", "\nnan,", 1), "refused"),
    "epoch_huge": (lambda text: text.replace("\n0,", f"\n{HUGE},", 1), "refused"),
    "epoch_negative": (lambda text: text.replace("\n0,", "\n-5,", 1), "refused"),
    "header_only": (lambda text: text.partition("\n")[0] + "\n", "refused"),
    "ragged": (lambda text: text + "1,2,3\n" + "4," * 900 + "\n", "refused"),
    "a_quote": (lambda text: text + '1,"2\n', "refused"),
    "row_twice": (lambda text: text + text.partition("\n")[2], "refused"),
}


def run_tables() -> Iterator[Case]:
    for name, (change, ends) in _CSV.items():
        for reader in (_report, _resume):

            def make(bench: Bench, change: Any = change, reader: Any = reader) -> Command:
                run = bench.run()
                text = (run / "metrics.csv").read_text("utf-8")
                bench.replace(run / "metrics.csv", change(text))
                return reader(bench, run)

            title = f"metrics.csv-{name}-{reader.__name__[1:]}"
            yield Case(title, "run", make, ("metrics.csv",), ends)
    for place, (name, change) in enumerate(_TABLES.items()):
        for how in ("run", "compare") if place % 2 else ("run",):

            def make_table(bench: Bench, change: Change = change, how: str = how) -> Command:
                run = bench.run()
                file = run / TABLE
                table = pd.read_parquet(file)
                file.unlink()
                changed = change(table)
                (table if changed is None else changed).to_parquet(file)
                if how == "run":
                    return bench.evaluate_run(run)
                return _compare(bench, run)

            says = ("epoch=000.parquet", "run_mpii")
            yield Case(f"parquet-{name}-{how}", "predictions", make_table, says)


def _cells(column: str, value: Any) -> Change:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{column: [value] * len(table)})

    return change


_TABLES: dict[str, Change] = {
    "no_x": lambda table: table.drop(columns="x"),
    "no_joint": lambda table: table.drop(columns="joint"),
    "no_person": lambda table: table.drop(columns="person_id"),
    "no_visible": lambda table: table.drop(columns="visible"),
    "x_text": _cells("x", "left"),
    "x_nan": _cells("x", NAN),
    "x_infinite": _cells("x", INFINITE),
    "x_list": _cells("x", [1.0, 2.0]),
    "x_null": _cells("x", None),
    "person_text": _cells("person_id", "anna"),
    "joint_number": _cells("joint", 5),
    "joint_null": _cells("joint", None),
    "joint_unknown": _cells("joint", "wing"),
    "visible_text": _cells("visible", "yes"),
    "no_rows": lambda table: table.iloc[:0],
    "a_row_less": lambda table: table.iloc[1:],
    "person_twice": lambda table: pd.concat([table, table]),
    "shuffled": lambda table: table.sample(frac=1, random_state=0),
    "head_text": _cells("head_size_img", "big"),
    "head_negative": _cells("head_size_img", -1.0),
    "head_nan": _cells("head_size_img", NAN),
    "true_nan": _cells("true_x", NAN),
    "true_text": _cells("true_y", "low"),
}

_KEPT_MAPS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no_levels": lambda arrays: arrays.pop("levels"),
    "no_peaks": lambda arrays: arrays.pop("peaks"),
    "no_person": lambda arrays: arrays.pop("person_id"),
    "no_affine": lambda arrays: arrays.pop("crop_affine"),
    "no_image": lambda arrays: arrays.pop("image"),
    "flat_levels": lambda arrays: arrays.update(levels=np.zeros(5, np.uint8)),
    "peaks_nan": lambda arrays: arrays.update(peaks=np.full_like(arrays["peaks"], NAN)),
    "peaks_text": lambda arrays: arrays.update(peaks=arrays["peaks"].astype(str)),
    "peaks_complex": lambda arrays: arrays.update(peaks=arrays["peaks"].astype(complex)),
    "levels_float": lambda arrays: arrays.update(levels=arrays["levels"] * NAN),
    "levels_text": lambda arrays: arrays.update(levels=arrays["levels"].astype(str)),
    "affine_nan": lambda arrays: arrays.update(crop_affine=arrays["crop_affine"] * NAN),
    "affine_zero": lambda arrays: arrays.update(crop_affine=arrays["crop_affine"] * 0),
    "person_text": lambda arrays: arrays.update(person_id=arrays["person_id"].astype(str)),
    "person_twice": lambda arrays: arrays.update(person_id=arrays["person_id"] * 0 + 1),
    "nobody": lambda arrays: arrays.update({k: v[:0] for k, v in arrays.items()}),
    "image_number": lambda arrays: arrays.update(image=arrays["person_id"]),
    "no_joints": lambda arrays: arrays.update(
        levels=arrays["levels"][:, :0], peaks=arrays["peaks"][:, :0]
    ),
    "maps_empty": lambda arrays: arrays.update(levels=arrays["levels"][..., :0, :0]),
    "other_joints": lambda arrays: arrays.update(
        levels=arrays["levels"][:, :3], peaks=arrays["peaks"][:, :3]
    ),
}


def run_maps() -> Iterator[Case]:
    for name, change in _KEPT_MAPS.items():

        def make(bench: Bench, change: Any = change) -> Command:
            run = bench.run()
            with np.load(run / MAPS) as stored:
                arrays = dict(stored)
            (run / MAPS).unlink()
            change(arrays)
            np.savez_compressed(run / MAPS, **arrays)
            return _qualitative(bench, run)

        # Kept, but of nobody else or unfit to draw: it may go without them.
        loose = name in ("affine_zero", "image_number", "person_twice", "affine_nan")
        ends = "either" if loose else "refused"
        yield Case(f"npz-{name}", "run", make, ("epoch=000.npz", "run_mpii"), ends)


_TRUTH: dict[str, Change] = {
    "no_images": _drop("images"),
    "no_annotations": _drop("annotations"),
    "no_categories": _drop("categories"),
    "images_mapping": _set("images", {}),
    "image_number": _set("images", 0, 5),
    "image_no_id": _drop("images", 0, "id"),
    "image_id_list": _set("images", 0, "id", [1]),
    "annotation_text": _set("annotations", 0, "person"),
    "annotation_no_keypoints": _drop("annotations", 0, "keypoints"),
    "keypoints_short": _set("annotations", 0, "keypoints", [1, 2, 3]),
    "keypoints_text": _set("annotations", 0, "keypoints", ["a"] * 51),
    "keypoints_number": _set("annotations", 0, "keypoints", 7),
    "keypoints_nan": _set("annotations", 0, "keypoints", [NAN] * 51),
    "keypoints_huge": _set("annotations", 0, "keypoints", [HUGE] * 51),
    "bbox_short": _set("annotations", 0, "bbox", [1]),
    "bbox_text": _set("annotations", 0, "bbox", "box"),
    "bbox_nan": _set("annotations", 0, "bbox", [NAN] * 4),
    "area_text": _set("annotations", 0, "area", "large"),
    "area_nan": _set("annotations", 0, "area", NAN),
    "area_list": _set("annotations", 0, "area", [1]),
    "image_id_unknown": _set("annotations", 0, "image_id", "photo"),
    "id_null": _set("annotations", 0, "id", None),
    "id_list": _set("annotations", 0, "id", [1]),
    "category_keypoints_number": _set("categories", 0, "keypoints", 5),
    "category_keypoints_few": _set("categories", 0, "keypoints", ["nose"]),
    "a_list": _whole([]),
    "a_text": _whole("coco"),
    "a_number": _whole(3),
}
_RUNS_OWN: dict[str, Change] = {
    "sigmas_text": _set("categories", 0, "oks_sigmas", "small"),
    "sigmas_negative": _set("categories", 0, "oks_sigmas", [-1.0] * 17),
    "sigmas_few": _set("categories", 0, "oks_sigmas", [0.1]),
    "people_number": _set("posematch_people", 5),
    "people_no_id": _drop("posematch_people", 0, "person_id"),
    "people_box_text": _set("posematch_people", 0, "box_size_img", "wide"),
}


def annotations_of_coco() -> Iterator[Case]:
    """As a run's truth.json, and as a data set's annotations."""
    for name, change in {**_TRUTH, **_RUNS_OWN}.items():

        def make(bench: Bench, change: Change = change) -> Command:
            run = bench.run("coco")
            bench.edit_json(run / "truth.json", change)
            return bench.evaluate_run(run)

        yield Case(f"truth.json-{name}", "run", make, ("truth.json",))
    for place, (name, change) in enumerate(_TRUTH.items()):
        for how in ("weights", "predictions") if place % 3 == 0 else ("weights",):

            def make_set(bench: Bench, change: Change = change, how: str = how) -> Command:
                root = bench.copy(bench.good.coco, "coco")
                bench.edit_json(root / VALID, change)
                if how == "predictions":
                    return bench.evaluate_predictions(_predictions(bench, "p.json"), root)
                return bench.evaluate_coco(_weights(bench, "coco"), root)

            yield Case(f"coco-{name}-{how}", "annotation", make_set, (Path(VALID).name,))
    for damage in DAMAGES:

        def make_file(bench: Bench, damage: str = damage) -> Command:
            root = bench.copy(bench.good.coco, "coco")
            DAMAGES[damage](root / VALID)
            return bench.evaluate_predictions(_predictions(bench, "p.json"), root)

        yield Case(f"coco-{damage}", "annotation", make_file, (Path(VALID).name,))
    for name, change in _DETECTIONS.items():

        def make_boxes(bench: Bench, change: Change = change) -> Command:
            root = bench.copy(bench.good.coco, "coco")
            boxes = bench.copy(bench.good.predictions / "boxes.json", "coco/boxes.json")
            bench.edit_json(boxes, change)
            weights = _weights(bench, "coco")
            return bench.evaluate_coco(weights, root, "data.detections=boxes.json")

        yield Case(f"detections-{name}", "annotation", make_boxes, ("boxes.json",))


_DETECTIONS: dict[str, Change] = {
    "a_mapping": _whole({}),
    "a_number": _whole(7),
    "row_number": _set(0, 5),
    "no_bbox": _drop(0, "bbox"),
    "bbox_three": _set(0, "bbox", [1, 2, 3]),
    "bbox_text": _set(0, "bbox", "box"),
    "no_score": _drop(0, "score"),
    "score_text": _set(0, "score", "high"),
    "photo_unknown": _set(0, "image_id", 77),
    "photo_list": _set(0, "image_id", [1]),
    "photo_infinite": _set(0, "image_id", INFINITE),
}

_PEOPLE: dict[str, Change] = {
    "no_image": _drop(0, "image"),
    "image_number": _set(0, "image", 5),
    "image_null": _set(0, "image", None),
    "no_center": _drop(0, "center"),
    "center_one": _set(0, "center", [1]),
    "center_text": _set(0, "center", ["a", "b"]),
    "center_nan": _set(0, "center", [NAN, 1]),
    "center_huge": _set(0, "center", [1e308, 1e308]),
    "no_scale": _drop(0, "scale"),
    "scale_text": _set(0, "scale", "big"),
    "scale_zero": _set(0, "scale", 0),
    "scale_negative": _set(0, "scale", -2),
    "scale_nan": _set(0, "scale", NAN),
    "scale_infinite": _set(0, "scale", INFINITE),
    "scale_huge": _set(0, "scale", HUGE),
    "no_joints": _drop(0, "joints"),
    "joints_few": _set(0, "joints", [[1, 2]]),
    "joints_flat": _set(0, "joints", [1.0] * 16),
    "joints_three": _set(0, "joints", [[1, 2, 3]] * 16),
    "joints_ragged": _set(0, "joints", [[1, 2]] * 15 + [[1]]),
    "joints_text": _set(0, "joints", [["a", "b"]] * 16),
    "joints_nan": _set(0, "joints", [[NAN, NAN]] * 16),
    "joints_number": _set(0, "joints", 3),
    "flags_few": _set(0, "joints_vis", [1]),
    "flags_text": _set(0, "joints_vis", ["x"] * 16),
    "flags_nested": _set(0, "joints_vis", [[1, 1]] * 16),
    "flags_nan": _set(0, "joints_vis", [NAN] * 16),
    "row_list": _set(0, []),
    "row_text": _set(0, "person"),
    "row_null": _set(0, None),
    "a_mapping": _whole({}),
    "nobody": _whole([]),
    "a_person_less": lambda people: people[1:],
}
_TRUTH_MAT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no_boxes": lambda fields: fields.pop("headboxes_src"),
    "no_joints": lambda fields: fields.pop("pos_gt_src"),
    "no_names": lambda fields: fields.pop("dataset_joints"),
    "names_other": lambda fields: fields.update(dataset_joints=np.array(["a", "b"], object)),
    "names_number": lambda fields: fields.update(dataset_joints=5.0),
    "boxes_empty": lambda fields: fields.update(headboxes_src=fields["headboxes_src"] * 0),
    "boxes_nan": lambda fields: fields.update(headboxes_src=fields["headboxes_src"] * NAN),
    "boxes_text": lambda fields: fields.update(headboxes_src="boxes"),
    "joints_nan": lambda fields: fields.update(pos_gt_src=fields["pos_gt_src"] * NAN),
    "joints_complex": lambda fields: fields.update(pos_gt_src=fields["pos_gt_src"] * 1j),
    "joints_struct": lambda fields: fields.update(pos_gt_src={"x": 1.0}),
    "joints_sparse": lambda fields: fields.update(pos_gt_src=scipy.sparse.csc_matrix(np.eye(16))),
    "people_less": lambda fields: fields.update(jnt_missing=fields["jnt_missing"][:, 1:]),
    "missing_scalar": lambda fields: fields.update(jnt_missing=0.0),
}


def annotations_of_mpii() -> Iterator[Case]:
    for name, change in _PEOPLE.items():

        def make(bench: Bench, change: Change = change) -> Command:
            root = bench.copy(bench.good.mpii, "mpii")
            bench.edit_json(root / "annot/valid.json", change)
            return bench.evaluate_weights(_weights(bench), root)

        # A photo's name that is no text is one that is not there.
        says = (
            ("valid.json", "5", "None")
            if name in ("image_number", "image_null")
            else ("valid.json",)
        )
        # Far outside the photo: its crop is black, which is no fault of the file's.
        loose = name in ("center_huge", "flags_nan")
        yield Case(f"mpii-{name}", "annotation", make, says, "either" if loose else "refused")
    for damage in DAMAGES:
        for file in ("annot/valid.json", "annot/gt_valid.mat"):

            def make_file(bench: Bench, damage: str = damage, file: str = file) -> Command:
                root = bench.copy(bench.good.mpii, "mpii")
                DAMAGES[damage](root / file)
                if file.endswith(".mat"):
                    return bench.evaluate_predictions(_predictions(bench, "p.mat"), root)
                return bench.evaluate_weights(_weights(bench), root)

            yield Case(f"{Path(file).name}-{damage}", "annotation", make_file, (Path(file).name,))
    for name, change_mat in _TRUTH_MAT.items():

        def make_mat(bench: Bench, change: Any = change_mat) -> Command:
            root = bench.copy(bench.good.mpii, "mpii")
            file = root / "annot/gt_valid.mat"
            fields = {k: v for k, v in scipy.io.loadmat(file).items() if k[0] != "_"}
            file.unlink()
            change(fields)
            scipy.io.savemat(file, fields)
            return bench.evaluate_predictions(_predictions(bench, "p.mat"), root)

        yield Case(f"gt_valid.mat-{name}", "annotation", make_mat, ("gt_valid.mat",))


def _weights(bench: Bench, name: str = "mpii") -> Path:
    return bench.copy(bench.good.runs[name] / LAST, "weights.ckpt")


def _predictions(bench: Bench, name: str) -> Path:
    return bench.copy(bench.good.predictions / name)


# --- prediction files

_JOINTS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "nan": lambda joints: joints * NAN,
    "infinite": lambda joints: joints * INFINITE,
    "text": lambda joints: "joints",
    "complex": lambda joints: joints * 1j,
    "flat": lambda joints: joints.reshape(-1),
    "people_more": lambda joints: np.concatenate([joints, joints]),
    "people_none": lambda joints: joints[:0],
    "joints_less": lambda joints: joints[:, :3],
    "a_number": lambda joints: 5.0,
}
_RESULTS: dict[str, Change] = {
    "a_mapping": _whole({}),
    "a_number": _whole(4),
    "entry_list": _set(0, []),
    "entry_null": _set(0, None),
    "no_keypoints": _drop(0, "keypoints"),
    "keypoints_few": _set(0, "keypoints", [1, 2, 3]),
    "keypoints_text": _set(0, "keypoints", ["a"] * 51),
    "keypoints_nan": _set(0, "keypoints", [NAN] * 51),
    "keypoints_huge": _set(0, "keypoints", [HUGE] * 51),
    "keypoints_true": _set(0, "keypoints", [True] * 51),
    "score_infinite": _set(0, "score", INFINITE),
    "score_text": _set(0, "score", "high"),
    "no_score": _drop(0, "score"),
    "image_text": _set(0, "image_id", "photo"),
    "image_float": _set(0, "image_id", 1.5),
    "image_huge": _set(0, "image_id", HUGE),
    "category_other": _set(0, "category_id", 3),
    "no_category": _drop(0, "category_id"),
}


def predictions() -> Iterator[Case]:
    for suffix in ("mat", "h5", "json", "parquet"):
        for damage in DAMAGES:

            def make(bench: Bench, suffix: str = suffix, damage: str = damage) -> Command:
                file = _predictions(bench, f"p.{suffix}")
                DAMAGES[damage](file)
                return bench.evaluate_predictions(file)

            yield Case(f"p.{suffix}-{damage}", "predictions", make, (f"p.{suffix}",))
    for suffix in ("mat", "h5"):
        for name, change in _JOINTS.items():

            def make_joints(bench: Bench, suffix: str = suffix, change: Any = change) -> Command:
                joints = scipy.io.loadmat(bench.good.predictions / "p.mat")["preds"]
                file = bench.inputs / f"p.{suffix}"
                if suffix == "mat":
                    scipy.io.savemat(file, {"preds": change(joints)})
                else:
                    with h5py.File(file, "w") as content:
                        content["preds"] = change(joints)
                return bench.evaluate_predictions(file)

            yield Case(f"p.{suffix}-{name}", "predictions", make_joints, (f"p.{suffix}",))
    for name, change_results in _RESULTS.items():

        def make_results(bench: Bench, change: Change = change_results) -> Command:
            file = bench.edit_json(_predictions(bench, "p.json"), change)
            return bench.evaluate_predictions(file)

        yield Case(f"p.json-{name}", "predictions", make_results, ("p.json",))


# --- images


def _first_photo(root: Path) -> Path:
    name = json.loads((root / "annot/valid.json").read_text("utf-8"))[0]["image"]
    return root / "images" / str(name)


def _png_header(side: int) -> bytes:
    """A PNG that says how large it is and holds next to nothing."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    row = zlib.compress(bytes(1 + 3 * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def _encoded(suffix: str, picture: np.ndarray[Any, Any]) -> bytes:
    return bytes(cv2.imencode(suffix, picture)[1])


_PHOTOS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut_in_the_header": (lambda photo: photo[:100], "refused"),
    "text": (lambda photo: b"no photo", "refused"),
    "html": (lambda photo: b"<!doctype html><title>404</title>", "refused"),
    "svg": (lambda photo: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "refused"),
    "png_40000": (lambda photo: _png_header(40000), "refused"),
    "png_2_billion": (lambda photo: _png_header(2**31 - 1), "refused"),
    "png_zero": (lambda photo: _png_header(0), "refused"),
    "jpeg_65500": (lambda photo: _with_jpeg_size(photo, 65500), "refused"),
    # OpenCV reads these as what they are; the rest of a photo that was cut short is grey.
    "cut_short": (lambda photo: photo[: len(photo) // 2], "either"),
    "png_named_jpg": (lambda photo: _encoded(".png", _decoded(photo)), "works"),
    "grey": (lambda photo: _encoded(".jpg", _decoded(photo)[..., 0]), "works"),
    "16_bit": (lambda photo: _encoded(".png", _decoded(photo).astype(np.uint16) * 256), "either"),
    "with_alpha": (
        lambda photo: _encoded(".png", cv2.cvtColor(_decoded(photo), cv2.COLOR_BGR2BGRA)),
        "works",
    ),
    "one_pixel": (lambda photo: _encoded(".png", _decoded(photo)[:1, :1]), "either"),
    "float_tiff": (
        lambda photo: _encoded(".tiff", _decoded(photo).astype(np.float32) * NAN),
        "either",
    ),
}


def _decoded(photo: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR))


def _with_jpeg_size(photo: bytes, side: int) -> bytes:
    """Height and width in the frame header say something else."""
    start = photo.index(b"\xff\xc0") + 5
    return photo[:start] + side.to_bytes(2, "big") * 2 + photo[start + 4 :]


def images() -> Iterator[Case]:
    for damage in DAMAGES:

        def make(bench: Bench, damage: str = damage) -> Command:
            root = bench.copy(bench.good.mpii, "mpii")
            DAMAGES[damage](_first_photo(root))
            return bench.evaluate_weights(_weights(bench), root)

        # A JPEG that was cut short after its header is a photo whose rest is grey.
        ends = "either" if damage == "half" else "refused"
        yield Case(f"photo-{damage}", "image", make, (".jpg",), ends)
    for name, (change, ends) in _PHOTOS.items():

        def make_photo(bench: Bench, change: Any = change) -> Command:
            root = bench.copy(bench.good.mpii, "mpii")
            photo = _first_photo(root)
            bench.replace(photo, change(photo.read_bytes()))
            return bench.evaluate_weights(_weights(bench), root)

        yield Case(f"photo-{name}", "image", make_photo, (".jpg",), ends)
    for name in ("empty", "text", "png_40000"):

        def make_train(bench: Bench, name: str = name) -> Command:
            root = bench.copy(bench.good.mpii, "mpii")
            content = b"" if name == "empty" else _PHOTOS[name][0](b"")
            for photo in (root / "images").iterdir():
                bench.replace(photo, content)
            size = ["data.input_size=[64,64]", "data.batch_size=4", "data.workers=0"]
            quick = ["trainer.max_epochs=1", "experiment=cpu", "run_root=runs"]
            return Command("train", ["data=mpii", f"data.root={root}", *size, *quick])

        yield Case(f"photo-{name}-train", "image", make_train, (".jpg",))


def malformed() -> Iterator[Case]:
    """All of this file."""
    for group in (
        run_files,
        run_values,
        run_tables,
        run_maps,
        annotations_of_coco,
        annotations_of_mpii,
        predictions,
        images,
    ):
        yield from group()

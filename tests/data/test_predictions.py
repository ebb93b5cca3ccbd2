"""Readers of published prediction files, and of MPII's truth."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from posematch.data.mpii_truth import read_pckh_truth
from posematch.data.predictions import read_coco_results, read_mpii_predictions
from posematch.errors import PosematchError

N = 5
PREDS = np.random.default_rng(0).uniform(1, 1000, (N, 16, 2))


def write(file: Path, preds: Any, name: str = "preds") -> Path:
    if file.suffix == ".h5":
        with h5py.File(file, "w") as content:
            content[name] = preds
    else:
        scipy.io.savemat(file, {name: preds})
    return file


@pytest.mark.parametrize("file_name", ["preds.mat", "preds.h5"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_both_axis_orders_and_formats(
    tmp_path: Path, file_name: str, order: tuple[int, int, int]
) -> None:
    file = write(tmp_path / file_name, PREDS.transpose(order))
    np.testing.assert_array_equal(read_mpii_predictions(file, N), PREDS - 1)


def test_hdf5_is_told_by_content(tmp_path: Path) -> None:
    """MATLAB 7.3 calls its HDF5 files .mat."""
    file = write(tmp_path / "preds.h5", PREDS).rename(tmp_path / "preds.mat")
    np.testing.assert_array_equal(read_mpii_predictions(file, N), PREDS - 1)


def test_single_precision_and_integers_become_float64(tmp_path: Path) -> None:
    for kind in (np.float32, np.int16):
        file = write(tmp_path / "preds.mat", PREDS.astype(kind))
        joints_img = read_mpii_predictions(file, N)
        assert joints_img.dtype == np.float64
        np.testing.assert_array_equal(joints_img, PREDS.astype(kind).astype(np.float64) - 1)


def with_nan() -> NDArray[np.float64]:
    preds = PREDS.copy()
    preds[3, 9, 1] = np.nan
    return preds


@pytest.mark.parametrize("suffix", [".mat", ".h5"])
@pytest.mark.parametrize(
    ("preds", "name", "message"),
    [
        (PREDS[:-1], "preds", "the truth has 5 people"),
        (PREDS[:, :15], "preds", "the truth has 5 people"),
        (PREDS[..., 0], "preds", "the truth has 5 people"),
        (1.0, "preds", "the truth has 5 people|is missing"),
        (PREDS, "joints", "missing|no data set"),
        (PREDS.astype(np.complex128) * 1j, "preds", "real numbers"),
        (with_nan(), "preds", "person 3, joint head_top"),
    ],
)
def test_wrong_content_is_told(
    tmp_path: Path, suffix: str, preds: Any, name: str, message: str
) -> None:
    file = write(tmp_path / f"file{suffix}", preds, name)
    with pytest.raises(PosematchError, match=message) as told:
        read_mpii_predictions(file, N)
    assert str(file) in str(told.value)


def test_two_people_are_ambiguous(tmp_path: Path) -> None:
    file = write(tmp_path / "preds.mat", PREDS[:2].reshape(2, 16, 2))
    with pytest.raises(PosematchError, match="in two ways"):
        read_mpii_predictions(file, 2)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    for suffix in (".mat", ".h5"):
        whole = write(tmp_path / f"whole{suffix}", PREDS).read_bytes()
        for part in (b"", b"nonsense" * 100, whole[: len(whole) // 2], whole[:200]):
            (tmp_path / f"part{suffix}").write_bytes(part)
            with pytest.raises(PosematchError):
                read_mpii_predictions(tmp_path / f"part{suffix}", N)
    with pytest.raises(PosematchError, match="there is no file"):
        read_mpii_predictions(tmp_path / "absent.mat", N)
    with pytest.raises(PosematchError, match="is a folder"):
        read_mpii_predictions(tmp_path, N)


class Malice:
    """Unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    for reader in (lambda file: read_mpii_predictions(file, N), read_coco_results, read_pckh_truth):
        file = tmp_path / "preds.mat"
        file.write_bytes(pickle.dumps(Malice(tmp_path / "touched")))
        with pytest.raises(PosematchError):
            reader(file)
    assert not (tmp_path / "touched").exists()


def test_a_claimed_size_is_not_allocated(tmp_path: Path) -> None:
    """A file of a few kilobytes that claims 256 terabytes is refused by its shape."""
    with h5py.File(tmp_path / "huge.h5", "w") as content:
        content.create_dataset("preds", shape=(10**12, 16, 2), dtype="f8", chunks=(64, 16, 2))
    with pytest.raises(PosematchError, match="the truth has 5 people"):
        read_mpii_predictions(tmp_path / "huge.h5", N)


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    other = write(tmp_path / "other.h5", PREDS)
    with h5py.File(tmp_path / "link.h5", "w") as content:
        content["preds"] = h5py.ExternalLink(str(other), "preds")
    with pytest.raises(PosematchError, match="no data set"):
        read_mpii_predictions(tmp_path / "link.h5", N)


RESULT: dict[str, Any] = {
    "image_id": 785,
    "category_id": 1,
    "keypoints": [1.5] * 51,
    "score": 0.5,
}


def test_coco_results_keep_the_four_keys(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps([RESULT | {"bbox": [0, 0, 1, 1], "center": [0, 0]}, RESULT]))
    assert read_coco_results(file) == [RESULT, RESULT]
    file.write_text("[]")
    assert read_coco_results(file) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [1.0] * 50}, "51 numbers"),
        ({"keypoints": "1" * 51}, "51 numbers"),
        ({"keypoints": [1.0] * 50 + [float("nan")]}, "finite numbers"),
        ({"keypoints": [1.0] * 50 + ["1"]}, "finite numbers"),
        ({"keypoints": [1.0] * 50 + [True]}, "finite numbers"),
        ({"score": None}, "finite numbers"),
        ({"score": float("inf")}, "finite numbers"),
        ({"score": 10**400}, "finite numbers"),
        ({"image_id": "785"}, "whole numbers"),
        ({"image_id": True}, "whole numbers"),
        ({"category_id": 2}, "category_id than 1"),
    ],
)
def test_bad_coco_results_are_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps([RESULT, RESULT | change]))
    with pytest.raises(PosematchError, match=f"entry 1 of .*{message}"):
        read_coco_results(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "as json"),
        (b"\xff\xfe\xfd", "no text in UTF-8"),
        (b"[" * 100_000, "as json .nested too deeply"),
        (b"{}", "not a list"),
        (b"[3]", "entry 0 of .* not an object"),
        (b"[{}]", "entry 0 of .* needs keypoints"),
    ],
)
def test_bad_json_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(content)
    with pytest.raises(PosematchError, match=message):
        read_coco_results(file)
    with pytest.raises(PosematchError, match="does not exist"):
        read_coco_results(tmp_path / "absent.json")


JOINT_NAMES = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri"


def truth_fields() -> dict[str, Any]:
    """Three people; joint j of person n at (10 n + j + 1, 5), heads 3 x 4 px."""
    places = 10 * np.arange(3)[None, :] + np.arange(16)[:, None] + 1.0
    return {
        "dataset_joints": np.array([JOINT_NAMES.split()], dtype=object),
        "jnt_missing": np.zeros((16, 3), dtype=np.uint8),
        "pos_gt_src": np.stack([places, np.full_like(places, 5.0)], axis=1),
        "headboxes_src": np.array([[[10.0] * 3, [20.0] * 3], [[13.0] * 3, [24.0] * 3]]),
    }


def test_truth_by_hand(tmp_path: Path) -> None:
    fields = truth_fields()
    fields["jnt_missing"][7, 2] = 1
    fields["pos_gt_src"][7, :, 2] = np.nan  # a missing joint need not have a place
    scipy.io.savemat(tmp_path / "gt_valid.mat", fields)
    truth = read_pckh_truth(tmp_path / "gt_valid.mat")
    assert truth.joints_img[1, 3].tolist() == [13.0, 4.0]  # 1-based (14, 5)
    assert truth.head_size_img == pytest.approx([3.0] * 3, rel=1e-15)  # 0.6 x 5 px
    assert truth.visible.sum() == 47
    assert truth.visible[2, 7] == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dataset_joints", np.array([JOINT_NAMES.split()[::-1]], dtype=object), "dataset_joints"),
        ("jnt_missing", np.zeros((15, 3)), "jnt_missing"),
        ("pos_gt_src", np.zeros((16, 2, 4)), "pos_gt_src"),
        ("pos_gt_src", np.full((16, 2, 3), np.nan), "row 0"),
        ("headboxes_src", np.zeros((2, 2, 3)), "row 0"),
        ("headboxes_src", np.zeros((2, 4, 3)), "headboxes_src"),
        ("headboxes_src", None, "no field 'headboxes_src'"),
    ],
)
def test_bad_truth_is_told(tmp_path: Path, name: str, value: Any, message: str) -> None:
    fields = truth_fields()
    if value is None:
        del fields[name]
    else:
        fields[name] = value
    file = tmp_path / "gt_valid.mat"
    scipy.io.savemat(file, fields)
    with pytest.raises(PosematchError, match=message):
        read_pckh_truth(file)
    with pytest.raises(PosematchError, match="There is no file"):
        read_pckh_truth(tmp_path / "absent.mat")

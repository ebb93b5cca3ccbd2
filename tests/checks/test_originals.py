"""What is found in the real data as they are, each looked at in its photo.

MPII, training: tops of heads above the photo's border (14 people; MPII derives them from head
boxes), person 1985's right ankle on a referee eleven shins away, and seven people whose hips and
shoulders contradict each other: labelled from behind above and from the front below, or the other
way. Validation: heads above the border (5), and two joints that the json has elsewhere than the
.mat (the shared data's README tells 13 among all 2,958 people).

LSP-Extended: labels of crowd workers. Wrists on feet, ankles of other sizes, hips and shoulders of
contradicting sides; the strongest twenty-eight were looked at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from posematch.checks.checking import Checked, check
from posematch.data.annotations import skeleton_of
from posematch.data.coco import read_coco
from posematch.data.mpii import read_mpii

pytestmark = pytest.mark.usefixtures("processes_once")


def counts(checked: Checked) -> dict[tuple[str, str], int]:
    return {(one.split, one.kind): one.count for one in checked.findings}


def test_mpii(shared_data: Path):
    root = shared_data / "mpii"
    checked = check([read_mpii(root, split, (256, 256)) for split in ("train", "valid")], 20)
    assert counts(checked) == {
        ("train", "border"): 14, ("train", "outside_box"): 1, ("train", "long"): 1,
        ("train", "crossed"): 7, ("valid", "border"): 5, ("valid", "not_truth"): 2,
    }  # fmt: skip
    (long,) = (one for one in checked.findings if one.kind == "long")
    assert [(one.person_id, one.joints) for one in long.examples] == [(1985, (0, 5))]
    (apart,) = (one for one in checked.findings if one.kind == "not_truth")
    assert [one.person_id for one in apart.examples] == [49, 62]


def test_lsp(shared_data: Path):
    root = shared_data / "lspet"
    skeleton = skeleton_of(root / "valid.json")
    people = [
        read_coco(root / f"{split}.json", root / "photos", split, (256, 192), skeleton=skeleton)
        for split in ("train", "valid")
    ]
    found = counts(check(people, 20))
    assert found.pop(("train", "crossed")) < 0.016 * 5000
    assert found.pop(("valid", "crossed")) < 0.016 * 1000
    assert found == {("train", "long"): 5, ("valid", "long"): 1}


def test_coco(shared_data: Path):
    root = shared_data / "coco"
    people = [
        read_coco(
            root / "annotations" / f"person_keypoints_{split}.json", root / split, name, (256, 192)
        )
        for name, split in (("train", "train2017"), ("valid", "val2017"))
    ]
    checked = check(people, 20)
    assert not checked.count("error")
    assert {one.kind for one in checked.findings if one.severity == "warning"} <= {"outside_box"}

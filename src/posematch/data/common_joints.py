"""Joints that two data sets have: trained on one and scored on the other, or trained on both."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from posematch.data.annotations import PERSON_CATEGORY, read_annotations
from posematch.data.people import OKSTruth, PCKhTruth, People
from posematch.errors import PosematchError
from posematch.skeletons import Skeleton


@dataclass(frozen=True)
class CommonJoints:
    """Joints of the same name in two skeletons.

    Attributes
    ----------
    skeleton
        They alone, in the order of the data set that is scored, with its sigmas.
    trained, data
        Their indices in the network's skeleton and in the data set's.
    """

    skeleton: Skeleton
    trained: tuple[int, ...]
    data: tuple[int, ...]

    def told(self, trained: Skeleton, data: Skeleton) -> str:
        """One sentence for the table."""
        names = ", ".join(self.skeleton.joints).replace("_", " ")
        return (
            f"Across data sets: trained on {trained.name}'s {trained.num_joints} joints, scored on"
            f" the {len(self.data)} of {data.name}'s {data.num_joints} that have the same name"
            f" ({names}); the figures are over these alone and compare with no published ones, and"
            " annotators of the two data sets may mean slightly different places by a name."
        )


def common_joints(trained: Skeleton, data: Skeleton) -> CommonJoints:
    """Find the joints of the same name.

    Raises
    ------
    PosematchError
        There are none.
    """
    in_data = tuple(k for k, joint in enumerate(data.joints) if joint in trained.joints)
    if not in_data:
        raise PosematchError(
            f"The network's joints ({trained.name}: {', '.join(trained.joints[:3])} ...) and the"
            f" data's ({data.name}: {', '.join(data.joints[:3])} ...) have no name in common."
        )
    place = {old: new for new, old in enumerate(in_data)}
    flip_pairs, limbs = (
        tuple((place[a], place[b]) for a, b in pairs if a in place and b in place)
        for pairs in (data.flip_pairs, data.limbs)
    )
    upper, lower = (
        tuple(place[k] for k in half if k in place) for half in (data.upper_body, data.lower_body)
    )
    skeleton = Skeleton(
        name=f"{data.name}, {len(in_data)} joints",
        joints=tuple(data.joints[k] for k in in_data),
        flip_pairs=flip_pairs,
        limbs=limbs,
        upper_body=upper,
        lower_body=lower,
        oks_sigmas=tuple(data.oks_sigmas[k] for k in in_data) if data.oks_sigmas else (),
    )
    in_trained = tuple(trained.joints.index(joint) for joint in skeleton.joints)
    return CommonJoints(skeleton, in_trained, in_data)


def people_of(people: People, common: CommonJoints, folder: Path | None = None) -> People:
    """The people with the common joints alone, and a truth that knows no others.

    Parameters
    ----------
    people
        Of the data set that is scored.
    common
        See `common_joints`.
    folder
        Gets COCO's annotations without the other joints; COCOeval ignores who has none left. Not
        needed for a truth of PCKh's.
    """
    columns = list(common.data)
    persons = [
        replace(
            person,
            joints_img=person.joints_img[columns],
            visible=person.visible[columns],
            occluded=person.occluded[columns],
        )
        for person in people.people
    ]
    truth = people.truth
    match truth:
        case PCKhTruth():
            truth = PCKhTruth(
                truth.joints_img[:, columns],
                truth.visible[:, columns],
                truth.head_size_img,
                common.skeleton,
            )
        case OKSTruth():
            assert folder is not None, "COCO's truth is a file"
            file = folder / truth.annotation_file.name
            _write_annotations(file, truth, common)
            truth = replace(truth, annotation_file=file, skeleton=common.skeleton)
    return replace(people, skeleton=common.skeleton, people=persons, truth=truth)


def _write_annotations(file: Path, truth: OKSTruth, common: CommonJoints) -> None:
    content = read_annotations(truth.annotation_file, truth.skeleton).content
    annotations = []
    for one in content["annotations"]:
        keypoints = np.reshape(one["keypoints"], (-1, 3))[list(common.data)]
        labelled = int((keypoints[:, 2] > 0).sum())
        own = {"keypoints": keypoints.ravel().tolist(), "num_keypoints": labelled}
        annotations.append(one | own)
    person = {"id": PERSON_CATEGORY, "name": "person", "keypoints": common.skeleton.joints}
    whole = content | {"annotations": annotations, "categories": [person]}
    file.write_text(json.dumps(whole), encoding="utf-8")

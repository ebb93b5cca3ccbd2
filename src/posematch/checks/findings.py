"""What a check says: kinds of findings, how many people or photos have them, the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from posematch.checks.split import Flags, Floats, Split

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EXAMPLES = 6  # of a finding, the worst first


@dataclass(frozen=True)
class Kind:
    """One thing that can be wrong.

    Attributes
    ----------
    severity
        ``error``: wrong whatever the data are; ``warning``: to be looked at; ``note``: what the
        reader did.
    title
        What is wrong, as words that follow a number: ``3 people with ...``.
    meaning
        What it does, or what to do.
    """

    severity: Severity
    title: str
    meaning: str


KINDS: Mapping[str, Kind] = {
    "left_out": Kind("note", "left out", "The reader uses none of these."),
    "repaired": Kind("note", "repaired", "Read as it was plainly meant."),
    "suspicious": Kind("warning", "suspicious", "Used as it is, though it looks wrong."),
    # --- joints ---
    "outside_photo": Kind(
        "error", "people with a joint outside the photo",
        "Nobody can have seen it there: coordinates of another size of the photo, x and y"
        " exchanged, or a slip. By more than 5 % of the photo's shorter side.",
    ),
    "border": Kind(
        "warning", "people with a joint just outside the photo",
        "By at most 5 % of the photo's shorter side: guessed, as MPII's tops of heads are, or a"
        " slip. A joint outside the crop has no weight in any loss, and counts in the metrics.",
    ),
    "outside_box": Kind(
        "warning", "people with a joint far outside their box",
        "By more than half of the box's side: the box or the joint is another person's.",
    ),
    "origin": Kind(
        "error", "people with a joint labelled at (0, 0)",
        "Most tools write 0, 0 for a joint that is not labelled: its v must be 0, too.",
    ),
    "one_based": Kind(
        "error", "joints beyond the last pixel",
        "Coordinates reach a photo's width or height, and none lies in its first pixel: they count"
        " from 1, and posematch from 0. Take 1 from each.",
    ),
    "off_boxes": Kind(
        "error", "people whose joints are all shifted against their boxes",
        "Boxes are those of the joints, but all of them lie elsewhere by the same offset: one of"
        " the two counts from 1, or was moved.",
    ),
    "off_truth": Kind(
        "error", "joints shifted against what they are scored by",
        "All of them by the same offset: the annotation counts from 0 where it should from 1.",
    ),
    "not_truth": Kind(
        "warning", "people with a joint elsewhere than what they are scored by",
        "The annotation and MPII's gt_valid.mat differ; the .mat decides PCKh.",
    ),
    "crossed": Kind(
        "warning", "people whose left and right joints look swapped",
        "Limbs that lead to this pair of joints cross and would not with its two sides exchanged;"
        " the rest of the body agrees with itself. Judged by geometry: look at the picture.",
    ),
    "face": Kind(
        "warning", "people whose eyes are on the wrong sides",
        "With the nose in sight the left eye is on the picture's right of the right one, seen"
        " along the head.",
    ),
    "sides": Kind(
        "error", "left and right exchanged throughout a split",
        "In one split left joints are mostly right of the right ones, in the other left of them.",
    ),
    "long": Kind(
        "warning", "people with a joint farther off than their body allows",
        "Every limb that leads to it is more than twice as long as this person's others make it.",
    ),
    "collapsed": Kind(
        "error", "people with most joints at one place",
        "Half of the labelled joints or more have the very same coordinates.",
    ),
    "never": Kind(
        "warning", "joints that are hardly labelled",
        "Never, far less often than the other side's, or far less often than in the other split:"
        " a tool has lost them, or numbers joints in another order.",
    ),
    # --- boxes, areas, people ---
    "area_box": Kind(
        "error", "people with an area larger than their box",
        "A person fills no more than the box; OKS and AP take the area as the size.",
    ),
    "area_ratio": Kind(
        "warning", "people with an area unlike their box's",
        "More than four times off the split's usual share of the box; OKS and AP take the area as"
        " the size.",
    ),
    "tiny": Kind(
        "warning", "people with a tiny box", "Less than 10 px: nothing of a person is to be seen.",
    ),
    "huge": Kind(
        "error", "people with a box larger than the photo",
        "By more than a tenth: a box of another photo, or of another size of this one.",
    ),
    "box_size": Kind(
        "warning", "people whose box does not fit their joints' extent",
        "More than three times larger or smaller than the split's boxes are for such joints.",
    ),
    "box_place": Kind(
        "error", "people whose joints are mostly outside their box",
        "The box, or MPII's centre and scale, is another person's.",
    ),
    "same_person": Kind(
        "error", "people annotated twice",
        "Two people of a photo have the same joints.",
    ),
    "same_joints": Kind(
        "warning", "people with the joints of somebody in another photo",
        "To the last digit: copied, or the same photo under another name.",
    ),
    # --- photos ---
    "missing": Kind("error", "photos that are not there", "A training would stop at once."),
    "unreadable": Kind(
        "error", "photos that cannot be read", "A training stops where it meets the first.",
    ),
    "cut_off": Kind(
        "error", "photos that are cut off",
        "The file ends before the picture does: the rest is grey, and people in it are lost.",
    ),
    "size": Kind(
        "error", "photos of another size than the annotation says",
        "Resized, turned or exchanged since: joints lie elsewhere in it.",
    ),
    "exif": Kind(
        "warning", "photos that EXIF turns",
        "Annotated as they are stored, it seems; a viewer shows them turned. Look at the picture.",
    ),
    "both_splits": Kind(
        "error", "photos in training and validation",
        "The same file: what is validated on has been trained on.",
    ),
    "same_photo": Kind(
        "warning", "photos under several names",
        "The same file: its people count several times, or are annotated in part.",
    ),
    "both_people": Kind(
        "error", "people with the same joints in training and validation",
        "To the last digit: what is validated on has been trained on.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One case.

    Attributes
    ----------
    said
        What is wrong with it, in words.
    file
        The photo, or the annotation file.
    person_id
        As `posematch.data.people.Person`'s; None: it is no person's.
    row
        The person's place in the split; None: it is no person's.
    joints
        Whose place is in question.
    """

    said: str
    file: str = ""
    person_id: int | None = None
    row: int | None = None
    joints: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A kind of fault in a split.

    Attributes
    ----------
    kind
        Key of `KINDS`.
    split
        Its name.
    count, of
        How many people, joints or photos have it, of how many that were looked at.
    examples
        At most `EXAMPLES`, the worst first.
    detail
        What is said of all of them, if anything.
    """

    kind: str
    split: str
    count: int
    of: int
    examples: tuple[Example, ...] = ()
    detail: str = ""

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def sentence(self) -> str:
        """One line.

        >>> Finding("tiny", "train", 2, 90, (Example("4 x 3 px", "a.jpg", 7),)).sentence()
        'warning  train: 2 of 90 people with a tiny box (person 7 of a.jpg: 4 x 3 px)'
        """
        title = KINDS[self.kind].title
        detail = f": {self.detail}" if self.detail else ""
        if self.kind in ("left_out", "repaired", "suspicious"):
            title, detail = f"{title}: {self.detail}", ""
        of = f" of {self.of}" if self.of else ""
        first = f" ({_named(self.examples[0])})" if self.examples else ""
        return f"{self.severity:7}  {self.split}: {self.count}{of} {title}{detail}{first}"


def _named(example: Example) -> str:
    who = f"person {example.person_id} of " if example.person_id is not None else ""
    file = Path(example.file).name
    said = f": {example.said}" if example.said else ""
    return f"{who}{file}{said}" if who or file else example.said


def of_people(
    kind: str,
    split: Split,
    badness: Floats,
    said: Callable[[int], str],
    joints: Flags | None = None,
    of: int | None = None,
) -> list[Finding]:
    """The finding of people whose ``badness`` is positive, or nothing.

    Parameters
    ----------
    kind
        Key of `KINDS`.
    split
        Whose people they are.
    badness
        (N,) how bad it is; 0 or NaN: not at all.
    said
        What is wrong with the person of a row.
    joints
        (N, K) the joints in question.
    of
        How many were looked at; None: all.
    """
    found = np.flatnonzero(badness > 0)
    if not len(found):
        return []
    worst = found[np.argsort(-badness[found], kind="stable")][:EXAMPLES].tolist()
    examples = tuple(
        Example(
            said(row),
            str(split.people.people[row].image),
            split.people.people[row].person_id,
            row,
            () if joints is None else tuple(np.flatnonzero(joints[row]).tolist()),
        )
        for row in worst
    )
    return [Finding(kind, split.name, len(found), len(split) if of is None else of, examples)]

"""All checks of a data set: readers' reports, joints, boxes, people, photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from posematch.checks.boxes import both_people, check_boxes
from posematch.checks.findings import SEVERITIES, Example, Finding
from posematch.checks.joints import check_joints, check_splits
from posematch.checks.photos import Tick, check_copies, check_photos, look_at_all, spread
from posematch.checks.split import Split, split_of
from posematch.data.people import People

# A bar for so many steps of a name, which counts them.
Progress = Callable[[str, int], AbstractContextManager[Tick]]


def silent(_name: str, _count: int) -> AbstractContextManager[Tick]:
    """No bar."""
    return nullcontext(lambda: None)


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes
    ----------
    splits
        Which were looked at.
    findings
        Errors first, then warnings, then notes; of each, in the order of the splits.
    photos, decoded
        How many photos were looked at by their file's ends, and how many were decoded whole.
    """

    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]
    photos: int
    decoded: int

    def count(self, severity: str) -> int:
        """Findings of a severity."""
        return sum(one.severity == severity for one in self.findings)


def check(everybody: Sequence[People], decode: int | None, progress: Progress = silent) -> Checked:
    """Look at the splits of a data set.

    Parameters
    ----------
    everybody
        Training, then validation people, on annotated boxes.
    decode
        So many photos of each split are decoded whole; None: all.
    progress
        Shows how far it is with the photos.
    """
    paths = {one.image for people in everybody for one in people.people}
    with progress("photos", len(paths)) as tick:
        looks = look_at_all(paths, tick)
    sizes = {path: look.size for path, look in looks.items() if look.size is not None}
    splits = tuple(split_of(people, sizes) for people in everybody)
    chosen = [
        spread((one.image for one in people.people), len(paths) if decode is None else decode)
        for people in everybody
    ]
    found: list[Finding] = []
    for split, photos in zip(splits, chosen, strict=True):
        found += _of_reader(split.people)
        found += check_joints(split)
        found += check_boxes(split)
        with progress(f"{split.name}: decoding photos", len(photos)) as tick:
            found += check_photos(split.people, looks, photos, tick)
    found += [*check_splits(splits), *both_people(splits), *check_copies(everybody, looks)]
    found.sort(key=lambda one: SEVERITIES.index(one.severity))
    return Checked(splits, tuple(found), len(paths), sum(len(photos) for photos in chosen))


def _of_reader(people: People) -> Iterator[Finding]:
    report = people.report
    if report is None:
        return
    for kind, notes in report.notes.items():
        for why, note in notes.items():
            example = Example(note.example, report.source)
            yield Finding(kind.replace(" ", "_"), people.split, note.count, 0, (example,), why)

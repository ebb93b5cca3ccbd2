"""Checks of joints: where they lie, which side they are on, how far they are from one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from posematch.checks.findings import Example, Finding, of_people
from posematch.checks.geometry import bones_of, crossings_of, extents
from posematch.checks.split import Flags, Floats, Split
from posematch.data.people import PCKhTruth
from posematch.skeletons import Skeleton

# Chosen on MPII's 2,338, LSP's 6,000 and COCO's 1,354 people of the shared data, so that what they
# report was wrong in the photos looked at: tests/checks/test_originals.py.
OUTSIDE_PHOTO_PX, OUTSIDE_PHOTO = 2.0, 0.05  # the latter of the shorter side
OUTSIDE_BOX = 0.5  # of its side
MANY = 50  # people from whom shares are told
CROSSED_TWICE = 0.1  # of the body's size, of the two limbs that lead to a joint
CROSSED_EACH = 0.02
TORSO_CROSSED = 0.06  # golfers and batters reach half of it
CROSSED = 0.1  # and limbs longer than typical ones by:
TOO_LONG, LONG_ENOUGH = 1.4, 1.25
LONG_TIMES, LONG_BESIDES = 2.2, 0.3  # typical length and share of the body's size


def check_joints(split: Split) -> list[Finding]:
    """All checks that take one split's joints."""
    return [
        *outside_photo(split),
        *outside_box(split),
        *origin(split),
        *one_based(split),
        *off_boxes(split),
        *against_truth(split),
        *collapsed(split),
        *too_long(split),
        *crossed(split),
        *face(split),
    ]


def outside_photo(split: Split) -> list[Finding]:
    """Labelled joints beyond the photo, whose size is known, by little and by much."""
    last = split.sizes[:, None] - 1
    beyond = np.maximum(-split.joints_img, split.joints_img - last).max(axis=2)
    beyond = np.nan_to_num(beyond, nan=-1.0)
    out = beyond > OUTSIDE_PHOTO_PX
    far = beyond > np.maximum(
        OUTSIDE_PHOTO_PX, OUTSIDE_PHOTO * np.nan_to_num(split.sizes.min(axis=1))[:, None]
    )

    def said(row: int) -> str:
        joint = int(beyond[row].argmax())
        width, height = split.sizes[row]
        return f"{_at(split, row, joint)} in a photo of {width:.0f} x {height:.0f}"

    known = int(np.isfinite(split.sizes).all(axis=1).sum())
    found = []
    for kind, wrong in (("outside_photo", far), ("border", out & ~far.any(axis=1)[:, None])):
        badness = np.where(wrong, beyond, 0).max(axis=1, initial=0)
        found += of_people(kind, split, badness, said, wrong, known)
    return found


def outside_box(split: Split) -> list[Finding]:
    """Labelled joints more than `OUTSIDE_BOX` of the box's sides beyond it."""
    beyond = _beyond_box(split)
    wrong = (beyond > OUTSIDE_BOX) & ~_mostly_outside(beyond)[:, None]

    def said(row: int) -> str:
        joint = int(beyond[row].argmax())
        x, y, w, h = split.boxes_img[row]
        return f"{_at(split, row, joint)}, the box x {x:.0f}, y {y:.0f}, {w:.0f} x {h:.0f}"

    badness = np.where(wrong, beyond, 0).max(axis=1, initial=0)
    return of_people("outside_box", split, badness, said, wrong)


def box_place(split: Split) -> list[Finding]:
    """People of whom more than half of the labelled joints lie outside the box, and far."""
    beyond = _beyond_box(split)
    wrong = _mostly_outside(beyond)
    count = (beyond > 0.1).sum(axis=1)

    def said(row: int) -> str:
        x, y, w, h = split.boxes_img[row]
        return (
            f"{count[row]} of {split.labelled[row].sum()} joints outside the box x {x:.0f},"
            f" y {y:.0f}, {w:.0f} x {h:.0f}"
        )

    return of_people("box_place", split, np.where(wrong, beyond.max(axis=1), 0), said)


def _beyond_box(split: Split) -> Floats:
    """(N, K) how far outside, in sides of the box; below 0: inside, or not labelled."""
    corner, side = split.boxes_img[:, None, :2], np.maximum(split.boxes_img[:, None, 2:], 1.0)
    place = (split.joints_img - corner) / side
    return np.asarray(np.nan_to_num(np.maximum(-place, place - 1).max(axis=2), nan=-1.0))


def _mostly_outside(beyond: Floats) -> Flags:
    labelled = (beyond > -1).sum(axis=1)
    return np.asarray(
        (labelled >= 3)
        & ((beyond > 0.1).sum(axis=1) > labelled / 2)
        & ((beyond > 0.25).sum(axis=1) > labelled / 3)
    )


def origin(split: Split) -> list[Finding]:
    """Labelled joints at (0, 0), in MPII's frame also (-1, -1) and (-2, -2)."""
    x, y = split.joints_img[..., 0], split.joints_img[..., 1]
    wrong = np.isin(x, (0, -1, -2)) & np.equal(x, y)
    return of_people(
        "origin", split, wrong.sum(axis=1).astype(float), lambda row: _names(split, wrong[row]),
        wrong,
    )  # fmt: skip


def one_based(split: Split) -> list[Finding]:
    """Joints in the pixel after the last, and none in the first: the split counts from 1."""
    joints, size = split.joints_img, split.sizes[:, None]
    high = (joints > size - 1) & (joints <= size)
    low = (joints >= 0) & (joints < 1)
    if high.sum() < 3 or low.any():
        return []
    of_joint: Flags = np.asarray(high.any(axis=2))
    count = of_joint.sum(axis=1).astype(float)
    found = of_people(
        "one_based", split, count, lambda row: _at(split, row, int(of_joint[row].argmax())),
        of_joint,
    )  # fmt: skip
    return [
        Finding("one_based", split.name, int(of_joint.sum()), int(split.labelled.sum()), f.examples)
        for f in found
    ]


def off_boxes(split: Split) -> list[Finding]:
    """Of boxes that are as large as the joints' extent: a common offset between the two."""
    if not split.annotated_boxes:
        return []
    size = extents(split.joints_img)
    tight = (np.abs(size - split.boxes_img[:, 2:]) <= 1.01).all(axis=1)
    if tight.sum() < max(10, len(split) / 2):
        return []
    low = np.where(np.isnan(split.joints_img), np.inf, split.joints_img).min(axis=1)
    offset = np.median((low - split.boxes_img[:, :2])[tight], axis=0)
    if np.abs(offset).max() < 0.75:
        return []
    return [
        Finding(
            "off_boxes", split.name, int(tight.sum()), len(split),
            detail=f"by ({offset[0]:+.1f}, {offset[1]:+.1f}) px",
        )
    ]  # fmt: skip


def against_truth(split: Split) -> list[Finding]:
    """Joints against those that PCKh is measured by, where there are such."""
    truth = split.people.truth
    if not isinstance(truth, PCKhTruth) or len(truth.joints_img) != len(split):
        return []
    both = (truth.visible > 0) & split.labelled
    if not both.any():
        return []
    offsets = split.joints_img - truth.joints_img
    shift = np.median(offsets[both], axis=0)
    if np.abs(shift).max() >= 0.5:
        return [
            Finding(
                "off_truth", split.name, int(both.sum()), int(both.sum()),
                detail=f"by ({shift[0]:+.1f}, {shift[1]:+.1f}) px (median)",
            )
        ]  # fmt: skip
    apart = np.where(both, np.linalg.norm(np.nan_to_num(offsets), axis=2), 0)
    other = (truth.visible > 0) != split.labelled
    wrong = (apart > 1) | other

    def said(row: int) -> str:
        joint = int(apart[row].argmax())
        if apart[row, joint] > 1:
            return f"{split.skeleton.joints[joint]} {apart[row, joint]:.0f} px apart"
        return f"only one of the two labels {_names(split, other[row])}"

    badness = np.where(wrong.any(axis=1), 1 + apart.max(axis=1), 0)
    return of_people("not_truth", split, badness, said, wrong)


def collapsed(split: Split) -> list[Finding]:
    """People with half of their labelled joints, and at least three, at one place."""
    K = split.skeleton.num_joints
    same = np.zeros((len(split), K), dtype=np.int64)
    for k in range(K):
        with_k = (split.joints_img == split.joints_img[:, k : k + 1]).all(axis=2)
        same[:, k] = with_k.sum(axis=1)
    most = same.max(axis=1)
    wrong = (most >= 3) & (2 * most >= split.labelled.sum(axis=1))
    return of_people(
        "collapsed", split, np.where(wrong, most, 0).astype(float),
        lambda row: f"{most[row]} joints at one place", same == most[:, None],
    )  # fmt: skip


def too_long(split: Split) -> list[Finding]:
    """Joints all of whose limbs are longer than this person's size allows."""
    bones = bones_of(split.joints_img, split.skeleton)
    if not len(bones.limbs):
        return []
    a, b = bones.limbs.T
    lengths = np.linalg.norm(split.joints_img[:, a] - split.joints_img[:, b], axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        times = lengths / bones.scale_px[:, None]
        typical = times / bones.ratio
    long = times > LONG_TIMES * typical + LONG_BESIDES
    told = np.isfinite(typical)
    N, K = split.labelled.shape
    all_long, any_limb = np.ones((N, K), dtype=bool), np.zeros((N, K), dtype=bool)
    for limb, ends in enumerate(bones.limbs.tolist()):
        for end in ends:
            all_long[:, end] &= long[:, limb] | ~told[:, limb]
            any_limb[:, end] |= told[:, limb]
    wrong = all_long & any_limb
    # A limb's two ends are both far from each other: the one with other limbs in order is right.
    ratio = np.nan_to_num(np.where(long, bones.ratio, 0))

    def said(row: int) -> str:
        limb = int(ratio[row].argmax())
        one, other = (split.skeleton.joints[end] for end in bones.limbs[limb])
        return f"{one} to {other}: {ratio[row, limb]:.1f} times as far as is usual"

    badness = np.where(wrong.any(axis=1), ratio.max(axis=1), 0)
    return of_people("long", split, badness, said, wrong)


def crossed(split: Split) -> list[Finding]:
    """Pairs of joints whose sides are swapped against the rest of the body.

    A pair is told by the limbs that lead to it: both cross, though crossed arms and legs cross
    only the farther one; or shoulders against hips, where nobody is turned by more than a quarter;
    or limbs that cross are too long, and with the sides exchanged they are not.
    """
    skeleton = split.skeleton
    if not skeleton.flip_pairs:
        return []
    bones = bones_of(split.joints_img, skeleton)
    crossings = crossings_of(split.joints_img, skeleton, bones.scale_px)
    if not len(crossings.links):
        return []
    pairs, gain = np.array(skeleton.flip_pairs), crossings.gain
    cross = np.nan_to_num(gain, nan=-1.0)
    badness = np.zeros((len(split), len(pairs)))
    for number, (p, q) in enumerate(crossings.links.tolist()):
        ends = (split.joints_img[:, pairs[one]] for one in (p, q))
        a, b = ends
        lengths = np.linalg.norm(a - b, axis=2).sum(axis=1) / bones.scale_px
        finite = lengths[np.isfinite(lengths)]
        typical = float(np.median(finite)) if len(finite) else 1.0
        straight = np.nan_to_num(lengths / max(typical, 1e-9))
        other = np.nan_to_num((lengths - gain[:, number]) / max(typical, 1e-9))
        strange = (cross[:, number] > CROSSED) & (straight > TOO_LONG) & (other < LONG_ENOUGH)
        if crossings.torso[number]:
            strange |= cross[:, number] > TORSO_CROSSED
        # Which of the two pairs it is, their other limbs tell; the end of an arm has none.
        score = np.where(strange, cross[:, number], 0)
        farther = _farther(crossings.links, p, q)
        for one in farther:
            badness[:, one] = np.maximum(badness[:, one], score)
    for pair in range(len(pairs)):
        links = np.flatnonzero((crossings.links == pair).any(axis=1))
        if len(links) < 2:
            continue
        told = np.isfinite(gain[:, links])
        each = np.where(told, gain[:, links], np.inf).min(axis=1)
        total = np.where(told, gain[:, links], 0).sum(axis=1)
        both = (told.sum(axis=1) >= 2) & (each > CROSSED_EACH) & (total > CROSSED_TWICE)
        badness[:, pair] = np.where(both, np.maximum(badness[:, pair], total), badness[:, pair])
    joints = np.zeros(split.labelled.shape, dtype=bool)
    for pair, ends_of in enumerate(pairs):
        joints[:, ends_of] |= (badness[:, pair] > 0)[:, None]
    joints &= split.labelled
    return of_people(
        "crossed", split, badness.max(axis=1, initial=0),
        lambda row: _names(split, joints[row]), joints,
    )  # fmt: skip


def _farther(links: np.ndarray, p: int, q: int) -> tuple[int, ...]:
    """Of a link's two pairs the one that leads nowhere else; both, where neither does."""
    ends = [one for one in (p, q) if (links == one).any(axis=1).sum() == 1]
    return tuple(ends) if len(ends) == 1 else (p, q)


def face(split: Split) -> list[Finding]:
    """Eyes on the wrong sides of a face that is seen, along the line from eyes to shoulders."""
    names = split.skeleton.joints
    wanted = ("left_eye", "right_eye", "nose", "left_shoulder", "right_shoulder")
    if not set(wanted) <= set(names):
        return []
    left, right, nose, *shoulders = (split.joints_img[:, names.index(one)] for one in wanted)
    down = (shoulders[0] + shoulders[1]) / 2 - nose
    apart = left - right
    length = np.linalg.norm(down, axis=1)
    nose_down = nose - (left + right) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        # To the picture's right of a head that stands upright is (1, 0), with down (0, 1).
        sideways = _cross(apart, down) / length**2
        # Eyes and nose go round the same way in every face that is seen, but for one that looks
        # far up; so both must tell it.
        round_face = _cross(apart, nose_down) / np.linalg.norm(apart, axis=1) ** 2
    wrong = (sideways < -0.1) & (round_face < -0.3)
    joints = np.zeros(split.labelled.shape, dtype=bool)
    joints[np.ix_(wrong, [names.index("left_eye"), names.index("right_eye")])] = True
    return of_people(
        "face", split, np.where(wrong, -sideways, 0), lambda row: _names(split, joints[row]), joints
    )


def _cross(a: Floats, b: Floats) -> Floats:
    """(N,) of (N, 2) vectors."""
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def check_splits(splits: Sequence[Split]) -> list[Finding]:
    """What two splits tell together: sides, and joints that are hardly labelled."""
    return [*_sides(splits), *_hardly_labelled(splits)]


def front_share(split: Split) -> tuple[float, int]:
    """Share of people whose left joints are mostly right of their right ones, and of how many.

    Most people of most data sets stand upright and face the camera.
    """
    pairs = [_ordered(split.skeleton, *pair) for pair in split.skeleton.flip_pairs]
    if not pairs:
        return float("nan"), 0
    left, right = np.array(pairs).T
    apart = np.sign(split.joints_img[:, left, 0] - split.joints_img[:, right, 0])
    mean = np.nansum(apart, axis=1) / np.maximum(np.isfinite(apart).sum(axis=1), 1)
    told = np.abs(mean) > 0.5
    return float((mean[told] > 0).mean()) if told.any() else float("nan"), int(told.sum())


def _ordered(skeleton: Skeleton, a: int, b: int) -> tuple[int, int]:
    return (b, a) if "left" in skeleton.joints[b].lower() else (a, b)


def _sides(splits: Sequence[Split]) -> list[Finding]:
    if len(splits) != 2:
        return []
    shares = [front_share(split) for split in splits]
    (one, of_one), (other, of_other) = shares
    if min(of_one, of_other) < MANY or (one > 0.5) == (other > 0.5):
        return []
    # Chance alone: two shares of so many people are this far apart once in a million times.
    if abs(one - other) < max(0.2, 5 * np.sqrt(0.25 / of_one + 0.25 / of_other)):
        return []
    wrong = int(other < one)
    detail = ", ".join(
        f"{split.name}: the left ones are right of the right ones in {share:.0%} of {count} people"
        for split, (share, count) in zip(splits, shares, strict=True)
    )
    count = shares[wrong][1]
    return [Finding("sides", splits[wrong].name, count, count, detail=detail)]


def _hardly_labelled(splits: Sequence[Split]) -> list[Finding]:
    shares = {split.name: split.labelled.mean(axis=0) for split in splits if len(split) >= MANY}
    found = []
    for split in splits:
        if split.name not in shares:
            continue
        share, names = shares[split.name], split.skeleton.joints
        said: Mapping[int, str] = {}
        said = {k: f"{names[k]} is never labelled" for k in np.flatnonzero(share == 0).tolist()}
        for a, b in split.skeleton.flip_pairs:
            for one, other in ((a, b), (b, a)):
                if one not in said and share[one] < 0.6 * share[other] - 0.05:
                    text = f"{names[one]} is labelled in {share[one]:.0%} of the people"
                    said = {**said, one: f"{text}, {names[other]} in {share[other]:.0%}"}
        for name, others in shares.items():
            for k in np.flatnonzero(share < 0.5 * others - 0.1).tolist():
                if k not in said:
                    text = f"{names[k]} is labelled in {share[k]:.0%} of the people"
                    said = {**said, k: f"{text}, in {name} in {others[k]:.0%}"}
        if said:
            file = split.people.report.source if split.people.report else ""
            examples = tuple(Example(text, file) for text in said.values())
            found.append(Finding("never", split.name, len(said), len(names), examples))
    return found


def _names(split: Split, joints: Flags) -> str:
    """Of flagged joints."""
    return ", ".join(
        split.skeleton.joints[k].replace("_", " ") for k in np.flatnonzero(joints).tolist()
    )


def _at(split: Split, row: int, joint: int) -> str:
    x, y = split.joints_img[row, joint]
    return f"{split.skeleton.joints[joint].replace('_', ' ')} at ({x:.4g}, {y:.4g})"

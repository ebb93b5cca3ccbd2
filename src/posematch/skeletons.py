"""Joints of the data sets: their order, names, mirror pairs, limbs and published constants.

Sources: MPII order and body halves, docs/protocols.md, MPII boxes; COCO order, limbs and OKS
sigmas, the COCO keypoint evaluation (the sigmas are the published values, not tenths).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """What a data set calls its joints and how they hang together.

    Attributes
    ----------
    name
        Name of the skeleton, as used in configs.
    joints
        Joint names in the order of the annotation files; index k everywhere means ``joints[k]``.
    flip_pairs
        Index pairs (left, right) that change places when a photo is mirrored.
    limbs
        Index pairs to draw as bones.
    upper_body, lower_body
        Index sets of the half-body augmentation.
    oks_sigmas
        Per-joint standard deviations of COCO's object keypoint similarity; empty if the data set
        has none.

    Examples
    --------
    >>> COCO.num_joints, COCO.joints[5]
    (17, 'left_shoulder')
    >>> COCO.joints[COCO.flip_permutation[5]]
    'right_shoulder'
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]
    lower_body: tuple[int, ...]
    oks_sigmas: tuple[float, ...] = ()

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def flip_permutation(self) -> tuple[int, ...]:
        """Index of the joint that takes the place of joint k in a mirrored photo."""
        order = list(range(self.num_joints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)


def joint_pairs(skeleton: Skeleton) -> tuple[tuple[str, str], ...]:
    """Mirror pairs, as names."""
    return tuple((skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.flip_pairs)


# Of joints whose sigma nobody has measured: the middle of COCO's, which range from 0.025 (eyes) to
# 0.107 (hips).
DEFAULT_OKS_SIGMA = 0.05
_LOWER_BODY = ("hip", "pelvis", "knee", "ankle", "leg", "foot", "heel", "toe")


def skeleton_from_names(
    name: str,
    joints: Sequence[str],
    limbs: Sequence[tuple[int, int]],
    oks_sigmas: Sequence[float] | None = None,
    flip_pairs: Sequence[Sequence[str]] | None = None,
) -> Skeleton:
    """A skeleton told by its joints' names.

    Parameters
    ----------
    name
        Of the skeleton.
    joints
        Joint names; sides are told by `mirror_pairs`, and ``hip``, ``knee``, ``ankle``, ``foot``
        and the like are the lower body.
    limbs
        Index pairs.
    oks_sigmas
        Per joint; None for `DEFAULT_OKS_SIGMA` each.
    flip_pairs
        Names of joints that change places in a mirrored photo, instead of what the names tell.

    Raises
    ------
    ValueError
        Two joints have one name, a left joint has no right one, a pair or a limb leads to no joint,
        or there is not one positive sigma for each joint.

    Examples
    --------
    >>> pair = skeleton_from_names("arms", ["left_hand", "right_hand"], limbs=[])
    >>> pair.flip_pairs, pair.oks_sigmas
    (((0, 1),), (0.05, 0.05))
    """
    if len(set(joints)) != len(joints):
        raise ValueError("two joints have the same name")
    index = {joint: k for k, joint in enumerate(joints)}
    pairs = mirror_pairs(joints) if flip_pairs is None else _given_pairs(flip_pairs, index)
    if any(not 0 <= end < len(joints) for limb in limbs for end in limb):
        raise ValueError("a limb leads to a joint that is not there")
    sigmas = tuple(oks_sigmas or [DEFAULT_OKS_SIGMA] * len(joints))
    if len(sigmas) != len(joints) or min(sigmas, default=0) <= 0:
        raise ValueError(f"there must be {len(joints)} positive sigmas, one for each joint")
    lowered = {joint.lower(): k for joint, k in index.items()}
    lower = tuple(k for joint, k in lowered.items() if any(part in joint for part in _LOWER_BODY))
    upper = tuple(k for k in range(len(joints)) if k not in lower)
    limbs = tuple((a, b) for a, b in limbs)
    return Skeleton(name, tuple(joints), tuple(pairs), limbs, upper, lower, sigmas)


def mirror_pairs(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Left and right joints that differ in the word for their side alone.

    The word may stand anywhere, in any case and between any separators: ``left_eye``,
    ``front_left_paw``, ``frontLeftPaw``, ``eye (left)``, ``hand_l_1``, ``LHip``. Where it is
    not set apart (``lefteye``, ``lhip``) it counts if there is the other side's twin.

    >>> mirror_pairs(["nose", "front_left_paw", "front_right_paw", "cleft"])
    ((1, 2),)

    Parameters
    ----------
    joints
        Names.

    Returns
    -------
    Index pairs (left, right), by the left joint's index.

    Raises
    ------
    ValueError
        A name says ``left`` or ``right`` and nothing says the other: mirrored photos would train
        the wrong side.
    """
    tokens = [tuple(token.lower() for token in _TOKEN.findall(joint)) for joint in joints]
    place = {one: k for k, one in reversed(list(enumerate(tokens)))}
    whole = {joint.lower(): k for k, joint in enumerate(joints)}
    pairs: dict[int, int] = {}
    for k, joint in enumerate(joints):
        twins = [place.get(other) for other in _exchanged(tokens[k])]
        twins += [whole.get(other) for other in _exchanged_within(joint.lower())]
        twin = next((one for one in twins if one is not None and one != k), None)
        if twin is not None:
            pairs.setdefault(k, twin)
        elif {"left", "right"} & set(tokens[k]):
            twin_name = re.sub(
                "left|right", lambda side: _SIDES[side.group().lower()], joint, flags=re.IGNORECASE
            )
            raise ValueError(
                f"'{joint}' has no '{twin_name}', which a mirrored photo needs; if there is none,"
                " data.flip_pairs=[[A,B],...] names the pairs"
            )
    return tuple(
        (left, right)
        for left, right in pairs.items()
        if pairs.get(right) == left and _is_left(joints[left], joints[right])
    )


# Words, camel case taken apart, and numbers.
_TOKEN = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


def _exchanged(tokens: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The same words with one side exchanged; whole words for sides first."""
    for words in (("left", "right"), ("l", "r")):
        for place, token in enumerate(tokens):
            if token in words:
                yield (*tokens[:place], _SIDES[token], *tokens[place + 1 :])


def _exchanged_within(joint: str) -> Iterator[str]:
    """A name in lower case with a side exchanged that is part of a word."""
    for side in ("left", "right"):
        for found in re.finditer(side, joint):
            yield joint[: found.start()] + _SIDES[side] + joint[found.end() :]
    for found in re.finditer(r"(?<![a-z])[lr](?=[a-z])|(?<=[a-z])[lr](?![a-z])", joint):
        yield joint[: found.start()] + _SIDES[found.group()] + joint[found.end() :]


def _is_left(one: str, other: str) -> bool:
    """Which of two names, told apart by their sides, says left: l comes before r."""
    return one.lower() < other.lower()


def _given_pairs(
    pairs: Sequence[Sequence[str]], index: Mapping[str, int]
) -> tuple[tuple[int, int], ...]:
    named = [name for pair in pairs for name in pair]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("flip_pairs must be pairs of names, [[A,B],...]")
    if unknown := [name for name in named if name not in index]:
        raise ValueError(f"flip_pairs name '{unknown[0]}', which is no joint")
    if len(set(named)) != len(named):
        raise ValueError("flip_pairs name a joint twice")
    return tuple((index[a], index[b]) for a, b in pairs)


MPII = Skeleton(
    name="mpii",
    joints=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    limbs=(
        (0, 1),
        (1, 2),
        (2, 6),
        (3, 6),
        (3, 4),
        (4, 5),
        (6, 7),
        (7, 8),
        (8, 9),
        (10, 11),
        (11, 12),
        (12, 7),
        (13, 7),
        (13, 14),
        (14, 15),
    ),
    upper_body=(7, 8, 9, 10, 11, 12, 13, 14, 15),
    lower_body=(0, 1, 2, 3, 4, 5, 6),
)

COCO = Skeleton(
    name="coco",
    joints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        (15, 13),
        (13, 11),
        (16, 14),
        (14, 12),
        (11, 12),
        (5, 11),
        (6, 12),
        (5, 6),
        (5, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (1, 2),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ),
    upper_body=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    lower_body=(11, 12, 13, 14, 15, 16),
    oks_sigmas=(
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ),
)

SKELETONS = {skeleton.name: skeleton for skeleton in (MPII, COCO)}

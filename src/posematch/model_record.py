"""What a checkpoint says about its network besides the weights: plain data, checked, never run.

Under `RECORD` (``model``) a checkpoint carries a dictionary of `ModelRecord`'s fields. It may come
from a stranger: its shape and bounds are checked against the schema, and the configurations of the
network and of the decoder in it against `posematch.trust`, before anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from posematch.app.settings import check_type
from posematch.calibration_record import CalibrationRecord
from posematch.errors import PosematchError
from posematch.geometry import Size
from posematch.losses import MapsMeaning
from posematch.networks.checkpoint_files import RECORD
from posematch.runs.stored_config import STORED, without_sources
from posematch.skeletons import Skeleton
from posematch.trust import check_trusted

VERSION = 1

_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Index = Annotated[int, Field(ge=0)]
_Pair = Annotated[list[_Index], Field(min_length=2, max_length=2)]
_Positive = Annotated[float, Field(gt=0)]
_Side = Annotated[int, Field(ge=64, le=4096, multiple_of=32)]


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MapsRecord(_Plain):
    """`MapsMeaning` as plain data."""

    supply: Literal["none", "relu", "softplus", "softmax", "sparsemax"]
    temperature: _Positive
    mirror_signs: Annotated[list[Literal[1, -1]], Field(min_length=1, max_length=16)]

    @property
    def meaning(self) -> MapsMeaning:
        signs = tuple(float(one) for one in self.mirror_signs)
        return MapsMeaning(self.supply, self.temperature, signs)


class SkeletonRecord(_Plain):
    """`Skeleton` as plain data."""

    name: _Name
    joints: Annotated[list[_Name], Field(min_length=1, max_length=1000)]
    flip_pairs: list[_Pair]
    limbs: list[_Pair]
    upper_body: list[_Index]
    lower_body: list[_Index]
    oks_sigmas: list[_Positive]

    @model_validator(mode="after")
    def _fits(self) -> SkeletonRecord:
        number = len(self.joints)
        paired = [one for pair in self.flip_pairs for one in pair]
        used = [*paired, *(one for limb in self.limbs for one in limb)]
        if max([*used, *self.upper_body, *self.lower_body], default=0) >= number:
            raise ValueError(f"it names a joint beyond its {number}")
        if len(set(paired)) < len(paired) or len(set(self.joints)) < number:
            raise ValueError("a joint is named twice")
        if len(self.oks_sigmas) not in (0, number):
            raise ValueError(f"it has {len(self.oks_sigmas)} sigmas for {number} joints")
        return self

    @property
    def skeleton(self) -> Skeleton:
        return Skeleton(
            self.name,
            tuple(self.joints),
            tuple((left, right) for left, right in self.flip_pairs),
            tuple((start, end) for start, end in self.limbs),
            tuple(self.upper_body),
            tuple(self.lower_body),
            tuple(self.oks_sigmas),
        )


class ModelRecord(_Plain):
    """All that `posematch.model.PoseModel` needs besides the weights.

    Attributes
    ----------
    schema_version
        Of this class.
    backbone, decoder
        Configurations of the network and of the decoder, as in ``config.yaml``; the backbone's
        ``normalisation`` is told in numbers, and where its first weights came from is left out.
    maps
        What the network's maps mean.
    skeleton
        Its joints.
    input_size
        [H, W] of the crops.
    convention
        How crops and heatmaps are laid over each other, see `posematch.geometry`.
    flip_test
        Whether the maps of the mirrored crop are averaged in.
    channels_last
        The network's memory layout.
    calibration
        What its scores mean, where ``posematch calibrate`` has fitted that to these weights.
    """

    schema_version: Literal[1] = 1
    backbone: dict[str, Any]
    maps: MapsRecord
    decoder: dict[str, Any]
    skeleton: SkeletonRecord
    input_size: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    convention: Literal["hrnet", "udp"]
    flip_test: bool
    channels_last: bool
    calibration: CalibrationRecord | None = None

    @model_validator(mode="after")
    def _is_calibrated_for_its_joints(self) -> ModelRecord:
        number = len(self.skeleton.joints)
        if self.calibration is not None and not self.calibration.fits(number):
            raise ValueError(f"its calibration is not of {number} joints")
        return self

    @field_validator("backbone")
    @classmethod
    def _fetches_nothing(cls, backbone: dict[str, Any]) -> dict[str, Any]:
        return without_sources(backbone)

    @classmethod
    def of(
        cls,
        *,
        backbone: Mapping[str, Any],
        decoder: Mapping[str, Any],
        meaning: MapsMeaning,
        skeleton: Skeleton,
        input_size: Size,
        **switches: Any,
    ) -> ModelRecord:
        """Of a model that is about to be built; its weights come from elsewhere.

        Raises
        ------
        PosematchError
            A value is out of the schema's bounds.
        """
        fields = {
            "backbone": dict(backbone),
            "maps": maps_record(meaning),
            "decoder": dict(decoder),
            "skeleton": {
                "name": skeleton.name,
                "joints": list(skeleton.joints),
                "flip_pairs": [[int(left), int(right)] for left, right in skeleton.flip_pairs],
                "limbs": [[int(start), int(end)] for start, end in skeleton.limbs],
                "upper_body": [int(one) for one in skeleton.upper_body],
                "lower_body": [int(one) for one in skeleton.lower_body],
                "oks_sigmas": [float(one) for one in skeleton.oks_sigmas],
            },
            "input_size": list(input_size),
            **switches,
        }
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise PosematchError(f"The model cannot be kept: {_first(error)}.") from None

    @property
    def size(self) -> Size:
        """(H, W) of the crops."""
        height, width = self.input_size
        return height, width


def maps_record(meaning: MapsMeaning) -> MapsRecord:
    """A meaning as plain data."""
    return MapsRecord(
        supply=meaning.supply,
        temperature=float(meaning.temperature),
        mirror_signs=[1 if sign > 0 else -1 for sign in meaning.mirror_signs],
    )


def _first(error: ValidationError) -> str:
    """What is wrong, and where, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:200]}: {first['msg'][:200]}"


def read_record(
    content: Any,
    where: Path | str,
    trust: Sequence[str] = (),
    built: Sequence[str] = ("backbone", "decoder"),
) -> ModelRecord | None:
    """The record that a checkpoint carries.

    Parameters
    ----------
    content
        Of the file, as `posematch.networks.checkpoint_files.read_checkpoint` returns it.
    where
        The file, for messages.
    trust
        Packages besides posematch whose classes it may name.
    built
        Of its configurations, those that objects are going to be made of.

    Returns
    -------
    None for weights alone: other projects' files, and those of before there was a record.

    Raises
    ------
    PosematchError
        It is of a later version, damaged, or names what must not be built.
    """
    if not isinstance(content, Mapping) or "state_dict" not in content or RECORD not in content:
        return None
    stored = content[RECORD]
    version = stored.get("schema_version") if isinstance(stored, Mapping) else None
    if type(version) is int and version > VERSION:
        raise PosematchError(
            f"{where} is of a later version of posematch (its record of the network has version"
            f" {version}, this one reads {VERSION}); install that version."
        )
    try:
        record = ModelRecord.model_validate(stored)
    except ValidationError as error:
        raise PosematchError(
            f"{where}: its record of the network ({RECORD}) is damaged: {_first(error)}; take"
            " another checkpoint."
        ) from None
    configurations = {"backbone": record.backbone, "decoder": record.decoder}
    parts = {key: configurations[key] for key in built}
    for key, part in parts.items():
        if "_target_" not in part:
            raise PosematchError(f"{where}: {RECORD}.{key} does not say what it is (_target_).")
    check_trusted(parts, where, trust)
    for key, hint in STORED.items():
        owner, _, name = key.partition(".")
        if name in parts.get(owner, {}):
            check_type(f"{where}: {RECORD}.{key}", parts[owner][name], hint)
    return record

"""What keys of a configuration may be: types, ranges, and the sentences about other values."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from posematch.errors import PosematchError
from posematch.networks.normalisation import OUR_NETWORK


def _at_least(least: int) -> Any:
    return Field(ge=least, description=f"an integer of at least {least}")


_Name = Annotated[
    str, Field(pattern=r"^[\w.+-]+$", description="a name of letters, digits, . _ + -")
]


_Share = Annotated[int | float, Field(gt=0, description="a positive share or number of batches")]


# Keys of the configuration that are no argument of a target, and trainer's with a range that
# Lightning does not check. An absent key counts as null.
SETTINGS: Mapping[str, Any] = {
    "seed": Annotated[int, Field(ge=0, lt=2**32, description="an integer between 0 and 2^32 - 1")],
    "resume": str | None,
    "checkpoint": str | None,
    "run_root": Annotated[str, Field(min_length=1, description="a folder")],
    "sweep": _Name | None,
    "dry_run": bool,
    "flip_test": bool,
    "metric": Annotated[str, Field(min_length=1, description="a figure's name, or auto")],
    "channels_last": bool,
    "compile": bool | Literal["regional"],
    "validate_first": bool,
    "checkpoint_every_minutes": Annotated[
        int | float, Field(gt=0, description="a positive number of minutes")
    ]
    | None,
    "max_skipped_steps": Annotated[int, _at_least(1)],
    "silence_minutes": Annotated[int | float, Field(gt=0, description="a positive number")],
    "reference_batch_size": Annotated[int, _at_least(1)] | None,
    "pictures.every_n_epochs": Annotated[int, _at_least(0)],
    "pictures.people": Annotated[int, _at_least(1)],
    "pictures.heatmaps_of": Annotated[int, _at_least(0)],
    "pictures.results": bool | None,
    "pictures.curves": bool | Literal["auto"] | None,
    "debug.traceback": bool,
    "decoder.name": str | None,
    "loss.name": _Name,
    "data.name": _Name,
    "trainer.cuda_graphs": bool | Literal["auto"] | None,
    "trainer.max_epochs": int | None,
    "trainer.max_steps": int | None,
    "trainer.accumulate_grad_batches": Annotated[int, _at_least(1)],
    "trainer.check_val_every_n_epoch": Annotated[int, _at_least(1)],
    "trainer.limit_train_batches": _Share | None,
    "trainer.limit_val_batches": _Share | None,
    "trainer.gradient_clip_val": Annotated[
        int | float, Field(ge=0, description="a number of at least 0")
    ]
    | None,
}


def check_settings(cfg: DictConfig) -> None:
    """Check `SETTINGS`, that the training ends, and that it starts from one file.

    Raises
    ------
    PosematchError
        A value of another type or out of its range, or two files of weights.
    """
    for key, hint in SETTINGS.items():
        check_type(key, OmegaConf.select(cfg, key), hint)
    epochs, steps = cfg.trainer.get("max_epochs"), cfg.trainer.get("max_steps")
    limits = {"trainer.max_epochs": epochs, "trainer.max_steps": steps}
    for key, value in limits.items():
        if value is not None and (value == 0 or value < -1):
            raise PosematchError(f"{key}={value} must be at least 1, or -1 for no limit.")
    if all(value in (None, -1) for value in limits.values()):
        raise PosematchError(
            "The training would never end; set trainer.max_epochs or trainer.max_steps."
        )
    weights = weights_file(cfg)
    if cfg.get("checkpoint") and weights:
        raise PosematchError(
            f"checkpoint={cfg.checkpoint} has weights for the whole network, and"
            f" backbone.weights={weights} for its backbone; name one of them."
        )


def weights_file(cfg: DictConfig) -> Path | None:
    """The file that ``backbone.weights`` names for a network of ours; another's has its own key."""
    weights = cfg.backbone.get("weights")
    if weights is None or cfg.backbone.get("_target_") != OUR_NETWORK:
        return None
    return Path(str(weights)).expanduser()


def check_type(full_key: str, value: Any, hint: Any) -> None:
    """Raise a sentence unless a plain value is of the annotated type.

    NaN is no number. What an annotation means beyond plain values is passed over.
    """
    if value == "???":
        raise PosematchError(f"{full_key} is not set: add {full_key}=... to the command.")
    hint = _plain_hint(hint)
    if hint is None or isinstance(value, Mapping):
        return
    try:
        if isinstance(value, float) and math.isnan(value):
            raise PosematchError(f"{full_key}=nan must be {_in_words(hint)}.")
        TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(_tuples(value))
    except ValidationError:
        raise PosematchError(f"{full_key}={shown(value)} must be {_in_words(hint)}.") from None


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``; did you mean x?`` in words that follow a sentence's beginning, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    full = f"{prefix}.{close[0]}" if close and prefix else "".join(close)
    return f"; the nearest is {full}" if close else ""


def _plain_hint(hint: Any) -> Any:
    """The part of an annotation that values of a configuration can have; None: no such part.

    Lists become tuples, see `_tuples`.
    """
    if hint in (int, float, str, bool, type(None)):
        return hint
    if hint is Path:
        return str
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return hint
    if origin is Annotated:
        inside = _plain_hint(arguments[0])
        return hint if inside == arguments[0] else inside
    if origin in (typing.Union, types.UnionType):
        members = [plain for one in arguments if (plain := _plain_hint(one)) is not None]
        wanted = [one for one in members if one is not type(None)]
        return typing.Union[tuple(members)] if wanted else None  # noqa: UP007  not known here
    if origin in (list, tuple, Sequence) and arguments:
        inner: list[Any] = [one if one is Ellipsis else _plain_hint(one) for one in arguments]
        if None not in inner:
            container: Any = tuple
            return container[tuple(inner) if origin is tuple else (*inner, ...)]
    return None


def _tuples(value: Any) -> Any:
    """Lists as tuples, of which a configuration has none."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def shown(value: Any) -> str:
    """As it is written on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list) else str(value)


def _in_words(hint: Any) -> str:
    words = {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    if hint in words:
        return words[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        fields = [one for one in arguments if isinstance(one, FieldInfo) and one.description]
        return str(fields[0].description) if fields else _in_words(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(one) for one in arguments)
    plural = {"an integer": "integers", "a number": "numbers", "text": "texts"}
    inner = dict.fromkeys(_in_words(one) for one in arguments if one is not Ellipsis)
    count = "" if Ellipsis in arguments else f"{len(arguments)} "
    return f"a list of {count}{', '.join(plural.get(one, one) for one in inner)}"


AtLeastZero = Annotated[int, Field(ge=0, description="an integer of at least 0")]
AtLeastOne = Annotated[int, Field(ge=1, description="an integer of at least 1")]
Draws = Annotated[int, Field(ge=100, description="an integer of at least 100")]
Epoch = Annotated[int, Field(ge=1, description="an epoch, counted from 1")]
Positive = Annotated[int | float, Field(gt=0, description="a positive number")]

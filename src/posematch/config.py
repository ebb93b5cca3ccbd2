"""Composed configuration: its resolvers, its types, and the objects it names."""

from __future__ import annotations

import difflib
import enum
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from posematch.errors import PosematchError


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
    "channels_last": bool,
    "compile": bool,
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
    "debug.traceback": bool,
    "decoder.name": str | None,
    "loss.name": _Name,
    "data.name": _Name,
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
    """Check `SETTINGS`, and that the training ends.

    Raises
    ------
    PosematchError
        A value of another type or out of its range.
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


def register_resolvers() -> None:
    """``${heatmap_sigma:[H,W]}``: 1, 2, 3 for heatmaps 32, 64, 96 pixels high."""
    OmegaConf.register_new_resolver(
        "heatmap_sigma",
        # A wrong input_size is the data module's to tell.
        lambda size: (
            size[0] / 128
            if isinstance(size, Sequence) and len(size) and isinstance(size[0], int)
            else 0.0
        ),
        replace=True,
    )


def make(config: Any, key: str = "", **more: Any) -> Any:
    """`hydra.utils.instantiate`, with its errors as one sentence and our own as they are.

    Parameters
    ----------
    config
        Mapping with a ``_target_``. A ``name`` that the target does not take is a label for runs
        and columns, and left out, in nested targets, too.
    key
        Where it stands in the configuration, for messages.
    more
        Further arguments of the target.

    Raises
    ------
    PosematchError
        The target cannot be imported, has no such argument, or refuses a value.
    """
    values = plain(config) if isinstance(config, DictConfig) else dict(config)
    if "_target_" not in values:
        raise PosematchError(
            f"{key or 'The object'} does not say what it is: {key or 'it'}._target_ is missing."
        )
    values = _without_labels(values, key)
    _check_targets(values, key)
    try:
        return instantiate(values, _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, PosematchError) or is_out_of_memory(cause):
            raise cause from None
        first_line = str(cause).strip().split("\n")[0].rstrip(".")
        raise PosematchError(
            f"{key or 'The object'} ({values.get('_target_')}) cannot be made: {first_line}."
        ) from error


# PyTorch's allocators; the CUDA runtime; NVIDIA's libraries, whose handles take memory of the GPU
# that PyTorch's cache has left nothing of. They say so in a RuntimeError's text alone.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|out of memory|_ALLOC_FAILED|_ERROR, when calling `cu\w+Create"
    r"|_NOT_INITIALIZED when calling `cu\w+Create"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch's allocator or a GPU has run out of memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error))))
    )


def plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    """A resolved mapping as plain Python."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check_arguments(target: Callable[..., Any], values: Mapping[str, Any], key: str) -> None:
    """Check the names and types of keyword arguments against a callable's signature.

    Parameters
    ----------
    target
        Class or function; annotations that a configuration's plain values cannot meet are skipped.
    values
        Plain values by argument; names with a leading underscore are Hydra's and passed over.
    key
        Prefix of the full key in messages.

    Raises
    ------
    PosematchError
        An unknown name (with the nearest known one) or a value of another type.
    """
    hints, anything_goes = _parameters(target)
    for name, value in values.items():
        if name.startswith("_"):
            continue
        full = f"{key}.{name}" if key else name
        if name not in hints:
            if anything_goes:
                continue
            raise PosematchError(
                f"{full} is no argument of {target.__qualname__}{nearest(name, hints, key)}."
            )
        if _lacks_object(value, hints[name], target.__module__):
            names = [one.__name__ for one in _members(hints[name]) if one is not type(None)]
            raise PosematchError(
                f"{full}={_shown(value)} must be a mapping whose _target_ makes"
                f" {' or '.join(names)}."
            )
        check_type(full, value, hints[name])


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
        raise PosematchError(f"{full_key}={_shown(value)} must be {_in_words(hint)}.") from None


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``; did you mean x?`` in words that follow a sentence's beginning, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    full = f"{prefix}.{close[0]}" if close and prefix else "".join(close)
    return f"; the nearest is {full}" if close else ""


def _without_labels(values: Any, key: str) -> Any:
    """A tree of plain values without each ``name`` that its target does not take."""
    if isinstance(values, list):
        return [_without_labels(entry, key) for entry in values]
    if not isinstance(values, dict):
        return values
    target = values.get("_target_")
    label = "name" in values and target is not None
    if label and "name" in _parameters(_imported(target, key))[0]:
        label = False
    return {
        child: _without_labels(value, f"{key}.{child}" if key else str(child))
        for child, value in values.items()
        if not (label and child == "name")
    }


def _check_targets(values: Any, key: str) -> None:
    """`check_arguments` of every ``_target_`` in a tree of plain values."""
    if isinstance(values, list):
        for entry in values:
            _check_targets(entry, key)
    if not isinstance(values, dict):
        return
    name = values.get("_target_")
    if name is not None:
        check_arguments(_imported(name, key), values, key)
    for child, value in values.items():
        _check_targets(value, f"{key}.{child}" if key else str(child))


def _imported(name: Any, key: str) -> Callable[..., Any]:
    try:
        target = pkgutil.resolve_name(str(name))
    except Exception as error:  # whatever the module does when it is imported
        detail = str(error).strip().split("\n")[0]
        raise PosematchError(
            f"{key}._target_={name} cannot be imported ({detail}); is its package installed in"
            " this Python?"
        ) from error
    if not callable(target):
        raise PosematchError(f"{key}._target_={name} is not a class or function.")
    return typing.cast(Callable[..., Any], target)


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Annotations by keyword argument, and whether any other keyword is taken, too.

    ``**rest`` of a class's constructor stands for the arguments of its bases.
    """
    functions: list[Any] = [target]
    if inspect.isclass(target):
        functions = [
            base.__dict__["__init__"] for base in target.__mro__ if "__init__" in base.__dict__
        ]
    hints: dict[str, Any] = {}
    for function in functions:
        try:
            found = inspect.signature(function).parameters.values()
        except ValueError:  # written in C
            return hints, True
        try:
            annotated = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError, AttributeError):  # names that only a type checker sees
            annotated = {}
        for one in found:
            if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD) and one.name != "self":
                hints.setdefault(one.name, annotated.get(one.name))
        if not any(one.kind is one.VAR_KEYWORD for one in found):
            return hints, False
    return hints, True


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


def _lacks_object(value: Any, hint: Any, module: str) -> bool:
    """Whether a plain value stands where only objects of the target's own package fit."""
    package = module.partition(".")[0]
    members = _members(hint)
    if value is None and type(None) in members:
        return False
    return isinstance(value, int | float | str | list | None) and all(
        one is type(None)
        or (
            inspect.isclass(one)
            and one.__module__.partition(".")[0] == package
            and not issubclass(one, int | float | str | list | enum.Enum)
        )
        for one in members
    )


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _shown(value: Any) -> str:
    """As it is written on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


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

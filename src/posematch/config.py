"""Composed configuration: its resolvers, its types, and the objects it names."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from posematch.errors import PosematchError


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
        and columns, and left out.
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
    if "name" in values and "name" not in _parameters(_imported(values["_target_"], key))[0]:
        del values["name"]
    _check_targets(values, key)
    try:
        return instantiate(values, _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, PosematchError):
            raise cause from None
        first_line = str(cause).strip().split("\n")[0].rstrip(".")
        raise PosematchError(
            f"{key or 'The object'} ({values.get('_target_')}) cannot be made: {first_line}."
        ) from error


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
        check_type(full, value, hints[name])


def check_type(full_key: str, value: Any, hint: Any) -> None:
    """Raise a sentence unless a plain value is of the annotated type."""
    hint = _plain_hint(hint)
    if hint is None or isinstance(value, Mapping):
        return
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(_tuples(value, hint))
    except ValidationError:
        shown = "null" if value is None else str(value).lower() if value is True else value
        raise PosematchError(f"{full_key}={shown} must be {_in_words(hint)}.") from None


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``; did you mean x?`` in words that follow a sentence's beginning, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    full = f"{prefix}.{close[0]}" if close and prefix else "".join(close)
    return f"; the nearest is {full}" if close else ""


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
            annotated = typing.get_type_hints(function)
        except (NameError, TypeError, AttributeError):  # names that only a type checker sees
            annotated = {}
        for one in found:
            if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD) and one.name != "self":
                hints.setdefault(one.name, annotated.get(one.name))
        if not any(one.kind is one.VAR_KEYWORD for one in found):
            return hints, False
    return hints, True


def _plain_hint(hint: Any) -> Any:
    """The part of an annotation that values of a configuration can have; None: no such part."""
    if hint in (int, float, str, bool, type(None)):
        return hint
    if hint is Path:
        return str
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return hint
    if origin in (typing.Union, types.UnionType):
        members = [plain for one in arguments if (plain := _plain_hint(one)) is not None]
        wanted = [one for one in members if one is not type(None)]
        return typing.Union[tuple(members)] if wanted else None  # noqa: UP007  not known here
    if origin in (list, tuple, Sequence) and arguments:
        inner: list[Any] = [one if one is Ellipsis else _plain_hint(one) for one in arguments]
        if None not in inner:
            container: Any = list if origin is Sequence else origin
            return container[tuple(inner)]
    return None


def _tuples(value: Any, hint: Any) -> Any:
    """A configuration has no tuples: its lists stand for them."""
    return tuple(value) if isinstance(value, list) and "tuple[" in str(hint) else value


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
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(one) for one in arguments)
    inner = ", ".join(dict.fromkeys(_in_words(one) for one in arguments if one is not Ellipsis))
    return f"a list of {inner}"

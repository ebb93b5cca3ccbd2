"""Objects that a configuration names, made by their own signatures."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from posematch.app.settings import check_type, nearest, shown
from posematch.app.signatures import Signature, signature_of, written_signature
from posematch.errors import PosematchError, is_out_of_memory

# How a target's signature is found by its name and its key.
Reader = Callable[[Any, str], Signature | None]
# Parts of a configuration that objects are made of, in the order in which a training makes them.
_MADE = (
    *("data", "loss", "backbone", "decoder", "measure", "optimizer", "schedule", "decoders"),
    *("callbacks", "logger", "losses"),
)
# What `posematch.training.build` takes out, and what it works out where it is null.
_TAKEN_OUT = ("data.sigma",)
_WORKED_OUT = (*_TAKEN_OUT, "data.workers", "backbone.head_init_bias")


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
    values = _without_labels(values, key, _imported)
    _check_targets(values, key, _imported)
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


def make_settings(kind: type[Any], config: Any, key: str = "") -> Any:
    """A dataclass of a verb's settings from the keys that it names.

    Parameters
    ----------
    kind
        Dataclass; its fields' annotations say what values may be, those of its nested ones, too.
    config
        Mapping with exactly these keys.
    key
        Where it stands in the configuration, for messages.

    Raises
    ------
    PosematchError
        A value is missing or of another type, or a key is none of its fields.
    """
    values = plain(config) if isinstance(config, DictConfig) else dict(config)
    # Deleted on the command line: told as one that was never set.
    values |= {one.name: "???" for one in dataclasses.fields(kind) if one.name not in values}
    check_arguments(signature_of(kind), values, key)
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            values[name] = make_settings(typing.cast(Any, hints[name]), value, f"{key}{name}")
    return kind(**values)


def own_settings(kind: type[Any], cfg: DictConfig) -> Any:
    """`make_settings` of a verb whose configuration also says what a training's does.

    Parameters
    ----------
    kind
        Dataclass of the verb's own keys; the others are not looked at.
    cfg
        The composed configuration.

    Raises
    ------
    PosematchError
        As `make_settings`.
    """
    own = {one.name for one in dataclasses.fields(kind)}
    return make_settings(kind, {key: value for key, value in plain(cfg).items() if key in own})


def plain(config: DictConfig) -> dict[str, Any]:
    """A resolved mapping as plain Python."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_objects(config: DictConfig | Mapping[str, Any]) -> None:
    """Judge by posematch's source alone what `make` would refuse of a command's configuration.

    Names and types of the arguments of posematch's own classes and functions are judged; those of
    other packages' once they are imported.

    Raises
    ------
    PosematchError
        As `check_arguments`.
    """
    values = plain(config) if isinstance(config, DictConfig) else dict(config)
    for part in (one for one in _MADE if values.get(one)):
        judged = {
            name: value
            for name, value in values[part].items()
            if f"{part}.{name}" not in (_WORKED_OUT if value is None else _TAKEN_OUT)
        }
        _check_targets(_without_labels(judged, part, _written), part, _written)


def check_arguments(signature: Signature, values: Mapping[str, Any], key: str) -> None:
    """Check the names and types of keyword arguments.

    Parameters
    ----------
    signature
        Annotations that a configuration's plain values cannot meet are skipped.
    values
        Plain values by argument; names with a leading underscore are Hydra's and passed over.
    key
        Prefix of the full key in messages.

    Raises
    ------
    PosematchError
        An unknown name (with the nearest known one) or a value of another type.
    """
    hints = signature.hints
    for name, value in values.items():
        if name.startswith("_"):
            continue
        full = f"{key}.{name}" if key else name
        if name not in hints:
            if signature.others:
                continue
            raise PosematchError(
                f"{full} is no argument of {signature.name}{nearest(name, hints, key)}."
            )
        if _lacks_object(value, hints[name], signature.package):
            names = [one.__name__ for one in _members(hints[name]) if one is not type(None)]
            raise PosematchError(
                f"{full}={shown(value)} must be a mapping whose _target_ makes"
                f" {' or '.join(names)}."
            )
        check_type(full, value, hints[name])


def _without_labels(values: Any, key: str, read: Reader) -> Any:
    """A tree of plain values without each ``name`` that its target does not take."""
    if isinstance(values, list):
        return [_without_labels(entry, key, read) for entry in values]
    if not isinstance(values, dict):
        return values
    target = values.get("_target_")
    label = "name" in values and target is not None
    if label:
        signature = read(target, key)
        label = signature is not None and "name" not in signature.hints
    return {
        child: _without_labels(value, f"{key}.{child}" if key else str(child), read)
        for child, value in values.items()
        if not (label and child == "name")
    }


def _check_targets(values: Any, key: str, read: Reader) -> None:
    """`check_arguments` of every ``_target_`` in a tree of plain values that can be read."""
    if isinstance(values, list):
        for entry in values:
            _check_targets(entry, key, read)
    if not isinstance(values, dict):
        return
    name = values.get("_target_")
    signature = read(name, key) if name is not None else None
    if signature is not None:
        check_arguments(signature, values, key)
    for child, value in values.items():
        _check_targets(value, f"{key}.{child}" if key else str(child), read)


def _written(name: Any, key: str) -> Signature | None:
    return written_signature(str(name))


def _imported(name: Any, key: str) -> Signature:
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
    return signature_of(target)


def _lacks_object(value: Any, hint: Any, package: str) -> bool:
    """Whether a plain value stands where only objects of the target's own package fit."""
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

"""What Hydra and its parsers complain about, as sentences that name the nearest right thing.

Where Hydra's exceptions say in their attributes what is wrong, those are read, and a command's keys
are judged against what its choices compose to. Hydra's words alone are read of defaults lists.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posematch.app.composition import choices, files, flatten, nearest_key
from posematch.app.sentences import first_line
from posematch.app.settings import nearest, shown
from posematch.errors import PosematchError
from posematch.untrusted import MOST_OPEN, depth_of, read_yaml

_MOST_DIGITS = 308  # of a whole number; larger ones are beyond every float
_PARSERS = ("hydra", "omegaconf", "antlr4", "yaml")  # what makes a configuration of a command
_IN_FILE = re.compile(r"In '(\S+/\S+)': ")
_TWICE = re.compile(r"Multiple values for ([\w/]+)|([\w/]+) appears more than once")
_NOT_CHOSEN = re.compile(r"Could not override '([^'=]+)'")  # a group that no defaults list has


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what Hydra's parser fails at in other ways than by its own exceptions.

    Raises
    ------
    PosematchError
        No key, nested too deeply, or a number of too many digits.
    """
    for one in overrides:
        key, _, value = one.partition("=")
        said = f"{key[:80]}={value[:40]}..."
        if not key.strip("+~ "):
            raise PosematchError(_syntax(one))
        if depth_of(one) > MOST_OPEN:
            raise PosematchError(
                f"{said} is nested more than {MOST_OPEN} levels deep; put it into a file of"
                " --config-dir."
            )
        if any(len(digits) > _MOST_DIGITS for digits in re.findall(r"[\d_]+", value)):
            raise PosematchError(
                f"{said} has a number of more than {_MOST_DIGITS} digits, larger than any that is"
                " read."
            )


def check_no_sweep(overrides: Sequence[str]) -> None:
    """Refuse several values of a key where one run is asked for.

    Raises
    ------
    PosematchError
        The sentence has both ways to mean it.
    """
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        if one.is_sweep_override():
            key, _, values = str(one.input_line).partition("=")
            raise PosematchError(
                f"{key}={values} has several values; write {key}=[{values}] for a list, or add -m"
                " for a run of each."
            )


def complaint(
    error: Exception,
    folders: Sequence[Path],
    overrides: Sequence[str],
    keys: dict[str, Any],
    begun: bool = False,
) -> str | None:
    """What composing a command raised, as one sentence.

    Parameters
    ----------
    error
        Any.
    folders, overrides
        Of the command.
    keys
        `Composer.keys`.
    begun
        A task was called: other errors than Hydra's own are that one's.

    Returns
    -------
    None: it is no such complaint.
    """
    if isinstance(error, PosematchError):
        return None if begun else str(error)
    sentence = _of_hydra(error, folders, overrides, keys)
    return sentence if sentence or begun else _of_parser(error, folders, overrides)


def _of_hydra(
    error: Exception, folders: Sequence[Path], overrides: Sequence[str], keys: dict[str, Any]
) -> str | None:
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _syntax(str(error.override))
    mark = getattr(error, "problem_mark", None)  # of YAML's errors
    if mark is not None:
        return f"{mark.name}, line {mark.line + 1}, is not YAML: {getattr(error, 'problem', '')}."
    if isinstance(error, ValueError) and not isinstance(error, OmegaConfBaseException):
        return _of_group_value(folders, overrides)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    place = _IN_FILE.match(text)
    where = f" (in {place.group(1)}.yaml)" if place else ""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _of_choice(error, folders, where)
    if keys and (sentence := _of_keys(folders, overrides, keys)):
        return sentence
    if twice := _TWICE.search(text):
        key = twice.group(1) or twice.group(2)
        return f"{key} is chosen twice{where}; write {key}=CHOICE without +, or override in a file."
    if refused := _NOT_CHOSEN.search(text):
        key, groups = refused.group(1), {group for _, group in files(folders)} - {"."}
        if key in groups:
            return f"{key} is no group of what the other choices of this command compose to."
        return f"{key} is no group of the configuration{where}{nearest(key, groups)}."
    if "does not support sweep type" in text:
        return "Without hydra/sweeper=optuna, a swept key takes values (key=1,2,3) or range(...)."
    return f"{first_line(text)}." if text.strip() else None


# Of choices whose group has others without one.
_PLUGINS = {
    "hydra/launcher=submitit_slurm": "pip install 'posematch[slurm]'",
    "hydra/launcher=submitit_local": "pip install 'posematch[slurm]'",
    "hydra/launcher=ray": "pip install 'posematch[ray]' && "
    "pip install --no-deps hydra-ray-launcher",
}


def _of_choice(error: MissingConfigException, folders: Sequence[Path], where: str) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"There is no configuration {choice}; name train or evaluate."
    options = sorted({*(error.options or ()), *choices(folders, group)} - {"base"})
    if plugin := _PLUGINS.get(f"{group}={choice}"):
        return f"{group}={choice} needs a plugin: {plugin}."
    if group.startswith("hydra/") and not options:
        return f"{group}={choice} needs a plugin: pip install 'posematch[search]'."
    return (
        f"{group}={choice} is no choice{where}{nearest(choice, options)}; there are:"
        f" {', '.join(options)}."
    )


def _of_keys(folders: Sequence[Path], overrides: Sequence[str], keys: dict[str, Any]) -> str | None:
    """Of the first key that does not do to ``keys`` what the command wants, in its order."""
    known = dict(keys)
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        if choices(folders, one.key_or_group):
            continue
        key, value = str(one.key_or_group), None if one.is_sweep_override() else one.value()
        if one.is_add() or one.is_force_add():
            if one.is_add() and known.get(key) is not None and not isinstance(value, dict | list):
                return f"{key} is a key already; leave out its +."
            parts = key.split(".")
            known |= {".".join(parts[:end]): {} for end in range(1, len(parts))}
            known |= {key: value} | flatten(value, f"{key}.")
        elif key not in known:
            return _of_unknown(folders, one, keys)
        elif one.is_delete():
            if value is not None and value != known[key]:
                return f"{one.input_line}: {key} is {shown(known[key])}, so it stays."
            gone = f"{key}."
            known = {name: it for name, it in known.items() if not f"{name}.".startswith(gone)}
    return None


def _of_unknown(folders: Sequence[Path], override: Override, keys: dict[str, Any]) -> str:
    key = str(override.key_or_group)
    if key in keys:
        return f"{key} is deleted by this command, so it cannot be set."
    owners = _owners(folders, key)
    if owners:
        return f"{key} is no key of what is chosen; it is one of {', '.join(owners)}."
    known = {group for _, group in files(folders)} - {"."}
    known |= {one for one in keys if key.startswith("hydra") or not one.startswith("hydra")}
    what = "group" if "/" in key else "key"
    return f"{key} is no {what} of the configuration{nearest_key(key, known)}."


def _of_parser(error: Exception, folders: Sequence[Path], overrides: Sequence[str]) -> str | None:
    """Of what Hydra or a parser of its raises beside its own exceptions, before any task begins.

    None: it was not raised there, so that it is a bug.
    """
    frames = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    ours = max((i for i, name in enumerate(frames) if name.startswith("posematch.")), default=-1)
    if not any(name.partition(".")[0] in _PARSERS for name in frames[ours + 1 :][:1]):
        return None
    own = [file for file, _ in files(folders[1:])]
    # Those that the command names come first: others may lie there for other uses.
    own.sort(key=lambda file: not any(file.stem in one for one in overrides))
    for file in own:
        try:
            _check_config(file)
        except PosematchError as wrong:
            return str(wrong)
    if isinstance(error, RecursionError):
        with_defaults = [str(one) for one in own if "defaults" in (read_yaml(one) or ())]
        if with_defaults:
            return f"The defaults of {with_defaults[0]} lead back to itself; take that entry out."
    reason = first_line(error) or first_line(error.__context__ or type(error).__name__)
    command = " ".join(overrides)[:200] or "this command"
    return f"Hydra cannot compose {command} ({reason}); see --help."


def _check_config(file: Path) -> None:
    """Raise a sentence unless a file of a user's is what Hydra takes for a configuration."""
    content = read_yaml(file)
    if content is not None and not isinstance(content, dict):
        raise PosematchError(f"{file} is no mapping of keys to values; write it as key: value.")
    if not isinstance((content or {}).get("defaults", []), list):
        raise PosematchError(f"defaults of {file} must be a list, such as [_self_, matching].")
    try:
        OmegaConf.create(content or {})
    except Exception as error:  # OmegaConf's own, and those of its parser
        raise PosematchError(
            f"{file} cannot be read as a configuration ({first_line(error)}); correct it."
        ) from None


def _syntax(override: str) -> str:
    if not override.strip("+~= "):
        return f"'{override}' is no override; write key=value, or see --help."
    if "=" not in override and not override.startswith("~"):
        return f"'{override}' is no override; write {override}=VALUE, or see --help."
    key, _, value = override.partition("=")
    if value[:1] not in ("'", '"') and (found := {"=", "~"} & set(value)):
        quoted = value.replace("'", "\\'")
        return (
            f"{override} has a {min(found)} in its value, which Hydra reads as its own; quote the"
            f" value, and both for the shell: \"{key}='{quoted}'\"."
        )
    return (
        f"'{override}' is no override that can be read; write key=value, with quotes around values"
        " that have spaces, commas or brackets in them."
    )


def _of_group_value(folders: Sequence[Path], overrides: Sequence[str]) -> str | None:
    """Of a group that is set to null or a number."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        options = sorted(choices(folders, override.key_or_group))
        value = override.value()
        # Of a deletion: nothing, or the choice.
        fits = (str, type(None)) if override.is_delete() else (str, list)
        if options and not isinstance(value, fits):
            return f"{override.input_line} is no choice; there are: {', '.join(options)}."
    return None


def _owners(folders: Sequence[Path], key: str) -> list[str]:
    """Choices of the key's group that have the key."""
    group, _, name = key.rpartition(".")
    has = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    return sorted(
        f"{group}={file.stem}"
        for file, its_group in files(folders)
        if its_group == group
        and file.stem != "base"
        and has.search(file.read_text("utf-8", errors="replace"))
    )

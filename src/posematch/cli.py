"""How scripts begin and end: Hydra's composition, and errors as one sentence."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from posematch.config import SETTINGS, is_out_of_memory, nearest, register_resolvers
from posematch.console import tell
from posematch.errors import PosematchError
from posematch.untrusted import read_yaml

_OPTIONS_WITH_VALUE = {
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--info",
    "-i",
}
_OPTIONS_THAT_SHOW = {"--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--version"}
_COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space; over a quota; over a limit
_MOST_FILES = 2000  # of a folder of configurations
Task = Callable[[DictConfig], Any]


@contextmanager
def one_sentence_errors(debug: bool = False) -> Iterator[None]:
    """Turn a bad input into one sentence on stderr and exit code 1.

    Works around a ``with`` block and as a decorator. A bug of ours keeps its traceback.

    Parameters
    ----------
    debug
        Let the traceback through instead.

    Raises
    ------
    SystemExit
        With code 1.
    """
    try:
        yield
    except KeyboardInterrupt:
        tell("Stopped.")
        raise SystemExit(1) from None
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            error.add_note("No input is meant to end like this: it is a mistake in the code.")
        if debug or sentence is None:
            raise
        tell(sentence)
        raise SystemExit(1) from error


def hydra_main(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Like ``hydra.main`` on the repository's ``conf/``, with every error as one sentence.

    Parameters
    ----------
    config_name
        Of a file there, without its ending: ``train``, ``evaluate``, ``report`` ...
    """

    def decorate(task: Task) -> Callable[[], None]:
        conf = Path(task.__code__.co_filename).resolve().parents[1] / "conf"

        def main() -> None:
            register_resolvers()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, where Hydra would print and exit
            overrides, options = _split(sys.argv[1:])
            # Hydra's parser refuses overrides on both sides of an option.
            sys.argv[1:] = [*overrides, *options]
            with one_sentence_errors():
                folders = [conf, *_config_dirs(options)]

            @functools.wraps(task)
            def guarded(cfg: DictConfig) -> Any:
                with one_sentence_errors(debug=OmegaConf.select(cfg, "debug.traceback") is True):
                    _refuse_unread(cfg, folders, config_name)
                    _refuse_unresolvable(cfg)
                    return task(cfg)

            run = hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)
            try:
                if {"-m", "--multirun"} & set(options):
                    _check_sweep(folders, config_name, overrides)
                run(guarded)()
            except BrokenPipeError:  # as by | head
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(1) from None
            except Exception as error:
                sentence = _composition_sentence(error, folders, config_name, overrides)
                if sentence is None:
                    raise
                tell(sentence)
                raise SystemExit(1) from error

        return main

    return decorate


def begins_sweep(config_name: str, conf: Path, arguments: Sequence[str]) -> bool:
    """Whether a command is a sweep: by ``-m``, or by ``hydra.mode`` of an experiment it names.

    A command that cannot be composed is none; running it will tell what is wrong.
    """
    overrides, options = _split(arguments)
    if {"-m", "--multirun"} & set(options):
        return True
    if _OPTIONS_THAT_SHOW & set(options):
        return False
    named = ("experiment=", "+experiment=", "hydra.mode=")
    if not any(one.startswith(named) for one in overrides):
        return False
    try:
        folders = [conf, *_config_dirs(options)]
        whole = _composed(folders, config_name, _varied(folders, overrides)[0], whole=True)
    except (*_COMPOSITION_ERRORS, PosematchError, ValueError):
        return False
    return bool(whole.hydra.mode == RunMode.MULTIRUN)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and options with their values."""
    overrides, options = [], []
    rest = iter(arguments)
    for one in rest:
        if not one.startswith("-"):
            overrides.append(one)
            continue
        options.append(one)
        if one in _OPTIONS_WITH_VALUE:
            options += [value for value in [next(rest, None)] if value is not None]
    return overrides, options


def _config_dirs(options: Sequence[str]) -> list[Path]:
    """The folder of ``--config-dir``; refuses options that Hydra does not have."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        known, unknown = parser.parse_known_args(options)
    except argparse.ArgumentError as error:
        raise PosematchError(f"{error.argument_name}: {error.message}; see --help.") from None
    if unknown:
        raise PosematchError(
            f"{unknown[0]} is no option{nearest(unknown[0], parser._option_string_actions)};"
            " see --help."
        )
    if not known.config_dir:
        return []
    folder = Path(known.config_dir).resolve()
    _check_files(folder)
    return [folder]


def _check_files(folder: Path) -> None:
    """Read a folder of configurations before Hydra does, which would wait for a named pipe.

    Raises
    ------
    PosematchError
        A file is none, has aliases, or there are more than any such folder has.
    """
    for number, (file, _) in enumerate(_files([folder])):
        if number == _MOST_FILES:
            raise PosematchError(
                f"--config-dir: {folder} has more than {_MOST_FILES} configurations; name the"
                " folder that has yours."
            )
        read_yaml(file)


def _sentence(error: Exception) -> str | None:
    """What to tell about an error in a script's task; None: nothing, it is a bug."""
    if isinstance(error, PosematchError):
        return str(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: add {error.full_key}=... to the command."
    if isinstance(error, OmegaConfBaseException):
        if "is not in struct" in str(error.msg):
            return f"The configuration lacks {error.full_key}."
        return f"{error.full_key or 'The configuration'}: {_first_line(error.msg or error)}."
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; free some space or set run_root to another disk."
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} may not be written or read ({error.strerror})."
    if is_out_of_memory(error):
        wanted = re.search(r"ried to allocate ([\d.]+ \w+)", str(error))
        return (
            f"Out of memory{f' ({wanted.group(1)} more were needed)' if wanted else ''}; lower"
            " data.batch_size (and raise trainer.accumulate_grad_batches), or set"
            " backbone.activation_checkpointing=true."
        )
    return None


def _check_sweep(folders: Sequence[Path], config_name: str, overrides: Sequence[str]) -> None:
    """Raise what composing the jobs would raise, before Hydra makes the sweep's folder."""
    for job in _varied(folders, overrides):
        cfg = _composed(folders, config_name, job)
        with one_sentence_errors():
            _refuse_unread(cfg, folders, config_name)


def _varied(folders: Sequence[Path], overrides: Sequence[str]) -> list[list[str]]:
    """Overrides of a sweep with every key's first value; then each group's others in turn.

    Keys that are swept by ``range`` or a search have null instead, and groups by ``glob`` are left
    out: their values are no wrong names.
    """
    swept: list[list[str]] = []
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        if not one.is_sweep_override():
            swept.append([str(one.input_line)])
            continue
        key, is_group = str(one.input_line).partition("=")[0], _choices(folders, one.key_or_group)
        if isinstance(one.value(), ChoiceSweep):
            values = [f"{key}={value}" for value in one.sweep_string_iterator()]
            swept.append(values if is_group else values[:1])
        elif not is_group:
            swept.append([f"{key}=null"])
    first = [values[0] for values in swept]
    others = [
        [*first[:place], value, *first[place + 1 :]]
        for place, values in enumerate(swept)
        for value in values[1:]
    ]
    return [first, *others]


def _composed(
    folders: Sequence[Path], config_name: str, overrides: Sequence[str], whole: bool = False
) -> DictConfig:
    """What Hydra makes of a command; ``whole``: with its own part."""
    search = f"hydra.searchpath=[{','.join(map(str, folders[1:]))}]"
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folders[0]), version_base="1.3"):
        return compose(config_name, overrides=[*overrides, search], return_hydra_config=whole)


def _refuse_unread(cfg: DictConfig, folders: Sequence[Path], config_name: str) -> None:
    """Hydra lets ``+key=value`` and files add keys that nothing reads.

    Read are `SETTINGS`, what the script's own file has, what an interpolation of any file names,
    and what is below a ``_target_`` or is Lightning's, which are told when the object is made.
    """
    tree = OmegaConf.to_container(cfg)
    texts = [OmegaConf.to_yaml(cfg)]
    texts += [file.read_text("utf-8", errors="replace") for file, _ in _files(folders)]
    interpolated = set(re.findall(r"\$\{\.*([\w.]+)\}", "".join(texts)))
    own = OmegaConf.load(folders[0] / f"{config_name}.yaml")
    known = {*SETTINGS, *_flatten(OmegaConf.to_container(own))}

    def visit(node: Any, key: str) -> None:
        if isinstance(node, dict):
            if "_target_" not in node and key != "trainer":
                for name, value in node.items():
                    visit(value, f"{key}.{name}" if key else str(name))
        elif key not in known and not any(f".{one}." in f".{key}." for one in interpolated):
            others = known | _flatten(tree).keys()
            raise PosematchError(f"Nothing reads the key {key}{_nearest_key(key, others)}.")

    visit(tree, "")


def _refuse_unresolvable(cfg: DictConfig) -> None:
    """Tell the key whose interpolation fails, not the one that first happens to be read."""
    failed: list[tuple[str, str, str]] = []
    for key, value in _flatten(OmegaConf.to_container(cfg)).items():
        if isinstance(value, str) and "${" in value:
            try:
                OmegaConf.select(cfg, key)
            except OmegaConfBaseException as error:
                reason = _first_line(error.msg or error)
                failed.append(
                    (key, value, reason.partition("resolving interpolation: ")[2] or reason)
                )
    if failed:
        # Others fail because they name the one that fails by itself.
        key, value, reason = min(failed, key=lambda one: not _names_of(one[2]) & _names_of(one[1]))
        raise PosematchError(f"{key}={value} cannot be resolved: {reason.strip(chr(34))}.")


def _names_of(text: str) -> set[str]:
    return set(re.findall(r"[\w.]+", text))


def _composition_sentence(
    error: Exception, folders: Sequence[Path], config_name: str, overrides: Sequence[str]
) -> str | None:
    """Hydra's complaint about a command line or a file as one sentence, with the nearest name.

    None: it is no such complaint.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _syntax_sentence(str(error.override))
    if text.startswith("Config group override must be"):
        return _group_value_sentence(folders, overrides)
    mark = getattr(error, "problem_mark", None)  # of YAML's errors
    if mark is not None:
        return f"{mark.name}, line {mark.line + 1}, is not YAML: {getattr(error, 'problem', '')}."
    if not isinstance(error, _COMPOSITION_ERRORS):
        return None
    place = re.match(r"In '(\S+/\S+)': ", text)
    where = f" (in {place.group(1)}.yaml)" if place else ""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if not group:
            there = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
            return f"There is no configuration {choice}; name one of {', '.join(there)}."
        options = sorted(error.options or _choices(folders, group))
        if group.startswith("hydra/") and not options:
            return f"{group}={choice} needs a plugin: pip install 'posematch[search]'."
        return (
            f"{group}={choice} is no choice{where}{nearest(choice, options)}; there are:"
            f" {', '.join(options)}."
        )
    ambiguous = re.match(r"Ambiguous value for argument '([^=]+)=([^']*)'", text)
    if ambiguous:
        key, values = ambiguous.groups()
        return (
            f"{key}={values} has several values; write {key}=[{values}] for a list, or add -m for"
            " a run of each."
        )
    twice = re.search(r"Multiple values for ([\w/]+)|([\w/]+) appears more than once", text)
    if twice:
        key = twice.group(1) or twice.group(2)
        return f"{key} is chosen twice{where}; write {key}=CHOICE without +, or override in a file."
    there = re.search(r"An item is already at '([^']+)'", text)
    if there:
        return f"{there.group(1)} is a key already; leave out its +."
    refused = re.search(r"Could not (?:override|append|delete)\b[^']*'([^'=]+)", text)
    if refused:
        key = refused.group(1)
        owners = _owners(folders, key)
        if owners:
            return f"{key} is no key of what is chosen; it is one of {', '.join(owners)}."
        others = [one for one in overrides if key not in one]
        known = _known_names(folders, config_name, others, whole=key.startswith("hydra"))
        if key in known and text.startswith("Could not delete"):
            return f"{_first_line(text).replace('. ', ': ')}."
        if key in known:
            return f"{key} is no key of what the other choices of this command compose to."
        what = "group" if "/" in key else "key"
        return f"{key} is no {what} of the configuration{where}{_nearest_key(key, known)}."
    if "does not support sweep type" in text:
        return "Without hydra/sweeper=optuna, a swept key takes values (key=1,2,3) or range(...)."
    return f"{_first_line(text)}."


def _syntax_sentence(override: str) -> str:
    if "=" not in override and not override.startswith("~"):
        return f"'{override}' is no override; write {override}=VALUE, or see --help."
    return (
        f"'{override}' is no override that can be read; write key=value, with quotes around values"
        " that have spaces, commas or brackets in them."
    )


def _group_value_sentence(folders: Sequence[Path], overrides: Sequence[str]) -> str | None:
    """Of a group that is set to null or a number."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group = override.key_or_group
        if not group:
            return _syntax_sentence(str(override.input_line))
        options = sorted(_choices(folders, group))
        if options and not isinstance(override.value(), str | list):
            return f"{override.input_line} is no choice; there are: {', '.join(options)}."
    return None


def _files(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Configuration files and their groups; no deeper than groups are nested: data may be there."""
    for folder in folders:
        for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml"):
            for file in folder.glob(pattern):
                yield file, str(file.parent.relative_to(folder))


def _choices(folders: Sequence[Path], group: str) -> set[str]:
    return {file.stem for file, its_group in _files(folders) if its_group == group}


def _owners(folders: Sequence[Path], key: str) -> list[str]:
    """Choices of the key's group that have the key."""
    group, _, name = key.rpartition(".")
    has = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    return sorted(
        f"{group}={file.stem}"
        for file, its_group in _files(folders)
        if its_group == group and has.search(file.read_text("utf-8", errors="replace"))
    )


def _known_names(
    folders: Sequence[Path], config_name: str, overrides: Sequence[str], whole: bool
) -> set[str]:
    """Groups, and keys of what the other arguments compose to (or of the bare configuration)."""
    groups = {group for _, group in _files(folders)} - {"."}
    try:
        cfg = _composed(folders, config_name, _varied(folders, overrides)[0], whole)
    except _COMPOSITION_ERRORS:
        cfg = _composed(folders, config_name, [], whole)
    return groups | _flatten(OmegaConf.to_container(cfg)).keys()


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Every node's value by its full key."""
    nodes: dict[str, Any] = {}
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    for name, value in tree.items() if isinstance(tree, dict) else ():
        nodes |= {f"{prefix}{name}": value} | _flatten(value, f"{prefix}{name}.")
    return nodes


def _nearest_key(key: str, known: Iterable[str]) -> str:
    return nearest(key, [one for one in known if not f"{key}.".startswith(f"{one}.")])


def _first_line(text: object) -> str:
    return str(text).strip().split("\n")[0].rstrip(". ")

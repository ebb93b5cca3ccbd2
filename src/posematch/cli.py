"""How scripts begin and end: Hydra's composition, and errors as one sentence."""

from __future__ import annotations

import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from posematch.config import nearest, register_resolvers
from posematch.errors import PosematchError

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
        print("Stopped.", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        sentence = _sentence(error)
        if debug or sentence is None:
            raise
        print(sentence, file=sys.stderr)
        raise SystemExit(1) from error


def hydra_main(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Like ``hydra.main`` on the repository's ``conf/``, with every error as one sentence.

    Parameters
    ----------
    config_name
        ``train`` or ``evaluate``.
    """

    def decorate(task: Task) -> Callable[[], None]:
        conf = Path(task.__code__.co_filename).resolve().parents[1] / "conf"

        @functools.wraps(task)
        def guarded(cfg: DictConfig) -> Any:
            with one_sentence_errors(debug=cfg.debug.traceback):
                _refuse_appended(HydraConfig.get().overrides.task, cfg)
                return task(cfg)

        def main() -> None:
            register_resolvers()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, where Hydra would print and exit
            overrides, options = _split(sys.argv[1:])
            # Hydra's parser refuses overrides on both sides of an option.
            sys.argv[1:] = [*overrides, *options]
            compose_and_run = hydra.main(
                version_base="1.3", config_path=str(conf), config_name=config_name
            )(guarded)
            try:
                compose_and_run()
            except (HydraException, OmegaConfBaseException) as error:
                sentence = _composition_sentence(error, conf, config_name, overrides, options)
                print(sentence, file=sys.stderr)
                raise SystemExit(1) from error

        return main

    return decorate


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


def _sentence(error: Exception) -> str | None:
    """What to tell about an error in a script's task; None: nothing, it is a bug."""
    if isinstance(error, PosematchError):
        return str(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: add {error.full_key}=... to the command."
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'The configuration'}: {_first_line(error.msg or error)}."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" ({error.filename})" if error.filename else ""
        return f"The disk is full{where}; free some space or set run_root to another disk."
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} may not be written or read ({error.strerror})."
    told = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in told:
        return (
            f"Out of memory ({_first_line(told)}); lower data.batch_size (and raise"
            " trainer.accumulate_grad_batches), or set backbone.activation_checkpointing=true."
        )
    return None


def _refuse_appended(overrides: Sequence[str], cfg: DictConfig) -> None:
    """Hydra lets ``+key=value`` add keys that nothing reads; only arguments of a target are."""
    choices = HydraConfig.get().runtime.choices
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if not (override.is_add() or override.is_force_add()) or key in choices:
            continue
        parts = key.split(".")
        above = [OmegaConf.select(cfg, ".".join(parts[:n])) for n in range(1, len(parts) + 1)]
        targets = [one for one in above if isinstance(one, DictConfig) and "_target_" in one]
        if not targets and parts[0] != "trainer":
            known = _flatten(OmegaConf.to_container(cfg))
            raise PosematchError(
                f"+{key} adds a key that nothing reads{nearest(key, known - {key})}."
            )


def _composition_sentence(
    error: Exception,
    conf: Path,
    config_name: str,
    overrides: Sequence[str],
    options: Sequence[str],
) -> str:
    """Hydra's complaint about a command line as one sentence, with the nearest name."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"'{error.override}' is no override ({_first_line(error.message)}); write key=value,"
            " with quotes around values that have spaces, commas or brackets in them."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = sorted(error.options or [])
        if group.startswith("hydra/") and not options:
            return f"{group}={choice} needs a plugin: pip install 'posematch[search]'."
        return (
            f"{group}={choice} is no choice{nearest(choice, options)}; there are:"
            f" {', '.join(options)}."
        )
    refused = re.match(r"Could not (?:override|append to config.*at|delete.*) '([^']+)'", text)
    if refused:
        key = refused.group(1)
        others = [one for one in overrides if key not in one]
        folders = [
            value for option, value in pairwise(options) if option in ("--config-dir", "-cd")
        ]
        search = ",".join(str(Path(one).resolve()) for one in folders)
        known = _known_names(conf, config_name, [*others, f"hydra.searchpath=[{search}]"])
        if key in known:
            return f"{key} is no key of what the other choices of this command compose to."
        what = "group" if "/" in key else "key"
        return f"{key} is no {what} of the configuration{nearest(key, known)}."
    return f"{_first_line(text)}."


def _known_names(conf: Path, config_name: str, overrides: Sequence[str]) -> set[str]:
    """Groups, and keys of what the other arguments compose to (or of the bare configuration)."""
    groups = {
        str(folder.relative_to(conf)) for folder in conf.rglob("*") if any(folder.glob("*.yaml"))
    }
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            parser = OverridesParser.create()
            parsed = parser.parse_overrides(list(overrides))
            first = [
                f"{o.key_or_group}={next(iter(o.sweep_string_iterator()))}"
                if o.is_sweep_override()
                else str(o.input_line)
                for o in parsed
            ]
            cfg = compose(config_name, overrides=first)
        except (HydraException, OmegaConfBaseException):
            cfg = compose(config_name)
    return groups | _flatten(OmegaConf.to_container(cfg))


def _flatten(tree: Any, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return set()
    keys = set()
    for name, value in tree.items():
        keys |= {f"{prefix}{name}"} | _flatten(value, f"{prefix}{name}.")
    return keys


def _first_line(text: object) -> str:
    return str(text).strip().split("\n")[0].rstrip(". ")

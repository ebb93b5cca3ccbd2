"""A verb's arguments: overrides, Hydra's options, and the folders that configurations are in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser

from posematch.app.complaints import check_overrides
from posematch.app.composition import files
from posematch.app.settings import nearest
from posematch.errors import PosematchError
from posematch.untrusted import read_yaml

_MOST_FILES = 2000  # of a folder of configurations


@dataclass(frozen=True)
class CommandLine:
    """What a command says.

    Attributes
    ----------
    overrides
        As they were written.
    options
        Hydra's, by its own parser.
    folders
        Of configurations; the user's own after that of the verbs.
    """

    overrides: list[str]
    options: argparse.Namespace
    folders: list[Path]

    @property
    def shows(self) -> bool:
        """Whether something is printed and nothing done."""
        it = self.options
        return bool(it.cfg or it.info is not None or it.hydra_help or it.shell_completion)


def read_arguments(arguments: Sequence[str], conf: Path) -> CommandLine:
    """Sort a command's arguments, in whatever order they stand.

    Raises
    ------
    PosematchError
        An option that Hydra does not have, options that exclude each other, an override that
        cannot be read, or a folder of configurations that is none.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    # It would build what a pickle names.
    _without(parser, "--experimental-rerun")
    try:
        options, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise PosematchError(f"{error.argument_name}: {error.message}; see --help.") from None
    # Deletions begin with ~, so whatever begins with - is meant for an option.
    if unknown:
        raise PosematchError(
            f"{unknown[0]} is no option{nearest(unknown[0], parser._option_string_actions)};"
            " see --help."
        )
    kinds = {
        "--run": options.run,
        "--multirun": options.multirun,
        "--cfg": options.cfg,
        "--info": options.info is not None,
        "--shell-completion": options.shell_completion,
    }
    if sum(map(bool, kinds.values())) > 1:
        raise PosematchError(f"Only one of {', '.join(kinds)} can be given; see --help.")
    if options.resolve and not options.cfg:
        raise PosematchError("--resolve belongs to --cfg; see --help.")
    check_overrides(options.overrides)
    folders = [Path(options.config_path).resolve() if options.config_path else conf]
    if options.config_dir:
        folders.append(Path(options.config_dir).resolve())
    for own in folders:
        if own != conf:
            _check_folder(own)
    return CommandLine(list(options.overrides), options, folders)


def _without(parser: argparse.ArgumentParser, option: str) -> None:
    action = parser._option_string_actions.pop(option)
    parser._actions.remove(action)


def _check_folder(folder: Path) -> None:
    """Read a folder of configurations before Hydra does, which would wait for a named pipe."""
    if not folder.is_dir():
        raise PosematchError(
            f"'{folder}' not found: a folder of configurations is looked for there."
        )
    for number, (file, _) in enumerate(files([folder])):
        if number == _MOST_FILES:
            raise PosematchError(
                f"--config-dir: {folder} has more than {_MOST_FILES} configurations; name the"
                " folder that has yours."
            )
        read_yaml(file)

"""How a verb begins and ends: its arguments, its configuration, its task, its one sentence."""

from __future__ import annotations

import functools
import os
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posematch.app.places import CONF
from posematch.app.sentences import one_sentence_errors
from posematch.console import tell
from posematch.errors import PosematchError

if TYPE_CHECKING:  # Hydra takes a third of a second to import, which --help can do without
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

    from posematch.app.command_line import CommandLine

Task = Callable[[Any], Any]
Verb = Callable[[Sequence[str]], None]


def command(verb: str, conf: Path | None = None) -> Callable[[Task], Verb]:
    """Make a verb of a task: a function of a command's arguments.

    Everything that a command can get wrong by itself is told before the task is called. So a task
    imports what is large where it begins.

    Parameters
    ----------
    verb
        Name of its configuration.
    conf
        Folder of configurations; None: posematch's own.

    Returns
    -------
    A decorator of a function that takes the composed configuration, or a dataclass whose fields are
    the verb's keys.
    """

    def decorate(task: Task) -> Verb:
        @functools.wraps(task)
        def run(arguments: Sequence[str]) -> None:
            from posematch.app.help import help_text

            if {"--help", "-h"} & set(arguments):
                with _pipe_may_close():
                    print(help_text(verb, conf, task.__globals__.get("__doc__") or ""))
                return
            _run(verb, conf, task, arguments)

        return run

    return decorate


def begins_sweep(verb: str, arguments: Sequence[str], conf: Path | None = None) -> bool:
    """Whether a command is a sweep: by ``-m``, or by ``hydra.mode`` of an experiment it names.

    A command that cannot be composed is none; running it will tell what is wrong.
    """
    if {"--help", "-h"} & set(arguments):
        return False
    from hydra.types import RunMode

    from posematch.app import composition
    from posematch.app.command_line import read_arguments

    try:
        said = read_arguments(arguments, conf or CONF)
        if said.options.multirun or said.shows:
            return bool(said.options.multirun)
        named = ("experiment=", "+experiment=", "hydra.mode=")
        if not any(one.startswith(named) for one in said.overrides):
            return False
        first, *_ = composition.varied(said.folders, said.overrides)
        whole = composition.composed(verb, first, said.folders, whole=True)
    except Exception:  # of Hydra's and OmegaConf's parsers, of many kinds
        return False
    return bool(whole.hydra.mode == RunMode.MULTIRUN)


@contextmanager
def _pipe_may_close() -> Iterator[None]:
    """End with code 1 and no word where what is printed has no reader, as by ``| head``."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _run(verb: str, conf: Path | None, task: Task, arguments: Sequence[str]) -> None:
    # After --help has been looked for.
    from hydra.core.global_hydra import GlobalHydra

    from posematch.app import composition
    from posematch.app.command_line import read_arguments
    from posematch.app.complaints import complaint

    with one_sentence_errors():
        said = read_arguments(arguments, conf or CONF)
        hydra, composer = composition.hydra_of(verb, said.folders)
    begun = False

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> Any:
        nonlocal begun
        begun = True
        return _call(task, cfg, said.folders, verb)

    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    try:
        with _pipe_may_close():
            _dispatch(hydra, said, guarded, said.options.config_name or verb)
    except Exception as error:
        sentence = complaint(error, said.folders, said.overrides, composer.keys, begun)
        if sentence is None:
            raise
        tell(sentence)
        raise SystemExit(1) from error
    finally:
        GlobalHydra.instance().clear()


def _dispatch(hydra: Hydra, said: CommandLine, task: Task, verb: str) -> None:
    """What an option asks to be shown, a sweep, or one job."""
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.utils import get_args_parser
    from hydra.core.utils import run_job
    from hydra.types import HydraContext, RunMode

    from posematch.app.complaints import check_no_sweep

    it, overrides = said.options, said.overrides
    if it.hydra_help:
        return hydra.hydra_help(verb, get_args_parser(), it)
    if it.cfg:
        return hydra.show_cfg(verb, overrides, it.cfg, it.package, it.resolve)
    if it.shell_completion:
        return hydra.shell_completion(verb, overrides)
    if it.info is not None:
        return hydra.show_info(it.info, verb, overrides)
    if it.multirun:
        _check_sweep(hydra, said, verb)
        hydra.multirun(verb, task, [*overrides, "hydra.mode=MULTIRUN"])
        return None
    swept = any(one.startswith("hydra.mode=") for one in overrides)
    if not swept:
        check_no_sweep(overrides)
    cfg = hydra.compose_config(
        verb, overrides, RunMode.MULTIRUN if swept else RunMode.RUN, with_log_configuration=True
    )
    if cfg.hydra.mode == RunMode.MULTIRUN:
        hydra.multirun(verb, task, overrides)
        return None
    # As Hydra.run does, which would compose all of it again.
    cfg.hydra.mode = RunMode.RUN
    callbacks = Callbacks(cfg)
    callbacks.on_run_start(config=cfg, config_name=verb)
    ended = run_job(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=task,
        config=cfg,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
    )
    callbacks.on_run_end(config=cfg, config_name=verb, job_return=ended)
    _ = ended.return_value  # raises what the task did
    return None


def _check_sweep(hydra: Hydra, said: CommandLine, verb: str) -> None:
    """Raise what composing the jobs would raise, before Hydra makes the sweep's folder."""
    from posematch.app import composition

    for job in composition.varied(said.folders, said.overrides):
        cfg = composition.without_hydra(composition.compose(hydra, verb, job))
        composition.refuse_unread(cfg, said.folders, verb)


def _call(task: Task, cfg: DictConfig, folders: Sequence[Path], verb: str) -> Any:
    """The task, once nothing about its configuration is wrong."""
    from omegaconf import OmegaConf

    from posematch.app import composition
    from posematch.app.objects import make_settings

    with one_sentence_errors(debug=OmegaConf.select(cfg, "debug.traceback") is True):
        composition.judge(cfg, folders, verb)
        (kind, *_) = typing.get_type_hints(task, localns={"DictConfig": type(cfg)}).values()
        return task(cfg if isinstance(cfg, kind) else make_settings(kind, cfg))


def compose(overrides: str | Sequence[str] = (), verb: str = "train") -> DictConfig:
    """The configuration that a command composes to.

    Parameters
    ----------
    overrides
        Such as ``["loss=matching", "trainer.max_epochs=3"]``; a single one may be a string.
    verb
        Whose configuration it is.

    Raises
    ------
    PosematchError
        An override that cannot be read, a key or a choice that there is not.
    """
    from posematch.app import composition
    from posematch.app.complaints import check_no_sweep, check_overrides, complaint

    folders = [CONF]
    overrides = [overrides] if isinstance(overrides, str) else overrides
    check_overrides(overrides)
    hydra, composer = composition.hydra_of(verb, folders)
    try:
        check_no_sweep(overrides)
        cfg = composition.without_hydra(composition.compose(hydra, verb, overrides))
    except Exception as error:
        sentence = complaint(error, folders, overrides, composer.keys)
        if sentence is None:
            raise
        raise PosematchError(sentence) from error
    composition.judge(cfg, folders, verb)
    return cfg

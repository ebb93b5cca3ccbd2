"""What a command names of runs, found before what reads it is imported."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from posematch.errors import PosematchError
from posematch.runs.folder import RunFolder
from posematch.untrusted import open_file

TABLE = "a prediction table (.parquet)"


def folders_of_runs(named: str | list[str]) -> list[Path]:
    """`finished_folders` of the paths that a key names, one or several."""
    several = [named] if isinstance(named, str) else named
    return finished_folders(Path(one).expanduser() for one in several)


def finished_folders(paths: Iterable[Path]) -> list[Path]:
    """Folders of finished runs.

    Parameters
    ----------
    paths
        Run folders, or folders with run folders at any depth, such as a sweep's. Unfinished runs
        below a folder are left out; one that is named itself is an error.

    Raises
    ------
    PosematchError
        A path is not there, is an unfinished run, or holds none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise PosematchError(f"{path} is no folder; name run folders, or a folder of runs.")
        if os.path.lexists(path / "config.yaml"):
            check_finished(path)
            found.append(path)
            continue
        folders = sorted(file.parent for file in path.rglob("result.json"))
        folders = [one for one in folders if os.path.lexists(one / "config.yaml")]
        if not folders:
            raise PosematchError(f"{path} holds no finished run (result.json is looked for).")
        found += folders
    return found


def check_finished(path: Path) -> None:
    """Refuse what is no run folder, and one of a training that has not ended.

    Raises
    ------
    PosematchError
        The sentence says which.
    """
    folder = RunFolder(path)
    if not os.path.lexists(folder.config):
        raise PosematchError(f"{path} is no run folder (config.yaml is looked for).")
    if not os.path.lexists(folder.result):
        raise PosematchError(
            f"{path} is not finished; finish it with resume={path} and the run's overrides."
        )


def run_to_repeat(run: Path) -> RunFolder:
    """The finished run that ``posematch rerun`` trains once more.

    Raises
    ------
    PosematchError
        It is none.
    """
    folder = RunFolder(run)
    if not folder.result.is_file():
        raise PosematchError(f"run={run} is no finished run (result.json is looked for).")
    return folder


def dump_of(run: Path, step: int | None) -> Path:
    """A dump of a step in a run folder's ``divergence/``; ``step`` None: the newest.

    Raises
    ------
    PosematchError
        There is none, or not of that step.
    """
    folder = RunFolder(run)
    there = sorted(folder.divergence.glob("step=*.pt"))
    if not there:
        raise PosematchError(
            f"{folder.path} has no dump of a step (divergence/step=*.pt is looked for there); a"
            " training writes one when a loss or gradient is not finite."
        )
    if step is None:
        return there[-1]
    if folder.dump(step) not in there:
        names = ", ".join(one.stem.removeprefix("step=").lstrip("0") or "0" for one in there)
        raise PosematchError(f"step={step} is not among the dumps in {folder.path}: {names}.")
    return folder.dump(step)


def check_table(file: Path) -> None:
    """Refuse a prediction table (.parquet) that is not there; errors as `open_file`."""
    open_file(file, what=TABLE).close()

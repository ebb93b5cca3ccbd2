"""A command's configuration: composed once, then every key of it is judged."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from posematch.app.sentences import first_line
from posematch.app.settings import SETTINGS, nearest
from posematch.errors import PosematchError


def register_resolvers() -> None:
    """``${heatmap_sigma:[H,W]}``: 1, 2, 3 for heatmaps 32, 64, 96 pixels high.

    ``${half:N}``, ``${three_quarters:N}``: so many of N epochs, at least 1.
    """
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
    for name, quarters in (("half", 2), ("three_quarters", 3)):
        OmegaConf.register_new_resolver(name, functools.partial(_part, quarters), replace=True)


def _part(quarters: int, epochs: object) -> int:
    # A length that is no number of epochs is the trainer's to tell.
    return max(1, quarters * epochs // 4) if isinstance(epochs, int) else 1


class Composer(ConfigLoaderImpl):
    """Hydra's, which keeps what the choices alone compose to.

    What a command's keys change is judged against that, without composing once more.

    Parameters
    ----------
    folders
        Of configurations: that of the verbs, and those of the user's own.

    Attributes
    ----------
    keys
        Values by full key, before the command changed one; empty until there is something.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        path = create_config_search_path(str(folders[0]))
        for folder in folders[1:]:
            path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        super().__init__(path)
        self.keys: dict[str, Any] = {}

    def _compose_config_from_defaults_list(self, *arguments: Any, **more: Any) -> DictConfig:
        cfg = super()._compose_config_from_defaults_list(*arguments, **more)
        self.keys = flatten(OmegaConf.to_container(cfg))
        return cfg


def hydra_of(verb: str, folders: Sequence[Path]) -> tuple[Hydra, Composer]:
    """Hydra, ready to compose ``verb``'s configuration from these folders."""
    register_resolvers()
    version.setbase("1.3")
    composer = Composer(folders)
    return Hydra(verb, composer), composer


def composed(
    verb: str, overrides: Sequence[str], folders: Sequence[Path], whole: bool = False
) -> DictConfig:
    """What a command composes to; ``whole``: with Hydra's own part.

    Raises
    ------
    Exception
        Hydra's, OmegaConf's and their parsers'; see `posematch.app.complaints`.
    """
    hydra, _ = hydra_of(verb, folders)
    cfg = compose(hydra, verb, overrides)
    return cfg if whole else without_hydra(cfg)


def compose(hydra: Hydra, verb: str, overrides: Sequence[str]) -> DictConfig:
    """One job's configuration, with Hydra's own part; errors as `composed`."""
    cfg = hydra.compose_config(verb, list(overrides), RunMode.RUN, from_shell=False)
    assert isinstance(cfg, DictConfig)
    return cfg


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The same without Hydra's own part."""
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def varied(folders: Sequence[Path], overrides: Sequence[str]) -> list[list[str]]:
    """Overrides of a sweep with every key's first value; then each group's others in turn.

    Keys that are swept by ``range`` or a search have null instead, and groups by ``glob`` are left
    out: their values are no wrong names.
    """
    swept: list[list[str]] = []
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        if not one.is_sweep_override():
            swept.append([str(one.input_line)])
            continue
        key, is_group = str(one.input_line).partition("=")[0], choices(folders, one.key_or_group)
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


def judge(cfg: DictConfig, folders: Sequence[Path], verb: str) -> None:
    """Refuse a composed configuration with a key that nothing reads or that cannot be resolved.

    Raises
    ------
    PosematchError
        The sentence names the key.
    """
    refuse_unread(cfg, folders, verb)
    _refuse_unresolvable(cfg)


def refuse_unread(cfg: DictConfig, folders: Sequence[Path], verb: str) -> None:
    """Raise a sentence about a key that nothing reads: ``+key=value`` and files may add some.

    Read are `SETTINGS`, what the verb's own file has, what an interpolation of any file names,
    and what is below a ``_target_`` or is Lightning's, which are told when the object is made.
    """
    tree = OmegaConf.to_container(cfg)
    texts = [OmegaConf.to_yaml(cfg)]
    texts += [file.read_text("utf-8", errors="replace") for file, _ in files(folders)]
    interpolated = set(re.findall(r"\$\{\.*([\w.]+)\}", "".join(texts)))
    own = OmegaConf.load(folders[0] / f"{verb}.yaml")
    known = {*SETTINGS, *flatten(OmegaConf.to_container(own))}

    def visit(node: Any, key: str) -> None:
        if isinstance(node, dict):
            if "_target_" not in node and key != "trainer":
                for name, value in node.items():
                    visit(value, f"{key}.{name}" if key else str(name))
        elif key not in known and not any(f".{one}." in f".{key}." for one in interpolated):
            others = known | flatten(tree).keys()
            raise PosematchError(f"Nothing reads the key {key}{nearest_key(key, others)}.")

    visit(tree, "")


def _refuse_unresolvable(cfg: DictConfig) -> None:
    """Tell the key whose interpolation fails, not the one that first happens to be read."""
    failed: list[tuple[str, str, str]] = []
    for key, value in flatten(OmegaConf.to_container(cfg)).items():
        if isinstance(value, str) and "${" in value:
            try:
                OmegaConf.select(cfg, key)
            except OmegaConfBaseException as error:
                reason = first_line(error.msg or error)
                failed.append(
                    (key, value, reason.partition("resolving interpolation: ")[2] or reason)
                )
    if failed:
        # Others fail because they name the one that fails by itself.
        key, value, reason = min(failed, key=lambda one: not _names_of(one[2]) & _names_of(one[1]))
        raise PosematchError(f"{key}={value} cannot be resolved: {reason.strip(chr(34))}.")


def _names_of(text: str) -> set[str]:
    return set(re.findall(r"[\w.]+", text))


def files(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Configuration files and their groups; no deeper than groups are nested: data may be there."""
    for folder in folders:
        for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml"):
            for file in folder.glob(pattern):
                yield file, str(file.parent.relative_to(folder))


def choices(folders: Sequence[Path], group: str) -> set[str]:
    """Names of a group's files but ``base``, which the others begin with."""
    named = {file.stem for file, its_group in files(folders) if its_group == group}
    return named - {"base"}


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Every node's value by its full key."""
    nodes: dict[str, Any] = {}
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    for name, value in tree.items() if isinstance(tree, dict) else ():
        nodes |= {f"{prefix}{name}": value} | flatten(value, f"{prefix}{name}.")
    return nodes


def nearest_key(key: str, known: Iterable[str]) -> str:
    """`nearest` of full keys; first come those whose last component is the key, or ends in it.

    ``lr`` means ``optimizer.lr``, and ``epochs`` means ``trainer.max_epochs``.
    """
    others = [one for one in known if not f"{key}.".startswith(f"{one}.")]
    if "/" not in key and not key.isdecimal():

        def last(one: str) -> str:
            return one.rpartition(".")[2]

        wanted = last(key)
        ends = [one for one in others if f"_{last(one)}".endswith(f"_{wanted}")]
        if ends:
            best = min(ends, key=lambda one: (len(last(one)), one.count("."), one))
            return f"; the nearest is {best}"
    return nearest(key, others)

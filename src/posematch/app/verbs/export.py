"""Write a trained model as one file for programs without posematch, and check that file.

    posematch export checkpoint=RUN_FOLDER format=onnx output=pose.onnx decode=true
    posematch export checkpoint=FILE.ckpt format=torchscript output=pose.pt [photos=FOLDER]

The file takes RGB crops of uint8 and gives maps, or with decode=true joints in crop pixels and
scores; all between is inside. It is run beside the model on crops before it takes its place: where
it differs by more than 1e-4 of the maps' highest value or 0.01 px, the command ends with code 1 and
leaves no file. See docs/export.md and conf/export.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from posematch.app.commands import command
from posematch.app.settings import AtLeastOne
from posematch.console import PlainConsole, say

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Settings:
    """Keys of conf/export.yaml besides the decoder's."""

    checkpoint: str
    format: Literal["onnx", "torchscript", "exported_program"]
    output: str
    decode: bool
    flip_test: bool | None
    photos: str | None
    crops: AtLeastOne
    trust: str | list[str]


@command("export")
def run(cfg: DictConfig) -> None:
    """Write the file, and print how far it is from the model."""
    from posematch.app.objects import check_objects, make, own_settings, plain
    from posematch.data.pictures import photos_in
    from posematch.runs.stored_config import checkpoint_file
    from posematch.untrusted import open_checkpoint

    it: Settings = own_settings(Settings, cfg)
    own = cfg.decoder.get("name") == "auto"
    check_objects({} if own else {"decoder": plain(cfg.decoder)})
    open_checkpoint(checkpoint_file(it.checkpoint)).close()
    output = Path(it.output).expanduser()
    photos = [] if it.photos is None else photos_in(Path(it.photos).expanduser(), "photos")
    from posematch.exporting.crops import crops_to_check
    from posematch.exporting.export import export, model_to_export
    from posematch.exporting.formats import check_installed
    from posematch.exporting.graph import Graph

    check_installed(it.format)
    decoder = None if own else make(cfg.decoder, "decoder")
    trust = [it.trust] if isinstance(it.trust, str) else it.trust
    with _steps() as step:
        step("reading the checkpoint")
        model = model_to_export(it.checkpoint, it.flip_test, decoder, trust)
        graph = Graph(model, it.decode).eval()
        crops = crops_to_check(photos, it.crops, model.input_size, model.convention)
        config = model.record.decoder if own else plain(cfg.decoder)
        differences = export(graph, it.format, output, crops, config, step)
    if model.record.calibration is not None:
        say("The scores of the file are the decoder's: the model's calibration is not in it.")
    height, width = model.input_size
    flip = "with" if model.flip_test else "without"
    say(
        f"{it.format}: crops (batch, 3, {height}, {width}) uint8 RGB to"
        f" {' and '.join(graph.outputs)}, {flip} flip test",
        f"{differences}",
        f"written to {output}",
    )


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal; nothing in a file."""
    import sys

    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = PlainConsole(file=sys.stderr)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=text)

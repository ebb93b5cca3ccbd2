"""Heatmaps of two runs next to each other, at the joints where they differ most.

    posematch qualitative a=RUN b=RUN output=FOLDER [data_root=FOLDER]

Reads the run folders (and photos, below data_root alone) and nothing else. See
conf/qualitative.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.app.settings import AtLeastOne, Positive
from posematch.console import say, tell


@dataclass(frozen=True)
class Settings:
    """Keys of conf/qualitative.yaml, which says what each is for."""

    a: str
    b: str
    output: str
    joints: AtLeastOne
    near: Positive | None
    data_root: str | None


@command("qualitative")
def run(settings: Settings) -> None:
    """Write the figures."""
    from posematch.runs.named import finished_folders

    a, b = (Path(one).expanduser() for one in (settings.a, settings.b))
    finished_folders([a, b])
    from posematch.reports.panels import write_figures
    from posematch.reports.qualitative import crop_reader, one_run, read_pair

    pair = read_pair(one_run(a, "a"), one_run(b, "b"))
    crop = None
    if settings.data_root:
        root = Path(settings.data_root).expanduser()
        crop = crop_reader(pair, root)
        if crop is None:
            tell(f"No photos of these people below {root}; the figures are without them.")
    else:
        tell("The figures are without photos; data_root=FOLDER of the data set shows them.")
    output = Path(settings.output).expanduser()
    for file in write_figures(pair, output, settings.joints, settings.near, crop):
        say(str(file))

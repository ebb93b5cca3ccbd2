"""Write a run as a folder that can be passed on: weights, plain data, and a card.

    posematch publish run=RUN_FOLDER output=FOLDER [half=true] [name=NAME] [licence=LICENCE]

The folder is loaded by posematch.load and checkpoint=, by its path or, put on any server, by its
address with the checksum that is printed. See conf/publish.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.console import say


@dataclass(frozen=True)
class Settings:
    """Keys of conf/publish.yaml."""

    run: str
    output: str
    half: bool
    name: str | None
    licence: str
    limits: str
    trust: str | list[str]


@command("publish")
def run(it: Settings) -> None:
    """Write the folder, and say how it is loaded."""
    from posematch.runs.named import check_finished

    folder, output = Path(it.run).expanduser(), Path(it.output).expanduser()
    check_finished(folder)
    from posematch.reports.publish import Card, publish

    card = Card(it.name or output.name, it.licence, it.limits)
    trust = [it.trust] if isinstance(it.trust, str) else it.trust
    sha256, figures = publish(folder, output, it.half, card, trust)
    for name, one in figures.items():
        say(f"{name} {one.value:.4g} [{one.low:.4g}, {one.high:.4g}]")
    say(
        f"written to {output}: posematch.load({str(output)!r}); from a server"
        f" posematch.load('https://HOST/FOLDER#sha256={sha256}')"
    )

"""A data set's folder: shows what is missing, downloads, unpacks and converts it.

    posematch prepare_data what=mpii|coco|lspet root=FOLDER [source=FILE|FOLDER|ADDRESS]

Stopped, the same command goes on where it was. What is there already stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from posematch.app.commands import command
from posematch.app.settings import AtLeastZero, Positive
from posematch.console import say

_Digest = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$", description="64 hexadecimal digits")]
_Name = Annotated[str, Field(min_length=1, description="a folder")]


@dataclass(frozen=True)
class Settings:
    """Keys of conf/prepare_data.yaml, which says what each is for."""

    what: Literal["mpii", "coco", "lspet"]
    root: _Name
    parts: str | list[str] | None
    source: str | None
    sha256: _Digest | None
    dry_run: bool
    keep_archives: bool
    silence_seconds: Positive
    retries: AtLeastZero
    wait_seconds: Positive


@command("prepare_data")
def run(settings: Settings) -> None:
    """Show, get, convert, show."""
    from posematch.data.preparing.fetching import Patience
    from posematch.data.preparing.prepare import Request, prepare, show

    parts = settings.parts
    request = Request(
        what=settings.what,
        root=Path(settings.root).expanduser(),
        parts=[parts] if isinstance(parts, str) else parts,
        source=settings.source,
        sha256=settings.sha256,
        keep_archives=settings.keep_archives,
        patience=Patience(settings.silence_seconds, settings.retries, settings.wait_seconds),
    )
    if not settings.dry_run:
        prepare(request)
    say(*show(request))

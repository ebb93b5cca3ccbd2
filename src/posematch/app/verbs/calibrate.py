"""Make a trained network's scores probabilities, fitted on its held-out people.

    posematch calibrate checkpoint=RUN_FOLDER
    posematch calibrate checkpoint=RUN_FOLDER method=isotonic output=FILE.ckpt
    posematch calibrate checkpoint=FILE run=RUN_FOLDER

Fits on the run's last validation, prints what that does to the scores, measured on people whom the
fit has not seen, and writes the calibration beside the weights. See docs/calibration.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posematch.app.commands import command
from posematch.console import say, tell


@dataclass(frozen=True)
class Settings:
    """Keys of conf/calibrate.yaml, which says what each is for."""

    checkpoint: str
    run: str | None
    method: Literal["temperature", "isotonic"]
    output: str | None
    trust: str | list[str]


@command("calibrate")
def run(settings: Settings) -> None:
    """Fit, print, and write."""
    from posematch.evaluation.settings import trusted_packages
    from posematch.runs.stored_config import checkpoint_file
    from posematch.untrusted import open_checkpoint

    trust = trusted_packages(settings.trust)
    open_checkpoint(checkpoint_file(settings.checkpoint)).close()
    from posematch.calibration.checkpoints import calibrate_checkpoint, find_task
    from posematch.calibration.tables import calibration_table

    task = find_task(settings.checkpoint, settings.run)
    output = Path(settings.output).expanduser() if settings.output else None
    found, written = calibrate_checkpoint(task, settings.method, output, trust)
    say(calibration_table(found), found.record.sentence(), f"written to {written}")
    if found.caution:
        tell(found.caution)

"""OKS sigmas of joints of one's own, from labels of several people or from a run's predictions.

    posematch estimate_sigmas labels=[A.json,B.json]
    posematch estimate_sigmas run=RUN_FOLDER

Prints a table and the line for the command. Sigmas are part of what OKS and AP mean: choose them
once, before anything is compared, and tell them with the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from posematch.app.commands import command
from posematch.console import say, tell
from posematch.errors import PosematchError


@dataclass(frozen=True)
class Settings:
    """Keys of conf/estimate_sigmas.yaml, which says what each is for."""

    labels: list[str] | None
    run: str | None


@command("estimate_sigmas")
def run(settings: Settings) -> None:
    """Estimate, and print."""
    if (settings.labels is None) == (settings.run is None):
        raise PosematchError(
            "Name what sigmas are estimated from: labels=[A.json,B.json] or run=RUN."
        )
    if settings.run is not None:
        from posematch.runs.named import check_finished

        folder = Path(settings.run).expanduser()
        check_finished(folder)
        from posematch.evaluation.sigmas import LEAST_DISTANCES, sigmas_of_residuals
        from posematch.runs.finished import read_run

        found = sigmas_of_residuals(read_run(folder).last_predictions)
        caution = (
            "They hold the network's errors, not only the annotators': an upper bound. Figures by"
            " them flatter the network they come from, so take them from another one's run."
        )
    else:
        from posematch.evaluation.sigmas import LEAST_DISTANCES, sigmas_of_labels

        found = sigmas_of_labels([Path(one).expanduser() for one in settings.labels or ()])
        caution = ""
    from posematch.metrics.tables import plain_table

    columns = (found["joint"], found["sigma"], found["distances"])
    rows = [
        [str(joint), f"{sigma:.4f}", str(count)]
        for joint, sigma, count in zip(*columns, strict=True)
    ]
    say(plain_table(["joint", "sigma", "distances"], rows, "OKS sigmas", caution))
    say(f"data.oks_sigmas=[{','.join(f'{one:.4f}' for one in found['sigma'])}]")
    few = found[found["distances"] < LEAST_DISTANCES]
    if len(few):
        tell(
            f"{len(few)} joints have fewer than {LEAST_DISTANCES} distances ({few['joint'].iloc[0]}"
            f" {few['distances'].iloc[0]}): their sigmas are rough."
        )

"""A run as a folder that can be passed on: weights, plain data, and a card that says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from posematch.errors import PosematchError
from posematch.files import drafting, put, write_text
from posematch.loading import load
from posematch.networks.checkpoints import read_checkpoint
from posematch.networks.complexity import complexity
from posematch.networks.model_folder import write_model_folder
from posematch.published import CARD
from posematch.runs.finished import Run, find_runs
from posematch.statistics.intervals import Interval, figure_intervals
from posematch.untrusted import own_file

# Of these, those that the data set has.
_FIGURES = (
    *("PCKh@0.5", "PCKh@0.1", "AP", "AP50", "AP75"),
    *("OKS", "EPE", "EPE(box)", "PCK@0.1(box)", "PCK@0.2(box)"),
)
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("posematch.reports"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,  # Markdown
)


@dataclass(frozen=True)
class Card:
    """What a user says of a model besides what its run says.

    Attributes
    ----------
    name
        What it is called.
    licence
        Of the weights.
    limits
        Sentences on what it should not be used for.
    """

    name: str
    licence: str
    limits: str


def publish(
    run_folder: Path, output: Path, half: bool, card: Card, trust: list[str]
) -> tuple[str, dict[str, Interval]]:
    """Write a run's last checkpoint as a model folder (`posematch.published`).

    Parameters
    ----------
    run_folder
        Of a finished run.
    output
        Is made; nothing, or an empty folder, may be there.
    half
        Whether weights are written as float16.
    card
        For its README.md.
    trust
        Packages besides posematch whose classes the run may name.

    Returns
    -------
    The sha256 of ``config.json``, and the figures with 95 % intervals that the card tells.

    Raises
    ------
    PosematchError
        The run is not finished, its last checkpoint is of another step, or the folder cannot be
        written or is not empty.
    """
    (run,) = find_runs([run_folder])
    model = load(run_folder, trust)
    _check_same_training(run)
    figures = _figures(run)
    size = complexity(model.network, model.input_size)
    notes = {
        "name": card.name,
        "data": run.data,
        "loss": run.loss,
        "seed": run.seed,
        "epochs": int(run.result["epoch"]),
        "versions": run.environment.get("versions", {}),
        "figures": {
            name: [one.value, one.low, one.high]
            for name, one in figures.items()
            if one.low == one.low  # of too few photos there is no interval
        },
    }
    text = _TEMPLATES.get_template("model_card.md").render(
        card=card,
        model=model,
        run=run,
        notes=notes,
        figures=figures,
        size=size,
        half=half,
        recipe=_recipe(run.config),
        table=run.last_predictions,
        decoder=type(model.decoder).__name__,
    )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise PosematchError(f"output={output} is not empty; name a new folder.")
    try:
        with drafting(output) as draft:
            sha256 = write_model_folder(
                draft, model.network.state_dict(), model.record.model_dump(), notes, half
            )
            write_text(draft / CARD, text)
            put(draft, output)
    except OSError as error:
        raise PosematchError(
            f"output={output} cannot be written ({error.strerror}); name another folder."
        ) from error
    return sha256, figures


def _check_same_training(run: Run) -> None:
    """Raise where the last checkpoint is not of the step that the run's figures are of."""
    content = read_checkpoint(own_file(run.folder.path, run.folder.last_checkpoint))
    step = content.get("global_step") if isinstance(content, dict) else None
    if step not in (None, run.result["step"]):
        raise PosematchError(
            f"{run.folder.path} ended with step {run.result['step']}, and its last checkpoint is of"
            f" step {step}, so its figures are of other weights; go on with"
            f" resume={run.folder.path}."
        )


def _figures(run: Run) -> dict[str, Interval]:
    table = run.last_predictions
    there = []
    for name in _FIGURES:
        try:
            figure_intervals([table], [name], draws=2)
        except PosematchError:  # of another kind of data
            continue
        there.append(name)
    return figure_intervals([table], there)


def _recipe(config: dict[str, Any]) -> dict[str, str]:
    """What somebody would need to say to train it again; paths of a machine are none of it."""
    data, backbone, optimizer = (config.get(key) or {} for key in ("data", "backbone", "optimizer"))
    weights = "ImageNet's" if backbone.get("pretrained") else "random"
    if backbone.get("weights"):
        weights = Path(str(backbone["weights"])).name
    return {
        "backbone": f"{backbone.get('name')}, from {weights} weights",
        "loss": str(config["loss"]["name"]),
        "epochs": str(config["trainer"].get("max_epochs")),
        "optimiser": f"{str(optimizer.get('_target_', '')).rpartition('.')[2]},"
        f" learning rate {optimizer.get('lr')}",
        "people a step": str(data.get("batch_size")),
        "schedule": str((config.get("schedule") or {}).get("_target_", "")).rpartition(".")[2],
    }

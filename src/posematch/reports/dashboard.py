"""W&B's view of a comparison, as code: a workspace and a report with the same panels.

Names come from the runs' metrics.csv, whose columns are what W&B got, and from
`posematch.training.loggers`; so no panel asks for what training does not log.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posematch.errors import PosematchError
from posematch.runs.finished import Run
from posematch.training.loggers import (
    JOINTS_TABLE,
    LOSS_CHARTS,
    LOSSES_TABLE,
    PICTURES,
    why_offline,
)

_STEP, _EPOCH = "trainer/global_step", "epoch"
_LOSS = "loss.name"  # of the configuration
_MOST_RUNS = 100  # that a chart draws; W&B's own default is 10
_ALONE = "None"  # W&B's word for: do not group this panel's runs


@dataclass(frozen=True)
class Names:
    """What the runs log, as W&B knows it.

    Attributes
    ----------
    metric
        ``val/PCKh@0.5`` or ``val/AP``.
    figures
        Further figures of all joints together, such as ``val/PCKh@0.1``.
    joints
        The metric of each joint; empty where the protocol has none.
    losses
        ``val/loss/<loss>``.
    theorem
        Terms of Theorem 1.
    training
        ``train/...`` but the health of a loss.
    health
        ``train/<loss>/...``.
    """

    metric: str
    figures: tuple[str, ...]
    joints: tuple[str, ...]
    losses: tuple[str, ...]
    theorem: tuple[str, ...]
    training: tuple[str, ...]
    health: tuple[str, ...]


def logged_names(runs: Sequence[Run]) -> Names:
    """Names in the tables of runs of one data set.

    Raises
    ------
    PosematchError
        The runs have different main metrics.
    """
    metric = f"val/{runs[0].metric}"
    for run in runs:
        if run.metric != runs[0].metric:
            raise PosematchError(
                f"{runs[0].folder.path.name} is scored by {runs[0].metric} and"
                f" {run.folder.path.name} by {run.metric}; make a dashboard of each."
            )
    columns = list(dict.fromkeys(str(one) for run in runs for one in run.metrics.columns))

    def starting(*prefixes: str) -> tuple[str, ...]:
        return tuple(one for one in columns if one.startswith(prefixes))

    return Names(
        metric=metric,
        # One level below val/: figures by joint and by group of joints have two.
        figures=tuple(one for one in starting("val/") if one.count("/") == 1 and one != metric),
        joints=starting(f"{metric}/joint/"),
        losses=starting("val/loss/"),
        theorem=starting("val/theorem/"),
        training=tuple(one for one in starting("train/") if one.count("/") == 1),
        health=tuple(one for one in starting("train/") if one.count("/") > 1),
    )


def _library(module: str) -> Any:
    """A module of wandb-workspaces, which is installed on demand."""
    try:
        return importlib.import_module(f"wandb_workspaces.{module}")
    except ImportError:
        raise PosematchError(
            "A dashboard needs the wandb-workspaces package: pip install 'posematch[wandb]'."
        ) from None


@dataclass(frozen=True)
class Section:
    """Panels under a heading.

    Attributes
    ----------
    title, sentence
        The heading and what the panels tell.
    panels
        Of ``wandb_workspaces.reports.v2``.
    """

    title: str
    sentence: str
    panels: list[Any]


def sections(names: Names) -> list[Section]:
    """The panels, the same for workspace and report."""
    wr = _library("reports.v2")

    loss = wr.Config(_LOSS)

    def line(x: str, y: str, **more: Any) -> Any:
        more = {"max_runs_to_show": _MOST_RUNS, **more}
        return wr.LinePlot(x=x, y=[y], title=y, **more)

    by_loss = {"groupby": loss, "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    against = [
        line(one, names.metric, title_x=one, title_y=names.metric, groupby=_ALONE)
        for one in names.losses
    ]
    charts = [
        wr.CustomChart(
            query={
                "summaryTable": {"tableKey": f"{LOSS_CHARTS}/{one.removeprefix('val/loss/')}_table"}
            },
            chart_name="wandb/scatter/v0",
            chart_fields={"x": "loss", "y": "metric"},
            chart_strings={"title": f"{names.metric} against {one}"},
        )
        for one in names.losses
    ]
    last = [
        wr.ScatterPlot(
            x=wr.SummaryMetric(one),
            y=wr.SummaryMetric(names.metric),
            title=f"last epoch: {names.metric} against {one}",
        )
        for one in names.losses
    ]
    found = [
        Section(
            "Metric",
            "Mean of a loss's seeds, and the range between them.",
            [line(_EPOCH, one, **by_loss) for one in (names.metric, *names.figures)],
        ),
        Section(
            "Losses by epoch",
            "Every loss, measured on the validation maps of every run.",
            [line(_EPOCH, one, **by_loss) for one in names.losses],
        ),
        Section(
            "Loss against metric",
            f"x: a validation loss, y: {names.metric}. Where a loss falls while the metric stands"
            " still, the line is level or folds back.",
            against,
        ),
        Section(
            "Consistency",
            "A dot an epoch, as each run logged it at its end; a dot a run, at its last epoch.",
            [*charts, *last, wr.WeavePanelSummaryTable(table_name=LOSSES_TABLE)],
        ),
        Section(
            "Joints",
            "The metric of each joint at the last epoch, by loss.",
            [
                wr.BarPlot(
                    metrics=[one],
                    title=one.rpartition("/")[2].replace("_", " "),
                    groupby=loss,
                    groupby_aggfunc="mean",
                    groupby_rangefunc="minmax",
                    max_runs_to_show=_MOST_RUNS,
                )
                for one in names.joints
            ]
            + ([wr.WeavePanelSummaryTable(table_name=JOINTS_TABLE)] if names.joints else []),
        ),
        Section(
            "Theorem 1",
            "Both risks, the inner products and the constant between them.",
            [line(_EPOCH, one, **by_loss) for one in names.theorem],
        ),
        Section(
            "Heatmaps",
            "The same validation people in every run.",
            [wr.MediaBrowser(media_keys=[PICTURES], num_columns=1)],
        ),
        Section(
            "Training",
            "Steps, and the health of the losses that tell theirs.",
            [line(_STEP, one, groupby=_ALONE) for one in (*names.training, *names.health)],
        ),
        Section(
            "Runs",
            "What the runs' configurations and figures differ in.",
            [wr.RunComparer(diff_only="split")],
        ),
    ]
    return [one for one in found if one.panels]


def workspace(names: Names, project: str, entity: str, title: str) -> Any:
    """A saved view of the project: runs by sweep and loss, the main figures pinned."""
    ws = _library("workspaces")

    return ws.Workspace(
        entity=entity,
        project=project,
        name=title,
        sections=[
            ws.Section(name=one.title, panels=one.panels, is_open=True) for one in sections(names)
        ],
        settings=ws.WorkspaceSettings(x_axis=_EPOCH, max_runs=_MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group"), ws.Config(_LOSS)], pinned_columns=_columns(names)
        ),
    )


def report(names: Names, project: str, entity: str, title: str) -> Any:
    """The same as a page to read, each section with its sentence.

    Parameters
    ----------
    entity
        Empty: of whoever the key belongs to; the runs are then those of the report's own project.
    """
    wr = _library("reports.v2")

    blocks: list[Any] = [wr.TableOfContents()]
    for one in sections(names):
        runs = wr.Runset(
            entity=entity,
            project=project,
            name="by sweep and loss",
            groupby=["group", f"config.{_LOSS}"],
            pinned_columns=_columns(names),
        )
        grid = wr.PanelGrid(runsets=[runs], panels=one.panels, hide_run_sets=one.title != "Runs")
        blocks += [wr.H2(one.title), wr.P(one.sentence), grid]
    return wr.Report(
        project=project,
        entity=entity,
        title=title,
        description=f"Losses against {names.metric}, by posematch.",
        blocks=blocks,
        width="fluid",
    )


def _columns(names: Names) -> list[str]:
    """Of the run table."""
    shown = (names.metric, *names.figures, *names.losses)
    return [
        "run:displayName",
        "run:state",
        "config:loss.value.name",
        "config:seed.value",
        *(f"summary:{one}" for one in shown),
    ]


def specification(names: Names, project: str, title: str) -> dict[str, Any]:
    """What would be sent to W&B, as plain json: ``workspace`` and ``report``. Needs no network."""
    made = {"workspace": workspace(names, project, "", title)}
    made["report"] = report(names, project, "", title)
    return {
        key: json.loads(one._to_model().model_dump_json(by_alias=True, exclude_none=True))
        for key, one in made.items()
    }


def publish(names: Names, project: str, entity: str | None, title: str) -> tuple[str, str]:
    """Save workspace and report at W&B.

    Returns
    -------
    Their addresses.

    Raises
    ------
    PosematchError
        There is no key or no network, or W&B refuses.
    """
    import wandb

    reason = why_offline()
    if reason:
        raise PosematchError(
            f"W&B: {reason}; run `wandb login` where the server can be reached and try again, or"
            " write the specification with output=FILE."
        )
    try:
        owner = entity or str(wandb.Api().default_entity)
        saved = [make(names, project, owner, title).save() for make in (workspace, report)]
    except Exception as error:  # wandb's, its GraphQL client's and requests' have no common base
        raise PosematchError(
            f"W&B does not take the dashboard ({' '.join(str(error).split())}); is"
            f" project={project} yours to write to?"
        ) from error
    return str(saved[0].url), str(saved[1].url)

"""The plots of `posematch.reports.report`: Plotly figures without colours.

Colours belong to the page, which has a light and a dark set of them: a trace's ``meta`` names the
one it wants, an axis is in that of its traces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from posematch.calibration.calibrating import Calibrated
from posematch.metrics.columns import NEARNESS
from posematch.reports.curves import Curves
from posematch.reports.theorem import Theorem
from posematch.runs.finished import Run

SERIES = 8  # colours of the page: series-0, series-1, ...
_EACH_EPOCH = 12  # up to so many, each has its number; else Plotly would count in halves
_THEOREM_ROWS = (
    (("gaussian_risk", "Gaussian risk"), ("dot_risk", "dot risk")),
    (
        ("2_gaussian_product", "2 E⟨h, g⟩"),
        ("-2_dot_product", "−2 E⟨h, d⟩"),
        ("extra", "their sum"),
    ),
)


@dataclass(frozen=True)
class Plot:
    """A zoomable plot of the page.

    Attributes
    ----------
    name
        Of its place in the page.
    title
        What it shows, in words.
    spec
        ``data`` and ``layout`` for Plotly.newPlot.
    tall
        Whether it has several rows.
    """

    name: str
    title: str
    spec: dict[str, Any]
    tall: bool = False


def metric_plots(groups: dict[str, list[Run]], metric: str) -> list[Plot]:
    """The metric by epoch; where it is one of nearness, its companions that all runs have, too."""
    beside = [one for one in ("EPE", "PCK@0.2(box)", "AP") if one != metric]
    there = [
        one
        for one in (beside if metric in NEARNESS else ())
        if all(f"val/{one}" in run.metrics for runs in groups.values() for run in runs)
    ]
    return [_by_epoch(groups, one, number) for number, one in enumerate([metric, *there])]


def _by_epoch(groups: dict[str, list[Run]], metric: str, place: int) -> Plot:
    """A figure by epoch, all epochs, a colour for each training loss."""
    figure = go.Figure()
    highest = 0.0
    for number, (loss, runs) in enumerate(groups.items()):
        columns = [run.metrics[f"val/{metric}"].dropna() for run in runs]
        highest = max([highest, *(float(one.max()) for one in columns if len(one))])
        for run, values in zip(runs, columns, strict=True):
            epochs = [int(one) + 1 for one in values.index]
            name = f"{loss}, seed {run.seed}"
            figure.add_trace(_thin(epochs, values, name, loss, f"series-{number % SERIES}"))
        mean = pd.concat(columns, axis=1).mean(axis=1)
        epochs = [int(one) + 1 for one in mean.index]
        figure.add_trace(_bold(epochs, mean, loss, loss, f"series-{number % SERIES}"))
    _finish(figure, "epoch", "EPE, px" if metric == "EPE" else metric)
    # Of zeros alone Plotly would show -1 to 1.
    if highest == 0:
        figure.update_yaxes(range=[0, 1])
    name = f"metric-{place}" if place else "metric"
    return Plot(name, f"{metric} by epoch; thin: seeds, bold: their mean", _spec(figure))


def loss_plots(curves: Curves) -> list[Plot]:
    """Figure 2: for each training its loss and the metric by epoch."""
    plots = []
    for number, (loss, runs) in enumerate(curves.groups.items()):
        figure = make_subplots(specs=[[{"secondary_y": True}]])
        of_runs = [curves.own(loss, run) for run in runs]
        for column, label, secondary in (("loss", loss, False), ("metric", curves.metric, True)):
            dash = "dash" if secondary else "solid"
            for run, rows in zip(runs, of_runs, strict=True):
                name = f"{label}, seed {run.seed}"
                trace = _thin(rows["epoch"], rows[column], name, label, column, dash)
                figure.add_trace(trace, secondary_y=secondary)
            mean = pd.concat(of_runs).groupby("epoch")[column].mean()
            figure.add_trace(
                _bold(mean.index, mean, label, label, column, dash), secondary_y=secondary
            )
        fell = pd.concat(rows[_both_fell(rows)] for rows in of_runs)
        if len(fell):
            figure.add_trace(
                go.Scatter(
                    x=list(fell["epoch"]), y=list(fell["metric"]), mode="markers", meta="metric",
                    marker={"symbol": "x", "size": 8}, name="loss fell, metric fell",
                ),
                secondary_y=True,
            )  # fmt: skip
        _finish(figure, "epoch", f"validation {loss}", of_axis="loss")
        figure.update_yaxes(
            title={"text": curves.metric, "standoff": 14},
            tickmode="auto",
            showgrid=False,
            secondary_y=True,
        )
        spec = _spec(figure)
        spec["layout"]["meta"]["yaxis2"] = "metric"
        plots.append(Plot(f"loss-{number}", f"trained with {loss}", spec))
    return plots


def against_plots(curves: Curves) -> list[Plot]:
    """For each training the metric over its loss, a dot an epoch, joined in their order."""
    plots = []
    for number, (loss, runs) in enumerate(curves.groups.items()):
        figure = go.Figure()
        for place, run in enumerate(runs):
            rows = curves.own(loss, run)
            figure.add_trace(
                go.Scatter(
                    x=list(rows["loss"]), y=list(rows["metric"]), mode="lines+markers",
                    meta=f"series-{place % SERIES}", name=f"seed {run.seed}",
                    text=[f"epoch {one}" for one in rows["epoch"]],
                    line={"width": 1.2}, marker={"size": 6},
                    hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}",
                )
            )  # fmt: skip
        _finish(figure, f"validation {loss}", curves.metric, of_epochs=False)
        plots.append(Plot(f"against-{number}", f"trained with {loss}", _spec(figure)))
    return plots


def theorem_plots(theorem: Theorem) -> list[Plot]:
    """For each training both risks, the terms between them, and the metric."""
    plots = []
    for number, loss in enumerate(theorem.groups):
        rows = theorem.terms[theorem.terms["training_loss"] == loss]
        rows = rows.assign(
            **{
                "2_gaussian_product": 2 * rows["gaussian_product"],
                "-2_dot_product": -2 * rows["dot_product"],
            }
        )
        figure = make_subplots(rows=3, shared_xaxes=True, vertical_spacing=0.05)
        panels = (*_THEOREM_ROWS, (("metric", theorem.metric),))
        colour = 0
        for place, terms in enumerate(panels, start=1):
            for term, label in terms:
                meta, dash = f"series-{colour}", "dash" if term == "extra" else "solid"
                colour += 1
                for seed, own in rows.groupby("seed"):
                    name = f"{label}, seed {seed}"
                    trace = _thin(own["epoch"], own[term], name, label, meta, dash)
                    figure.add_trace(trace, row=place, col=1)
                mean = rows.groupby("epoch")[term].mean()
                figure.add_trace(
                    _bold(mean.index, mean, label, label, meta, dash), row=place, col=1
                )
        _finish(figure, "", "risk per image", legend_y=-0.13)
        figure.update_yaxes(title_text="between the risks", row=2, col=1)
        figure.update_yaxes(title_text=theorem.metric, row=3, col=1)
        figure.update_xaxes(title_text="epoch", row=3, col=1)
        plots.append(Plot(f"theorem-{number}", f"trained with {loss}", _spec(figure), tall=True))
    return plots


def reliability_plots(found: Mapping[str, Calibrated]) -> list[Plot]:
    """For each training what its scores say against what is so, before and after calibration."""
    plots = []
    for number, (loss, one) in enumerate(found.items()):
        figure = go.Figure()
        lines = [("before", one.reliability.bins_before, 2.5, 1.0)]
        lines += [("after, a fold each", bins, 1.2, 0.7) for bins in one.reliability.bins_after]
        named: set[str] = set()
        for name, bins, width, opacity in lines:
            figure.add_trace(
                go.Scatter(
                    x=list(bins["score"]), y=list(bins["right"]), mode="lines+markers", name=name,
                    meta=f"series-{int(name != 'before')}", opacity=opacity, legendgroup=name,
                    showlegend=name not in named, line={"width": width},
                    marker={"size": 2 + 1.5 * width},
                    text=[f"{count} joints" for count in bins["joints"]],
                    hovertemplate="%{text}<br>score %{x:.3f}, so %{y:.3f}",
                )
            )  # fmt: skip
            named.add(name)
        figure.add_trace(
            go.Scatter(
                x=[0, 1], y=[0, 1], mode="lines", name="calibrated", meta="series-7",
                line={"width": 1, "dash": "dash"}, hoverinfo="skip",
            )
        )  # fmt: skip
        what = one.record.meaning
        y = "mean OKS of the joints" if what == "expected OKS" else f"share {what}"
        _finish(figure, "mean score", y, of_epochs=False)
        plots.append(Plot(f"reliability-{number}", f"trained with {loss}", _spec(figure)))
    return plots


def _both_fell(rows: pd.DataFrame) -> pd.Series:
    return (rows["loss"].diff() < 0) & (rows["metric"].diff() < 0)


def _thin(
    x: Iterable[int], y: Iterable[float], name: str, group: str, meta: str, dash: str = "solid"
) -> Any:
    """One seed."""
    return go.Scatter(
        x=[int(one) for one in x], y=list(y), mode="lines", name=name, meta=meta, opacity=0.45,
        legendgroup=group, showlegend=False, line={"width": 1, "dash": dash},
    )  # fmt: skip


def _bold(
    x: Iterable[Any], y: Iterable[float], name: str, group: str, meta: str, dash: str = "solid"
) -> Any:
    """The mean over seeds."""
    return go.Scatter(
        x=[int(one) for one in x], y=list(y), mode="lines+markers", name=name, meta=meta,
        legendgroup=group, line={"width": 2.5, "dash": dash}, marker={"size": 5},
    )  # fmt: skip


def _finish(
    figure: Any,
    x: str,
    y: str,
    of_axis: str | None = None,
    legend_y: float = -0.36,
    of_epochs: bool = True,
) -> None:
    """Titles of the axes; the legend below them, so that the buttons above stand alone."""
    figure.update_xaxes(title={"text": x, "standoff": 6}, automargin=True)
    figure.update_yaxes(title={"text": y, "standoff": 10}, automargin=True)
    if of_epochs and max(max(trace.x) for trace in figure.data) <= _EACH_EPOCH:
        figure.update_xaxes(dtick=1)
    figure.update_layout(
        template=None,
        margin={"l": 56, "r": 12, "t": 32, "b": 44},
        legend={"orientation": "h", "y": legend_y, "yanchor": "top", "x": 0},
        hovermode="closest",
        meta={"yaxis": of_axis} if of_axis else {},
    )


def _spec(figure: Any) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(figure.to_json())
    spec["layout"].setdefault("meta", {})
    return spec

"""Loss against metric, and Theorem 1, by epoch: series with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from folders import make_run, random_people, with_errors

from posematch.errors import PosematchError
from posematch.metrics.columns import TERMS
from posematch.reports import curves as curves_module
from posematch.reports import theorem as theorem_module
from posematch.reports.curves import consistency, curves_of, write_curves
from posematch.reports.groups import interval_cell, interval_columns, interval_over_seeds
from posematch.reports.theorem import theorem_of, write_theorem
from posematch.runs.finished import find_runs

TABLE = with_errors(random_people(), 0.4)
FALLING = [9.0, 4.0, 3.0, 2.0, 1.0]
CONFIG = {"backbone.pretrained": False}


def metrics(losses: dict[str, list[float]], figure: list[float], **columns) -> pd.DataFrame:
    """metrics.csv of five epochs, with terms that meet the theorem."""
    epochs = len(figure)
    gaussian = np.linspace(8, 4, epochs)
    terms = {
        "gaussian_risk": gaussian,
        "dot_risk": gaussian + 2 * np.linspace(0, 4, epochs) - 2 * 0.25 - 3,
        "gaussian_product": np.linspace(0, 4, epochs),
        "dot_product": np.full(epochs, 0.25),
        "constant": np.full(epochs, 3.0),
        "residual": np.full(epochs, 1e-15),
    }
    rows = {f"val/loss/{name}": values for name, values in losses.items()}
    rows |= {"val/PCKh@0.5": figure} | {f"val/theorem/{k}": v for k, v in terms.items()}
    return pd.DataFrame(rows | columns, index=range(epochs))


def run(path, loss, seed=0, **given):
    predictions = {4: TABLE}
    return make_run(
        path, loss=loss, seed=seed, predictions=predictions, metrics=metrics(**given), config=CONFIG
    )


@pytest.fixture
def runs(tmp_path):
    """Epoch 1 is out of the figure. The Gaussian's metric falls once while its loss falls."""
    wavy, rising = [50.0, 10, 20, 15, 30], [50.0, 10, 20, 30, 40]
    losses = {"gaussian_mse": FALLING, "matching": FALLING[::-1]}
    run(tmp_path / "a", "gaussian_mse", losses=losses, figure=wavy)
    run(tmp_path / "b", "matching", losses=dict.fromkeys(losses, FALLING), figure=rising)
    return tmp_path


def row_of(curves, training, measured):
    table = curves.table.set_index(["training_loss", "measured_loss"])
    return table.loc[(training, measured)]


def test_consistency_by_hand():
    perfect = consistency([5, 4, 3, 2], [1, 2, 3, 4])
    assert (perfect.spearman, perfect.kendall) == pytest.approx((-1, -1))
    assert (perfect.disagreed, perfect.loss_fell_metric_fell) == (0, 0)
    # Ranks 4 3 2 1 and 1 3 2 4: 1 - 6 (9 + 9) / (4 * 15); five pairs of six are in opposite order.
    once = consistency([4, 3, 2, 1], [1, 2, 1.5, 3])
    assert (once.spearman, once.kendall) == pytest.approx((-0.8, -2 / 3))
    assert (once.disagreed, once.loss_fell_metric_fell) == pytest.approx((1 / 3, 1 / 3))
    worst = consistency([1, 2, 3, 3], [1, 2, 3, 4])  # rose, rose, stood still
    assert (worst.disagreed, worst.loss_fell_metric_fell) == pytest.approx((2 / 3, 0))
    assert np.isnan(consistency([1, 1, 1], [1, 2, 3]).spearman)
    with pytest.raises(ValueError, match="at least 3"):
        consistency([1, 2], [1, 2])


def test_interval_over_seeds_by_hand():
    """Student's t with 2 degrees of freedom: 4.302653 (any table)."""
    found = interval_over_seeds([-0.9, -0.8, -0.7], -1, 1)
    assert found.value == pytest.approx(-0.8)
    assert found.low == -1  # cut
    assert found.high == pytest.approx(-0.8 + 4.302653 * 0.1 / np.sqrt(3), abs=1e-6)
    assert found.seeds_std is None
    for values in ([0.5], [0.5, 0.5, 0.5], [0.5, 0.5]):
        none = interval_over_seeds(values, -1, 1)
        assert np.isnan([none.low, none.high]).all()
        assert interval_cell(interval_columns("rho", none), "rho") == "0.50"
    # Two seeds, one degree of freedom: limits would be 12.7 standard errors away.
    two = interval_over_seeds([-0.9, -0.8], -1, 1)
    assert np.isnan([two.low, two.high]).all()
    assert two.seeds_std == pytest.approx(0.1 / np.sqrt(2))
    assert interval_cell(interval_columns("rho", two), "rho") == "-0.85, seeds ± 0.07"


def test_epochs_are_counted_from_one_and_cut(runs):
    curves = curves_of(find_runs([runs]))
    assert sorted(curves.series["epoch"].unique()) == [2, 3, 4, 5]
    assert sorted(curves_of(find_runs([runs]), 1, 3).series["epoch"].unique()) == [1, 2, 3]
    with pytest.raises(PosematchError, match="has 2 validated epochs between 4 and 15"):
        curves_of(find_runs([runs]), 4)


def test_own_and_cross_table(runs):
    curves = curves_of(find_runs([runs]))
    own = row_of(curves, "gaussian_mse", "gaussian_mse")
    # Metric 10 20 15 30 under a falling loss.
    assert own["spearman"] == pytest.approx(-0.8)
    assert own["kendall"] == pytest.approx(-2 / 3)
    assert own["loss_fell_metric_fell"] == pytest.approx(1 / 3)
    crossed = row_of(curves, "gaussian_mse", "matching")
    assert crossed["spearman"] == pytest.approx(0.8)  # that loss rises
    assert crossed["disagreed"] == pytest.approx(2 / 3)
    assert row_of(curves, "matching", "gaussian_mse")["spearman"] == pytest.approx(-1)
    text = curves_module.markdown(curves)
    assert "| `gaussian_mse` | -0.80 | -0.67 | 0.33 | 0.33 |" in text
    assert "| `matching` | 0.80 | -1.00 |" in text


def test_intervals_over_seeds(tmp_path):
    for seed, figure in enumerate(([0, 1, 2, 3, 4], [0, 1, 2, 1.5, 3], [0, 1, 3, 2, 4])):
        run(tmp_path / str(seed), "dot_mse", seed, losses={"dot_mse": FALLING}, figure=figure)
    own = row_of(curves_of(find_runs([tmp_path])), "dot_mse", "dot_mse")
    assert own["seeds"] == 3
    values = [-1, -0.8, -0.8]
    assert own["spearman"] == pytest.approx(np.mean(values))
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
    assert own["spearman_high"] == pytest.approx(np.mean(values) + half, abs=1e-6)
    assert own["spearman_low"] == -1


def test_theorem_by_hand(runs):
    theorem = theorem_of(find_runs([runs]))
    row = theorem.table.set_index("training_loss").loc["gaussian_mse"]
    assert (row["gaussian_risk_first"], row["gaussian_risk_last"]) == (8, 4)
    assert (row["extra_first"], row["extra_last"]) == (-0.5, 7.5)
    # The dot risk rises by twice the product's 4 less the Gaussian risk's 4.
    assert row["dot_risk_last"] - row["dot_risk_first"] == pytest.approx(4)
    assert row["gaussian_fell_dot_rose"] == 1
    assert row["spearman_gaussian_risk"] == -row["spearman_dot_risk"]
    assert list(theorem.terms["epoch"]) == [1, 2, 3, 4, 5] * 2
    assert "8 to 4" in theorem_module.markdown(theorem)


def test_theorem_that_does_not_hold_or_is_not_there(tmp_path):
    given = {"losses": {"kl": FALLING}, "figure": [0, 1, 2, 3, 4]}
    broken = run(tmp_path / "a", "kl", **given, **{"val/theorem/residual": [0, 0, 1e-5, 0, 0]})
    with pytest.raises(PosematchError, match="off by 1e-05 of its largest term"):
        theorem_of(find_runs([broken]))
    without = metrics(**given).drop(columns=[f"val/theorem/{name}" for name in TERMS])
    make_run(tmp_path / "b", loss="kl", predictions={4: TABLE}, metrics=without, config=CONFIG)
    with pytest.raises(PosematchError, match="has no val/theorem/gaussian_risk"):
        theorem_of(find_runs([tmp_path / "b"]))


def test_runs_without_losses_of_their_own(tmp_path):
    run(tmp_path / "a", "kl", losses={"dot_mse": FALLING}, figure=[0, 1, 2, 3, 4])
    with pytest.raises(PosematchError, match="no validation loss of its own"):
        curves_of(find_runs([tmp_path]))


@pytest.mark.parametrize(
    ("read", "write", "names"),
    [
        (curves_of, write_curves, ["loss_curves.png", "loss_curves.svg", "loss_curves.csv",
                                   "consistency.csv", "loss_curves.md"]),
        (theorem_of, write_theorem, ["theorem.png", "theorem.svg", "theorem.csv",
                                     "theorem_summary.csv", "theorem.md"]),
    ],
)  # fmt: skip
def test_remade_bit_for_bit(runs, tmp_path_factory, read, write, names):
    """Also without checkpoints and W&B folder."""
    for folder in ("checkpoints", "wandb"):
        (runs / "a" / folder).mkdir()
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    written = write(read(find_runs([runs])), first)
    for folder in ("checkpoints", "wandb"):
        (runs / "a" / folder).rmdir()
    write(read(find_runs([runs])), second)
    assert [one.name for one in written] == names
    for one in written:
        assert one.read_bytes() == (second / one.name).read_bytes()
    text = (first / names[1]).read_text()
    assert "gaussian_mse" in text  # a panel's title, as text

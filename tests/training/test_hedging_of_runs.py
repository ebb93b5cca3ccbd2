"""Where trained networks put their mass, from run folders."""

from __future__ import annotations

import pandas as pd
import pytest

from posematch.errors import PosematchError
from posematch.reports.hedging import write_hedging


def test_of_a_run(finished, tmp_path):
    """The mass near the joints is what the run's own validation found."""
    result = finished("loss=spatial_cross_entropy", "flip_test=false", "measure=none")
    table = write_hedging([result.folder.path], tmp_path)
    assert table["loss"].tolist() == ["spatial_cross_entropy"]
    told = pd.read_csv(result.folder.metrics)["val/compactness/mass_within_2px_of_truth"].iloc[-1]
    # That counts the labelled joints off the grid, too: a few of 128, all of which have near 0.01.
    assert table["near_truth"][0] == pytest.approx(told, abs=1e-3)
    assert (tmp_path / "hedging.csv").exists()
    assert (tmp_path / "hedging.md").exists()


def test_two_runs_of_one_loss(finished, tmp_path):
    folder = finished("loss=spatial_cross_entropy", "flip_test=false", "measure=none").folder.path
    with pytest.raises(PosematchError, match="two runs are of spatial_cross_entropy"):
        write_hedging([folder, folder], tmp_path)


def test_a_schedule_is_at_its_end(finished, tmp_path):
    """The mass is what the last epoch's loss made of the maps, as in the run's own validation."""
    options = "loss=gaussian_then_matching", "loss.switch_epoch=1", "measure=none"
    result = finished(*options, "flip_test=false")
    table = write_hedging([result.folder.path], tmp_path)
    told = pd.read_csv(result.folder.metrics)["val/compactness/mass_within_2px_of_truth"].iloc[-1]
    assert table["near_truth"][0] == pytest.approx(told, abs=1e-3)

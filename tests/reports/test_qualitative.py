"""Which joints a figure shows, and that it needs the run folders alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from folders import make_run, random_people
from hydra import compose, initialize_config_dir
from PIL import Image

from posematch.app.composition import register_resolvers
from posematch.errors import PosematchError
from posematch.reports.panels import write_figures
from posematch.reports.qualitative import (
    choose,
    compactness_intervals,
    crop_reader,
    one_run,
    read_pair,
    summary,
)
from posematch.runs.finished import read_run
from posematch.runs.folder import RunFolder
from posematch.runs.heatmaps import (
    StoredHeatmaps,
    chosen_people,
    compress,
    read_heatmaps,
    write_heatmaps,
)
from posematch.training.run import train

REPOSITORY = Path(__file__).resolve().parents[2]
PEOPLE, SIZE = 12, (16, 16)
# Photos of random_people span 0 to 550 pixels; crops are 64 wide and 64 high.
AFFINE = np.array([[64 / 550, 0, 0], [0, 64 / 550, 0]])


def people() -> pd.DataFrame:
    """Twelve people, each joint labelled and hit."""
    table = random_people(photos=PEOPLE, people=1)
    columns = {"mass_within_2px": 0.5, "mass_within_2px_of_truth": 0.5, "spread_px": 2.0}
    return table.assign(visible=np.float32(1), occluded=False, **columns)


def missed(table: pd.DataFrame, person: int, joint: str, heads: float) -> None:
    """Move a prediction to the right by so many head sizes."""
    row = (table["person_id"] == person) & (table["joint"] == joint)
    table.loc[row, "x"] = table.loc[row, "true_x"] + heads * table.loc[row, "head_size_img"]


def keep_maps(path: Path, ids: list[int]) -> None:
    """Give a run folder maps with a peak in their middle."""
    map_ = torch.zeros(len(ids), 16, *SIZE)
    map_[..., 7:9, 7:9] = torch.tensor([[0.2, 0.4], [0.3, 0.8]])
    levels, peaks = compress(map_)
    stored = StoredHeatmaps(
        np.array(ids),
        levels.numpy(),
        peaks.numpy(),
        np.repeat(AFFINE[None], len(ids), axis=0),
        np.array([f"images/{one}.jpg" for one in ids]),
    )
    write_heatmaps(RunFolder(path).heatmaps(0), stored)


@pytest.fixture
def pair(tmp_path):
    """b repairs person 3's wrist and spoils person 5's knee; person 11's maps are not kept."""
    a, b = people(), people()
    for person, joint, of_a, of_b in (
        (3, "left_wrist", 2.0, 0.1),
        (3, "left_elbow", 1.5, 0.1),  # second of a person who is shown already
        (4, "right_ankle", 0.4, 0.1),
        (5, "left_knee", 0.2, 3.0),
        (11, "head_top", 9.0, 0.0),
    ):
        missed(a, person, joint, of_a)
        missed(b, person, joint, of_b)
    row = (a["person_id"] == 5) & (a["joint"] == "left_knee")
    for table in (a, b):
        table.loc[row, "occluded"] = True
    b["spread_px"] = 1.5
    for name, loss, table in (("a", "gaussian_mse", a), ("b", "matching", b)):
        make_run(tmp_path / name, loss=loss, predictions={0: table})
        keep_maps(tmp_path / name, list(range(11)))
    return read_pair(read_run(tmp_path / "a"), read_run(tmp_path / "b"))


def shown(chosen: pd.DataFrame) -> list[tuple[int, str]]:
    return list(zip(chosen["person_id"], chosen["joint"], strict=True))


def test_gains_losses_and_failures_are_the_known_ones(pair):
    assert shown(choose(pair, "gains", 4)) == [(3, "left_wrist"), (4, "right_ankle")]
    assert shown(choose(pair, "losses", 4)) == [(5, "left_knee")]
    failures = choose(pair, "failures", 3)
    assert shown(failures) == [(5, "left_knee"), (3, "left_elbow"), (4, "right_ankle")]
    assert list(failures["occluded"]) == [True, False, False]
    assert choose(pair, "gains", 1)["gain"].iloc[0] == pytest.approx(1.9)
    # Among near misses only the ankle.
    assert shown(choose(pair, "gains", 4, near=0.5)) == [(4, "right_ankle")]


def test_the_summary_counts_all_joints(pair):
    found = summary(pair)
    joints = PEOPLE * 16
    assert found["joints"] == joints
    assert found["drawable"] == 11 * 16
    assert found["b_nearer"] == pytest.approx(4 / joints)
    assert found["occluded"] == pytest.approx(1 / joints)
    assert found["occluded_of_worst"] == pytest.approx(1 / round(0.05 * joints))
    of_a, of_b, between = compactness_intervals(pair)["spread_px"]
    assert (of_a.value, of_b.value, between.value) == pytest.approx((2.0, 1.5, -0.5))
    assert (between.low, between.high) == pytest.approx((-0.5, -0.5))


def test_figures_are_written_the_same_each_time(pair, tmp_path):
    files = write_figures(pair, tmp_path / "out", 4)
    assert [file.name for file in files] == [
        "gains.png",
        "losses.png",
        "failures.png",
        "choices.csv",
        "qualitative.md",
    ]
    first = {file.name: file.read_bytes() for file in files}
    assert {f.name: f.read_bytes() for f in write_figures(pair, tmp_path / "again", 4)} == first
    table = pd.read_csv(tmp_path / "out" / "choices.csv")
    assert list(table["figure"]) == ["gains"] * 2 + ["losses"] + ["failures"] * 4
    assert table["image"][0] == "images/3.jpg"
    # Wide enough for its columns: no cell is cut off.
    widths = [Image.open(tmp_path / "out" / f"{name}.png").width for name in ("gains", "failures")]
    assert 600 < widths[0] < widths[1] < 1100
    text = (tmp_path / "out" / "qualitative.md").read_text()
    assert "nearer to the truth in 2.1%" in text
    assert "-0.500 (-0.500 to -0.500)" in text


def test_without_occlusion_and_compactness_it_says_so(tmp_path):
    for name, error in (("a", 1.0), ("b", 0.5)):
        table = people().drop(columns=["mass_within_2px", "mass_within_2px_of_truth", "spread_px"])
        missed(table, 2, "pelvis", error)
        make_run(tmp_path / name, predictions={0: table}, seed=ord(name))
        keep_maps(tmp_path / name, [0, 2])
    pair = read_pair(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert compactness_intervals(pair) == {}
    write_figures(pair, tmp_path / "out", 4)
    text = (tmp_path / "out" / "qualitative.md").read_text()
    assert "does not tell which joints are occluded" in text
    assert "None." in text  # b loses nowhere


def test_what_does_not_compare_is_refused(tmp_path):
    runs = {}
    for name, config in (("a", {}), ("b", {"data.batch_size": 8}), ("c", {}), ("d", {})):
        runs[name] = make_run(tmp_path / name, predictions={0: people()}, config=config)
    keep_maps(runs["a"], [0, 1])
    keep_maps(runs["c"], [0, 2])
    for other, message in (
        ("b", r"a and b cannot be compared: data.batch_size"),
        ("c", r"a and c keep heatmaps of different people"),
        ("d", r"keeps no heatmaps; train it with pictures.heatmaps_of"),
    ):
        with pytest.raises(PosematchError, match=message):
            read_pair(read_run(runs["a"]), read_run(runs[other]))
    with pytest.raises(PosematchError, match=r"a=.* holds 4 runs"):
        one_run(tmp_path, "a")


def test_a_damaged_file_is_told(tmp_path):
    folder = RunFolder(tmp_path)
    folder.heatmaps(3).parent.mkdir()
    folder.heatmaps(3).write_bytes(b"no zip")
    with pytest.raises(PosematchError, match=r"epoch=003\.npz"):
        read_heatmaps(folder)
    np.savez(folder.heatmaps(3), person_id=np.array([object()]))  # pickled
    with pytest.raises(PosematchError, match=r"epoch=003\.npz"):
        read_heatmaps(folder)


def test_photos_outside_the_data_set_are_not_read(pair, tmp_path):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    assert crop_reader(pair, root) is None
    for row in range(11):
        Image.new("RGB", (550, 550), (200, 10, 10)).save(root / "images" / f"{row}.jpg")
    crop = crop_reader(pair, root)
    assert crop is not None
    assert crop(3).shape == (64, 64, 3)
    assert abs(crop(3)[32, 32].astype(int) - (200, 10, 10)).max() < 5  # jpeg's own error
    pair.maps_a.image[0] = "../secret.jpg"
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    assert crop_reader(pair, root) is None


def test_stored_maps_are_within_half_a_level(tmp_path):
    """sqrt(v / p) is rounded to 1/255: |v' - v| <= p (sqrt(v/p) / 255 + 1 / (2 * 255)^2)."""
    maps = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    maps[0, 0] = -1
    levels, peaks = compress(maps)
    stored = StoredHeatmaps(
        np.arange(3), levels.numpy(), peaks.numpy(), np.zeros((3, 2, 3)), np.array(["x"] * 3)
    )
    write_heatmaps(tmp_path / "maps.npz", stored)
    positive = maps.clamp_min(0).numpy()
    p = stored.peaks[..., None, None]
    bound = np.sqrt(positive * p) / 255 + p / 510**2
    assert (abs(stored.maps() - positive) <= bound * (1 + 1e-5)).all()
    assert stored.maps()[0, 0].max() == 0


def test_a_training_keeps_maps_from_which_its_joints_are_read(tmp_path):
    """A real run: who is kept, and that the kept maps decode to the predictions."""
    register_resolvers()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        runs = [
            train(
                compose(
                    "train",
                    overrides=[
                        f"loss={loss}", f"data.root={tmp_path / 'data'}",
                        f"run_root={tmp_path / 'runs'}", "data.spec.train_photos=6",
                        "data.spec.valid_photos=4", "data.input_size=[64,64]",
                        "data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu",
                        "trainer.max_epochs=2", "pictures.heatmaps_of=4", "measure=none",
                        "pictures.every_n_epochs=0",
                    ],
                )
            ).folder
            for loss in ("gaussian_mse", "matching")
        ]  # fmt: skip
    pair = read_pair(*(read_run(folder.path) for folder in runs))
    assert [file.name for file in runs[1].path.glob("heatmaps/*")] == ["epoch=001.npz"]
    everybody = pair.b.last_predictions.person_ids
    assert len(pair.maps_b.person_id) == 4 < len(everybody)
    # The prediction is the barycentre of the 5 x 5 pixels around the highest one, whose level is
    # 255. Other levels are off by at most half of one, so values by at most 1/255 of the peak, at
    # offsets of at most 2.83 px, 25 of them: 0.28 px.
    for row, person in enumerate(pair.maps_b.person_id.tolist()):
        points = pair.b.last_predictions.joints_img[everybody == person][0]
        for map_, point in zip(
            pair.maps_b.maps()[row], pair.to_heatmap(person, points), strict=True
        ):
            padded = np.pad(map_, 2)
            offsets = []
            for y, x in np.argwhere(map_ == map_.max()):
                window = padded[y : y + 5, x : x + 5] / padded[y : y + 5, x : x + 5].sum()
                reach = np.arange(-2, 3)
                centre = x + window.sum(0) @ reach, y + window.sum(1) @ reach
                offsets.append(np.hypot(*(centre - point)))
            assert min(offsets) < 0.28
    # Photos are found where the run had them, and the crop is the network's own.
    crop = crop_reader(pair, tmp_path / "data")
    assert crop is not None
    assert crop(int(pair.maps_a.person_id[0])).std() > 10
    assert write_figures(pair, tmp_path / "out", 2, crop=crop)[-1].exists()


def test_who_is_kept_does_not_depend_on_the_order_of_people():
    class One:
        def __init__(self, person_id):
            self.person_id = person_id

    forwards, backwards = [One(n) for n in range(50)], [One(n) for n in range(49, -1, -1)]
    kept = chosen_people(forwards, 10)
    assert kept == chosen_people(backwards, 10)
    assert len(kept) == 10
    assert kept < chosen_people(forwards, 20)
    assert len(chosen_people(forwards, 99)) == 50

"""What is drawn, and where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from posematch.errors import PosematchError
from posematch.geometry import heatmap_to_crop
from posematch.rendering import CELL_HEIGHT_PX, LEFT, people_panel, save_png
from posematch.skeletons import COCO, MPII, Skeleton

SKELETON = Skeleton("two", ("left_hand", "head"), (), ((0, 1),), (0, 1), ())
SIZE = (64, 96)


def panel(maps=None, predicted=None, people=1, skeleton=SKELETON, true=None, **more):
    joints = skeleton.num_joints
    true = torch.full((people, joints, 2), 40.0) if true is None else true
    return people_panel(
        torch.zeros(people, 3, *SIZE, dtype=torch.uint8),
        torch.zeros(people, joints, 16, 24) if maps is None else maps,
        true.clone() if predicted is None else predicted,
        true,
        torch.ones(people, joints),
        torch.ones(people, joints),
        skeleton,
        **more,
    )


def cells(picture, people=1):
    """The three cells of the last person: rows of a column as wide as the crop's aspect says."""
    width = CELL_HEIGHT_PX * SIZE[1] // SIZE[0]
    left = picture.shape[1] - width - 6
    tops = (6 + row * (CELL_HEIGHT_PX + 6) for row in range(3))
    return [picture[top : top + CELL_HEIGHT_PX, left : left + width] for top in tops]


@pytest.mark.parametrize("convention", ["hrnet", "udp"])
def test_peak_of_a_map_lies_over_its_crop_pixel(convention):
    maps = torch.zeros(1, 2, 16, 24)
    maps[0, 0, 5, 9] = 0.2  # far below one: scaled to its own peak
    heat = cells(panel(maps, convention=convention))[1].astype(float).sum(axis=2)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    crop_xy = heatmap_to_crop(torch.tensor([9.0, 5.0]), SIZE, (16, 24), convention).numpy()
    scale = CELL_HEIGHT_PX / SIZE[0]
    # A peak's brightest pixel is the one nearest to it.
    np.testing.assert_allclose([x, y], (crop_xy + 0.5) * scale - 0.5, atol=0.5001)
    assert heat.max() > 300


def test_joints_stand_where_they_are_and_misses_lead_to_the_truth():
    true = torch.tensor([[[40.0, 20.0], [10.0, 50.0]]])
    predicted = torch.tensor([[[70.0, 20.0], [10.0, 50.0]]])
    true_cell, _, predicted_cell = cells(panel(predicted=predicted, true=true))
    scale = CELL_HEIGHT_PX / SIZE[0]

    def at(cell, x, y):
        return tuple(cell[round((y + 0.5) * scale - 0.5), round((x + 0.5) * scale - 0.5)])

    assert at(true_cell, 40, 20) == LEFT
    assert at(predicted_cell, 70, 20) == LEFT
    red, green, blue = at(predicted_cell, 50, 20)
    assert red > 150 > max(green, blue)
    assert at(true_cell, 50, 20) == (0, 0, 0)


@pytest.mark.parametrize("skeleton", [MPII, COCO, SKELETON], ids=lambda s: s.name)
@pytest.mark.parametrize("people", [1, 3])
def test_nothing_to_draw_is_drawn(skeleton, people):
    nowhere = torch.full((people, skeleton.num_joints, 2), torch.nan)
    maps = torch.full((people, skeleton.num_joints, 16, 24), -torch.inf)
    picture = panel(maps, nowhere, people, skeleton, true=nowhere, captions=["one"] * people)
    assert picture.dtype == np.uint8
    for cell in cells(picture):
        assert cell.shape[:2] != (0, 0)
        if picture.shape[1] > 900:  # three people: the last one's cells end the picture
            assert not cell[5:-40, 5:-5].any()


def test_png_comes_back_and_a_failure_leaves_nothing(tmp_path):
    picture = panel()
    save_png(tmp_path / "figures" / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "figures" / "x.png")), picture)
    (tmp_path / "file").write_text("")
    with pytest.raises(PosematchError, match="cannot be written"):
        save_png(tmp_path / "file" / "x.png", picture)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["figures", "file", "x.png"]

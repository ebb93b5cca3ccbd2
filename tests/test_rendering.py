"""What is drawn on a panel of people, and where; crops are black or grey where not said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from posematch.errors import PosematchError
from posematch.geometry import heatmap_to_crop
from posematch.rendering import LEFT, MISS, RIGHT, PanelLayout, people_panel, save_png
from posematch.skeletons import COCO, MPII, Skeleton

HANDS = Skeleton("hands", ("left_hand", "right_hand"), ((0, 1),), (), (0, 1), ())
ONE = Skeleton("one", ("nose",), (), (), (0,), ())
SIZE = (64, 96)
MAP_SIZE = (16, 24)
SCALE = 4  # 256 / 64
TRUTH, HEAT, PREDICTION = range(3)


def panel(people=1, skeleton=HANDS, **given):
    """A panel of black crops, everybody's every joint predicted without error at (40, 40)."""
    joints = (people, skeleton.num_joints)
    arguments = {
        "crops": torch.zeros(people, 3, *SIZE, dtype=torch.uint8),
        "maps": torch.zeros(*joints, *MAP_SIZE),
        "predicted_crop": torch.full((*joints, 2), 40.0),
        "true_crop": torch.full((*joints, 2), 40.0),
        "visible": torch.ones(joints),
        "scores": torch.ones(joints),
    }
    return people_panel(**{**arguments, "skeleton": skeleton, **given})


def cell(picture, row, person=0, people=1, captioned=False):
    layout = PanelLayout(people, SIZE, captioned=captioned)
    (top, left), (height, width) = layout.corner(person, row), layout.cell_size
    found = picture[top : top + height, left : left + width]
    assert found.shape == (SCALE * SIZE[0], SCALE * SIZE[1], 3)
    return found.astype(float)


def middle_of(weights):
    """(x, y) barycentre of (H, W) weights."""
    y, x = np.indices(weights.shape)
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


def in_cell(xy_crop):
    """Pixel centres lie at integers in both frames, so edges at halves map onto each other."""
    return (np.asarray(xy_crop) + 0.5) * SCALE - 0.5


@pytest.mark.parametrize("convention", ["hrnet", "udp"])
@pytest.mark.parametrize("xy_hm", [(9, 5), (0, 0), (23, 15)])
def test_peak_of_a_map_lies_over_its_crop_pixel(convention, xy_hm):
    maps = torch.zeros(1, 2, *MAP_SIZE)
    maps[0, 0, xy_hm[1], xy_hm[0]] = 0.2  # far below one: scaled to its own peak
    heat = cell(panel(maps=maps, convention=convention), HEAT).sum(axis=2)
    expected = in_cell(
        heatmap_to_crop(torch.tensor(xy_hm).double(), SIZE, MAP_SIZE, convention).numpy()
    )
    # Pixels as bright as the brightest, which rounding makes several, lie about it; beyond the
    # outermost map pixels its edge is continued.
    y, x = np.nonzero(heat == heat.max())
    assert heat.max() > 300
    assert x.min() - 0.5 <= expected[0] <= x.max() + 0.5
    assert y.min() - 0.5 <= expected[1] <= y.max() + 0.5
    if xy_hm == (9, 5):
        # To a tenth of a pixel: grey values are rounded.
        np.testing.assert_allclose(middle_of(heat), expected, atol=0.1)


def test_maps_have_the_hues_of_their_sides_and_do_not_dim_one_another():
    maps = torch.zeros(1, 2, *MAP_SIZE)
    maps[0, 0, 8, 4], maps[0, 1, 8, 20] = 1.0, 1e-6
    heat = cell(panel(maps=maps), HEAT)
    left, right = (heat[in_cell(32).round().astype(int), round(in_cell(x))] for x in (16, 80))
    assert left[2] > left[0] + 100  # bluish
    assert right[0] > right[2] + 100  # yellow to red
    assert left.max() > 200
    assert right.max() > 200


def test_joints_are_where_they_are_said_to_be_to_a_fraction_of_a_pixel():
    predicted = torch.tensor([[[20.3, 31.6], [70.55, 12.2]]])
    drawn = cell(panel(predicted_crop=predicted, visible=torch.zeros(1, 2)), PREDICTION)
    for joint, (colour, xy_crop) in enumerate(
        zip((LEFT, RIGHT), predicted[0].numpy(), strict=True)
    ):
        x, y = in_cell(xy_crop)
        assert tuple(drawn[round(y), round(x)]) == colour
        half = drawn.copy()
        half[:, slice(200, None) if joint == 0 else slice(0, 200)] = 0  # the other joint's
        np.testing.assert_allclose(middle_of(half.sum(axis=2)), (x, y), atol=0.05)


def test_errors_lead_to_the_truth_and_only_where_there_is_one():
    true = torch.tensor([[[20.0, 20.0], [20.0, 50.0]]])
    predicted = true + torch.tensor([40.0, 0.0])
    picture = panel(true_crop=true, predicted_crop=predicted, visible=torch.tensor([[1.0, 0.0]]))
    truth, prediction = cell(picture, TRUTH), cell(picture, PREDICTION)
    row_of_labelled, row_of_unlabelled = in_cell([20, 50]).round().astype(int)
    column = round(in_cell(40))
    assert tuple(prediction[row_of_labelled, column]) == MISS
    assert not prediction[row_of_unlabelled, column].any()
    assert tuple(prediction[row_of_labelled, round(in_cell(20))]) == MISS
    assert tuple(truth[row_of_labelled, round(in_cell(20))]) == LEFT
    assert not truth[row_of_unlabelled].any()
    assert not truth[row_of_labelled, column].any()


def test_an_error_within_the_circle_does_not_show():
    true = torch.full((1, 2, 2), 40.0)
    exact = panel(true_crop=true, predicted_crop=true)
    near = panel(true_crop=true + 0.3, predicted_crop=true)
    assert np.array_equal(cell(exact, PREDICTION), cell(near, PREDICTION))


def test_joints_of_low_score_are_fainter():
    predicted = torch.tensor([[[20.0, 30.0], [70.0, 30.0]]])
    drawn = {}
    for score in (0.0, 0.5, 1.0):
        scores = torch.tensor([[score, 1.0]])
        drawn[score] = cell(panel(predicted_crop=predicted, scores=scores), PREDICTION)
    y, x = (round(in_cell(v)) for v in (30, 20))
    assert 0 < drawn[0.0][y, x].sum() < drawn[0.5][y, x].sum() < drawn[1.0][y, x].sum()
    other = [one[y, round(in_cell(70))] for one in drawn.values()]
    assert all(tuple(colour) == RIGHT for colour in other)


def test_a_limb_takes_the_side_it_leads_to():
    names = ("left_hip", "knee_left", "pelvis", "right_hip")
    kind = Skeleton("legs", names, (), ((0, 1), (2, 3)), (), ())
    true = torch.tensor([[[10.0, 10.0], [80.0, 10.0], [10.0, 50.0], [80.0, 50.0]]])
    drawn = cell(panel(skeleton=kind, true_crop=true), TRUTH)
    assert tuple(drawn[round(in_cell(10)), round(in_cell(45))]) == LEFT
    assert tuple(drawn[round(in_cell(50)), round(in_cell(45))]) == RIGHT
    assert not drawn[round(in_cell(30))].any()


@pytest.mark.parametrize("people", [1, 5, 6, 7, 13])
def test_everybody_has_a_place_of_their_own(people):
    crops = torch.arange(1, people + 1).mul(15)[:, None, None, None].expand(-1, 3, *SIZE)
    picture = panel(
        people,
        crops=crops.to(torch.uint8),
        visible=torch.zeros(people, 2),
        captions=[""] * people,
    )
    assert picture.dtype == np.uint8
    for person in range(people):
        shown = cell(picture, TRUTH, person, people, captioned=True)
        assert (shown == 15 * (person + 1)).all()
    assert (picture[0] == 255).all()
    assert (picture[-1] == 255).all()
    assert (picture[:, 0] == 255).all()
    assert (picture[:, -1] == 255).all()


@pytest.mark.parametrize("skeleton", [MPII, COCO, HANDS, ONE], ids=lambda kind: kind.name)
@pytest.mark.parametrize("nothing", [torch.nan, torch.inf, -torch.inf])
def test_nothing_to_draw_is_drawn(skeleton, nothing):
    joints = (2, skeleton.num_joints)
    picture = panel(
        2,
        skeleton,
        maps=torch.full((*joints, *MAP_SIZE), nothing),
        predicted_crop=torch.full((*joints, 2), nothing),
        true_crop=torch.full((*joints, 2), nothing),
        scores=torch.full(joints, torch.nan),
    )
    for person in range(2):
        for row in (TRUTH, HEAT, PREDICTION):
            assert not cell(picture, row, person, 2).any()


def test_what_lies_far_outside_is_no_obstacle():
    far = torch.tensor([[[1e30, -1e30], [-1e9, 30.0]]])
    picture = panel(true_crop=far, predicted_crop=-far)
    assert not cell(picture, TRUTH).any()


def test_values_that_need_a_gradient_and_half_precision_are_drawn():
    given = {"predicted_crop": torch.full((1, 2, 2), 40.0, requires_grad=True)}
    given["maps"] = torch.rand(1, 2, *MAP_SIZE, generator=torch.manual_seed(0)).bfloat16()
    given["scores"] = torch.ones(1, 2, dtype=torch.float16)
    plain = {name: value.detach().float() for name, value in given.items()}
    assert np.array_equal(panel(**given), panel(**plain))


def test_a_long_caption_stays_below_its_person():
    blank, text = (
        panel(2, captions=[caption, ""])
        for caption in ("", "Heatmaps distributed and matched " * 9)
    )
    changed = np.nonzero((blank != text).any(axis=(0, 2)))[0]
    layout = PanelLayout(2, SIZE, captioned=True)
    left, width = layout.corner(0, TRUTH)[1], layout.cell_size[1]
    # Not merely cut off at the cell's edges.
    assert left + 0.01 * width < changed.min()
    assert changed.max() < left + 0.99 * width
    assert changed.max() - changed.min() > 0.8 * width


@pytest.mark.parametrize(
    ("height", "height_px", "drawn"),
    [(96, 256, 288), (256, 256, 256), (384, 256, 384), (64, 512, 512)],
)
def test_crops_are_enlarged_by_whole_factors(height, height_px, drawn):
    layout = PanelLayout(1, (height, height), height_px)
    assert layout.cell_size == (drawn, drawn)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"crops": torch.zeros(1, 3, *SIZE)}, r"crops must be .* uint8 .* float32"),
        ({"crops": torch.zeros(0, 3, *SIZE, dtype=torch.uint8)}, "at least one person"),
        ({"maps": torch.zeros(1, 3, *MAP_SIZE)}, r"maps must be .* 2 joints of hands"),
        ({"maps": torch.zeros(1, 2, 16)}, "maps must be"),
        ({"maps": torch.zeros(1, 2, 0, 24)}, "maps must be"),
        ({"true_crop": torch.zeros(1, 2, 3)}, r"true_crop must be \(1, 2, 2\)"),
        ({"scores": torch.zeros(2, 2)}, r"scores must be \(1, 2\)"),
        ({"captions": ["one", "two"]}, "a caption for each of the 1 crops"),
    ],
)
def test_what_does_not_fit_is_told(given, sentence):
    with pytest.raises(PosematchError, match=sentence):
        panel(**given)


class TestSavePng:
    def test_comes_back_as_it_was(self, tmp_path):
        picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        path = tmp_path / "run" / "figures" / "x.png"
        for _ in range(2):  # also over what is there
            save_png(path, picture)
        assert np.array_equal(np.asarray(Image.open(path)), picture)
        assert list(path.parent.iterdir()) == [path]

    def test_a_file_where_the_folder_should_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(PosematchError, match=r"x\.png cannot be written"):
            save_png(tmp_path / "file" / "x.png", panel())
        assert [path.name for path in tmp_path.rglob("*")] == ["file"]

    def test_a_failure_at_the_last_step_leaves_nothing_half_written(self, tmp_path):
        (tmp_path / "x.png").mkdir()  # the written file cannot take its place
        with pytest.raises(PosematchError, match="cannot be written"):
            save_png(tmp_path / "x.png", panel())
        assert [path.name for path in tmp_path.rglob("*")] == ["x.png"]

"""Crops made in batches from a cache in a device's memory (here a CPU's): those of the loader."""

from __future__ import annotations

import albumentations
import numpy as np
import pytest
import torch
from test_cache import HRNET_COCO, SPEC, module

from posematch.data import datamodule as datamodules
from posematch.data.augmentation import Appearance
from posematch.data.device_crops import PlacedPeople
from posematch.data.synthetic import ensure_synthetic
from posematch.errors import PosematchError

JITTER = albumentations.ColorJitter(
    brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, p=0.8
)  # of conf/augmentation/appearance
HOLES = albumentations.CoarseDropout(
    num_holes_range=(1, 3), hole_height_range=(0.1, 0.25), hole_width_range=(0.1, 0.25), p=0.5
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    ensure_synthetic(root, SPEC)
    return root


def both(drawn, cache_folder, split="train", **options):
    """All batches of a split by the loader, and made on the device."""
    by_loader = module(drawn, cache_folder, **options)
    on_device = module(drawn, cache_folder, device_cache=True, **options)
    loaders = [
        getattr(one, f"{split[:5].replace('valid', 'val')}_dataloader")()
        for one in (by_loader, on_device)
    ]
    assert isinstance(loaders[1].dataset, PlacedPeople)
    cpu = torch.device("cpu")
    return list(loaders[0]), [
        on_device.transfer_batch_to_device(batch, cpu, 0) for batch in loaders[1]
    ]


def assert_same(one, other, grey_levels=1):
    """Everything but the crops to the bit, the crops to so many grey levels."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name == "crop":
                assert b[name].dtype == torch.uint8
                assert b[name].is_contiguous()
                difference = (a[name].int() - b[name].int()).abs()
                assert int(difference.max()) <= grey_levels
                assert float(a[name].float().std()) > 10  # there is something to see
            else:
                torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convention": "udp"},
        {"skeleton": "coco", "geometry": HRNET_COCO, "input_size": (64, 96)},
        {"cache_format": "raw", "workers": 1},
        {"geometry": None},
    ],
)
def test_geometry(drawn, tmp_path, options):
    assert_same(*both(drawn, tmp_path, **options))


def test_validation(drawn, tmp_path):
    assert_same(*both(drawn, tmp_path, split="valid"), grey_levels=0)


@pytest.mark.parametrize(
    ("transforms", "grey_levels"),
    [
        ([HOLES], 1),
        ([albumentations.ToGray(p=0.5)], 1),
        # Contrast and saturation of up to 1.3 each magnify what the warp rounded otherwise, and
        # hue by two degrees a step what they did.
        ([JITTER], 4),
        ([albumentations.CoarseDropout(fill=(10, 200, 30), p=1.0)], 1),
        # Blur and noise are done by the loader.
        ([JITTER, albumentations.GaussianBlur(p=0.5), albumentations.GaussNoise(p=0.3), HOLES], 4),
    ],
)
def test_appearance(drawn, tmp_path, transforms, grey_levels):
    assert_same(*both(drawn, tmp_path, appearance=Appearance(transforms)), grey_levels)


class TestLook:
    """The colours alone, on the same bytes: no warp before them."""

    @pytest.mark.parametrize(
        ("transform", "off"),
        [
            (HOLES, 0),
            (albumentations.ToGray(p=0.5), 0),
            (albumentations.ColorJitter(0.4, 0, 0, 0, p=1), 0),
            (albumentations.ColorJitter(0, 0.4, 0, 0, p=1), 1),
            (albumentations.ColorJitter(0, 0, 0.4, 0, p=1), 1),
            (albumentations.ColorJitter(0, 0, 0, 0.2, p=1), 1),
        ],
    )
    def test_each(self, transform, off):
        from posematch.data.device_look import LookPlan

        appearance = Appearance([transform])
        plan = LookPlan(appearance, (48, 32))
        rng = np.random.default_rng(0)
        crops = rng.integers(0, 256, (40, 48, 32, 3), dtype=np.uint8)
        rows = [plan.draw(seed) for seed in range(40)]
        changed = plan.apply(torch.from_numpy(crops).movedim(-1, 1), np.stack(rows))
        expected = np.stack([appearance(crop, seed) for seed, crop in enumerate(crops)])
        difference = np.abs(changed.movedim(1, -1).numpy().astype(int) - expected)
        assert difference.max() <= off
        assert (difference > 0).mean() < 0.01  # where float32 rounds a half the other way
        assert (expected != crops).any()


def test_what_does_not_fit_is_read_by_the_loader(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(datamodules, "free_bytes", lambda device: 1000)
    data = module(drawn, tmp_path, device_cache=True)
    with pytest.warns(UserWarning, match=r"the train crops take 0\.0 GiB"):
        loader = data.train_dataloader()
    assert not isinstance(loader.dataset, PlacedPeople)
    batch = next(iter(loader))
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0)["crop"].shape[0] == 4


def test_auto_is_off_on_a_cpu(drawn, tmp_path):
    loader = module(drawn, tmp_path, device_cache="auto").train_dataloader()
    assert not isinstance(loader.dataset, PlacedPeople)


@pytest.mark.parametrize("value", [True, "yes"])
def test_refusals(drawn, value):
    with pytest.raises(PosematchError, match=r"data\.device_cache="):
        module(drawn, device_cache=value)

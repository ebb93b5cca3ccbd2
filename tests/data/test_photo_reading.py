"""Photos: OpenCV's pixels, faster; parts of a JPEG's resolution lie where the whole does."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from posematch.data.augmentation import Placement
from posematch.data.crops import read_photo, read_region, reduction_for
from posematch.data.pictures import decode_pixels, picture_size
from posematch.geometry import box_to_crop_affine

SAMPLINGS = [
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
]
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def by_opencv(content, reduction=1):
    how = REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(content, np.uint8), how)


class TestPixelsAreOpenCVs:
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    @pytest.mark.parametrize("progressive", [0, 1])
    @pytest.mark.parametrize("reduction", [1, 2, 4, 8])
    def test_jpeg(self, sampling, progressive, reduction):
        noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
        options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling,
                   cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]  # fmt: skip
        content = cv2.imencode(".jpg", noise, options)[1].tobytes()
        pixels = decode_pixels(content, (53, 37), reduction)
        np.testing.assert_array_equal(pixels, by_opencv(content, reduction))

    @pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
    def test_other_colours(self, mode):
        noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(file, "JPEG")
        pixels = decode_pixels(file.getvalue(), (53, 37))
        np.testing.assert_array_equal(pixels, by_opencv(file.getvalue()))

    def test_real_photos(self, shared_data):
        photos = sorted((shared_data / "mpii" / "images").iterdir())[::200]
        assert len(photos) > 5
        for photo in photos:
            content = photo.read_bytes()
            pixels = decode_pixels(content, picture_size(content))
            np.testing.assert_array_equal(pixels, by_opencv(content))


@pytest.fixture
def waves(tmp_path):
    """A photo of waves 128 pixels long: half a pixel beside, they differ by 2.5 grey levels."""
    x = 100 * np.sin(2 * np.pi * np.arange(1003) / 128)
    photo = np.clip(127 + x[None, :] / 2 + x[:851, None] / 2, 0, 255).astype(np.uint8)
    path = tmp_path / "waves.jpg"
    cv2.imwrite(str(path), np.stack([photo] * 3, -1), [cv2.IMWRITE_JPEG_QUALITY, 100])
    return path


class TestReducedPhotos:
    @pytest.mark.parametrize("reduction", [2, 4, 8])
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_crops_lie_where_those_of_the_whole_photo_do(self, waves, reduction, mirrored):
        whole, reduced = (read_region(waves, (1003, 851), one) for one in (1, reduction))
        assert reduced.pixels_bgr.shape[:2] == (-(-851 // reduction), -(-1003 // reduction))
        assert reduced.photo_width_px == whole.photo_width_px == 1003
        affine = box_to_crop_affine(
            np.array([480.0, 400.0]), np.array([600.0, 600.0]), (64, 64), 20.0,
            1003 if mirrored else None, "hrnet",
        )  # fmt: skip
        one, other = (region.crop(affine, (64, 64)).astype(int) for region in (whole, reduced))
        # An average over 8 pixels of a wave of 128 is 0.6 % lower: 0.6 levels; and rounding.
        assert np.abs(one - other).mean() < 1
        assert np.abs(one - other).max() <= 3

    def test_one_that_exif_turns_is_read_whole(self, waves, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "turned.jpg"
        Image.open(waves).save(path, exif=exif, quality=100)
        region = read_region(path, (851, 1003), 4)
        assert region.affine is None
        assert region.photo_width_px == 851
        np.testing.assert_array_equal(region.pixels_bgr, read_photo(path, (851, 1003)))

    def test_a_png_is_read_whole(self, tmp_path):
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 80, 3), np.uint8))
        region = read_region(tmp_path / "a.png", (80, 64), 4)
        assert region.affine is None
        assert region.pixels_bgr.shape == (64, 80, 3)

    @pytest.mark.parametrize(
        ("box", "reduction"), [(255, 1), (256, 1), (511, 1), (512, 2), (1100, 4), (9000, 8)]
    )
    def test_a_crop_keeps_a_pixel_for_each_of_its_own(self, box, reduction):
        placement = Placement(np.zeros(2), np.array([box, 2.0 * box]))
        assert reduction_for(placement, (256, 256)) == reduction

import io

import numpy as np
import pytest
from PIL import Image

from fovea.boxes import Box, Frame
from fovea.image_store import ImageStore
from fovea.images import ImageError, PixelLimits, cut, fit, image_size, open_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_photograph_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (20, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_from_the_header_is_that_of_the_opened_image(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.new("RGB", (40, 20)), kind, exif=exif)
    assert image_size(content) == open_image(content).size == ((20, 40) if orientation > 4 else (40, 20))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert open_image(encoded(Image.new(mode, (30, 20)), kind)).mode == "RGB"


def test_16_bit_levels_keep_their_brightness():
    grey = Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16))
    assert abs(open_image(encoded(grey)).getpixel((0, 0))[0] - 128) <= 1


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (open_image, b""),
        (open_image, b"not an image"),
        (open_image, encoded(Image.new("RGB", (64, 64)))[:60]),
        (image_size, b""),
        (image_size, b"not an image"),
        (image_size, encoded(Image.new("RGB", (64, 64)))[:20]),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(read, data):
    with pytest.raises(ImageError, match=r"^image ") as refusal:
        read(data)
    assert " object at 0x" not in str(refusal.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    with pytest.raises(ImageError, match="bound"):
        open_image(encoded(Image.new("1", (12_000, 12_000))))


def test_an_extreme_strip_is_refused():
    with pytest.raises(ImageError, match="sides differ"):
        open_image(Image.new("RGB", (1, 10_000)))


def test_crops_come_from_the_original_pixels(picture):
    crop = cut(picture, Box(0.5, 0.5, 0.75, 0.75, Frame.UNIT))
    assert crop.size == (160, 120)
    assert crop.getpixel((0, 0)) == picture.getpixel((320, 240))


@pytest.mark.parametrize("box", [(0.996, 0.2, 1, 0.6), (0.2, 0.999, 0.6, 1), (0.999, 0.999, 1, 1)])
def test_a_thin_box_at_an_edge_shows_the_last_pixels(box):
    crop = cut(Image.new("RGB", (100, 100), "red"), Box(*box, Frame.UNIT))
    assert set(crop.get_flattened_data() if hasattr(crop, "get_flattened_data") else crop.getdata()) == {(255, 0, 0)}


def test_fit_lands_on_the_patch_grid_within_the_limits(picture):
    shown = fit(picture, PixelLimits(256, 128 * 128, 16))
    assert shown.width % 16 == shown.height % 16 == 0
    assert shown.width * shown.height <= 128 * 128


def test_limits_below_one_token_are_refused():
    with pytest.raises(ValueError, match="one visual token"):
        PixelLimits(1, 100, 28)


def test_the_store_opens_each_content_once(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    store = ImageStore()
    assert store.open(tmp_path / "a.png") is store.open(str(tmp_path / "b.png"))
    assert store.open({"bytes": (tmp_path / "a.png").read_bytes(), "path": None}).size == picture.size
    assert store.num_opened == 1


def test_the_store_stays_within_its_bytes():
    store = ImageStore(max_bytes=2 * 10 * 10 * 3)
    images = [Image.new("RGB", (10, 10), (shade, 0, 0)) for shade in range(5)]
    for image in images:
        store.open(image)
    store.open(images[-1])
    assert store.num_opened == 5
    store.open(images[0])
    assert store.num_opened == 6


def test_a_fitted_view_is_resized_once_for_each_size(picture):
    store = ImageStore()
    small, large = (PixelLimits(16 * 16, side * side, 16) for side in (64, 128))
    view = store.fitted(picture, small)
    assert view is store.fitted(picture, small) and view.size == fit(picture, small).size
    assert store.fitted(picture, large).size != view.size
    assert store.num_opened == 1 and store.open(picture).size == picture.size


@pytest.mark.parametrize(
    ("levels", "mode"),
    [
        (np.linspace(0, 1023, 256).reshape(16, 16), np.uint16),
        (np.linspace(0, 4095, 256).reshape(16, 16), np.uint16),
        (np.linspace(0, 65535, 256).reshape(16, 16), np.uint16),
        (np.linspace(0, 65535, 256).reshape(16, 16), np.int32),
        (np.linspace(0, 1, 256).reshape(16, 16), np.float32),
        (np.linspace(0, 255, 256).reshape(16, 16), np.float32),
        (np.linspace(0, 4095, 256).reshape(16, 16), np.float32),
    ],
)
def test_levels_of_every_depth_become_8_bits(levels, mode):
    opened = np.asarray(
        open_image(Image.fromarray(levels.round().astype(mode) if levels.max() > 1 else levels.astype(mode)))
    )
    assert opened[0, 0, 0] == 0 and opened[-1, -1, 0] == 255
    assert abs(int(opened[8, 0, 0]) - 128) <= 1


def test_odd_levels_are_no_reason_to_fail():
    """Missing data in a float picture, a little more than 1 from resampling, the depth that a TIFF names."""
    levels = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    levels[0, 0], levels[0, 1], levels[-1, -1] = np.nan, np.inf, 1.0001
    opened = np.asarray(open_image(Image.fromarray(levels)))
    assert opened[0, 0, 0] == 0 and opened[0, 1, 0] == 255 and abs(int(opened[8, 0, 0]) - 128) <= 1
    assert open_image(Image.fromarray(np.full((4, 4), 3.4e38, dtype=np.float32))).size == (4, 4)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage, and more of it", b"\0" * 40])
def test_a_picture_whose_exif_cannot_be_read_is_shown_as_it_is(tmp_path, form, exif):
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(encoded(Image.new("RGB", (30, 20), "red"), form, exif=exif))
    assert open_image(path).size == image_size(path) == (30, 20)

"""Decoding rules: each kind of picture becomes the pixels that its rule says, and what cannot be used is named."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from suffuse.data.decode import BadPicture, PictureRules, decode, quiet_decoder


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def plain(data: bytes, **rules) -> np.ndarray:
    return decode(data, PictureRules(**rules)).pixels


GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_give_the_exact_pixels(form):
    assert (plain(encoded(Image.fromarray(GRADIENT), form)) == GRADIENT[..., None]).all()


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"quality": 100})]
)
def test_lossy_formats_are_close(form, options):
    smooth = np.stack([GRADIENT, GRADIENT[::-1], GRADIENT.T], axis=2)
    error = np.abs(plain(encoded(Image.fromarray(smooth), form, **options)).astype(int) - smooth).mean()
    assert error < 8  # WebP halves the resolution of colour; swapped channels or rows would give 80


def test_sixteen_bit_grey_is_scaled_and_rounded():
    deep = np.array([[0, 128, 129, 257], [32768, 65406, 65407, 65535]], np.uint16)
    for form in ("PNG", "TIFF"):
        found = decode(encoded(Image.fromarray(deep), form), PictureRules())
        assert found.pixels[..., 0].tolist() == [[0, 0, 1, 1], [128, 254, 255, 255]]  # v / 257
        assert found.applied == ("16-bit grey scaled to 8 bits",)


def test_float_pixels_without_a_range_are_named():
    with pytest.raises(BadPicture, match="32-bit pixels without a range"):
        plain(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_one_bit_is_black_and_white():
    bits = GRADIENT > 100
    found = decode(encoded(Image.fromarray(bits)), PictureRules())
    assert (found.pixels[..., 0] == bits * 255).all()
    assert found.applied == ("1-bit made black and white",)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
def test_alpha_is_laid_on_the_background(background):
    rgba = np.dstack([COLOUR, np.array([0, 128, 255, 255] * 16, np.uint8).reshape(8, 8)])
    found = decode(encoded(Image.fromarray(rgba)), PictureRules(background=background))
    share = rgba[..., 3:] / 255
    expected = share * COLOUR + (1 - share) * np.array(background)
    assert np.abs(found.pixels - expected).max() <= 1  # Pillow's fixed-point rounding
    assert "alpha laid on the background" in found.applied


def test_hidden_colours_do_not_bleed_when_resizing():
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[..., 0] = 255  # red, but fully transparent
    assert (plain(encoded(Image.fromarray(rgba)), size=8) == 255).all()
    rgba[8:, :, 1], rgba[8:, :, 0], rgba[8:, :, 3] = 200, 0, 255
    kept = plain(encoded(Image.fromarray(rgba)), size=8, channels="rgba")
    visible = kept[kept[..., 3] > 0]
    assert visible[:, 0].max() == 0
    assert np.abs(visible[:, 1].astype(int) - 200).max() <= 8  # thin alpha leaves few bits; bleeding would halve it


def test_grey_with_alpha_and_opaque_alpha():
    half = Image.merge("LA", [Image.fromarray(GRADIENT), Image.new("L", (8, 8), 0)])
    assert (plain(encoded(half), channels="grey") == 255).all()
    opaque = Image.merge("LA", [Image.fromarray(GRADIENT), Image.new("L", (8, 8), 255)])
    found = decode(encoded(opaque), PictureRules())
    assert (found.pixels == GRADIENT[..., None]).all()
    assert found.applied == ()


def test_palette_with_and_without_transparency():
    flat = Image.fromarray(np.repeat(np.repeat(COLOUR[:2, :2], 4, 0), 4, 1))
    palette = flat.quantize(4)
    found = decode(encoded(palette), PictureRules())
    assert (found.pixels == np.asarray(palette.convert("RGB"))).all()
    assert found.applied == ("palette expanded",)
    clear = decode(encoded(palette, transparency=palette.getpixel((0, 0))), PictureRules())
    assert (clear.pixels[:4, :4] == 255).all()
    assert "alpha laid on the background" in clear.applied


def test_transparent_colour_key_counts_as_alpha():
    image = Image.fromarray(np.full((4, 4, 3), 7, np.uint8))
    assert (plain(encoded(image, transparency=(7, 7, 7))) == 255).all()


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = decode(encoded(cmyk, "TIFF"), PictureRules())
    assert found.pixels[0, 0].tolist() == [255, 0, 0]
    assert found.applied == ("CMYK made RGB",)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_means_nothing_changes_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    wide = np.zeros((4, 8, 3), np.uint8)
    found = decode(encoded(Image.fromarray(wide), exif=exif), PictureRules())
    assert "turned upright by EXIF" not in found.applied


def test_a_transparent_value_of_a_deep_grey_picture_is_not_seen():
    deep = np.full((4, 4), 30000, np.uint16)
    deep[1, 2] = 12345
    found = decode(encoded(Image.fromarray(deep), transparency=12345), PictureRules())
    assert found.pixels[1, 2].max() == 255
    assert found.pixels[0, 0].max() == round(30000 / 257)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: the viewer turns it back clockwise
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, :4] = 255
    found = decode(encoded(Image.fromarray(wide), exif=exif), PictureRules())
    assert found.came_as == (4, 8)
    assert (found.pixels[:4] == 255).all()
    assert (found.pixels[4:] == 0).all()
    assert found.applied == ("turned upright by EXIF",)


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(GRADIENT), Image.fromarray(255 - GRADIENT)]
    found = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), PictureRules())
    assert (found.pixels == GRADIENT[..., None]).all()
    assert "first frame of several taken" in found.applied


def test_auto_is_grey_by_value_whatever_the_mode():
    assert plain(encoded(Image.fromarray(np.dstack([GRADIENT] * 3)))).shape == (8, 8, 1)
    assert plain(encoded(Image.fromarray(COLOUR))).shape == (8, 8, 3)


@pytest.mark.parametrize(("channels", "count"), [("grey", 1), ("rgb", 3), ("rgba", 4)])
def test_channels_asked_for(channels, count):
    for array in (GRADIENT, COLOUR):
        assert plain(encoded(Image.fromarray(array)), channels=channels).shape == (8, 8, count)


def test_crop_takes_the_middle_and_none_squeezes():
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 255
    data = encoded(Image.fromarray(wide))
    assert (plain(data, size=8) == 255).all()
    squeezed = plain(data, size=8, crop="none")[4, :, 0]
    assert squeezed[0] < 10
    assert squeezed[4] > 245


def test_resizing_averages_the_footprint():
    """A checkerboard of single pixels must become even grey: point sampling would keep black or white."""
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    middle = plain(encoded(Image.fromarray(board)), size=8)[1:-1, 1:-1]
    assert np.abs(middle.astype(int) - 127).max() <= 8  # the bicubic kernel is not exactly a partition in 8 bits


def test_small_pictures_are_enlarged_or_refused():
    data = encoded(Image.fromarray(COLOUR))
    found = decode(data, PictureRules(size=16))
    assert found.pixels.shape == (16, 16, 3)
    assert found.applied == ("enlarged",)
    for small in ("skip", "refuse"):
        with pytest.raises(BadPicture, match="smaller than asked: 8x8, asked for 16"):
            decode(data, PictureRules(size=16, small=small))


def test_unusable_bytes_are_named():
    whole = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    for data, reason in (
        (b"", "empty file"),
        (b"hello, this is text", "not a picture"),
        (b"%PDF-1.7", "not a picture"),
        (whole[: len(whole) // 2], "damaged or cut short"),
    ):
        with pytest.raises(BadPicture) as caught:
            plain(data)
        assert caught.value.reason == reason


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_any_damage_is_a_verdict_never_a_crash(form):
    """Cut and flip bytes anywhere: either pixels come out or a BadPicture, whatever the format reader raises."""
    whole = bytearray(encoded(Image.fromarray(COLOUR), form))
    rng = np.random.default_rng(2)
    with quiet_decoder():
        for _ in range(100):
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 4):
                broken[place] = int(rng.integers(256))
            cut = bytes(broken[: rng.integers(1, len(whole) + 1)])
            with contextlib.suppress(BadPicture):
                assert plain(cut, pixel_limit=10_000).dtype == np.uint8


def bomb_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a huge size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 11_000, 60_000])  # above our limit, Pillow's warning, Pillow's refusal
def test_decompression_bombs_are_refused_before_decoding(side):
    with quiet_decoder(), pytest.raises(BadPicture) as caught:
        plain(bomb_header(side, side))
    assert caught.value.reason == "too many pixels"


def test_pixel_limit_is_the_users():
    data = encoded(Image.fromarray(COLOUR))
    assert plain(data, pixel_limit=64).shape == (8, 8, 3)
    with pytest.raises(BadPicture, match="8x8, the limit is 63"):
        plain(data, pixel_limit=63)


def test_rectangles_are_cut_from_the_middle_or_squeezed():
    pixels = np.arange(60, dtype=np.uint8).reshape(6, 10)[..., None].repeat(3, axis=2)
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(plain(data, size=(6, 4)), pixels[:, 3:7, :1]), "height 6, width 4"
    assert plain(data, size=(3, 10)).shape == plain(data, size=(3, 10), crop="none").shape == (3, 10, 1)
    found = decode(data, PictureRules(size=(12, 8)))
    assert (found.pixels.shape[:2], found.applied) == ((12, 8), ("cropped to the middle 8:12", "enlarged"))
    with pytest.raises(BadPicture, match="10x6, asked for 4x8"):
        plain(data, size=(8, 4), small="skip")
    assert PictureRules(size=5).sides == (5, 5)
    assert PictureRules().sides is None

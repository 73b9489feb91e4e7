"""From the bytes of a picture file to uint8 pixels, by stated rules.

The rules, in order: the format must be one of `FORMATS`; the number of pixels is checked before any is decoded; of an
animation the first frame counts; the EXIF orientation is applied; 16-bit grey is scaled to 8 bits (v / 257, rounded),
16-bit colour keeps its high byte; 1-bit becomes black and white; palettes are expanded; alpha is laid on the background
unless RGBA is asked for; CMYK and other colour spaces become RGB by the plain formula (embedded colour profiles are not
applied); then crop, resize (bicubic over the whole footprint of a pixel) and channels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from suffuse.base.part import Part

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "FORMATS",
    "ORIENTATION",
    "SUFFIXES",
    "BadPicture",
    "Decoded",
    "PictureRules",
    "decode",
    "quiet_decoder",
    "resized",
]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# Above this Pillow refuses by itself, whatever is asked.
_MOST_PIXELS = 178_956_970
ORIENTATION = 0x0112
"""EXIF's tag."""

EMPTY = "empty file"
FOREIGN = "not a picture"
DAMAGED = "damaged or cut short"
HUGE = "too many pixels"
SMALL = "smaller than asked"
DEEP = "32-bit pixels without a range"

Byte = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=1)]


class PictureRules(Part):
    """How pictures become samples.

    Attributes:
        size: Height and width in pixels, one number for squares; None keeps the pictures as they are, which then must
            be of one size.
        channels: What a sample has; `auto` is grey when every pixel of every picture is grey, RGB otherwise.
        crop: `center` takes the largest part in the middle that has the proportions, `none` squeezes the whole picture
            into them.
        background: What shines through transparent pixels, red, green and blue in 0..255; not used for `rgba`.
        small: What happens to pictures with a side below that of `size`.
        pixel_limit: Most pixels that a picture may have before it is decoded.
    """

    size: Side | tuple[Side, Side] | None = None
    channels: Literal["auto", "grey", "rgb", "rgba"] = "auto"
    crop: Literal["center", "none"] = "center"
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    small: Literal["upscale", "skip", "refuse"] = "upscale"
    pixel_limit: int = Field(default=64_000_000, ge=1, le=_MOST_PIXELS)

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of a sample; None where they are the pictures' own."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class BadPicture(Exception):  # noqa: N818  (a verdict on a file, caught where files are counted)
    """A picture that cannot be used; `reason` is one of a few, for counting, the message says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """A picture that was read.

    Attributes:
        pixels: (H, W, C) uint8; C is 1 under `auto` when every pixel is grey.
        came_as: Width and height of the file's picture, turned upright.
        applied: Names of the rules that changed something.
    """

    pixels: NDArray[np.uint8]
    came_as: tuple[int, int]
    applied: tuple[str, ...]


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Silence Pillow's warnings: what they warn of is either refused here by name or no harm.

    To be entered around a pool of threads, never inside one: the filters belong to the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def decode(data: bytes, rules: PictureRules, *, smooth: bool = True) -> Decoded:
    """Decode the content of a picture file.

    Args:
        data: The content.
        rules: How it becomes a sample.
        smooth: Whether it is resized by means of its pixels; otherwise by the nearest ones, so that colours do not mix.

    Raises:
        BadPicture: It is empty, of no allowed format, damaged, too large, or too small where that is not wanted.
    """
    import PIL.Image

    if not data:
        raise BadPicture(EMPTY)
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _decode(image, rules, smooth=smooth)
    except (BadPicture, MemoryError):
        raise
    except PIL.UnidentifiedImageError:
        raise BadPicture(FOREIGN) from None
    except PIL.Image.DecompressionBombError:
        raise BadPicture(HUGE) from None
    except Exception as error:
        # Broken bytes make the format readers raise whatever comes to them: OSError, SyntaxError, struct.error, ...
        raise BadPicture(DAMAGED, str(error)) from None


def _decode(image: Image, rules: PictureRules, *, smooth: bool) -> Decoded:
    if image.width * image.height > rules.pixel_limit:
        raise BadPicture(HUGE, f"{image.width}x{image.height}, the limit is {rules.pixel_limit}")
    applied = []
    if getattr(image, "is_animated", False):  # only some formats know animations
        applied.append("first frame of several taken")
    upright = _upright(image, applied)
    came_as = upright.size
    _check_size(came_as, rules)
    plain = _flat(_eight_bit(upright, applied), rules, applied)
    if rules.sides is not None:
        plain = _fitted(plain, rules.sides, rules.crop, applied, smooth=smooth)
    return Decoded(_channels(plain, rules.channels), came_as, tuple(applied))


def _check_size(size: tuple[int, int], rules: PictureRules) -> None:
    if rules.sides is None or rules.small == "upscale":
        return
    height, width = rules.sides
    if size[0] < width or size[1] < height:
        asked = width if width == height else f"{width}x{height}"
        raise BadPicture(SMALL, f"{size[0]}x{size[1]}, asked for {asked}")


def _upright(image: Image, applied: list[str]) -> Image:
    from PIL import ImageOps

    if image.getexif().get(ORIENTATION, 1) not in range(2, 9):
        return image
    applied.append("turned upright by EXIF")
    return ImageOps.exif_transpose(image)


def _eight_bit(image: Image, applied: list[str]) -> Image:
    """One of the modes L, LA, RGB, RGBA; alpha in any of its disguises becomes a channel."""
    from PIL.Image import fromarray

    if image.mode.startswith("I;16"):
        applied.append("16-bit grey scaled to 8 bits")
        deep = np.asarray(image).astype(np.uint32)
        grey = fromarray(((deep + 128) // 257).astype(np.uint8))
        if isinstance(hidden := image.info.get("transparency"), int):  # one value stands for nothing
            grey.putalpha(fromarray(np.where(deep == hidden, 0, 255).astype(np.uint8)))
        return grey
    if image.mode in ("I", "F"):
        raise BadPicture(DEEP, f"mode {image.mode}")
    clear = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if image.mode in ("P", "PA"):
        applied.append("palette expanded")
        return image.convert("RGBA" if clear else "RGB")
    if image.mode == "1":
        applied.append("1-bit made black and white")
        return image.convert("LA" if clear else "L")
    if image.mode in ("L", "LA", "La"):
        return image.convert("LA") if clear else image
    if image.mode in ("RGB", "RGBA", "RGBa"):
        return image.convert("RGBA") if clear else image
    applied.append(f"{image.mode} made RGB")
    return image.convert("RGB")


def _flat(image: Image, rules: PictureRules, applied: list[str]) -> Image:
    """Lay alpha on the background, before resizing, so that hidden colours cannot bleed into edges."""
    from PIL.Image import alpha_composite, new

    if rules.channels == "rgba" or not image.mode.endswith("A"):
        return image
    lowest = image.getchannel("A").getextrema()[0]
    if lowest == 255:
        return image.convert(image.mode[:-1])
    applied.append("alpha laid on the background")
    colour = image.convert("RGBA")
    return alpha_composite(new("RGBA", image.size, (*rules.background, 255)), colour).convert("RGB")


def _fitted(image: Image, sides: tuple[int, int], crop: str, applied: list[str], *, smooth: bool) -> Image:
    width, height = image.size
    tall, wide = sides
    box = (0.0, 0.0, float(width), float(height))
    if width * tall != height * wide:
        square = "square" if tall == wide else f"{wide}:{tall}"
        applied.append(f"cropped to the middle {square}" if crop == "center" else f"squeezed into a {square}")
        if crop == "center":
            across, down = min(width, height * wide / tall), min(height, width * tall / wide)
            left, top = (width - across) / 2, (height - down) / 2
            box = (left, top, left + across, top + down)
    if width < wide or height < tall:
        applied.append("enlarged")
    return resized(image, sides, box, smooth=smooth)


def resized(
    image: Image, sides: tuple[int, int], box: tuple[float, float, float, float] | None = None, *, smooth: bool = True
) -> Image:
    """A picture, or a box (left, top, right, bottom) of it, at a height and width.

    Smooth is bicubic over each pixel's footprint; otherwise the nearest pixel is taken.
    """
    from PIL.Image import Resampling

    size = (sides[1], sides[0])
    whole = (0.0, 0.0, float(image.width), float(image.height))
    if image.size == size and box in (None, whole):
        return image
    # Pillow multiplies colours by alpha while it resizes RGBA, so transparent pixels weigh nothing.
    return image.resize(size, Resampling.BICUBIC if smooth else Resampling.NEAREST, box=box or whole)


def _channels(image: Image, channels: str) -> NDArray[np.uint8]:
    """(H, W, C) with the channels asked for."""
    if channels == "auto" and image.mode == "RGB":
        colour = np.asarray(image)
        grey = (colour[..., 0] == colour[..., 1]).all() and (colour[..., 1] == colour[..., 2]).all()
        return colour[..., :1] if grey else colour
    wanted = {"auto": "L", "grey": "L", "rgb": "RGB", "rgba": "RGBA"}[channels]
    pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return pixels[..., None] if wanted == "L" else pixels

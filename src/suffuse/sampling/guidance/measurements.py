"""What is measured of a sample in inverse problems: linear operators, which posterior sampling turns round."""

from __future__ import annotations

import abc
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part
from suffuse.models.low_resolution import downsampled

__all__ = ["BlockMean", "GaussianBlur", "Inpainting", "Measurement", "MeasurementPart"]


class MeasurementPart(Part, abc.ABC):
    """A linear operator A of the data; what was measured is y = A(x0) with noise on it."""

    kind: str

    @abc.abstractmethod
    def of(self, x: Tensor) -> Tensor:
        """A(x) of images, (B, C, H, W) -> (B, ...), in their dtype.

        Raises:
            UsageError: It cannot be measured of samples of this shape.
        """


class Inpainting(MeasurementPart):
    """The sample itself but for a box that is hidden; the box becomes 0.

    Attributes:
        box: (top, left, height, width) of what is hidden, in pixels; None hides nothing, for measurements that
            mark what is unknown by NaN, and for removing noise.
    """

    kind: Literal["inpainting"] = "inpainting"
    box: tuple[int, int, int, int] | None = None

    def of(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...), with zeros in the box."""
        if self.box is None:
            return x
        _check_images(x, self.kind)
        top, left, height, width = self.box
        rows, columns = x.shape[2:]
        if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
            raise UsageError(
                f"inpainting.box {self.box} does not lie within images of {rows} x {columns}; give (top, left, height, "
                "width) in pixels"
            )
        kept = torch.ones_like(x[0, 0])
        kept[top : top + height, left : left + width] = 0
        return x * kept


class BlockMean(MeasurementPart):
    """The image at 1 / factor of its size, each pixel the mean of a block: super-resolution turns it round.

    Attributes:
        factor: Side of a block.
    """

    kind: Literal["block_mean"] = "block_mean"
    factor: int = Field(default=4, ge=2)

    def of(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / factor, W / factor)."""
        _check_images(x, self.kind)
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise UsageError(
                f"block_mean.factor {self.factor} does not divide images of {x.shape[2]} x {x.shape[3]}; choose "
                "one that divides both sides"
            )
        return downsampled(x, self.factor)


class GaussianBlur(MeasurementPart):
    """The image under a Gaussian, reflected at its edges.

    Attributes:
        std: Of the Gaussian, in pixels; it reaches three of them.
    """

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    std: float = Field(default=3.0, gt=0)

    def of(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        _check_images(x, self.kind)
        reach = math.ceil(3 * self.std)
        if reach >= min(x.shape[2:]):
            raise UsageError(
                f"gaussian_blur.std {self.std:g} reaches {reach} pixels, beyond the edge's reflection in images of "
                f"{x.shape[2]} x {x.shape[3]}; make it smaller"
            )
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
        kernel = (-0.5 * (offsets / self.std) ** 2).exp()
        kernel = (kernel / kernel.sum()).to(x).expand(x.shape[1], 1, -1)
        padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
        down = F.conv2d(padded, kernel[..., None], groups=x.shape[1])
        return F.conv2d(down, kernel[:, :, None], groups=x.shape[1])


def _check_images(x: Tensor, kind: str) -> None:
    if x.ndim != 4:
        raise UsageError(
            f"measurement {kind!r} is of images (C, H, W), but samples have shape {tuple(x.shape[1:])}; use inpainting "
            "without a box"
        )


Measurement = Annotated[MeasurementPart, Joint("measurement", Inpainting, BlockMean, GaussianBlur)]

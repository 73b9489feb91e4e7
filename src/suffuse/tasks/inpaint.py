"""Inpaint: fill the holes of pictures with what a model draws, and leave all else as it is, bit for bit."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.models.inpainting import KNOWN, MASK
from suffuse.models.readers import check_pictures
from suffuse.tasks.generate import Asked, Generated, generate, told_beside
from suffuse.tasks.runs import OpenRun
from suffuse.training.settings import SamplingSettings

__all__ = ["inpaint"]


def inpaint(
    run: OpenRun,
    images: Tensor,
    mask: Tensor,
    settings: SamplingSettings | None = None,
    *,
    asked: Asked | None = None,
    seed: int = 0,
    first: int = 0,
) -> Generated:
    """Fill the holes of pictures.

        run = open_run("runs/shapes-inpainting")
        filled = inpaint(run, images, mask).x

    What a hole hides has no influence on what is drawn there. In latents the picture is encoded with its holes grey, as
    rombach2022ldm does, and what is drawn is decoded before the known pixels are put back.

    Args:
        run: Of a model with the conditioner `inpainting`.
        images: (n, C, H, W) floats in [-1, 1], of the size that the run makes; anything in the holes.
        mask: (n, 1, H, W), truth values or 0 and 1: where they are known.
        settings: How it is sampled; the run's own way when None. Any solver and guidance that the model can follow.
        asked: Class or texts, for a model that reads some; none when None.
        seed: With the sample's number it determines the noise.
        first: Number of the first sample.

    Returns:
        Samples on the CPU, equal to `images` where they are known, and what they cost.

    Raises:
        UsageError: A model that does not inpaint, pictures or masks of another size, masks of other numbers.
    """
    if not {KNOWN, MASK} <= set(run.model.conditioner.reads):
        raise UsageError(
            f"{run.folder} has conditioner {run.config.conditioner.kind!r}, which is told nothing of what is known "
            "of a picture; train one with conditioner=inpainting"
        )
    check_pictures("images", images, run.shape)
    if tuple(mask.shape) != (len(images), 1, *images.shape[2:]) or bool(((mask != 0) & (mask != 1)).any()):
        raise UsageError(
            f"mask has shape {tuple(mask.shape)}; give 1 (known) or 0 for every pixel, "
            f"({len(images)}, 1, {images.shape[2]}, {images.shape[3]})"
        )
    known = mask.bool().cpu()
    images = images.cpu()
    seen = images.where(known, images.new_zeros(()))
    if run.codec is not None:
        seen = run.codec.encode(seen.to(run.model.device)).cpu()
    told, captions = told_beside(run, len(images), asked or Asked())
    cond = told.plus(known=seen, mask=known.to(seen.dtype))
    if cond.instead is not None:  # guidance leads away from a text, not from what is known
        cond = cond.against(cond.instead.plus(known=seen, mask=known.to(seen.dtype)))
    made = generate(run, len(images), settings or run.sampling, seed=seed, first=first, cond=cond, captions=captions)
    return replace(made, x=images.where(known, made.x.to(images.dtype)))

"""Decoding: from what a model makes to images, by its codec, or by the denoiser that was trained under the codec."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.models.codec import Codec
from suffuse.models.denoiser import Denoiser
from suffuse.models.pretrained import load_codec, load_config, load_model
from suffuse.models.semantic import CODE
from suffuse.sampling import sample_batches
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run_files import RECIPE_FILE
from suffuse.training.sampling_file import read_sampling
from suffuse.training.settings import SamplingSettings

__all__ = ["OF_DECODER", "Decoder"]

OF_DECODER = "decoder_"
"""Before the name of a condition that is for the denoiser that decodes alone: its own reading of a caption."""


@dataclass(frozen=True)
class Decoder:
    """Turns a model's latents into images.

    Attributes:
        codec: Of the latents.
        model: The denoiser that draws under a code; None where the codec decodes itself.
        sampling: How it is sampled.
        inner: Of that denoiser's own latents; None where it makes pixels.
        folder: Of that denoiser; None where there is none.
        sides: Height and width of the images that such a denoiser draws; those that it was trained for when None.
    """

    codec: Codec
    model: Denoiser | None = None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    inner: Decoder | None = None
    folder: Path | None = None
    sides: tuple[int, int] | None = None

    @classmethod
    def of_model(cls, folder: Path, device: torch.device) -> Self | None:
        """That of a model's folder; None for a model of pixels or points.

        Raises:
            UsageError: A copy within the folder is missing.
        """
        name = load_config(folder).codec
        return None if name is None else cls.open(folder / name, device)

    @classmethod
    def open(cls, folder: Path, device: torch.device) -> Self:
        """That of a codec's folder.

        Raises:
            UsageError: It, or a copy within it, is missing.
        """
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is missing: the codec that turns this model's latents into images; bring it back"
            )
        codec = load_codec(folder)
        assert codec.config is not None
        if codec.config.decoder is None:
            return cls(codec.to(device))
        place = folder / codec.config.decoder
        model = load_model(place).to(device).requires_grad_(requires_grad=False)
        recipe = load_recipe(str(place / RECIPE_FILE)) if (place / RECIPE_FILE).is_file() else None
        sampling = recipe.sampling if isinstance(recipe, Recipe) else read_sampling(place)
        return cls(codec.to(device), model, sampling, cls.of_model(place, device), place)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image, (C, H, W)."""
        assert self.codec.config is not None
        shape = self.codec.config.shape
        return shape if self.sides is None else (shape[0], *self.sides)

    def sized(self, height: int, width: int) -> Self:
        """This for images of other sides.

        Raises:
            UsageError: A network on the way takes one size, or cannot divide these sides.
        """
        assert self.codec.config is not None
        if self.codec.config.network.fixed_size:
            raise UsageError(
                f"the codec {self.codec.config.network.kind!r} takes images of {self.codec.config.shape} alone; leave "
                "height and width out"
            )
        self.made_of(height, width)
        inner = None if self.inner is None else self.inner.sized(height, width)
        sized = replace(self, sides=(height, width), inner=inner)
        if self.model is not None and (shape := sized._drawn()) is not None:
            assert self.model.config is not None
            self.model.config.check_shape(shape, "choose another height and width, or leave them out")
        return sized

    def made_of(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the latent that images of these sides come from, (c, h, w)."""
        assert self.codec.config is not None
        return self.codec.config.network.latent_shape((self.codec.config.shape[0], height, width))

    def _drawn(self) -> tuple[int, ...] | None:
        """Shape of what the denoiser that decodes makes; None for its own."""
        assert self.model is not None
        assert self.model.config is not None
        if self.sides is None:
            return None
        return (self.model.config.shape[0], *self.sides) if self.inner is None else self.inner.made_of(*self.sides)

    @torch.no_grad()
    def decode(self, z: Tensor, cond: Conditions | None = None, *, seed: int = 0, first: int = 0) -> Tensor:
        """Images of latents, (n, c, h, w) -> (n, C, H, W); near [-1, 1], not clipped.

        Args:
            z: What the model made.
            cond: What it was told; a denoiser that decodes is told it too, as far as it reads it, and first of all what
                is there under its names with `OF_DECODER` before them.
            seed: Of a decoding denoiser's noise, with the sample's number.
            first: Number of the first sample.
        """
        if self.model is None:
            return self.codec.decode(z)
        told = self._told(self.codec.raw(z), cond)
        # Noise of its own: the model drew the code from the other, so that in training nothing of it is in both.
        seed = int(keys(seed, "decoding", 0, torch.zeros(1, dtype=torch.int64)))
        how, parts, done = self.sampling, list[Tensor](), 0
        for made in sample_batches(
            self.model,
            len(z),
            shape=self._drawn(),
            solver=how.solver,
            grid=how.grid,
            guidance=how.guidance,
            cond=told,
            seed=seed,
            batch=how.batch,
            first=first,
            precision=how.precision,
        ):
            images = made.x
            if self.inner is not None:
                images = self.inner.decode(made.x, told[done : done + len(made.x)], seed=seed, first=first + done)
            parts.append(images)
            done += len(made.x)
        return torch.cat(parts)

    def _told(self, code: Tensor, cond: Conditions | None) -> Conditions:
        assert self.model is not None
        told, cond = Conditions.of(**{CODE: code}), cond or Conditions()
        own = {name: OF_DECODER + name for name in self.model.conditioner.reads if name != CODE}
        names = {name: mine if mine in cond.values else name for name, mine in own.items()}
        values = {name: cond.values[at].to(code.device) for name, at in names.items() if at in cond.values}
        present = {name: cond.present[names[name]].to(code.device) for name in values}
        return Conditions({**told.values, **values}, {**told.present, **present})

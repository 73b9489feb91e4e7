"""Refining: a denoiser is told what a variational autoencoder makes of a small vector, and mends its detail."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import derived, normal
from suffuse.models.conditioner import Conditioner, ConditionerPart
from suffuse.models.latent_density import LatentDensity
from suffuse.models.readers import with_presence
from suffuse.networks.autoencoders import Autoencoder, VectorVAE

__all__ = ["LATENT", "Reconstruction", "ReconstructionConditioner"]

LATENT, _IMAGE = "latent", "image"


class ReconstructionConditioner(Conditioner):
    """The live first stage, frozen, and the density of its vectors."""

    def __init__(self, part: Reconstruction, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.part, self.shape = part, shape
        # Frozen: it is trained before, and its weights travel with the denoiser's.
        self.first = part.network.build(shape).requires_grad_(requires_grad=False).eval()
        self.latent_shape = part.network.latent_shape(shape)
        self.density = part.density.build(self.latent_shape[0])
        self.reads, self.observes = (LATENT, _IMAGE), (_IMAGE,)

    def train(self, mode: bool = True) -> Self:
        """The first stage stays in evaluation mode."""
        super().train(mode)
        self.first.eval()
        return self

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for vectors or images of another shape."""
        for name, wanted in ((LATENT, self.latent_shape), (_IMAGE, self.shape)):
            if name in cond.values and tuple(cond.values[name].shape[1:]) != wanted:
                raise UsageError(
                    f"condition {name!r} has shape {tuple(cond.values[name].shape[1:])}, but this model takes {wanted}"
                )

    def observe(self, x0: Tensor, cond: Conditions, keys: Tensor | None = None) -> Conditions:
        """With the image itself, unless there is a vector already."""
        return cond if LATENT in cond.values or _IMAGE in cond.values else cond.plus(image=x0)

    def drawn(self, keys: Tensor) -> Conditions:
        """Vectors of the density, for samples of which nothing is asked."""
        return Conditions.of(latent=self.density.draw(keys)[:, :, None, None])

    @torch.no_grad()
    def latents(self, images: Tensor, seeds: Tensor | None) -> Tensor:
        """Vectors of images: drawn from the posterior, or its means where there are no keys."""
        mean, log_variance = self.first.moments(images)
        if seeds is None or log_variance is None:
            return mean
        noise = normal(derived(seeds, "posterior"), tuple(mean.shape[1:]))
        return mean + (0.5 * log_variance).exp() * noise.to(mean)

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """What the first stage makes of vectors, in [-1, 1]: (B, d, 1, 1) -> (B, C, H, W)."""
        return self.first.decode(latents).clamp(-1, 1)

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """The first stage's image beside the noisy sample and, in the second form, added to it."""
        if LATENT in cond.values:
            shown, present = self.images(cond.values[LATENT]), cond.present[LATENT]
        elif _IMAGE in cond.values:
            shown, present = self.images(self.latents(cond.values[_IMAGE], seeds)), cond.present[_IMAGE]
        else:
            shown = torch.zeros(batch, *self.shape, device=self.density.means.device)
            present = torch.zeros(batch, dtype=torch.bool, device=shown.device)
        image = with_presence(shown, present)
        shift = image[:, : self.shape[0]] if self.part.form == 2 else None
        return Embedding(image=image, shift=shift)


class Reconstruction(ConditionerPart):
    """A first stage's image of a vector is put beside the noisy sample: DiffuseVAE's refiner.

    In training the vector is that of the sample itself, drawn anew from the autoencoder's posterior each time, so that
    the image is as imperfect as those that will be drawn. In sampling it is given as `latent`, or drawn from `density`.
    One channel more says where there is an image at all, as in `low_resolution`.

    Of the second form, x_t - y is what the first form has as x_t, in every formula; so it is the first form whose
    network sees its input with the image added, f2(u + y, y, t) = f1(u, y, t), and goes with every path and solver.

    Source: pandey2022diffusevae, Sections 3.2 and 3.3.

    Attributes:
        run: Folder of the finished autoencoder that the first stage is taken from; its weights are kept with the
            denoiser's.
        weights: Which average of it; the primary one when None.
        form: 1 or 2.
        density: From which vectors are drawn when none is given.
        network: The autoencoder, which is filled in.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    run: str = ""
    weights: str | None = None
    form: Literal[1, 2] = 1
    density: LatentDensity = LatentDensity()
    network: Autoencoder = VectorVAE()

    @property
    def draws(self) -> bool:
        """Vectors of the posterior."""
        return True

    def extra_channels(self, shape: tuple[int, ...]) -> int:
        """The data's channels and the one that says whether there is an image."""
        self.network.latent_shape(shape)
        return shape[0] + 1

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """The first stage, frozen, and the density."""
        return ReconstructionConditioner(self, shape)

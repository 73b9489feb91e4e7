"""Autoencoding: images are to come back from latents that are small and smooth, or rounded to a codebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.models.codec import Codec
from suffuse.networks import AutoencoderNetwork
from suffuse.objectives.adversarial import Adversarial, adaptive_weight, hinge, pull
from suffuse.objectives.base import Objective, Progress
from suffuse.objectives.batches import data_of
from suffuse.objectives.perceptual import Distance, Features, Perceptual

__all__ = ["Autoencoding", "CodebookLoss", "divergence"]


class CodebookLoss(Part):
    """What draws code vectors and latents to each other.

    ||sg[z] - q||^2 + commitment * ||z - sg[q]||^2, means over elements. Vectors that are averages need no pull, so the
    first term is theirs alone that learn by gradient.

    Source: vandenoord2017vqvae, Eq. 3; rombach2022ldm for `weight`.

    Attributes:
        weight: Factor on both terms.
        commitment: Factor on the latents' term.
        legacy: Puts `commitment` on the vectors' term instead, as the code of esser2021vqgan and its descendants do.
    """

    weight: float = Field(default=1.0, gt=0)
    commitment: float = Field(default=0.25, ge=0)
    legacy: bool = False

    def of(self, z: Tensor, vectors: Tensor, *, learned: bool) -> Tensor:
        """The loss of latents and the vectors that they were rounded to, (B, c, h, w) twice -> (B,).

        Args:
            z: Latents.
            vectors: Code vectors in their places.
            learned: Whether vectors learn by gradient.
        """
        z, vectors = z.float(), vectors.float()
        on_latents, on_vectors = (1.0, self.commitment) if self.legacy else (self.commitment, 1.0)
        loss = on_latents * _mean_square(z - vectors.detach())
        if learned:
            loss = loss + on_vectors * _mean_square(vectors - z.detach())
        return self.weight * loss


def _mean_square(difference: Tensor) -> Tensor:
    return difference.flatten(1).square().mean(1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of Gaussians from the standard one, in nats, summed over a latent: (B, ...) twice -> (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


class Autoencoding(Part):
    """Reconstruction error, and what keeps latents small: a divergence, or the pull of a codebook.

    All are means over an image's elements, which keeps the ratios of the sums that the source trains with.

    Source: rombach2022ldm, Section 3.1 and Appendix G; pandey2022diffusevae, stage 1, for sums.

    Attributes:
        error: Absolute or squared difference.
        kl: Factor on the divergence, in nats; small, so that it only keeps the latents from growing. Latents without
            variance have none.
        reduce: `sum` sums over an image's elements, and takes differences of images in [0, 1], as the bound of a
            variational autoencoder does: with error l2 and kl as beta it is DiffuseVAE's loss.
        codebook: Pull between latents and code vectors, where the network has a codebook.
        perceptual: Distance in features beside that in pixels.
        adversarial: A discriminator beside the autoencoder.
    """

    kind: Literal["autoencoding"] = "autoencoding"
    error: Literal["l1", "l2"] = "l1"
    kl: float = Field(default=1e-6, ge=0)
    reduce: Literal["mean", "sum"] = "mean"
    codebook: CodebookLoss = CodebookLoss()
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None

    def build(self, model: Codec, features: Features | None = None) -> Objective:
        """Make the live objective: a function, or a module where a discriminator has weights.

        Args:
            model: What is trained.
            features: A network trained on the data, for a perceptual distance that needs one.

        Raises:
            UsageError: Something that the perceptual distance needs is not there.
        """
        distance = None if self.perceptual is None else self.perceptual.build(features, model.device)
        plain = _Reconstruction(self, distance)
        if self.adversarial is None:
            return plain
        assert model.config is not None
        return _Contested(plain, self.adversarial, channels=model.config.shape[0])


class _Reconstruction:
    """The objective without an adversary; has no weights of its own."""

    def __init__(self, part: Autoencoding, distance: Distance | None) -> None:
        self.part, self.distance = part, distance

    def __call__(
        self, model: Codec, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        x = data_of(batch, self.part.kind)
        images, regular = self.made(model.network, x, noise, counted=model.training)
        return self.errors(x, images) | regular

    def made(
        self, network: AutoencoderNetwork, x: Tensor, noise: Draws, *, counted: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What comes back of images, (B, C, H, W), and what keeps their latents in place.

        Args:
            network: The autoencoder.
            x: Images, (B, C, H, W).
            noise: Randomness of these samples.
            counted: Whether a codebook keeps count of the latents.
        """
        size = x[0].numel()
        mean, log_variance = network.moments(x)
        if network.codebook is not None:
            quantised = network.codebook(mean)
            if counted:
                network.codebook.count(mean.detach(), quantised.codes, noise)
            loss = self.part.codebook.of(mean, quantised.vectors, learned=network.codebook.learned)
            return network.images(quantised.value), {"codebook": loss * (size if self.part.reduce == "sum" else 1)}
        mean = mean.float()
        if log_variance is None:
            return network.images(mean), {}
        log_variance = log_variance.float()
        eps = noise.normal("posterior", tuple(mean.shape[1:]))
        images = network.images(mean + (0.5 * log_variance).exp() * eps)
        nats = self.part.kl * divergence(mean, log_variance)
        return images, {"kl": nats if self.part.reduce == "sum" else nats / size}

    def errors(self, x: Tensor, images: Tensor) -> dict[str, Tensor]:
        """How far what comes back is from what was sent."""
        total = self.part.reduce == "sum"
        difference = (images.float() - x).flatten(1)
        if total:
            difference = 0.5 * difference  # of images in [0, 1]
        error = difference.abs() if self.part.error == "l1" else difference.square()
        found = {"reconstruction": error.sum(1) if total else error.mean(1)}
        if self.distance is not None and self.part.perceptual is not None:
            weight = self.part.perceptual.weight * (x[0].numel() if total else 1)
            found["perceptual"] = weight * self.distance(x, images.float())
        return found

    def gathered(self, model: Codec) -> Iterable[Tensor]:
        """What a codebook has counted."""
        codebook = model.network.codebook
        return () if codebook is None or codebook.pending is None else (codebook.pending,)

    def after_step(self, model: Codec, progress: Progress) -> Mapping[str, Tensor]:
        """Let a codebook use what it has counted; how much of it is in use."""
        return {} if model.network.codebook is None else model.network.codebook.update()


class _Contested(nn.Module):
    """The objective with an adversary, who is its second player."""

    def __init__(self, plain: _Reconstruction, adversarial: Adversarial, channels: int) -> None:
        super().__init__()
        self.plain, self.adversarial = plain, adversarial
        self.discriminator = adversarial.discriminator.build(channels, seed=adversarial.seed)
        self.gathered, self.after_step = plain.gathered, plain.after_step

    @property
    def players(self) -> dict[str, nn.Module]:
        """The discriminator."""
        return {"discriminator": self.discriminator}

    def forward(
        self, model: Codec, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        x = data_of(batch, self.plain.part.kind)
        begun = progress.step >= self.adversarial.start
        if player == "discriminator":
            return {"discriminator": self._apart(model, x, noise) if begun else x.new_zeros(len(x))}
        images, regular = self.plain.made(model.network, x, noise, counted=model.training)
        losses = self.plain.errors(x, images)
        if not begun:
            return losses | regular | {"adversarial": x.new_zeros(len(x))}
        others = torch.stack([loss.mean() for loss in losses.values()]).sum()
        adversary = pull(self.discriminator(images))
        weight = adaptive_weight(others, adversary.mean(), model.network.last_layer, self.adversarial.weight)
        return losses | regular | {"adversarial": weight * adversary}

    def _apart(self, model: Codec, x: Tensor, noise: Draws) -> Tensor:
        """What the discriminator pays for taking one for the other, (B,)."""
        with torch.no_grad():
            images, _ = self.plain.made(model.network, x, noise, counted=False)
        return hinge(self.discriminator(x), self.discriminator(images.float()))

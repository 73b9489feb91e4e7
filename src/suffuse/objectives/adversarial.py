"""An adversary for what a decoder makes: a hinge loss on patches, weighed by the gradients of the decoder's last layer.

Source: rombach2022ldm, Appendix G; esser2021vqgan, Section 3.1.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from suffuse.base.part import Part
from suffuse.networks.discriminator import PatchDiscriminator

__all__ = ["Adversarial", "adaptive_weight", "hinge", "pull"]

_FLOOR = 1e-4  # of the denominator
_CEILING = 1e4  # of the weight


class Adversarial(Part):
    """A discriminator that learns beside an autoencoder.

    Attributes:
        weight: w_d: the adversary's gradient over the other losses' at the decoder's last layer. The sources take 0.5
            with a Gaussian latent, 0.75 with a codebook.
        start: Step before which neither takes part; a discriminator from the first step on spoils small decoders.
        discriminator: Who.
        seed: Of its first weights.
    """

    weight: float = Field(default=0.5, gt=0)
    start: int = Field(default=50_001, ge=0)
    discriminator: PatchDiscriminator = PatchDiscriminator()
    seed: int = 0


def pull(made: Tensor) -> Tensor:
    """What the decoder minimises: minus the mean logit of each made image, (B, 1, h, w) -> (B,)."""
    return -made.float().flatten(1).mean(1)


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator minimises: half the mean hinges of both kinds, logits (B, 1, h, w) twice -> (B,)."""
    right, wrong = F.relu(1 - real.float()), F.relu(1 + made.float())
    return 0.5 * (right.flatten(1).mean(1) + wrong.flatten(1).mean(1))


def adaptive_weight(others: Tensor, adversary: Tensor, layer: Tensor, weight: float) -> Tensor:
    """The factor on the adversary's loss that makes its gradient `weight` times the others'; a scalar, detached.

    Args:
        others: Reconstruction and perceptual loss, a scalar.
        adversary: The adversary's, a scalar.
        layer: Weight at which gradients are compared: the decoder's last.
        weight: w_d.
    """
    first, second = (torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (others, adversary))
    ratio: Tensor = first / (second + _FLOOR)
    return weight * ratio.clamp(0, _CEILING).detach()

"""Autoencoders: what turns images into latents and back."""

from __future__ import annotations

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.networks.autoencoders.base import AutoencoderNetwork, AutoencoderPart
from suffuse.networks.autoencoders.codebook import Codebook, CodebookSettings, Quantised
from suffuse.networks.autoencoders.compressor import Compressor
from suffuse.networks.autoencoders.convnext import ConvNeXtAutoencoder
from suffuse.networks.autoencoders.kl import KLAutoencoder
from suffuse.networks.autoencoders.tiny import TinyAutoencoder
from suffuse.networks.autoencoders.vector import VectorVAE
from suffuse.networks.autoencoders.vq import VQAutoencoder

__all__ = [
    "Autoencoder",
    "AutoencoderNetwork",
    "AutoencoderPart",
    "Codebook",
    "CodebookSettings",
    "Compressor",
    "ConvNeXtAutoencoder",
    "KLAutoencoder",
    "Quantised",
    "TinyAutoencoder",
    "VQAutoencoder",
    "VectorVAE",
]

Autoencoder = Annotated[
    AutoencoderPart,
    Joint("autoencoder", KLAutoencoder, VQAutoencoder, ConvNeXtAutoencoder, VectorVAE, TinyAutoencoder, Compressor),
]

"""Networks: what is learned. Parts describe them, `build` makes the modules, all keep one contract."""

from __future__ import annotations

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.networks.autoencoders import (
    Autoencoder,
    AutoencoderNetwork,
    AutoencoderPart,
    CodebookSettings,
    Compressor,
    ConvNeXtAutoencoder,
    KLAutoencoder,
    TinyAutoencoder,
    VectorVAE,
    VQAutoencoder,
)
from suffuse.networks.contract import Network, Output, needed_blocks
from suffuse.networks.convnext_prior import ConvNeXtPrior, ConvNeXtPriorNetwork
from suffuse.networks.diffnext import DiffNeXt, DiffNeXtNetwork
from suffuse.networks.dit import DiT, DiTNetwork
from suffuse.networks.execution import execute
from suffuse.networks.mlp import MLP, MLPNetwork
from suffuse.networks.part import NetworkPart, count_parameters
from suffuse.networks.unet import UNet, UNetNetwork

__all__ = [
    "MLP",
    "Autoencoder",
    "AutoencoderNetwork",
    "AutoencoderPart",
    "CodebookSettings",
    "Compressor",
    "ConvNeXtAutoencoder",
    "ConvNeXtPrior",
    "ConvNeXtPriorNetwork",
    "DiT",
    "DiTNetwork",
    "DiffNeXt",
    "DiffNeXtNetwork",
    "KLAutoencoder",
    "MLPNetwork",
    "Network",
    "NetworkConfig",
    "NetworkPart",
    "Output",
    "TinyAutoencoder",
    "UNet",
    "UNetNetwork",
    "VQAutoencoder",
    "VectorVAE",
    "count_parameters",
    "execute",
    "needed_blocks",
]

NetworkConfig = Annotated[NetworkPart, Joint("network", UNet, DiT, MLP, DiffNeXt, ConvNeXtPrior)]

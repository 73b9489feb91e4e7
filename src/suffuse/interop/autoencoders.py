"""Autoencoders of diffusers (`AutoencoderKL`) as codecs of ours, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.interop.keymaps import AUTOENCODER_RULES, to_ours, to_theirs
from suffuse.models.codec import Codec, CodecConfig
from suffuse.networks import KLAutoencoder

__all__ = ["AUTOENCODER", "autoencoder_from", "autoencoder_to"]

AUTOENCODER = "AutoencoderKL"
# Key -> (default of the foreign class, the value that our network has).
_ONLY: dict[str, tuple[Any, Any]] = {"act_fn": ("silu", "silu")}
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
_LONE = {"quant_conv": ("use_quant_conv", "to_moments"), "post_quant_conv": ("use_post_quant_conv", "from_latent")}


def autoencoder_from(
    config: Mapping[str, Any], theirs: Mapping[str, Tensor], *, place: Path
) -> tuple[CodecConfig, dict[str, Tensor], tuple[str, ...]]:
    """A codec from a diffusers configuration and its weights.

    Args:
        config: Contents of `config.json`.
        theirs: The checkpoint, with today's names of attention.
        place: Folder, for messages.

    Returns:
        Configuration, state dict, and sentences on what is left behind.

    Raises:
        UsageError: A setting that our network does not have, or a checkpoint of another model.
    """
    for key, (default, ours) in _ONLY.items():
        if config.get(key, default) != ours:
            raise UsageError(f"{place}: {key} = {config[key]!r} has no counterpart; only {ours!r} can be imported")
    for key, block in _BLOCKS.items():
        if other := set(config.get(key, (block,))) - {block}:
            raise UsageError(f"{place}: {key} has {sorted(other)[0]!r}; only {block!r} can be imported")
    widths = [int(width) for width in config["block_out_channels"]]
    channels = math.gcd(*widths)
    network = parse(
        KLAutoencoder,
        {
            "channels": channels,
            "multipliers": tuple(width // channels for width in widths),
            "blocks": config.get("layers_per_block", 1),
            "latent_channels": config.get("latent_channels", 4),
            "attention": config.get("mid_block_add_attention", True),
            "groups": config.get("norm_num_groups", 32),
        },
        owner=str(place),
    )
    size = config.get("sample_size", 32)
    height, width = (size, size) if isinstance(size, int) else size
    found = CodecConfig(network=network, shape=(int(config.get("in_channels", 3)), int(height), int(width)))
    with torch.device("meta"):
        wanted = network.build(found.shape).state_dict()
    # Without their convolution over the moments ours is the identity.
    absent = [mine for name, (key, mine) in _LONE.items() if not config.get(key, True)]
    lone = {name: tensor for name, tensor in wanted.items() if name.split(".")[0] in absent}
    ours, read = to_ours(AUTOENCODER_RULES, {k: v for k, v in wanted.items() if k not in lone}, theirs)
    for name, like in lone.items():
        ours[name] = torch.eye(len(like))[:, :, None, None] if name.endswith("weight") else torch.zeros(len(like))
    if left := sorted(set(theirs) - read):
        raise UsageError(
            f"{place}: the checkpoint has {len(left)} weights without a place, first {left[0]!r}; it is not of the "
            "model that its config.json describes"
        )
    weights = {f"network.{name}": tensor.float() for name, tensor in ours.items()}
    weights |= {"shift": torch.zeros(network.latent_channels, 1, 1), "scale": torch.ones(network.latent_channels, 1, 1)}
    scaling = config.get("scaling_factor", 0.18215)
    told = (
        f"scaling_factor {scaling:g} is left behind: each channel of the latents is measured on the data of the model "
        "that lives in them",
    )
    return found, weights, told


def autoencoder_to(codec: Codec) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of diffusers for a codec.

    Raises:
        UsageError: diffusers has no class for its network.
    """
    config = codec.config
    assert config is not None
    part = config.network
    if not isinstance(part, KLAutoencoder):
        raise UsageError(f"diffusers has no class for the autoencoder {part.kind!r}; a kl one can be exported")
    levels = len(part.multipliers)
    plain: dict[str, Any] = {
        "_class_name": AUTOENCODER,
        "in_channels": config.shape[0],
        "out_channels": config.shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [part.channels * multiplier for multiplier in part.multipliers],
        "layers_per_block": part.blocks,
        "latent_channels": part.latent_channels,
        "norm_num_groups": part.groups,
        "mid_block_add_attention": part.attention,
        "sample_size": config.shape[1] if config.shape[1] == config.shape[2] else list(config.shape[1:]),
        # What a pipeline multiplies latents with; the mean and the deviation of each channel stand beside it.
        "scaling_factor": 1.0,
        "latents_mean": codec.shift.flatten().tolist(),
        "latents_std": (1 / codec.scale).flatten().tolist(),
    }
    return plain, to_theirs(AUTOENCODER_RULES, codec.network.state_dict())

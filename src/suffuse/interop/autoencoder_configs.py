"""Configurations of diffusers' autoencoders as ours, and back. Nothing here needs diffusers itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.networks import ConvNeXtAutoencoder, KLAutoencoder, TinyAutoencoder, VQAutoencoder

__all__ = [
    "convnext_from_config",
    "convnext_to_config",
    "kl_from_config",
    "kl_to_config",
    "tiny_from_config",
    "tiny_to_config",
    "vq_from_config",
    "vq_to_config",
]

Json = Mapping[str, Any]  # Any: JSON values


def _only(config: Json, place: Path, **wanted: object) -> None:
    """Refuse settings that our network does not have; a setting that is not there has its class's default, ours."""
    for key, ours in wanted.items():
        if config.get(key, ours) != ours:
            raise UsageError(f"{place}: {key} = {config[key]!r} has no counterpart; only {ours!r} can be imported")


def _levels_from(config: Json, place: Path) -> dict[str, Any]:  # Any: fields
    """Fields of the convolutional encoder and decoder."""
    _only(config, place, act_fn="silu", norm_type="group")
    for key, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if other := set(config.get(key, (block,))) - {block}:
            raise UsageError(f"{place}: {key} has {sorted(other)[0]!r}; only {block!r} can be imported")
    widths = [int(width) for width in config["block_out_channels"]]
    channels = math.gcd(*widths)
    return {
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths),
        "blocks": config.get("layers_per_block", 1),
        "attention": config.get("mid_block_add_attention", True),
        "groups": config.get("norm_num_groups", 32),
    }


def _levels_to(part: KLAutoencoder | VQAutoencoder, shape: tuple[int, ...]) -> dict[str, Any]:  # Any: JSON values
    """What describes a convolutional encoder and decoder there."""
    levels = len(part.multipliers)
    return {
        "in_channels": shape[0],
        "out_channels": shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [part.channels * multiplier for multiplier in part.multipliers],
        "layers_per_block": part.blocks,
        "norm_num_groups": part.groups,
        "mid_block_add_attention": part.attention,
        "sample_size": shape[1] if shape[1] == shape[2] else list(shape[1:]),
    }


def kl_from_config(config: Json, place: Path) -> KLAutoencoder:
    """The autoencoder of an `AutoencoderKL`.

    Raises:
        UsageError: A setting without counterpart; `place` is named.
    """
    fields = _levels_from(config, place) | {"latent_channels": config.get("latent_channels", 4)}
    return parse(KLAutoencoder, fields, owner=str(place))


def kl_to_config(part: KLAutoencoder, shape: tuple[int, ...]) -> dict[str, Any]:  # Any: JSON values
    """The configuration of an `AutoencoderKL` for images of `shape`."""
    return _levels_to(part, shape) | {"latent_channels": part.latent_channels}


def vq_from_config(config: Json, place: Path) -> VQAutoencoder:
    """The autoencoder of a `VQModel`; raises as `kl_from_config`."""
    inner = int(config.get("latent_channels", 3))
    width = int(config.get("vq_embed_dim") or inner)
    fields = _levels_from(config, place) | {
        "latent_channels": width,
        "inner_channels": None if width == inner else inner,
        "codebook": {"size": config.get("num_vq_embeddings", 256)},
    }
    return parse(VQAutoencoder, fields, owner=str(place))


def vq_to_config(part: VQAutoencoder, shape: tuple[int, ...]) -> dict[str, Any]:  # Any: JSON values
    """The configuration of a `VQModel` for images of `shape`."""
    return _levels_to(part, shape) | {
        "latent_channels": part.inner_channels or part.latent_channels,
        "vq_embed_dim": part.latent_channels,
        "num_vq_embeddings": part.codebook.size,
    }


def convnext_from_config(config: Json, place: Path) -> ConvNeXtAutoencoder:
    """The autoencoder of a `PaellaVQModel`; raises as `kl_from_config`."""
    theirs = {
        "channels": ("embed_dim", 384),
        "levels": ("levels", 2),
        "blocks": ("bottleneck_blocks", 12),
        "patch": ("up_down_scale_factor", 2),
        "latent_channels": ("latent_channels", 4),
    }
    fields: dict[str, Any] = {mine: config.get(name, default) for mine, (name, default) in theirs.items()}  # Any: JSON
    fields["codebook"] = {"size": config.get("num_vq_embeddings", 8192)}
    return parse(ConvNeXtAutoencoder, fields, owner=str(place))


def convnext_to_config(part: ConvNeXtAutoencoder, shape: tuple[int, ...]) -> dict[str, Any]:  # Any: JSON values
    """The configuration of a `PaellaVQModel` for images of `shape`."""
    return {
        "in_channels": shape[0],
        "out_channels": shape[0],
        "embed_dim": part.channels,
        "levels": part.levels,
        "bottleneck_blocks": part.blocks,
        "up_down_scale_factor": part.patch,
        "latent_channels": part.latent_channels,
        "num_vq_embeddings": part.codebook.size,
    }


def tiny_from_config(config: Json, place: Path) -> TinyAutoencoder:
    """The autoencoder of an `AutoencoderTiny`; raises as `kl_from_config`."""
    _only(config, place, act_fn="relu", upsample_fn="nearest", upsampling_scaling_factor=2)
    widths = [config.get(f"{side}_block_out_channels", (64, 64, 64, 64)) for side in ("encoder", "decoder")]
    for side in widths:
        if len(set(side)) > 1:
            raise UsageError(f"{place}: levels of widths {tuple(side)} have no counterpart; ours have one width")
    fields = {
        "channels": widths[0][0],
        "decoder_channels": widths[1][0],
        "blocks": tuple(config.get("num_encoder_blocks", (1, 3, 3, 3))),
        "decoder_blocks": tuple(config.get("num_decoder_blocks", (3, 3, 3, 1))),
        "latent_channels": config.get("latent_channels", 4),
    }
    return parse(TinyAutoencoder, fields, owner=str(place))


def tiny_to_config(part: TinyAutoencoder, shape: tuple[int, ...]) -> dict[str, Any]:  # Any: JSON values
    """The configuration of an `AutoencoderTiny` for images of `shape`."""
    return {
        "in_channels": shape[0],
        "out_channels": shape[0],
        "encoder_block_out_channels": [part.channels] * len(part.blocks),
        "decoder_block_out_channels": [part.decoder_channels] * len(part.blocks),
        "num_encoder_blocks": list(part.blocks),
        "num_decoder_blocks": list(part.decoder_blocks),
        "latent_channels": part.latent_channels,
    }

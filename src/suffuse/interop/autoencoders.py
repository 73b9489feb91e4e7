"""Autoencoders of diffusers as codecs of ours and back: `AutoencoderKL`, `VQModel`, `PaellaVQModel`, `AutoencoderTiny`.

All are native networks of ours with the same modules, so that weights go both ways bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.interop.autoencoder_configs import (
    convnext_from_config,
    convnext_to_config,
    kl_from_config,
    kl_to_config,
    tiny_from_config,
    tiny_to_config,
    vq_from_config,
    vq_to_config,
)
from suffuse.interop.keymaps import AUTOENCODER_RULES, VQ_RULES, Rule, convnext_rules, tiny_rules, to_ours, to_theirs
from suffuse.models.codec import Codec, CodecConfig
from suffuse.networks import AutoencoderPart, ConvNeXtAutoencoder, KLAutoencoder, TinyAutoencoder, VQAutoencoder

__all__ = ["AUTOENCODERS", "autoencoder_from", "autoencoder_to"]

_KL, _VQ, _PAELLA, _TINY = "AutoencoderKL", "VQModel", "PaellaVQModel", "AutoencoderTiny"
_READERS = {_KL: kl_from_config, _VQ: vq_from_config, _PAELLA: convnext_from_config, _TINY: tiny_from_config}
AUTOENCODERS = frozenset(_READERS)
"""Classes of diffusers that can be imported."""

# An AutoencoderKL may lack a convolution over its moments or its latents.
_LONE = {"quant_conv": ("use_quant_conv", "to_moments"), "post_quant_conv": ("use_post_quant_conv", "from_latent")}
_SIDES = 32  # of a latent's, for images whose size a configuration does not say


def autoencoder_from(
    config: Mapping[str, Any], theirs: Mapping[str, Tensor], *, place: Path
) -> tuple[CodecConfig, dict[str, Tensor], tuple[str, ...]]:
    """A codec from a diffusers configuration and its weights.

    Args:
        config: Contents of `config.json`, with the name of a class in `AUTOENCODERS`.
        theirs: The checkpoint, with today's names of attention.
        place: Folder, for messages.

    Returns:
        Configuration, state dict, and sentences on what is assumed or left behind.

    Raises:
        UsageError: A setting that our network does not have, or a checkpoint of another model.
    """
    name = str(config["_class_name"])
    network = _READERS[name](config, place)
    size = config.get("sample_size", 32 if name in (_KL, _VQ) else _SIDES * network.factor)
    height, width = (size, size) if isinstance(size, int) else size
    found = CodecConfig(network=network, shape=(int(config.get("in_channels", 3)), int(height), int(width)))
    with torch.device("meta"):
        wanted = network.build(found.shape).state_dict()
    # Without their convolution over the moments ours is the identity.
    absent = [mine for key, mine in _LONE.values() if name == _KL and not config.get(key, True)]
    lone = {key: tensor for key, tensor in wanted.items() if key.split(".")[0] in absent}
    counted = {key: tensor for key, tensor in wanted.items() if _is_count(key)}
    rules, skipped = _rules(network), lone.keys() | counted.keys()
    ours, read = to_ours(rules, {k: v for k, v in wanted.items() if k not in skipped}, theirs)
    for key, like in lone.items():
        ours[key] = torch.eye(len(like))[:, :, None, None] if key.endswith("weight") else torch.zeros(len(like))
    for key, like in counted.items():
        ours[key] = torch.full(like.shape, 1 / len(like))
    if left := sorted(set(theirs) - read):
        raise UsageError(
            f"{place}: the checkpoint has {len(left)} weights without a place, first {left[0]!r}; it is not of the "
            "model that its config.json describes"
        )
    weights = {
        f"network.{key}": tensor.float() if tensor.is_floating_point() else tensor for key, tensor in ours.items()
    }
    scaling, told = _scaling_from(name, config)
    channels = found.latent_shape[0]
    weights |= {
        "shift": torch.full((channels, 1, 1), scaling.shift),
        "scale": torch.full((channels, 1, 1), scaling.scale),
    }
    if name not in (_KL, _VQ):
        told = f"the size of its images is not recorded: {height}x{width} is assumed; {told}"
    return found, weights, (told,)


class _Scaling(NamedTuple):
    """(z - shift) * scale is what lives outside of an autoencoder."""

    shift: float
    scale: float


def _scaling_from(name: str, config: Mapping[str, Any]) -> tuple[_Scaling, str]:
    """Shift and scale of latents, and a sentence about them."""
    if name == _PAELLA:
        factor = float(config.get("scale_factor", 0.3764))
        return _Scaling(0.0, 1 / factor), f"latents are divided by its scale_factor {factor:g}"
    if name == _TINY:
        factor, shift = float(config.get("scaling_factor", 1.0)), float(config.get("shift_factor", 0.0))
        return _Scaling(
            shift, factor
        ), f"latents are scaled by its encoder already; its scaling_factor {factor:g} is kept"
    scaling = config.get("scaling_factor", 0.18215)
    return _Scaling(0.0, 1.0), (
        f"scaling_factor {scaling:g} is left behind: each channel of the latents is measured on the data of the model "
        "that lives in them"
    )


def _is_count(key: str) -> bool:
    """Whether it is what a codebook counts while it is trained, which diffusers has no place for."""
    return key in ("codebook.share", "codebook.mass")


def _rules(network: AutoencoderPart) -> tuple[Rule, ...]:
    match network:
        case KLAutoencoder():
            return AUTOENCODER_RULES
        case VQAutoencoder():
            return VQ_RULES
        case ConvNeXtAutoencoder():
            return convnext_rules(network.levels, network.blocks)
        case TinyAutoencoder():
            return tiny_rules(network.blocks, network.decoder_blocks)
    raise UsageError(
        f"diffusers has no class for the autoencoder {network.kind!r}; kl, vq, convnext_vq and tiny can be exported"
    )


def autoencoder_to(codec: Codec) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of diffusers for a codec.

    Raises:
        UsageError: diffusers has no class for its network, or one scale for all channels where the codec has several.
    """
    config = codec.config
    assert config is not None
    part = config.network
    weights = {key: tensor for key, tensor in codec.network.state_dict().items() if not _is_count(key)}
    theirs = to_theirs(_rules(part), weights)
    plain: dict[str, Any]  # Any: JSON values
    match part:
        case KLAutoencoder():
            plain = {"_class_name": _KL} | kl_to_config(part, config.shape)
            # What a pipeline multiplies latents with; the mean and the deviation of each channel stand beside it.
            plain |= {
                "scaling_factor": 1.0,
                "latents_mean": codec.shift.flatten().tolist(),
                "latents_std": (1 / codec.scale).flatten().tolist(),
            }
        case VQAutoencoder():
            plain = {"_class_name": _VQ} | vq_to_config(part, config.shape)
            plain["scaling_factor"] = _scale_of(codec, shifted=False).scale
        case ConvNeXtAutoencoder():
            plain = {"_class_name": _PAELLA} | convnext_to_config(part, config.shape)
            plain["scale_factor"] = _digits(1 / _scale_of(codec, shifted=False).scale)
        case _:
            assert isinstance(part, TinyAutoencoder)
            plain = {"_class_name": _TINY} | tiny_to_config(part, config.shape)
            scaling = _scale_of(codec, shifted=True)
            plain |= {"scaling_factor": scaling.scale, "shift_factor": scaling.shift}
    return plain, theirs


def _scale_of(codec: Codec, *, shifted: bool) -> _Scaling:
    """The one shift and scale of all channels.

    Raises:
        UsageError: Channels differ, or have a shift where diffusers has none.
    """
    shift, scale = (_digits(values.flatten()[0].item()) for values in (codec.shift, codec.scale))
    uniform = all(bool((values == values.flatten()[0]).all()) for values in (codec.shift, codec.scale))
    if not uniform or (shift and not shifted):
        raise UsageError(
            "the channels of this codec's latents were measured one by one, and the class of diffusers has one scale "
            "for all; export the autoencoder's own run instead"
        )
    return _Scaling(shift, scale)


def _digits(value: float) -> float:
    """To six digits: what a float32 keeps of a number that was written in decimals."""
    return float(f"{value:.6g}")

"""Configurations of diffusers models in our words and back; what our networks do not have is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.networks import DiT, UNet

__all__ = ["dit_from_config", "dit_to_config", "unet_from_config", "unet_to_config"]

# Key -> (default of the foreign class, values that our network can express).
_UNET_ONLY: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "center_input_sample": (False, (False,)),
    "time_embedding_type": ("positional", ("positional",)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "mid_block_scale_factor": (1, (1,)),
    "act_fn": ("silu", ("silu", "swish")),
    "class_embed_type": (None, (None,)),
    "resnet_time_scale_shift": ("default", ("default", "scale_shift")),
    "downsample_type": ("conv", ("conv", "resnet")),
    "upsample_type": ("conv", ("conv", "resnet")),
}
_DIT_ONLY: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "attention_bias": (True, (True,)),
    "activation_fn": ("gelu-approximate", ("gelu-approximate",)),
    "norm_type": ("ada_norm_zero", ("ada_norm_zero",)),
    "norm_elementwise_affine": (False, (False,)),
}
# Keys that are read below, or that change nothing for the values which are let through.
_UNET_READ = frozenset(
    {
        "sample_size",
        "in_channels",
        "out_channels",
        "time_embedding_dim",
        "freq_shift",
        "flip_sin_to_cos",
        "down_block_types",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "downsample_padding",
        "dropout",
        "attention_head_dim",
        "norm_num_groups",
        "attn_norm_num_groups",
        "norm_eps",
        "add_attention",
        "num_class_embeds",
        "num_train_timesteps",
    }
)
_DIT_READ = frozenset(
    {
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "num_layers",
        "dropout",
        "norm_num_groups",
        "sample_size",
        "patch_size",
        "num_embeds_ada_norm",
        "upcast_attention",
        "norm_eps",
    }
)
# Block type -> (attention, how it changes the resolution; None: as `downsample_type` or `upsample_type` says).
_DOWN_TYPES: dict[str, tuple[bool, str | None]] = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, "resnet"),
}
_UP_TYPES: dict[str, tuple[bool, str | None]] = {
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, "resnet"),
}
_VERSION = "0.35.0"


def _refuse(owner: str, key: str, value: object, allowed: str) -> UsageError:
    return UsageError(f"{owner}: {key} = {value!r} is not supported; it must be {allowed}")


def _check(
    owner: str, config: Mapping[str, Any], table: Mapping[str, tuple[Any, tuple[Any, ...]]], read: frozenset[str]
) -> None:
    for key, (default, allowed) in table.items():
        value = config.get(key, default)
        if value not in allowed:
            raise _refuse(owner, key, value, " or ".join(repr(item) for item in allowed))
    for key in config.keys() - table.keys() - read:
        if not key.startswith("_") and config[key] is not None:
            raise _refuse(owner, key, config[key], "absent: the key is not known here and may change the network")


def _levels(
    config: Mapping[str, Any], way: str, types: Mapping[str, tuple[bool, str | None]], default: tuple[str, ...]
) -> tuple[tuple[bool, ...], set[str]]:
    """Attention by level in the config's order, and the ways in which this half changes the resolution."""
    names = tuple(config.get(f"{way}_block_types", default))
    for name in names:
        if name not in types:
            raise _refuse("UNet2DModel", f"{way}_block_types", name, " or ".join(types))
    # The last level of either half changes no resolution, so its type says nothing about how.
    kinds = {types[name][1] or str(config.get(f"{way}sample_type", "conv")) for name in names[:-1]}
    return tuple(types[name][0] for name in names), kinds


def unet_from_config(
    config: Mapping[str, Any], *, size: tuple[int, int] | None = None
) -> tuple[UNet, tuple[int, int, int], int]:
    """A `UNet2DModel` configuration as (network, (C, H, W), output channels).

    Args:
        config: Contents of its `config.json`.
        size: (H, W) where the configuration has no `sample_size`.

    Raises:
        UsageError: A setting that `UNet` does not have, or no size at all.
    """
    owner = "UNet2DModel"
    _check(owner, config, _UNET_ONLY, _UNET_READ)
    down, down_kinds = _levels(config, "down", _DOWN_TYPES, ("DownBlock2D", *("AttnDownBlock2D",) * 3))
    up, up_kinds = _levels(config, "up", _UP_TYPES, (*("AttnUpBlock2D",) * 3, "UpBlock2D"))
    if up != down[::-1]:
        raise _refuse(owner, "up_block_types", list(config.get("up_block_types", ())), "the mirror of down_block_types")
    kinds = down_kinds | up_kinds
    if len(kinds) > 1:
        raise _refuse(owner, "down- and upsampling", sorted(kinds), "the same at every level")
    widths = tuple(config.get("block_out_channels", (224, 448, 672, 896)))
    groups = config.get("norm_num_groups", 32)
    scale_shift = config.get("resnet_time_scale_shift", "default") == "scale_shift"
    mid_groups = config.get("attn_norm_num_groups")
    if mid_groups not in (None, groups):
        raise _refuse(owner, "attn_norm_num_groups", mid_groups, f"None or norm_num_groups ({groups})")
    fields = {
        "channels": widths[0],
        "multipliers": tuple(_ratio(width, widths[0]) for width in widths),
        "blocks": config.get("layers_per_block", 2),
        "attention_levels": tuple(level for level, attention in enumerate(down) if attention),
        "head_channels": config.get("attention_head_dim", 8),
        "mid_attention": config.get("add_attention", True),
        # Without a number of its own, the foreign class leaves this norm out under scale and shift.
        "mid_attention_norm": mid_groups is not None or not scale_shift,
        "scale_shift": scale_shift,
        "resample": kinds.pop() if kinds else "conv",
        "down_padding": config.get("downsample_padding", 1),
        "time_width": config.get("time_embedding_dim"),
        "freq_shift": config.get("freq_shift", 0),
        "flip_sin_to_cos": config.get("flip_sin_to_cos", True),
        "groups": groups,
        "norm_eps": config.get("norm_eps", 1e-5),
        "dropout": config.get("dropout", 0.0),
    }
    channels, out_channels = config.get("in_channels", 3), config.get("out_channels", 3)
    return parse(UNet, fields, owner), (channels, *_size(config.get("sample_size"), size)), out_channels


def _ratio(width: int, base: int) -> int | float:
    return width // base if width % base == 0 else width / base


def _size(said: int | list[int] | None, size: tuple[int, int] | None) -> tuple[int, int]:
    if said is None:
        if size is None:
            raise UsageError("UNet2DModel: config.json has no sample_size; say the images' size yourself (size=(H, W))")
        return size
    return (said, said) if isinstance(said, int) else (int(said[0]), int(said[1]))


def unet_to_config(
    part: UNet, shape: tuple[int, int, int], out_channels: int, *, classes: int | None
) -> dict[str, Any]:
    """The `config.json` of the `UNet2DModel` that equals `part`.

    Args:
        part: The network.
        shape: (C, H, W).
        out_channels: Channels of the raw output.
        classes: Number of classes; None without.

    Raises:
        UsageError: A setting that `UNet2DModel` does not have.
    """
    if part.level_widths[0] != part.channels:
        raise _refuse("UNet", "multipliers", part.multipliers, "1 at the finest level for UNet2DModel")
    for key, needed in (("fourier", None), ("norm", "group"), ("skip_scale", 1.0), ("resample_filter", "box")):
        if getattr(part, key) != needed:
            raise _refuse("UNet", key, getattr(part, key), f"{needed!r} for UNet2DModel")
    if part.max_period != 1e4:
        raise _refuse("UNet", "max_period", part.max_period, "10000 for UNet2DModel")
    if part.mid_attention and not part.mid_attention_norm and not part.scale_shift:
        raise _refuse("UNet", "mid_attention_norm", False, "True for UNet2DModel, unless scale_shift is")
    conv = part.resample == "conv"
    attention = [level in part.attention_levels for level in range(len(part.multipliers))]
    down, up = ("DownBlock2D", "UpBlock2D") if conv else ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    config: dict[str, Any] = {
        "_class_name": "UNet2DModel",
        "_diffusers_version": _VERSION,
        "sample_size": shape[1] if shape[1] == shape[2] else [shape[1], shape[2]],
        "in_channels": shape[0] + part.extra_channels,
        "out_channels": out_channels,
        "time_embedding_dim": part.time_width,
        "freq_shift": part.freq_shift,
        "flip_sin_to_cos": part.flip_sin_to_cos,
        "down_block_types": ["AttnDownBlock2D" if here else down for here in attention],
        "up_block_types": ["AttnUpBlock2D" if here else up for here in reversed(attention)],
        "block_out_channels": list(part.level_widths),
        "layers_per_block": part.blocks,
        "downsample_padding": part.down_padding,
        "downsample_type": part.resample,
        "upsample_type": part.resample,
        "dropout": part.dropout,
        "attention_head_dim": part.head_channels,
        "norm_num_groups": part.groups,
        "attn_norm_num_groups": part.groups if part.scale_shift and part.mid_attention_norm else None,
        "norm_eps": part.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if part.scale_shift else "default",
        "add_attention": part.mid_attention,
        "num_class_embeds": classes,
    }
    return config


def dit_from_config(config: Mapping[str, Any]) -> tuple[DiT, tuple[int, int, int], int]:
    """A `DiTTransformer2DModel` configuration as (network, (C, H, W), output channels).

    Raises:
        UsageError: A setting that `DiT` does not have.
    """
    _check("DiTTransformer2DModel", config, _DIT_ONLY, _DIT_READ)
    heads, size = config.get("num_attention_heads", 16), config.get("sample_size", 32)
    channels = config.get("in_channels", 4)
    fields = {
        "width": heads * config.get("attention_head_dim", 72),
        "depth": config.get("num_layers", 28),
        "heads": heads,
        "patch": config.get("patch_size", 2),
        "mlp_norm_eps": config.get("norm_eps", 1e-5),
        "freq_shift": 1,  # fixed in the foreign class, peebles2023dit has 0
        "dropout": config.get("dropout", 0.0),
    }
    out_channels = config.get("out_channels") or channels
    return parse(DiT, fields, "DiTTransformer2DModel"), (channels, size, size), out_channels


def dit_to_config(part: DiT, shape: tuple[int, int, int], out_channels: int, *, classes: int) -> dict[str, Any]:
    """The `config.json` of the `DiTTransformer2DModel` that equals `part`.

    Raises:
        UsageError: A setting that `DiTTransformer2DModel` does not have.
    """
    fixed = {"freq_shift": 1, "frequencies": 256, "mlp_ratio": 4.0, "max_period": 1e4}
    for key, needed in fixed.items():
        if getattr(part, key) != needed:
            raise _refuse("DiT", key, getattr(part, key), f"{needed:g} for DiTTransformer2DModel")
    if shape[1] != shape[2]:
        raise _refuse("DiT", "image size", shape[1:], "square for DiTTransformer2DModel")
    return {
        "_class_name": "DiTTransformer2DModel",
        "_diffusers_version": _VERSION,
        "num_attention_heads": part.heads,
        "attention_head_dim": part.width // part.heads,
        "in_channels": shape[0] + part.extra_channels,
        "out_channels": out_channels,
        "num_layers": part.depth,
        "dropout": part.dropout,
        "sample_size": shape[1],
        "patch_size": part.patch,
        "num_embeds_ada_norm": classes,
        "norm_eps": part.mlp_norm_eps,
    }

"""Wuerstchen's networks in diffusers' folders, to ours and back, bit by bit. Nothing here needs diffusers itself.

A component has a folder of its own: `prior` holds a `WuerstchenPrior`, `decoder` a `WuerstchenDiffNeXt`. Both are told
the time r of [0, 1], which they multiply by 10000; ours are told 1000 t and multiply by `time_scale` = 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.interop.diffusers import Imported, read_checkpoint, write_checkpoint
from suffuse.interop.wuerstchen_keys import (
    Names,
    decoder_names,
    prior_names,
    renamed_to_ours,
    renamed_to_theirs,
)
from suffuse.networks import ConvNeXtPrior, DiffNeXt

__all__ = [
    "DECODER",
    "PRIOR",
    "decoder_from_config",
    "decoder_to_config",
    "prior_from_config",
    "prior_to_config",
    "read_decoder",
    "read_prior",
    "write_decoder",
    "write_prior",
]

PRIOR, DECODER = "WuerstchenPrior", "WuerstchenDiffNeXt"

# Defaults of the foreign classes: what a configuration leaves out.
_PRIOR: dict[str, Any] = {  # Any: JSON values
    "c_in": 16,
    "c": 1280,
    "c_cond": 1024,
    "c_r": 64,
    "depth": 16,
    "nhead": 16,
    "dropout": 0.1,
}
_DECODER: dict[str, Any] = {  # Any: JSON values
    "c_in": 4,
    "c_out": 4,
    "c_r": 64,
    "patch_size": 2,
    "c_cond": 1024,
    "c_hidden": [320, 640, 1280, 1280],
    "nhead": [-1, 10, 20, 20],
    "blocks": [4, 4, 14, 4],
    "level_config": ["CT", "CTA", "CTA", "CTA"],
    "inject_effnet": [False, True, True, True],
    "effnet_embd": 16,
    "clip_embd": 1024,
    "kernel_size": 3,
    "dropout": 0.1,
}
_TIME_SCALE = 10.0


def prior_from_config(config: Mapping[str, Any], *, place: str = PRIOR) -> tuple[ConvNeXtPrior, int]:
    """Our network and the channels of its data, from a `WuerstchenPrior`'s configuration.

    Args:
        config: Contents of `config.json`.
        place: Whose it is, for messages.

    Raises:
        UsageError: Another class, or a setting that our network does not have.
    """
    values = _values(config, PRIOR, _PRIOR, place)
    fields = {
        "width": values["c"],
        "depth": values["depth"],
        "heads": values["nhead"],
        "frequencies": values["c_r"],
        "time_scale": _TIME_SCALE,
        "dropout": values["dropout"],
        "token_width": values["c_cond"],
    }
    return parse(ConvNeXtPrior, fields, place), int(values["c_in"])


def prior_to_config(part: ConvNeXtPrior, channels: int) -> dict[str, Any]:
    """Configuration of the `WuerstchenPrior` that is our network for data of so many channels.

    Raises:
        UsageError: A setting that the foreign class does not know.
    """
    _exportable(part)
    return {
        "_class_name": PRIOR,
        "c_in": channels,
        "c": part.width,
        "c_cond": part.token_width,
        "c_r": part.frequencies,
        "depth": part.depth,
        "nhead": part.heads,
        "dropout": part.dropout,
    }


def decoder_from_config(config: Mapping[str, Any], *, place: str = DECODER) -> tuple[DiffNeXt, int]:
    """Our network and the channels of its data, from a `WuerstchenDiffNeXt`'s configuration.

    Args:
        config: Contents of `config.json`.
        place: Whose it is, for messages.

    Raises:
        UsageError: Another class, or a setting that our network does not have.
    """
    values = _values(config, DECODER, _DECODER, place)
    if values["c_in"] != values["c_out"]:
        raise UsageError(
            f"{place}: c_in = {values['c_in']} and c_out = {values['c_out']} differ, and the head subtracts one from "
            f"the other; only networks with as many channels out as in can be imported"
        )
    dropout, layout = values["dropout"], values["level_config"]
    fields = {
        "widths": tuple(values["c_hidden"]),
        "blocks": tuple(values["blocks"]),
        "layout": tuple(layout),
        # Theirs are not read where there is no attention, and are -1 in the released network.
        "heads": tuple(heads if "A" in row else 0 for row, heads in zip(layout, values["nhead"], strict=True)),
        "inject": tuple(values["inject_effnet"]),
        "patch": values["patch_size"],
        "context_width": values["c_cond"],
        "frequencies": values["c_r"],
        "time_scale": _TIME_SCALE,
        "kernel": values["kernel_size"],
        "dropout": tuple(dropout) if isinstance(dropout, list | tuple) else dropout,
        "token_width": values["clip_embd"],
        "map_channels": values["effnet_embd"] if any(values["inject_effnet"]) else 0,
    }
    return parse(DiffNeXt, fields, place), int(values["c_in"])


def decoder_to_config(part: DiffNeXt, channels: int) -> dict[str, Any]:
    """Configuration of the `WuerstchenDiffNeXt` that is our network for data of so many channels.

    Raises:
        UsageError: A setting that the foreign class does not know.
    """
    _exportable(part)
    mapped = part.map_channels > 0
    return {
        "_class_name": DECODER,
        "c_in": channels,
        "c_out": channels,
        "c_r": part.frequencies,
        "patch_size": part.patch,
        "c_cond": part.context_width,
        "c_hidden": list(part.widths),
        "nhead": [heads or -1 for heads in part.heads],
        "blocks": list(part.blocks),
        "level_config": list(part.layout),
        "inject_effnet": [inject and mapped for inject in part.inject],
        "effnet_embd": part.map_channels or _DECODER["effnet_embd"],
        "clip_embd": part.token_width,
        "kernel_size": part.kernel,
        "dropout": list(part.dropout) if isinstance(part.dropout, tuple) else part.dropout,
    }


def read_prior(folder: Path | str, *, size: tuple[int, int] = (24, 24)) -> Imported:
    """Import a prior: its folder, or that of a pipeline that has it as `prior`.

    Args:
        folder: With `config.json` and safetensors.
        size: (H, W) of the codes, which the folder does not say; those of images of 1024 pixels.

    Raises:
        UsageError: Not such a folder, a pickle instead of safetensors, another model class, a setting that our network
            does not have, or weights of another model.
        RunError: A broken file.
    """
    place = _component(Path(folder), "prior")
    config, theirs = read_checkpoint(place)
    part, channels = prior_from_config(config, place=str(place))
    shape = (channels, *size)
    return Imported(part, _weights(part, shape, prior_names(part), theirs, place), shape, channels)


def read_decoder(folder: Path | str, *, size: tuple[int, int] = (256, 256)) -> Imported:
    """Import a decoder: its folder, or that of a pipeline that has it as `decoder`.

    Args:
        folder: With `config.json` and safetensors.
        size: (H, W) of the latents, which the folder does not say; those of images of 1024 pixels.

    Raises:
        UsageError: As for `read_prior`.
        RunError: A broken file.
    """
    place = _component(Path(folder), "decoder")
    config, theirs = read_checkpoint(place)
    part, channels = decoder_from_config(config, place=str(place))
    shape = (channels, *size)
    return Imported(part, _weights(part, shape, decoder_names(part), theirs, place), shape, channels)


def write_prior(path: Path | str, part: ConvNeXtPrior, weights: Mapping[str, Tensor], *, channels: int) -> None:
    """Export to a folder that `WuerstchenPrior.from_pretrained` loads, whole or not at all.

    Args:
        path: Folder to make; it must not exist.
        part: The network's configuration.
        weights: Its state dict.
        channels: Of its data.

    Raises:
        UsageError: The folder exists, or the network has a setting that the foreign class does not know.
        RunError: It cannot be written.
    """
    _write(Path(path), prior_to_config(part, channels), prior_names(part), weights)


def write_decoder(path: Path | str, part: DiffNeXt, weights: Mapping[str, Tensor], *, channels: int) -> None:
    """Export to a folder that `WuerstchenDiffNeXt.from_pretrained` loads; see `write_prior`."""
    _write(Path(path), decoder_to_config(part, channels), decoder_names(part), weights)


def _values(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any], place: str) -> dict[str, Any]:
    found = config.get("_class_name")
    if found != name:
        raise UsageError(f"{place} holds a {found!r}, not a {name!r}; give the folder of the other component")
    unknown = sorted(key for key in config if not key.startswith("_") and key not in defaults)
    if unknown:
        raise UsageError(
            f"{place}: {unknown[0]} = {config[unknown[0]]!r} is not a setting of {name}; only those that its class had "
            f"when this was written can be imported: {', '.join(defaults)}"
        )
    return {key: config.get(key, default) for key, default in defaults.items()}


def _exportable(part: ConvNeXtPrior | DiffNeXt) -> None:
    """Refuse what both foreign classes lack."""
    wrong = None
    if part.head != "ab":
        wrong = f"head = {part.head!r}, and theirs is always 'ab'"
    elif not part.token_width:
        wrong = "token_width = 0, and theirs always reads text"
    elif part.extra_channels:
        wrong = f"extra_channels = {part.extra_channels}, and theirs would subtract its output from them"
    elif part.time_scale != _TIME_SCALE:
        wrong = (
            f"time_scale = {part.time_scale:g}, and theirs has 10000 for times of [0, 1] ({_TIME_SCALE:g} for 1000 t)"
        )
    if wrong is not None:
        raise UsageError(f"network {part.kind!r} has {wrong}: diffusers' class cannot be it; sample it with suffuse")


def _component(folder: Path, name: str) -> Path:
    """The folder of a component, within a pipeline's or itself."""
    return folder / name if (folder / name / "config.json").is_file() else folder


def _weights(
    part: ConvNeXtPrior | DiffNeXt,
    shape: tuple[int, int, int],
    names: Names,
    theirs: Mapping[str, Tensor],
    place: Path,
) -> dict[str, Tensor]:
    with torch.device("meta"):
        wanted = part.build(shape).state_dict()
    ours, read = renamed_to_ours(names, wanted, theirs)
    if left := sorted(set(theirs) - read):
        raise UsageError(
            f"{place}: the checkpoint has {len(left)} weights without a place, first {left[0]!r}; it is not of the "
            f"model that its config.json describes"
        )
    return ours


def _write(target: Path, config: dict[str, Any], names: Names, weights: Mapping[str, Tensor]) -> None:
    if target.exists():
        raise UsageError(f"{target} exists; choose another folder or remove it first")
    write_checkpoint(target, config, renamed_to_theirs(names, weights))

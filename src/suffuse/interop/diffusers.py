"""Folders of diffusers models to networks of ours and back, bit by bit. Nothing here needs diffusers itself.

Read and written are `UNet2DModel` and `DiTTransformer2DModel`, with shared timesteps or without; of a pipeline's folder
the network is read, and the index and the scheduler's configuration are handed on as they stand.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import UsageError, unknown_name
from suffuse.base.weights import read_safetensors
from suffuse.interop.diffusers_configs import (
    dit_from_config,
    dit_to_config,
    unet_from_config,
    unet_to_config,
)
from suffuse.interop.keymaps import DIT_RULES, LEGACY_NAMES, UNET_RULES, Rule, to_ours, to_theirs
from suffuse.interop.sharing_config import CLASS_PREFIX, MODULE, Sharing, mark, unmark
from suffuse.networks import DiT, Network, NetworkPart, UNet

__all__ = ["Imported", "read_checkpoint", "read_folder", "write_checkpoint", "write_folder"]

_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_INDEX, _SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
_UNET, _DIT = "UNet2DModel", "DiTTransformer2DModel"
_UNET_TABLE = "class_embedding.weight"
_DIT_TABLE = "transformer_blocks.{layer}.norm1.emb.class_embedder.embedding_table.weight"


@dataclass(frozen=True)
class Imported:
    """A foreign model in our words.

    Attributes:
        network: The network's configuration.
        weights: Its state dict.
        shape: Shape of one sample, (C, H, W).
        out_channels: Channels of the raw output.
        labels: Class embeddings, (K + 1, cond_width), the last row for "no class"; None without classes.
        scheduler: The pipeline's scheduler configuration; None when there is none.
        pipeline: Contents of the pipeline's `model_index.json`; empty for a model alone.
        sharing: The shared timesteps that the network is told; None for the true ones.
    """

    network: NetworkPart
    weights: dict[str, Tensor]
    shape: tuple[int, int, int]
    out_channels: int
    labels: Tensor | None = None
    scheduler: dict[str, Any] | None = None  # Any: JSON
    pipeline: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    sharing: Sharing | None = None

    def build(self) -> Network:
        """The live network with the imported weights."""
        network = self.network.build(self.shape, out_channels=self.out_channels)
        network.load_state_dict(self.weights)
        return network


def read_folder(path: Path | str, *, size: tuple[int, int] | None = None) -> Imported:
    """Import a diffusers model or pipeline folder.

    Args:
        path: Folder with `config.json` and safetensors, or with `model_index.json`.
        size: (H, W) for models whose config does not say it.

    Raises:
        UsageError: Not such a folder, a pickle instead of safetensors, another model class, or a setting that our
            networks do not have, named with its value.
        RunError: A broken file.
    """
    folder = Path(path)
    scheduler = _json(folder / _SCHEDULER, optional=True)
    pipeline = _json(folder / _INDEX, optional=True) or {}
    if pipeline:
        folder = _network_folder(folder, pipeline)
    config, sharing = unmark(_json(folder / _CONFIG) or {})
    weights = _read_weights(folder)
    name = str(config.get("_class_name"))
    if sharing is None and name.startswith(CLASS_PREFIX):
        raise UsageError(f"{folder / _CONFIG}: {name} has no entry 'shared_timesteps'; the file was changed by hand")
    name = name.removeprefix(CLASS_PREFIX)
    if name == _UNET:
        part, shape, out_channels = unet_from_config(config, size=size)
        ours, labels = _split(part, shape, out_channels, weights, rules=UNET_RULES, tables=(_UNET_TABLE,))
        if labels is not None:
            labels = torch.cat([labels, labels.new_zeros(1, labels.shape[1])])
        return Imported(part, ours, shape, out_channels, labels, scheduler, pipeline, sharing)
    if name == _DIT:
        dit, shape, out_channels = dit_from_config(config)
        tables = tuple(_DIT_TABLE.format(layer=layer) for layer in range(dit.depth))
        ours, labels = _split(dit, shape, out_channels, weights, rules=DIT_RULES, tables=tables, layers=dit.depth)
        return Imported(dit, ours, shape, out_channels, labels, scheduler, pipeline, sharing)
    raise unknown_name(f"{folder / _CONFIG}: model class", name, (_UNET, _DIT))


def write_folder(
    path: Path | str,
    network: NetworkPart,
    weights: Mapping[str, Tensor],
    *,
    shape: tuple[int, int, int],
    out_channels: int | None = None,
    labels: Tensor | None = None,
    scheduler: Mapping[str, Any] | None = None,
    sharing: Sharing | None = None,
) -> tuple[str, ...]:
    """Export to a folder that diffusers loads: the model's, or with `scheduler` a pipeline's.

    The folder is written beside its place and renamed when it is whole.

    Args:
        path: Folder to make; it must not exist.
        network: A `UNet` or a `DiT`.
        weights: Its state dict.
        shape: Shape of one sample, (C, H, W).
        out_channels: Channels of the raw output; C when None.
        labels: Class embeddings, (K + 1, cond_width), as in `Imported.labels`.
        scheduler: Scheduler configuration with its `_class_name`.
        sharing: The shared timesteps that the network is told; the folder then names our class of the model.

    Returns:
        Sentences on what the foreign format could not keep; empty when nothing was lost.

    Raises:
        UsageError: The folder exists, or the network has a setting that the foreign class does not know.
        RunError: It cannot be written; nothing is left behind.
    """
    target = Path(path)
    if target.exists():
        raise UsageError(f"{target} exists; choose another folder or remove it first")
    out_channels = shape[0] if out_channels is None else out_channels
    notes: list[str] = []
    if isinstance(network, UNet):
        config = unet_to_config(network, shape, out_channels, classes=None if labels is None else len(labels) - 1)
        theirs = to_theirs(UNET_RULES, weights)
        if labels is not None:
            theirs[_UNET_TABLE] = labels[:-1].clone()
            if labels[-1].any():
                notes.append("the embedding of 'no class' is not zero; UNet2DModel has no row for it, it was dropped")
    elif isinstance(network, DiT):
        if scheduler is not None:
            raise UsageError(
                "a DiT is exported as a model, not as a pipeline (it would need a codec); leave the scheduler out"
            )
        if labels is None:
            labels = torch.zeros(2, network.width)
            notes.append("DiTTransformer2DModel always has classes; it got one, whose embedding is zero")
        config = dit_to_config(network, shape, out_channels, classes=len(labels) - 1)
        theirs = to_theirs(DIT_RULES, weights, layers=network.depth)
        theirs.update({_DIT_TABLE.format(layer=layer): labels.clone() for layer in range(network.depth)})
    else:
        raise UsageError(f"diffusers has no class for the network {network.kind!r}; a unet or a dit can be exported")
    if sharing is not None:
        stock = config["_class_name"]
        config = {**mark(config, sharing, stock=stock), "_class_name": CLASS_PREFIX + stock}
    _write(target, config, theirs, scheduler)
    return tuple(notes)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a single model's folder, as they stand.

    Raises:
        UsageError: Not such a folder, or a pickle instead of safetensors.
        RunError: A broken file.
    """
    return _json(folder / _CONFIG) or {}, _read_weights(folder)


def write_checkpoint(path: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write a single model's folder, whole or not at all.

    Raises:
        RunError: It cannot be written.
    """
    _write(path, config, weights, None)


def _split(
    part: NetworkPart,
    shape: tuple[int, int, int],
    out_channels: int,
    theirs: Mapping[str, Tensor],
    *,
    rules: tuple[Rule, ...],
    tables: tuple[str, ...],
    layers: int = 0,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """A checkpoint as (the network's weights, the table of labels, of which `tables` names the copies)."""
    with torch.device("meta"):
        wanted = part.build(shape, out_channels=out_channels).state_dict()
    ours, read = to_ours(rules, wanted, theirs, layers=layers)
    labels = theirs.get(tables[0])
    for name in () if labels is None else tables:
        if name not in theirs or not torch.equal(theirs[name], theirs[tables[0]]):
            raise UsageError(
                f"{name} is missing or differs from {tables[0]}; blocks with labels of their own cannot be imported"
            )
    left = sorted(set(theirs) - read - set(tables))
    if left:
        raise UsageError(
            f"the checkpoint has {len(left)} weights without a place, first {left[0]!r}; it is not of the model that "
            f"its config.json describes"
        )
    return ours, labels


def _network_folder(folder: Path, pipeline: Mapping[str, Any]) -> Path:  # Any: JSON
    """The part of a pipeline that holds the network."""
    for name in ("unet", "transformer"):
        if name in pipeline:
            return folder / name
    raise UsageError(f"{folder / _INDEX} names neither a unet nor a transformer; give the network's folder")


def _json(path: Path, *, optional: bool = False) -> dict[str, Any] | None:
    if path.is_file():
        return files.read_json(path)
    if optional:
        return None
    raise UsageError(f"{path} does not exist; give the folder of a diffusers model or pipeline")


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.is_file():
        pickles = sorted(item.name for item in folder.glob("*.bin"))
        if pickles:
            raise UsageError(
                f"{folder / pickles[0]} is a pickle, which can run code and is never read; save the model again with "
                f"save_pretrained(..., safe_serialization=True)"
            )
        raise UsageError(f"{path} does not exist; only models in one safetensors file can be imported")
    renamed = {}
    for name, tensor in read_safetensors(path).items():
        for old, new in LEGACY_NAMES.items():
            name = name.replace(old, new) if ".attentions." in name else name
        renamed[name] = tensor
    return renamed


def _write(
    target: Path, config: dict[str, Any], weights: dict[str, Tensor], scheduler: Mapping[str, Any] | None
) -> None:
    """Write a model's or a pipeline's folder beside its place and rename it."""
    # Neither by `save_safetensors`, whose notes on ties and layouts diffusers cannot read, nor by `files.staged`, whose
    # manifest would be a strange file there.
    data = safetensors.torch.save(weights, metadata={"format": "pt"})
    staging = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    folder = staging if scheduler is None else staging / "unet"
    try:
        files.make_folder(folder)
        files.write_bytes(folder / _WEIGHTS, data)
        files.write_json(folder / _CONFIG, config)
        if scheduler is not None:
            index = {
                "_class_name": "DDPMPipeline",
                "scheduler": ["diffusers", scheduler["_class_name"]],
                "unet": ["diffusers" if config["_class_name"] == _UNET else MODULE, config["_class_name"]],
            }
            files.make_folder((staging / _SCHEDULER).parent)
            files.write_json(staging / _SCHEDULER, dict(scheduler))
            files.write_json(staging / _INDEX, index)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)

"""Which weight of diffusers' Wuerstchen networks is which of ours: tables of names, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from suffuse.interop.keymaps import Rule, to_ours, to_theirs
from suffuse.networks import ConvNeXtPrior, DiffNeXt

__all__ = ["Names", "decoder_names", "prior_names", "renamed_to_ours", "renamed_to_theirs"]

# Name of one of our weights, without what follows the last dot -> their names, whose tensors stacked are ours.
Names = Mapping[str, tuple[str, ...]]

_LAYER: dict[str, Names] = {
    "C": {
        "depthwise": ("depthwise",),
        "inner": ("channelwise.0",),
        "norm": ("channelwise.2",),
        "outer": ("channelwise.4",),
    },
    "T": {"linear": ("mapper",)},
    "A": {
        "text": ("kv_mapper.1",),
        "attend.query": ("attention.to_q",),
        "attend.keys_values": ("attention.to_k", "attention.to_v"),
        "attend.out": ("attention.to_out.0",),
    },
}


def _stage(layout: str, ours: str, theirs: str, first: int) -> dict[str, tuple[str, ...]]:
    """Names of a stage's layers; theirs are counted from `first`."""
    return {
        f"{ours}.layers.{place}.{mine}": tuple(f"{theirs}.{first + place}.{name}" for name in names)
        for place, letter in enumerate(layout)
        for mine, names in _LAYER[letter].items()
    }


def prior_names(part: ConvNeXtPrior) -> Names:
    """Names of a `WuerstchenPrior`, whose list of blocks has all layers of all stages."""
    names: dict[str, tuple[str, ...]] = {
        "stem": ("projection",),
        "text.0": ("cond_mapper.0",),
        "text.2": ("cond_mapper.2",),
        "output.conv": ("out.1",),
    }
    for stage in range(part.depth):
        names |= _stage("CTA", f"blocks.{stage}", "blocks", 3 * stage)
    return names


def decoder_names(part: DiffNeXt) -> Names:
    """Names of a `WuerstchenDiffNeXt`.

    Its lists have all layers of all stages of a level; the convolution that halves the sides stands before those of the
    coarser level, the one that doubles them behind those of the coarser level.
    """
    levels = len(part.widths)
    names: dict[str, tuple[str, ...]] = {
        "stem.conv": ("embedding.1",),
        "text.0": ("clip_mapper",),
        "output.conv": ("clf.1",),
    }
    for level, (layout, blocks) in enumerate(zip(part.layout, part.blocks, strict=True)):
        place, down, up = levels - 1 - level, f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"
        names[f"maps.convs.down_{level}"] = (f"effnet_mappers.{level}",)
        names[f"maps.convs.up_{place}"] = (f"effnet_mappers.{levels + place}",)
        if level > 0:
            names[f"down.{level - 1}.sample.conv"] = (f"{down}.0.1",)
            names[f"up.{place}.sample.conv"] = (f"{up}.{blocks * len(layout)}.1",)
        for j in range(blocks):
            first = j * len(layout)
            names |= _stage(layout, f"down.{level}.{j}", down, first + int(level > 0))
            names |= _stage(layout, f"up.{place}.{j}", up, first)
    return names


def _stems(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each module."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found.setdefault(name.rsplit(".", 1)[0], {})[name] = tensor
    return found


def _rules(names: Names, stem: str) -> tuple[Rule, ...]:
    return (Rule(re.escape(stem), names[stem]),) if stem in names else ()


def renamed_to_ours(
    names: Names, wanted: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str]]:
    """Our weights and the names of theirs that were read, as `to_ours` gives them.

    Raises:
        UsageError: A weight is missing or has another shape.
    """
    ours: dict[str, Tensor] = {}
    read: set[str] = set()
    for stem, like in _stems(wanted).items():
        found, those = to_ours(_rules(names, stem), like, theirs)
        ours |= found
        read |= those
    return ours, read


def renamed_to_theirs(names: Names, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights; the inverse of `renamed_to_ours`."""
    theirs: dict[str, Tensor] = {}
    for stem, tensors in _stems(ours).items():
        theirs |= to_theirs(_rules(names, stem), tensors)
    return theirs

"""Which weight of a diffusers checkpoint is which of ours: rules as data, read in both directions.

A rule turns one of our names into one or several of theirs. Several names mean that their tensors stacked along the
first axis are ours (queries, keys, values), or, for `shared` rules, that each of theirs is a copy of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.base.errors import UsageError

__all__ = [
    "AUTOENCODER_RULES",
    "DIT_RULES",
    "LEGACY_NAMES",
    "UNET_RULES",
    "VQ_RULES",
    "Rule",
    "convnext_rules",
    "tiny_rules",
    "to_ours",
    "to_theirs",
]


@dataclass(frozen=True)
class Rule:
    """Our names that match `ours` are theirs named by the templates in `theirs`.

    Attributes:
        ours: Regular expression for a whole name without the final ".weight" or ".bias".
        theirs: Templates with the expression's groups.
        shared: `theirs` are copies, one for every layer, which stands as {layer} in the template.
    """

    ours: str
    theirs: tuple[str, ...]
    shared: bool = False


def _block(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Rules of a residual block."""
    parts = {"norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
    parts["skip"] = "conv_shortcut"
    return tuple(Rule(rf"{ours}\.{mine}", (f"{theirs}.{name}",)) for mine, name in parts.items())


def _attention(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Rules of attention among pixels."""
    return (
        Rule(rf"{ours}\.norm", (f"{theirs}.group_norm",)),
        Rule(rf"{ours}\.attend\.qkv", tuple(f"{theirs}.to_{name}" for name in "qkv")),
        Rule(rf"{ours}\.attend\.out", (f"{theirs}.to_out.0",)),
    )


def _way(way: str) -> tuple[Rule, ...]:
    """Rules of the way down or up."""
    level, sampler = rf"{way}\.(\d+)", rf"{way}_blocks.\1.{way}samplers.0"
    return (
        *_block(rf"{level}\.(\d+)\.resnet", rf"{way}_blocks.\1.resnets.\2"),
        *_attention(rf"{level}\.(\d+)\.attention", rf"{way}_blocks.\1.attentions.\2"),
        Rule(rf"{level}\.sample\.conv", (rf"{sampler}.conv",)),
        *_block(rf"{level}\.sample", sampler),
    )


UNET_RULES = (
    Rule(r"stem", ("conv_in",)),
    Rule(r"time\.inner", ("time_embedding.linear_1",)),
    Rule(r"time\.outer", ("time_embedding.linear_2",)),
    *_way("down"),
    *_block(r"mid\.resnet_in", "mid_block.resnets.0"),
    *_attention(r"mid\.attention", "mid_block.attentions.0"),
    *_block(r"mid\.resnet_out", "mid_block.resnets.1"),
    *_way("up"),
    Rule(r"output\.norm", ("conv_norm_out",)),
    Rule(r"output\.conv", ("conv_out",)),
)

_LAYER = r"blocks\.(\d+)"
DIT_RULES = (
    Rule(r"embed\.proj", ("pos_embed.proj",)),
    # diffusers keeps a copy of the time embedder in every block.
    Rule(r"time\.inner", ("transformer_blocks.{layer}.norm1.emb.timestep_embedder.linear_1",), shared=True),
    Rule(r"time\.outer", ("transformer_blocks.{layer}.norm1.emb.timestep_embedder.linear_2",), shared=True),
    Rule(rf"{_LAYER}\.modulation", (r"transformer_blocks.\1.norm1.linear",)),
    Rule(rf"{_LAYER}\.attend\.qkv", tuple(rf"transformer_blocks.\1.attn1.to_{name}" for name in "qkv")),
    Rule(rf"{_LAYER}\.attend\.out", (r"transformer_blocks.\1.attn1.to_out.0",)),
    Rule(rf"{_LAYER}\.mlp\.inner", (r"transformer_blocks.\1.ff.net.0.proj",)),
    Rule(rf"{_LAYER}\.mlp\.outer", (r"transformer_blocks.\1.ff.net.2",)),
    Rule(r"output\.modulation", ("proj_out_1",)),
    Rule(r"output\.linear", ("proj_out_2",)),
)

_SIDE = r"(encoder|decoder)"
AUTOENCODER_RULES = (
    Rule(rf"{_SIDE}\.stem", (r"\1.conv_in",)),
    *_block(rf"{_SIDE}\.mid_in", r"\1.mid_block.resnets.0"),
    *_attention(rf"{_SIDE}\.mid_attention", r"\1.mid_block.attentions.0"),
    *_block(rf"{_SIDE}\.mid_out", r"\1.mid_block.resnets.1"),
    *_block(rf"{_SIDE}\.(down|up)_(\d+)_(\d+)", r"\1.\2_blocks.\3.resnets.\4"),
    Rule(rf"{_SIDE}\.(down|up)_(\d+)_sample\.conv", (r"\1.\2_blocks.\3.\2samplers.0.conv",)),
    Rule(rf"{_SIDE}\.head\.norm", (r"\1.conv_norm_out",)),
    Rule(rf"{_SIDE}\.head\.conv", (r"\1.conv_out",)),
    Rule(r"to_moments", ("quant_conv",)),
    Rule(r"from_latent", ("post_quant_conv",)),
)

VQ_RULES = (
    *AUTOENCODER_RULES,
    Rule(r"to_latent", ("quant_conv",)),
    Rule(r"codebook", ("quantize.embedding",)),
)


def _gated(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Rules of a gated block, whose gates have no module of their own."""
    parts = {"depthwise": "depthwise.1", "inner": "channelwise.0", "outer": "channelwise.2"}
    return (*(Rule(rf"{ours}\.{mine}", (f"{theirs}.{name}",)) for mine, name in parts.items()), Rule(ours, (theirs,)))


def convnext_rules(levels: int, blocks: int) -> tuple[Rule, ...]:
    """Rules of Wuerstchen's stage A, whose layers have numbers for names.

    Args:
        levels: Levels.
        blocks: Of the coarsest one on the way up.
    """
    rules = [Rule(r"encoder\.stem", ("in_block.1",)), Rule(r"codebook", ("vquantizer.embedding",))]
    for level in range(levels):
        rules += [Rule(rf"encoder\.down_{level}", (f"down_blocks.{2 * level - 1}",))]
        rules += _gated(rf"encoder\.block_{level}", f"down_blocks.{2 * level}")
    last = 2 * levels - 1
    rules += [Rule(r"encoder\.head", (f"down_blocks.{last}.0",)), Rule(r"encoder\.norm", (f"down_blocks.{last}.1",))]
    rules += [Rule(r"decoder\.stem", ("up_blocks.0.0",)), Rule(r"decoder\.head", ("out_block.0",))]
    rules += [rule for j in range(blocks) for rule in _gated(rf"decoder\.block_0_{j}", f"up_blocks.{1 + j}")]
    for place in range(1, levels):
        number = blocks + 2 * place
        rules += [Rule(rf"decoder\.up_{place}", (f"up_blocks.{number - 1}",))]
        rules += _gated(rf"decoder\.block_{place}_0", f"up_blocks.{number}")
    return tuple(rules)


def tiny_rules(blocks: tuple[int, ...], decoder_blocks: tuple[int, ...]) -> tuple[Rule, ...]:
    """Rules of the tiny autoencoder, whose layers have numbers for names.

    Args:
        blocks: Of each level on the way down.
        decoder_blocks: Of each level on the way up.
    """
    rules: list[Rule] = []
    for side, change, counts, shift in (("encoder", "down", blocks, 1), ("decoder", "up", decoder_blocks, 2)):
        # In front of a level's blocks: its convolution, which on the way up follows the doubling that has no weights.
        number, skipped = shift - 1, shift - 1
        rules.append(Rule(rf"{side}\.stem", (f"{side}.layers.0",)))
        for level, count in enumerate(counts):
            if level:
                number += 1 + skipped
                rules.append(Rule(rf"{side}\.{change}_{level}", (f"{side}.layers.{number}",)))
            for j in range(count):
                number += 1
                for place in range(3):
                    theirs = f"{side}.layers.{number}.conv.{2 * place}"
                    rules.append(Rule(rf"{side}\.block_{level}_{j}\.conv{place + 1}", (theirs,)))
        rules.append(Rule(rf"{side}\.head", (f"{side}.layers.{number + 1}",)))
    return tuple(rules)


# Attention was named like this before diffusers 0.15; public DDPM checkpoints still are.
LEGACY_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def _names(rules: tuple[Rule, ...], name: str, layers: int) -> tuple[Rule, tuple[str, ...]]:
    """The rule for one of our names, and their names for it."""
    stem, leaf = name.rsplit(".", 1)
    for rule in rules:
        match = re.fullmatch(rule.ours, stem)
        if match:
            names = tuple(f"{match.expand(template)}.{leaf}" for template in rule.theirs)
            if rule.shared:
                names = tuple(template.format(layer=layer) for template in names for layer in range(layers))
            return rule, names
    raise UsageError(f"weight {name!r} has no place in a diffusers checkpoint; it cannot be exported")


def to_ours(
    rules: tuple[Rule, ...], wanted: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, layers: int = 0
) -> tuple[dict[str, Tensor], set[str]]:
    """Read our weights out of theirs.

    Args:
        rules: One of the tables above.
        wanted: Our names with tensors of the right shape (their values are not read).
        theirs: The checkpoint.
        layers: Number of transformer blocks.

    Returns:
        Our weights, and the names of theirs that were read.

    Raises:
        UsageError: A weight is missing, has another shape, or copies of one weight differ.
    """
    ours: dict[str, Tensor] = {}
    read: set[str] = set()
    for name, like in wanted.items():
        rule, names = _names(rules, name, layers)
        pieces = [_find(theirs, item) for item in names]
        if rule.shared:
            for item, piece in zip(names, pieces, strict=True):
                if not torch.equal(piece, pieces[0]):
                    raise UsageError(
                        f"{item} differs from {names[0]}: the blocks' embedders were trained apart, which one shared "
                        f"embedder cannot express; this checkpoint cannot be imported"
                    )
            pieces = pieces[:1]
        tensor = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        if tensor.shape != like.shape:
            raise UsageError(
                f"{names[0]} gives {name} the shape {tuple(tensor.shape)}, config.json asks for {tuple(like.shape)}; "
                f"weights and config are not of one model"
            )
        ours[name] = tensor.clone()
        read.update(names)
    return ours, read


def to_theirs(rules: tuple[Rule, ...], ours: Mapping[str, Tensor], *, layers: int = 0) -> dict[str, Tensor]:
    """Write our weights under their names, split or copied as the rules say; the inverse of `to_ours`."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        rule, names = _names(rules, name, layers)
        whole = rule.shared or len(names) == 1  # a count is a scalar, which has no pieces
        pieces: Iterable[Tensor] = [tensor] * len(names) if whole else tensor.chunk(len(names))
        # Cloned: a file of safetensors refuses tensors that share memory.
        theirs.update({item: piece.detach().clone().contiguous() for item, piece in zip(names, pieces, strict=True)})
    return theirs


def _find(theirs: Mapping[str, Tensor], name: str) -> Tensor:
    if name in theirs:
        return theirs[name]
    raise UsageError(f"the checkpoint has no weight {name!r}, which its config.json asks for; the file is incomplete")

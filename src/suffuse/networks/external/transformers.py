"""The blocks of diffusers' transformers, and how some of their tokens run alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.networks.contract import Tokens
from suffuse.networks.external.block_map import Asked, BlockMap, ghost, tapped
from suffuse.networks.external.patching import Forward

__all__ = ["transformer_map"]


def transformer_map(model: Any) -> BlockMap:  # Any: a class of an optional package
    """The blocks of a `DiTTransformer2DModel`, `PixArtTransformer2DModel` or `SD3Transformer2DModel`.

    Each block's residual is what it adds to its tokens. The tokens of a block of SD3 are those of the image and then
    those of the text, which its last block drops.
    """
    graph: dict[str, tuple[str, ...]] = {"pos_embed": ()}
    for i in range(len(model.transformer_blocks)):
        before = next(reversed(graph))
        graph[f"transformer_blocks.{i}.residual"] = (before,)
        graph[f"transformer_blocks.{i}"] = (before, f"transformer_blocks.{i}.residual")
    graph["output"] = (next(reversed(graph)),)
    widths = {name: model.out_channels if name == "output" else model.inner_dim for name in graph}

    def forwards(asked: Asked) -> dict[nn.Module, Forward]:
        found = {model.pos_embed: _patches(model, asked)}
        for i, block in enumerate(model.transformer_blocks):
            make = _joint_block if hasattr(block, "context_pre_only") else _block
            found[block] = make(block, f"transformer_blocks.{i}", asked)
        return found

    def some(tokens: Tokens) -> dict[nn.Module, Forward]:
        return _some_tokens(model, tokens)

    return BlockMap(graph, widths, forwards, some, model.config.patch_size)


def _patches(model: Any, asked: Asked) -> Forward:
    module = model.pos_embed
    if "pos_embed" in asked.needed:
        return tapped(module, "pos_embed", asked)

    def skipped(x: Tensor) -> Tensor:
        value = asked.given.get("pos_embed")
        # Of the right width: PixArt gives it to its captions.
        return ghost(x, x.shape[0], 1, model.inner_dim) if value is None else value

    return skipped


def _block(module: nn.Module, name: str, asked: Asked) -> Forward:
    """A block of one stream."""
    forward, residual_name = module.forward, f"{name}.residual"

    def patched(hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
        residual = asked.given.get(residual_name)
        if name not in asked.needed and residual_name not in asked.needed:
            # Given, or read by nobody: the tokens pass through unread.
            return asked.given.get(name, hidden_states)
        value: Tensor = forward(hidden_states, *args, **options) if residual is None else hidden_states + residual
        if residual_name in asked.taps:
            asked.keep(residual_name, value - hidden_states)
        value = asked.given.get(name, value)
        asked.keep(name, value)
        return value

    return patched


def _joint_block(module: Any, name: str, asked: Asked) -> Forward:
    """A block of two streams, image and text, whose value is one sequence of both."""
    forward, residual_name = module.forward, f"{name}.residual"

    def joined(image: Tensor, text: Tensor | None) -> Tensor:
        return image if text is None else torch.cat([image, text], dim=1)

    def parted(both: Tensor, text: Tensor) -> tuple[Tensor | None, Tensor]:
        """In the order of the block's answer: text, image."""
        if module.context_pre_only:
            return None, both
        return both[:, -text.shape[1] :], both[:, : -text.shape[1]]

    def patched(hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        before = (hidden_states, None if module.context_pre_only else encoder_hidden_states)
        residual = asked.given.get(residual_name)
        if name not in asked.needed and residual_name not in asked.needed:
            given = asked.given.get(name)
            return (before[1], before[0]) if given is None else parted(given, encoder_hidden_states)
        if residual is None:
            text, image = forward(hidden_states, encoder_hidden_states, *args, **options)
            if name not in asked.taps and residual_name not in asked.taps and name not in asked.given:
                return text, image
            value = joined(image, text)
        else:
            value = joined(*before) + residual
        if residual_name in asked.taps:
            asked.keep(residual_name, value - joined(*before))
        value = asked.given.get(name, value)
        asked.keep(name, value)
        return parted(value, encoder_hidden_states)

    return patched


def _some_tokens(model: Any, tokens: Tokens) -> dict[nn.Module, Forward]:
    """Forwards by which only some tokens of the image run: queries of these, keys and values and output of all."""
    embed = model.pos_embed.forward

    def picked(*args: Any, **options: Any) -> Tensor:
        return tokens.picked(embed(*args, **options))

    def recovered(module: nn.Module, name: str) -> Forward:
        forward = module.forward

        def all_rows(rows: Tensor, *args: Any, **options: Any) -> Tensor:
            return tokens.memory.recovered(name, forward(rows, *args, **options), tokens.index)

        return all_rows

    head = model.proj_out_2 if hasattr(model, "proj_out_2") else model.proj_out
    found: dict[nn.Module, Forward] = {model.pos_embed: picked, head: recovered(head, "output")}
    for i, block in enumerate(model.transformer_blocks):
        for attention in _self_attentions(block):
            if getattr(attention, "fused_projections", False):
                raise UsageError(
                    f"{type(model).__name__} has fused projections, in which keys cannot be told from queries; call "
                    "unfuse_qkv_projections() first"
                )
            for name in ("to_k", "to_v"):
                module = getattr(attention, name)
                found[module] = recovered(module, f"{i}.{len(found)}.{name}")
    return found


def _self_attentions(block: Any) -> list[Any]:  # Any: a class of an optional package
    """Attention layers among the tokens of the image."""
    if hasattr(block, "attn1"):
        return [block.attn1]
    return [block.attn] if block.attn2 is None else [block.attn, block.attn2]

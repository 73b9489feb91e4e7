"""Networks of diffusers under the network contract: named blocks, taps and given, without changing the model.

A call with taps or given replaces the forward of the blocks concerned until it returns. A block that need not run
yields a *ghost*: a tensor without storage that carries only the sides of the image, which no block that runs reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError, unknown_name
from suffuse.networks.contract import Network, Output, Tokens, needed_blocks
from suffuse.networks.external.block_map import Asked, BlockMap, Enough
from suffuse.networks.external.patching import replaced_forwards
from suffuse.networks.external.transformers import transformer_map
from suffuse.networks.external.unets import unet_map

__all__ = ["DiffusersNetwork"]

Arguments = dict[str, Any]  # Any: keyword arguments of foreign forwards


class DiffusersNetwork(Network):
    """A diffusers network that keeps our contract.

    Supported: `UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel`, `PixArtTransformer2DModel` and
    `SD3Transformer2DModel`, and subclasses of these.

    Conditions: `cond.tokens` goes to cross-attention. Networks that embed labels themselves (`label_count` is not None)
    take raw label numbers as `cond.vector`, (B, 1) of an integer type, which the conditioner `label_number` gives. A
    DiT's null label is `label_count`; the U-Nets have none. SD3 takes its pooled text as `cond.vector`. PixArt is
    not told resolutions and aspect ratios: build it with use_additional_conditions=False.

    The model stays in evaluation mode whatever `train` is told: its own dropout would draw from the global generator.
    Gradients flow as usual.

    Blocks of a U-Net: "conv_in", "down_blocks.0.0", ..., "down_blocks.0.sample", ..., "mid_block", "up_blocks.0.0",
    ..., "output" (up blocks from the coarsest level). Blocks of a transformer: "pos_embed",
    "transformer_blocks.0.residual", "transformer_blocks.0", ..., "output"; in SD3 their values are the tokens of the
    image followed by those of the text.

    Args:
        model: The diffusers model.

    Raises:
        UsageError: Another class of model, or one with caching of its own switched on.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        name = type(model).__name__
        # A subclass keeps its parent's blocks and call, as the networks of `interop.shared_timesteps` do.
        known = next((kind.__name__ for kind in type(model).__mro__ if kind.__name__ in _ADAPTERS), None)
        if known is None:
            raise unknown_name("diffusers network", name, _ADAPTERS)
        if getattr(model, "is_cache_enabled", False):  # only some classes have the attribute
            raise UsageError(f"{name} has a cache of diffusers switched on; call disable_cache() first")
        self.model = model.eval()
        self._arguments, make_map = _ADAPTERS[known]
        self._map = make_map(model)
        self.graph, self.widths, self.token_patch = self._map.graph, self._map.widths, self._map.token_patch
        config: Mapping[str, Any] = model.config  # type: ignore[assignment]  # a frozen dict
        # PixArt has the second key too, which means nothing there.
        self.label_count = config.get("num_class_embeds") or (
            config.get("num_embeds_ada_norm") if known == "DiTTransformer2DModel" else None
        )
        pooled = config.get("pooled_projection_dim")
        self.cond_width = int(pooled) if pooled else 1
        self._dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())

    def train(self, mode: bool = True) -> DiffusersNetwork:
        """Set the wrapper's mode; the model itself stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
        tokens: Tokens | None = None,
    ) -> Output:
        """Evaluate the model; see `Network.forward`.

        Raises:
            UsageError: Unknown names; labels that are missing or no integers; seeds for a model with dropout.
        """
        if seeds is not None and self._dropout:
            raise UsageError(
                f"{type(self.model).__name__} has dropout, which cannot be keyed by seeds; build it with dropout=0 or "
                f"convert it to a network of suffuse"
            )

        def whole() -> Tensor:
            value: Tensor = self.model(**self._arguments(self, x, told, cond), return_dict=False)[0]
            return value

        return self.partially(whole, taps=taps, given=given, tokens=tokens)

    def partially(
        self,
        whole: Callable[[], Tensor],
        *,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
        tokens: Tokens | None = None,
    ) -> Output:
        """Evaluate the model by a call of the caller's own, of which only what is asked for is carried out.

        Args:
            whole: Calls the model with whatever arguments and returns its output.
            taps, given, tokens: As for `Network.forward`.

        Raises:
            UsageError: Unknown names; tokens for a model that cannot run some alone.
        """
        given = given or {}
        self.check_names((*taps, *given))
        if tokens is not None and self._map.tokens is None:
            raise UsageError(f"{type(self.model).__name__} is no transformer whose tokens could run alone")
        needed = frozenset(needed_blocks(self.graph, given, ("output", *taps)))
        if not needed:
            return Output(given["output"], {tap: given[tap] for tap in taps})
        asked = Asked(given, frozenset(taps), needed)
        value = given.get("output")
        # In this order: the forwards of some tokens are made around those of taps and given, once these are in place.
        with (
            replaced_forwards(self._map.forwards(asked) if taps or given else {}),
            replaced_forwards(self._map.tokens(tokens) if tokens is not None and self._map.tokens else {}),
        ):
            try:
                computed = whole()
            except Enough:
                assert value is not None, "a forward is ended early only where its output is given"
            else:
                value = computed if value is None else value
        known = {"output": value, **given, **asked.tapped}
        return Output(value, {tap: known[tap] for tap in taps})

    def labels(self, cond: Embedding | None) -> Tensor | None:
        """Raw labels from the condition, (B,) int64; None for a model without classes."""
        if self.label_count is None:
            return None
        vector = None if cond is None else cond.vector
        if vector is None or vector.is_floating_point() or vector.shape[1:] != (1,):
            got = "nothing" if vector is None else f"{vector.dtype} of shape {tuple(vector.shape)}"
            raise UsageError(
                f"{type(self.model).__name__} embeds labels itself: cond.vector must hold label numbers, (B, 1) of an "
                f"integer type, not {got}"
            )
        return vector[:, 0].to(torch.int64)


def _tokens(network: DiffusersNetwork, cond: Embedding | None) -> Tensor:
    if cond is None or cond.tokens is None:
        raise UsageError(f"{type(network.model).__name__} has cross-attention and needs cond.tokens, (B, N, D)")
    return cond.tokens


def _unet_arguments(network: DiffusersNetwork, x: Tensor, told: Tensor, cond: Embedding | None) -> Arguments:
    return {"sample": x, "timestep": told, "class_labels": network.labels(cond)}


def _conditional_arguments(network: DiffusersNetwork, x: Tensor, told: Tensor, cond: Embedding | None) -> Arguments:
    tokens = _tokens(network, cond)
    mask = None if cond is None else cond.tokens_mask
    arguments = _unet_arguments(network, x, told, cond)
    return {**arguments, "encoder_hidden_states": tokens, "encoder_attention_mask": mask}


def _dit_arguments(network: DiffusersNetwork, x: Tensor, told: Tensor, cond: Embedding | None) -> Arguments:
    return {"hidden_states": x, "timestep": told, "class_labels": network.labels(cond)}


def _sd3_arguments(network: DiffusersNetwork, x: Tensor, told: Tensor, cond: Embedding | None) -> Arguments:
    pooled = None if cond is None else cond.vector
    return {
        "hidden_states": x,
        "timestep": told,
        "encoder_hidden_states": _tokens(network, cond),
        "pooled_projections": pooled,
    }


def _pixart_arguments(network: DiffusersNetwork, x: Tensor, told: Tensor, cond: Embedding | None) -> Arguments:
    return {
        "hidden_states": x,
        "timestep": told,
        "encoder_hidden_states": _tokens(network, cond),
        "encoder_attention_mask": None if cond is None else cond.tokens_mask,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


_ADAPTERS: dict[str, tuple[Callable[..., Arguments], Callable[[Any], BlockMap]]] = {
    "UNet2DModel": (_unet_arguments, unet_map),
    "UNet2DConditionModel": (_conditional_arguments, unet_map),
    "DiTTransformer2DModel": (_dit_arguments, transformer_map),
    "PixArtTransformer2DModel": (_pixart_arguments, transformer_map),
    "SD3Transformer2DModel": (_sd3_arguments, transformer_map),
}

"""The blocks of diffusers' U-Nets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from suffuse.base.errors import unknown_name
from suffuse.networks.external.block_map import Asked, BlockMap, ghost, tapped
from suffuse.networks.external.patching import Forward

__all__ = ["unet_map"]

# Levels that are called with (x, temb) or (x, skips, temb) and return (x, skips) or x.
_KNOWN_STAGES = (
    "DownBlock2D",
    "AttnDownBlock2D",
    "CrossAttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "SimpleCrossAttnDownBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "CrossAttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "SimpleCrossAttnUpBlock2D",
)


@dataclass(frozen=True)
class _Block:
    """One named block of a U-Net: the modules that run in turn, the last of which yields its value."""

    name: str
    members: tuple[nn.Module, ...]
    scale: tuple[int, int] = (1, 1)  # sides of the image after it: multiplied, then divided
    padded: bool = False  # whether the division rounds up

    def ghost(self, x: Tensor) -> Tensor:
        """A tensor without storage that has the sides which the block would give to x."""
        times, over = self.scale
        sides = [(side * times + (over - 1 if self.padded else 0)) // over for side in x.shape[2:]]
        return _image_ghost(x, *sides)


def _image_ghost(x: Tensor, height: int, width: int) -> Tensor:
    return ghost(x, x.shape[0], 1, height, width)


def _answer(value: Tensor, options: Mapping[str, Any]) -> Any:
    """A value in the form that the caller of the module expects: transformers are called for a tuple."""
    return (value,) if options.get("return_dict") is False else value


def unet_map(model: Any) -> BlockMap:  # Any: a class of an optional package
    """The blocks of a `UNet2DModel` or a `UNet2DConditionModel`."""
    config = model.config
    stages = _stages(model)
    graph: dict[str, tuple[str, ...]] = {"conv_in": ()}
    skips = ["conv_in"]
    before = "conv_in"
    for stage, blocks in stages.items():
        for block in blocks:
            up = stage.startswith("up_blocks") and not block.name.endswith("sample")
            graph[block.name] = (before, skips.pop()) if up else (before,)
            before = block.name
            if stage.startswith("down_blocks"):
                skips.append(before)
    graph["output"] = (before,)

    stem = _Block("conv_in", (model.conv_in,))

    def forwards(asked: Asked) -> dict[nn.Module, Forward]:
        found = _members(stem, asked)
        for stage, blocks in stages.items():
            if stage != "mid_block" and not any(block.name in asked.needed for block in blocks):
                whole = _skip_down if stage.startswith("down_blocks") else _skip_up
                found[model.get_submodule(stage)] = whole(blocks, asked)
            else:
                for block in blocks:
                    found.update(_members(block, asked))
        return found

    widths = {block.name: _width(block) for blocks in stages.values() for block in blocks}
    return BlockMap(
        graph, {"conv_in": model.conv_in.out_channels, **widths, "output": config["out_channels"]}, forwards
    )


def _width(block: _Block) -> int:
    """Channels of a block's value; blocks end in modules of several classes, their first one always knows."""
    first: Any = block.members[0]  # Any: a class of an optional package
    return int(first.resnets[0].out_channels if hasattr(first, "resnets") else first.out_channels)


def _stages(model: Any) -> dict[str, list[_Block]]:  # Any: a class of an optional package
    """Path of a parent module -> its blocks in order of execution."""
    stages: dict[str, list[_Block]] = {}
    for way in ("down_blocks", "mid_block", "up_blocks"):
        if way == "mid_block":
            if model.mid_block is not None:  # small Stable Diffusions have none
                stages[way] = [_Block(way, (model.mid_block,))]
            continue
        for i, parent in enumerate(getattr(model, way)):
            if type(parent).__name__ not in _KNOWN_STAGES:
                raise unknown_name(f"{way}.{i}: block type", type(parent).__name__, _KNOWN_STAGES)
            attentions = getattr(parent, "attentions", [None] * len(parent.resnets))  # only some classes attend
            blocks = [
                _Block(f"{way}.{i}.{j}", tuple(module for module in pair if module is not None))
                for j, pair in enumerate(zip(parent.resnets, attentions, strict=True))
            ]
            if way == "down_blocks":
                samplers, scale = parent.downsamplers, (1, 2)
            else:
                samplers, scale = parent.upsamplers, (2, 1)
            if samplers is not None:
                padded = getattr(samplers[0], "padding", 0) == 1  # residual blocks average, and have no padding
                blocks.append(_Block(f"{way}.{i}.sample", (samplers[0],), scale, padded))
            stages[f"{way}.{i}"] = blocks
    return stages


def _given(name: str, asked: Asked) -> Tensor | None:
    """A given value, copied: FreeU and adapters change features in place, which would add up from call to call."""
    value = asked.given.get(name)
    return None if value is None else value.clone()


def _members(block: _Block, asked: Asked) -> dict[nn.Module, Forward]:
    """Replaced forwards of a block's modules: nothing for one that simply runs."""
    *early, last = block.members
    if block.name in asked.needed:
        return {last: tapped(last, block.name, asked, copied=True)} if block.name in asked.taps else {}

    def early_ghost(x: Tensor, *args: Any, **options: Any) -> Any:
        return _answer(_image_ghost(x, *x.shape[2:]), options)

    def skipped(x: Tensor | None = None, *args: Any, **options: Any) -> Any:
        x = options["hidden_states"] if x is None else x
        value = _given(block.name, asked)
        return _answer(block.ghost(x) if value is None else value, options)

    return {**dict.fromkeys(early, early_ghost), last: skipped}


def _skip_down(blocks: list[_Block], asked: Asked) -> Forward:
    """A whole level of the way down that does not run: (its value, the skips)."""

    def skipped(hidden_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        states = [hidden_states]
        for block in blocks:
            value = _given(block.name, asked)
            states.append(block.ghost(states[-1]) if value is None else value)
        return states[-1], tuple(states[1:])

    return skipped


def _skip_up(blocks: list[_Block], asked: Asked) -> Forward:
    """A whole level of the way up that does not run: its value."""
    last = blocks[-1]

    def skipped(hidden_states: Tensor, *args: Any, upsample_size: Any = None, **options: Any) -> Tensor:
        value = _given(last.name, asked)
        if value is not None:
            return value
        # Odd sides: the model says which size the skips of the next level have.
        return last.ghost(hidden_states) if upsample_size is None else _image_ghost(hidden_states, *upsample_size)

    return skipped

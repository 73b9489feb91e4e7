"""What a network checks of the condition that it is handed: nothing is missing, nothing passes unseen."""

from __future__ import annotations

from torch import Tensor

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError

__all__ = ["check_condition"]


def check_condition(
    cond: Embedding | None, *, token_width: int, map_channels: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Tokens (B, M, token_width), their mask (B, M) and map (B, map_channels, h, w); None for what is not taken.

    Raises:
        UsageError: Something is missing, superfluous, or of another width than the network takes.
    """
    cond = cond or Embedding()
    sizes = (("tokens", "token_width", token_width, -1, 3), ("map", "map_channels", map_channels, 1, 4))
    for name, field, size, axis, dims in sizes:
        value: Tensor | None = getattr(cond, name)
        if value is None and not size:
            continue
        if value is None:
            raise UsageError(
                f"the network takes cond.{name} ({field} = {size}), but the condition has none; use a conditioner that "
                f"gives {name}, or build the network with {field} = 0"
            )
        if not size:
            raise UsageError(
                f"the condition has cond.{name}, which this network does not take; choose a network that takes {name} "
                f"(where it has a {field}, that of the conditioner), or a conditioner that gives none"
            )
        if value.ndim != dims or value.shape[axis] != size:
            raise UsageError(
                f"cond.{name} has shape {tuple(value.shape)}, but the network takes {field} = {size}; build it with "
                f"the {field} of its conditioner"
            )
    mask = cond.tokens_mask if cond.tokens is not None else None
    if mask is not None and cond.tokens is not None and mask.shape != cond.tokens.shape[:2]:
        raise UsageError(
            f"cond.tokens_mask has shape {tuple(mask.shape)}, but there are {tuple(cond.tokens.shape[:2])} tokens; "
            f"give one truth value a token"
        )
    return cond.tokens, mask, cond.map

"""Exponential moving averages of the weights, several half-lives at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from suffuse.base.errors import UsageError

__all__ = ["EMA", "ema_name"]


def ema_name(half_life: float) -> str:
    """Name of an average by its half-life in images: 500000 -> ema_500000."""
    return f"ema_{half_life:.0f}"


class EMA:
    """Averages of a module's trained parameters; frozen ones and buffers are copied when an average is asked for.

    After n images the half-life is the smaller of the given one and `ramp` * n, so that the start is forgotten:
    karras2022edm, Appendix F.

    Args:
        module: What is averaged.
        half_lives: Half-lives in images.
        ramp: Share of the images seen that bounds the half-life.
    """

    def __init__(self, module: nn.Module, half_lives: tuple[float, ...], ramp: float = 0.05) -> None:
        self.half_lives, self.ramp = half_lives, ramp
        self._module = module
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._averages = {ema_name(h): [p.detach().clone().float() for p in self._trained] for h in half_lives}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the averages, the primary one first."""
        return tuple(self._averages)

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Move every average towards the weights.

        Args:
            images: Images of this step, over all processes.
            seen: Images of all steps so far, this one included.
        """
        for half_life, average in zip(self.half_lives, self._averages.values(), strict=True):
            keep = 0.5 ** (images / max(min(half_life, self.ramp * seen), 1e-8))
            torch._foreach_lerp_(average, [p.detach().float() for p in self._trained], 1 - keep)

    def weights(self, name: str) -> dict[str, Tensor]:
        """State dict of the module with the average in place of the trained parameters; tensors are not shared."""
        state = {key: value.detach().clone() for key, value in self._module.state_dict().items()}
        for key, value in zip(self._names, self._averages[name], strict=True):
            state[key] = value.to(state[key].dtype).clone()
        return state

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Averages by name, then by parameter."""
        return {name: dict(zip(self._names, average, strict=True)) for name, average in self._averages.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take the averages back.

        Raises:
            UsageError: One of them is not there; nothing is loaded.
        """
        if missing := [name for name in self._averages if name not in state]:
            raise UsageError(
                f"the checkpoint has no average {missing[0]!r}, only {', '.join(state)}; resume with the training.ema "
                "that it was trained with"
            )
        for name, average in self._averages.items():
            for tensor, key in zip(average, self._names, strict=True):
                tensor.copy_(state[name][key])

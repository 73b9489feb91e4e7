"""Initial weights that are not torch's."""

from __future__ import annotations

from torch import nn

__all__ = ["zero_weights"]


def zero_weights(*modules: nn.Module) -> None:
    """Set all weights of the modules to zero: a branch that ends in one adds nothing before training."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)

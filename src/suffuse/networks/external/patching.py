"""The one place where a module's forward is replaced: inside a context, on instances, and always put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from suffuse.base.errors import UsageError

__all__ = ["give_back", "put_before", "replaced_forwards"]

Forward = Callable[..., Any]  # Any: the signatures of foreign modules


def put_before(module: nn.Module, forward: Forward) -> None:
    """Give a module another forward until `give_back`.

    Raises:
        UsageError: It is compiled, and would not notice.
    """
    if module._compiled_call_impl is not None:
        raise UsageError(
            f"a {type(module).__name__} is compiled, and runs past what is put before it; use plans and taps on a "
            "network that is not compiled"
        )
    module.__dict__["forward"] = forward


def give_back(module: nn.Module, forward: Forward) -> None:
    """Give a module the forward back that it had: its class's own needs no place in the instance."""
    module.__dict__.pop("forward", None)
    if module.forward != forward:
        module.__dict__["forward"] = forward


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Give modules another forward for as long as the context lasts.

    Nested use works: what stood in an instance before (another context's or another package's hook) comes back.

    Args:
        forwards: Module -> what its call runs instead.

    Raises:
        UsageError: A module is compiled, and would not notice.
    """
    before = {module: module.__dict__["forward"] for module in forwards if "forward" in module.__dict__}
    try:
        for module, forward in forwards.items():
            put_before(module, forward)
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)
            if module in before:
                module.__dict__["forward"] = before[module]

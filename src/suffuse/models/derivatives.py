"""Forward derivatives of models: one place that knows which kernels have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from suffuse.base.errors import RunError

__all__ = ["check_finite_derivative", "jvp"]


def jvp(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Value of a function and its directional derivative, in one forward pass.

    Gradients of the value flow to weights as usual. The fused attention kernels have no forward derivative, so the
    plain one is taken; group norms get their maps channels first; nothing is compiled.

    Args:
        function: Of tensors, such as a model's output in x and t.
        at: Where.
        direction: Tangents, of the shapes of `at`.
    """
    with sdpa_kernel(SDPBackend.MATH), _ChannelsFirst():
        found: tuple[Tensor, Tensor] = torch.func.jvp(function, at, direction)  # type: ignore[assignment]  # without aux
    return found


class _ChannelsFirst(TorchFunctionMode):
    """Group norms of maps that lie channels first: the forward derivative of others views them as what they are not."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # Any: of every function of torch
        if func is F.group_norm:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


def check_finite_derivative(derivative: Tensor, step: int) -> None:
    """Stop on a derivative that is not finite; on a GPU it is looked at every tenth step, because a look waits.

    Raises:
        RunError: It is NaN or infinite, with the mend.
    """
    if derivative.device.type != "cpu" and step % 10:
        return
    bad = (~derivative.isfinite()).flatten(1).any(1).sum().item()
    if bad:
        raise RunError(
            f"step {step}: the derivative of the network along the trajectory is not finite for {bad} of "
            f"{len(derivative)} samples; use precision=float32, a smoother time embedding (time.scale), or a path that "
            "keeps away from its ends (path.t_start, path.t_end)"
        )

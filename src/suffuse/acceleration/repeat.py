"""Arguments of a network, repeated along the batch."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from torch import Tensor

__all__ = ["repeated"]

T = TypeVar("T")


def repeated(value: T, count: int, batch: int | None = None) -> T:
    """A tensor repeated along its first dimension, all of it after all of it; the same inside containers.

    Args:
        value: A tensor, dictionary, list, tuple or dataclass of these, or anything else, which stays as it is.
        count: How many times.
        batch: Only tensors with so many rows are repeated; None for all.
    """
    if isinstance(value, Tensor):
        if value.ndim == 0 or (batch is not None and len(value) != batch):
            return value
        return value.repeat(count, *(1,) * (value.ndim - 1))  # type: ignore[return-value]  # a Tensor is what T is
    if isinstance(value, dict):
        return {key: repeated(item, count, batch) for key, item in value.items()}  # type: ignore[return-value]  # as above
    if isinstance(value, list | tuple):
        items = [repeated(item, count, batch) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: repeated(getattr(value, f.name), count, batch) for f in fields(value)})
    return value

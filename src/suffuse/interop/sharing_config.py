"""How E-TSDM's shared timesteps stand in the configuration of a diffusers model. Nothing here needs diffusers itself.

diffusers does not refuse a folder of another class: its loaders drop what they do not know, with one line in the log,
and the sharing would be lost without a sign. So one of the network's own keys (`act_fn` of the U-Nets, `norm_type` of
the DiT, `qk_norm` of SD3) gets a value that stops the stock class, whose error then quotes what is to be done. The true
value stands in the entry `shared_timesteps` and is put back by those who know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from suffuse.base.errors import UsageError, unknown_name
from suffuse.base.part import parse
from suffuse.process import VP, SharedTimesteps
from suffuse.process.time_condition import near_clean

__all__ = ["CLASS_PREFIX", "ENTRY", "MODULE", "Sharing", "Start", "make_sharing", "mark", "unmark"]

Start = Literal["fresh", "finetune", "experiment"]
Number = TypeVar("Number", int, float, Tensor)
Config = dict[str, Any]  # Any: JSON values

ENTRY = "shared_timesteps"
CLASS_PREFIX = "SharedTimesteps"
MODULE = "suffuse.interop.shared_timesteps"

# Stock class -> the key that stops it, and that key's default there.
_GUARDED: dict[str, tuple[str, str | None]] = {
    "UNet2DModel": ("act_fn", "silu"),
    "UNet2DConditionModel": ("act_fn", "silu"),
    "DiTTransformer2DModel": ("norm_type", "ada_norm_zero"),
    "SD3Transformer2DModel": ("qk_norm", None),
}
_FIELDS = ("below", "intervals", "power", "steps", "start")
_DEFAULTS = "_use_default_values"


@dataclass(frozen=True)
class Sharing:
    """Shared timesteps of a foreign network, in its unit: a table of whole numbers, or sigma times their count.

    Attributes:
        time: The map, with its range given.
        path: Stands for the table's length; its coefficients are not read.
        start: What the weights were when sharing was switched on.
    """

    time: SharedTimesteps
    path: VP
    start: Start

    def told(self, t: Number) -> Number:
        """What the network is told instead of t: (), (B,) or a plain number, of the same type and device.

        Edges are whole numbers and so exact in every type; times from `below` on come back bit for bit.
        """
        if not isinstance(t, Tensor):
            return type(t)(self.told(torch.tensor(float(t), dtype=torch.float64)).item())
        # MPS has no float64.
        at = t.to("cpu" if t.device.type == "mps" else t.device, torch.float64)
        return self.time.told(at, self.path).to(t.device, t.dtype)

    def fields(self) -> Config:
        """Arguments of `make_sharing` that give an equal object."""
        time = self.time
        numbers = {"below": time.below, "intervals": time.intervals, "power": time.power, "steps": self.path.steps}
        return numbers | {"start": self.start}


def make_sharing(*, below: float | None, intervals: int, power: float, steps: int, start: str) -> Sharing:
    """Checked shared timesteps of a table of `steps`; see `suffuse.interop.shared_timesteps.share_timesteps`.

    Raises:
        UsageError: A value out of range, edges that would coincide, an unknown `start`.
    """
    if start not in get_args(Start):
        raise unknown_name("start", start, get_args(Start))
    path = parse(VP, {"steps": steps}, "shared timesteps")
    # A tenth of the table is written out: the folder then says it by itself.
    below = near_clean(path, below)
    time = parse(SharedTimesteps, {"below": below, "intervals": intervals, "power": power}, "shared timesteps")
    time.check(path)
    return Sharing(time, path, start)  # type: ignore[arg-type]  # one of the three, as checked


def mark(config: Mapping[str, Any], sharing: Sharing, *, stock: str) -> Config:  # Any: JSON values
    """The configuration of our class for the stock class' one.

    Args:
        config: Contents of the stock class' configuration.
        sharing: What to write into it.
        stock: Name of the stock class, one of the four.
    """
    key, default = _GUARDED[stock]
    value = config.get(key, default)
    stop = f"{value}, but told shared timesteps (e-tsdm): load it with {MODULE}"
    marked = {**config, key: stop, ENTRY: sharing.fields() | {"stock": {key: value}}}
    # Keys in this list are not handed on by from_config, and the stop would be without effect.
    if _DEFAULTS in config:
        marked[_DEFAULTS] = [name for name in config[_DEFAULTS] if name != key]
    return marked


def unmark(config: Mapping[str, Any]) -> tuple[Config, Sharing | None]:  # Any: JSON values
    """The stock class' configuration, and the sharing that stood in it; the inverse of `mark`.

    Raises:
        UsageError: The entry is not one of ours.
    """
    entry = config.get(ENTRY)
    if entry is None:
        return dict(config), None
    if not isinstance(entry, Mapping) or set(entry) != {*_FIELDS, "stock"}:
        raise UsageError(
            f"the entry {ENTRY!r} of a model's configuration is {entry!r}, and has not the keys "
            f"{', '.join(_FIELDS)}, stock; it was written by another version, or by hand"
        )
    sharing = make_sharing(**{name: entry[name] for name in _FIELDS})
    rest = {name: value for name, value in config.items() if name != ENTRY}
    return rest | dict(entry["stock"]), sharing

"""World: which process of how many, on which device; started by torchrun or `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suffuse.base.errors import RunError, UsageError

__all__ = ["World", "choose_device", "joined"]

T = TypeVar("T")
_PLACE = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """Place among the processes of a run; rank 0 of 1 when there is only one.

    Attributes:
        rank: This process.
        size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one message.

        A wrapper that owns the forward would break objectives with several players; flattened gradients do not care.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        if not self.any(any(p.grad is not None for p in parameters)):
            return  # a player that sits the step out, in every process
        for p in parameters:
            if p.grad is None and p.requires_grad:  # another process may have used what this one did not
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.size
        means = torch.split(flat, [grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [mean.view_as(grad) for mean, grad in zip(means, grads, strict=True)])

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.size

    def any(self, flag: bool) -> bool:
        """Whether any process says yes: a signal may reach one of them only."""
        if self.size == 1:
            return flag
        told = torch.tensor(
            [float(flag)]
        )  # on the CPU, past the device's queue: a look every step costs no wait for it
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told.item())

    def first_alone(self, work: Callable[[], T], what: str) -> T | None:
        """Let the first process do something while the others wait; when it fails, all leave.

        Args:
            work: What the first process does.
            what: In words, for the others' message.

        Returns:
            What `work` returned, in the first process; None in the others.
        """
        result: T | None = None
        failure: BaseException | None = None
        if self.first:
            try:
                result = work()
            except BaseException as error:  # a stop, too: the others must not wait for it
                failure = error
        if self.any(failure is not None):
            raise failure or RunError(f"process 0 could not {what}; its message says why")
        return result

    def each_after_first(self, work: Callable[[], T], what: str) -> T:
        """Let the first process do what fills a cache, then the others what finds it filled; arguments as above."""
        done = self.first_alone(work, what)
        return done if self.first else work()  # type: ignore[return-value]  # the first has done it

    def from_first(self, value: T | None) -> T:
        """What the first process has, in all of them; plain data."""
        if self.size == 1:
            assert value is not None
            return value
        box = [value]
        dist.broadcast_object_list(box)
        assert box[0] is not None
        return box[0]


def choose_device(name: str) -> torch.device:
    """The device of a name: `auto` takes a GPU when there is one.

    Raises:
        UsageError: No such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not here ({torch.cuda.device_count()} GPUs found); use device=cpu or auto"
        )
    return device


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """Join the other processes of the run, and leave them at the end; inside another `joined`, of the stages of a run,
    they stay together.

    Reads what torchrun and `accelerate launch` both set: RANK, WORLD_SIZE, LOCAL_RANK.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device)
    if size == 1:
        yield World(0, 1, chosen)
        return
    if missing := [name for name in _PLACE if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start all processes by torchrun, or unset it"
        )
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
        return
    # Control messages go over gloo, gradients over NCCL. The others wait while the first one reads data or samples.
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=12))
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()

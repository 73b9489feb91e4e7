"""Keyed, stateless randomness: every draw is a function of (seed, stream, step, index, element) and of nothing else.

A counter hash (SplitMix64's finaliser) turns a 64-bit key per sample and a counter per element into bits. Nothing has
to be saved for a bit-exact resume, the batch around a sample does not matter, and the global generators stay untouched.
Measured: normal draws cost about 2.4 times `torch.randn`, masks less than `nn.Dropout` (float32, two CPU threads).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Draws", "derived", "keep_mask", "keys", "normal", "permutation", "uniform"]

# The constants of SplitMix64, as signed 64-bit integers (torch has no full uint64 arithmetic).
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; the masks make the arithmetic shifts logical ones."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _MIX_1
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _MIX_2
    return z ^ ((z >> 31) & (2**33 - 1))


def _bits(key: Tensor, count: int) -> Tensor:
    """(B,) keys -> (B, count) int64 with 64 random bits each."""
    # The factor comes with the data: torch's compiler multiplies constants of indices without end, beyond 64 bits.
    golden = (key[:1, None] & 0) + _GOLDEN  # (1, 1), or (0, 1) for no samples
    return _mix(key[:, None] + torch.arange(1, count + 1, device=key.device, dtype=torch.int64) * golden)


def keys(seed: int, stream: str, step: int, index: Tensor) -> Tensor:
    """Derive one key a sample.

    Args:
        seed: The run's or sampling's seed.
        stream: What the draw is for ("noise", "times", ...): streams are independent.
        step: Training or solver step.
        index: Which sample, (B,) int64.

    Returns:
        (B,) int64 keys on the device of `index`.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return _mix(index.to(torch.int64) * _GOLDEN + int.from_bytes(digest, "little", signed=True))


def derived(key: Tensor, stream: str) -> Tensor:
    """Keys of another stream for the same samples: (B,) -> (B,); for what is handed keys, not draws."""
    digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
    return _mix(key * _GOLDEN + int.from_bytes(digest, "little", signed=True))


def uniform(key: Tensor, count: int = 1) -> Tensor:
    """Uniform numbers inside (0, 1): (B,) keys -> (B, count) float64; 0 and 1 never occur."""
    # 52 bits, not 53: the half must be representable beside them, or the largest number would round to 1.
    return (((_bits(key, count) >> 12) & (2**52 - 1)).to(torch.float64) + 0.5) * 2.0**-52


def normal(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Unit normal numbers by Box-Muller: (B,) keys -> (B, *shape) float32, at most 6.8 in size."""
    count = math.prod(shape)
    bits = _bits(key, (count + 1) // 2)
    radius = ((bits >> 32) & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (bits & 0xFFFFFFFF).to(torch.float32).mul_(2.0**-32 * math.tau)
    return torch.cat([radius * angle.cos(), radius * angle.sin_()], dim=1)[:, :count].reshape(-1, *shape)


def keep_mask(key: Tensor, shape: tuple[int, ...], drop: float) -> Tensor:
    """Boolean mask, True with probability 1 - drop: (B,) keys -> (B, *shape). A pure function: safe under compile."""
    threshold = round(drop * 2**32)
    return (((_bits(key, math.prod(shape)) >> 32) & 0xFFFFFFFF) >= threshold).reshape(-1, *shape)


def permutation(seed: int, stream: str, epoch: int, n: int) -> Tensor:
    """A shuffled order of range(n), (n,) int64: the order of their keys."""
    return torch.argsort(keys(seed, stream, epoch, torch.arange(n)), stable=True)


@dataclass(frozen=True)
class Draws:
    """The randomness that belongs to a set of samples at one step.

    Attributes:
        seed: Seed of the run or of the sampling call.
        index: Which samples, (B,) int64: the place in the global batch (training) or the image's number (sampling).
        step: Training or solver step.
        total: How many samples the step has altogether, over all processes; for draws that spread over the batch.
    """

    seed: int
    index: Tensor
    step: int = 0
    total: int = 1

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def __getitem__(self, rows: slice) -> Draws:
        return replace(self, index=self.index[rows])

    def to(self, device: torch.device) -> Draws:
        """The same samples; draws are made on another device."""
        return replace(self, index=self.index.to(device, non_blocking=True))

    def at(self, step: int) -> Draws:
        """The same samples at another step."""
        return replace(self, step=step)

    def keys(self, stream: str) -> Tensor:
        """One key a sample, (B,) int64: what networks take as `seeds`."""
        return keys(self.seed, stream, self.step, self.index)

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Unit normal noise, (B, *shape) float32 on the device of `index`."""
        return normal(self.keys(stream), shape)

    def uniform(self, stream: str, count: int | None = None) -> Tensor:
        """Numbers inside (0, 1), float64: (B,), or (B, count)."""
        drawn = uniform(self.keys(stream), count or 1)
        return drawn[:, 0] if count is None else drawn

    def shared_uniform(self, stream: str) -> float:
        """One number inside (0, 1) that all samples of the step share, whatever the batch."""
        return float(uniform(keys(self.seed, stream, self.step, torch.zeros(1, dtype=torch.int64)))[0, 0])

"""A feature space made from the user's own data: a small network trained on them, kept beside them, named for them.

With labels it learns to tell the classes apart; without, which of the eight rotations and mirrorings was applied to an
image. Distances in its features compare models of one data set with each other; they are not FID, and do not say so.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suffuse.base import files
from suffuse.base.batch import Batch
from suffuse.base.errors import RunError, SuffuseError, UsageError
from suffuse.base.locking import locked
from suffuse.base.randomness import keys, normal, permutation, uniform
from suffuse.base.weights import load_weights, read_safetensors, save_safetensors
from suffuse.metrics.ruler import Versions

__all__ = ["ImageData", "TrainedFeatures", "dihedral", "train_extractor"]

FORMAT_VERSION = 1
WIDTH = 64
_LARGEST = 32  # pixels a side that the network sees; larger images are averaged down
_BATCH = 128
_SMALL = 16  # pixels a side up to which three levels do
_RATE = 4e-3
_HELD_OUT = 0.1


class ImageData(Protocol):
    """What is needed of a data set.

    Attributes:
        name: What people call it.
        fingerprint: Hash of its content.
        shape: Of an image, (C, H, W).
        labels: (N,) int64, or None.
        classes: Names of the labels 0, 1, ...
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (described above)

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def labels(self) -> Tensor | NDArray[np.int64] | None: ...  # noqa: D102

    @property
    def classes(self) -> Sequence[str]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch:
        """Images of `index`, (B,) int64, as `x0` in [-1, 1]."""


@dataclass(frozen=True)
class _Plan:
    """All that decides the weights, up to the software's versions."""

    task: Literal["classes", "dihedral"]
    data: str
    fingerprint: str
    channels: int
    side: int
    outputs: int
    seed: int
    steps: int
    batch: int = _BATCH

    @property
    def name(self) -> str:
        return f"fd_{re.sub(r'[^0-9a-z]+', '_', self.data.lower()).strip('_')}_{self.task}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels, each at half the size of the one before, down to four pixels or fewer a side."""
        return (32, 64, WIDTH) if self.side <= _SMALL else (16, 32, 64, WIDTH)


def _plan(dataset: ImageData, seed: int) -> _Plan:
    if len(dataset.shape) != 3:
        raise UsageError(f"data {dataset.name!r} has shape {dataset.shape}; features are trained on images, (C, H, W)")
    if len(dataset) < 2:
        raise UsageError(f"data {dataset.name!r} has {len(dataset)} images; features need at least 2, one is held out")
    channels, height, width = dataset.shape
    side = min(height, width, _LARGEST)
    classes = len(dataset.classes) if dataset.labels is not None else 0
    return _Plan(
        task="classes" if classes > 1 else "dihedral",  # one class teaches nothing; the name says which it was
        data=dataset.name,
        fingerprint=dataset.fingerprint,
        channels=channels,
        side=side,
        outputs=classes if classes > 1 else 8,
        seed=seed,
        steps=400 if side <= _SMALL else 800,  # 3 s on digits, half a minute at 32 x 32 (two CPU threads)
    )


class _Network(nn.Module):
    """One convolution a level, the mean over the pixels, one linear map."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        self.side = plan.side
        layers: list[nn.Module] = []
        before = plan.channels
        for level, width in enumerate(plan.widths):
            layers += [
                nn.Conv2d(before, width, 3, stride=2 if level else 1, padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
            before = width
        self.levels = nn.Sequential(*layers)
        self.head = nn.Linear(before, plan.outputs)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, WIDTH)."""
        seen = nn.functional.adaptive_avg_pool2d(images, self.side)
        features: Tensor = self.levels(seen).mean((2, 3))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits, (B, outputs)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _network(plan: _Plan) -> _Network:
    """A network with keyed initial weights; made without values, as constructors draw from the global generator."""
    with torch.device("meta"):
        network = _Network(plan)
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, 1.0 if _is_scale(network, name) else 0.0)
            continue
        key = keys(plan.seed, f"features: {name}", 0, torch.zeros(1, dtype=torch.int64))
        drawn = normal(key, tuple(parameter.shape))[0]
        gain = math.sqrt(2 / parameter[0].numel())
        with torch.no_grad():
            parameter.copy_(gain * drawn)
    return network


def _is_scale(network: nn.Module, name: str) -> bool:
    owner, _, kind = name.rpartition(".")
    return kind == "weight" and isinstance(network.get_submodule(owner), nn.GroupNorm)


def _hash(network: nn.Module) -> str:
    """SHA-256 of names, shapes and values of the weights, the same whether they were stored or not."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class TrainedFeatures:
    """A trained feature space, and the labels that its network reads in images. Made by `train_extractor`.

    Attributes:
        name: `fd_<data>_classes` or `fd_<data>_dihedral`.
        hash: SHA-256 of the weights.
        width: D = 64.
        task: What it was trained on.
        accuracy: On held-out images, in [0, 1].
        held_out: How many those were.
        note: What was found wrong with kept features that these replace; None when nothing was.
    """

    width = WIDTH

    def __init__(self, plan: _Plan, network: _Network, *, accuracy: float, held_out: int, note: str | None) -> None:
        self.name = plan.name
        self.task = plan.task
        self.hash = _hash(network)
        self.accuracy = accuracy
        self.held_out = held_out
        self.note = note
        self.device = torch.device("cpu")
        self._plan = plan
        self._network = network.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> TrainedFeatures:
        """Move it, in place, as torch's modules do."""
        self.device = torch.device(device)
        self._network.to(self.device)
        return self

    def _seen(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self._plan.channels:
            raise UsageError(
                f"images have shape {tuple(images.shape)}; {self.name} takes (B, {self._plan.channels}, H, W)"
            )
        return images.to(self.device, torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: (B, C, H, W) in [-1, 1], of the size of the training data.

        Returns:
            (B, 64) float32.

        Raises:
            UsageError: Another number of channels.
        """
        return self._network.features(self._seen(images))

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of every level before the mean over places: (B, C, H, W) in [-1, 1] -> (B, c, h, w) each.

        Raises:
            UsageError: Another number of channels.
        """
        found = [nn.functional.adaptive_avg_pool2d(self._seen(images), self._plan.side)]
        for level in self._network.levels:
            found.append(level(found[-1]))
        return tuple(found[3::3])

    def logits(self, images: Tensor) -> Tensor:
        """What the network reads in images, unnormalised: (B, C, H, W) in [-1, 1] -> (B, K)."""
        logits: Tensor = self._network(self._seen(images))
        return logits

    def labels(self, images: Tensor) -> Tensor:
        """The label read in each image, (B,) int64: for the share of class-conditional samples that are right.

        Raises:
            UsageError: The network was not trained on labels.
        """
        if self.task != "classes":
            raise UsageError(f"{self.name} was trained without labels and can read none; train it on labelled data")
        return self.logits(images).argmax(1)


def dihedral(images: Tensor, which: Tensor) -> Tensor:
    """Rotate by quarter turns and mirror: (B, C, S, S) square images, (B,) int64 in 0..7 -> (B, C, S, S).

    `which` % 4 quarter turns, after mirroring left to right where `which` is 4 or more.
    """
    turned = torch.where((which >= 4)[:, None, None, None], images.flip(3), images)
    every = torch.stack([turned.rot90(turns, (2, 3)) for turns in range(4)])
    return every[which % 4, torch.arange(len(images), device=images.device)]


def _examples(dataset: ImageData, plan: _Plan, index: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Images and what shall be told of them: (B, C, side, side) and (B,) int64."""
    x0 = dataset.batch(index).x0
    if x0 is None or not x0.isfinite().all():
        raise RunError(f"data {dataset.name!r} has images with NaN or infinity, or none at all; mend the data")
    if plan.task == "classes":
        return x0, torch.from_numpy(np.asarray(dataset.labels)[index.numpy()]).long()
    which = (uniform(keys(plan.seed, "features: dihedral", step, index))[:, 0] * 8).long()
    return dihedral(nn.functional.adaptive_avg_pool2d(x0, plan.side), which), which


def _order(index: Tensor, plan: _Plan) -> Iterator[Tensor]:
    """Places of the training images, (B,) each, from endless shuffled epochs."""
    epoch, left = 0, index[:0]
    while True:
        while len(left) < plan.batch:
            left = torch.cat([left, index[permutation(plan.seed, "features: order", epoch, len(index))]])
            epoch += 1
        yield left[: plan.batch]
        left = left[plan.batch :]


def _fit(
    dataset: ImageData, plan: _Plan, index: Tensor, progress: Callable[[int, int, float], None] | None
) -> _Network:
    network = _network(plan)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=plan.steps, cycle_momentum=False)
    for step, chosen in zip(range(plan.steps), _order(index, plan), strict=False):
        images, targets = _examples(dataset, plan, chosen, step)
        loss = nn.functional.cross_entropy(network(images), targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, plan.steps, float(loss.detach()))
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise RunError(f"training the features of {dataset.name!r} gave NaN; look at its pictures")
    return network


@torch.no_grad()
def _accuracy(dataset: ImageData, plan: _Plan, network: _Network, index: Tensor) -> float:
    right = 0
    for start in range(0, len(index), 512):
        images, targets = _examples(dataset, plan, index[start : start + 512], plan.steps)
        right += int((network(images).argmax(1) == targets).sum())
    return right / len(index)


def _load(folder: Path, plan: _Plan) -> TrainedFeatures:
    """Read kept features.

    Raises:
        SuffuseError: They are damaged, or were trained otherwise; the message says how.
    """
    files.verify(folder)
    facts = files.read_json(folder / "features.json")
    made = {**facts.get("plan", {}), "data": plan.data}  # the same pictures by another name have the same features
    if facts.get("format_version") != FORMAT_VERSION or made != asdict(plan):
        raise RunError(f"{folder} holds features that were trained in another way")
    network = _network(plan)
    load_weights(network, read_safetensors(folder / "features.safetensors", finite=True), owner=str(folder))
    try:
        accuracy, held_out, digest = float(facts["accuracy"]), int(facts["held_out"]), facts["hash"]
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{folder} lacks the accuracy or the hash of its features") from None
    features = TrainedFeatures(plan, network, accuracy=accuracy, held_out=held_out, note=None)
    if features.hash != digest:
        raise RunError(f"{folder} holds weights that do not match their hash")
    return features


def _keep(folder: Path, plan: _Plan, features: TrainedFeatures, network: _Network) -> None:
    facts: dict[str, Any] = {  # Any: JSON values
        "format_version": FORMAT_VERSION,
        "name": features.name,
        "hash": features.hash,
        "plan": asdict(plan),
        "widths": plan.widths,
        "accuracy": features.accuracy,
        "held_out": features.held_out,
        "versions": Versions.here().dump(),
    }
    files.make_folder(folder.parent)
    with files.staged(folder) as staging:
        save_safetensors(staging / "features.safetensors", network.state_dict())
        files.write_json(staging / "features.json", facts)


def train_extractor(
    dataset: ImageData,
    *,
    cache: Path | None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> TrainedFeatures:
    """Train a feature space on a data set, or read the one that was kept; the global generators are not touched.

    The same data, seed and machine give the same weights. Kept features that are damaged are removed and trained
    anew, which `TrainedFeatures.note` says.

    Args:
        dataset: Images, with labels of two or more classes or without.
        cache: Folder in which features are kept, under `<fingerprint>-features-v1/seed-<seed>/`; None keeps nothing.
        seed: Of weights, order and held-out images.
        progress: Called after every step with (step, steps, loss); not called when kept features are read.

    Raises:
        UsageError: The data are not images, or fewer than 2.
        RunError: Training failed, or the features cannot be kept.
    """
    plan = _plan(dataset, seed)
    folder = cache / f"{plan.fingerprint}-features-v{FORMAT_VERSION}" / f"seed-{seed}" if cache is not None else None
    if folder is None:
        return _trained(dataset, plan, progress, None)[0]
    if folder.exists():
        with suppress(SuffuseError):
            return _load(folder, plan)
    files.make_folder(folder.parent)
    with locked(folder.parent):
        note = None
        if folder.exists():  # made while this process waited, or damaged
            try:
                return _load(folder, plan)
            except SuffuseError as error:
                note = f"kept features were damaged and have been trained anew: {error}"
                files.discard(folder)
        features, network = _trained(dataset, plan, progress, note)
        _keep(folder, plan, features, network)
    return features


def _trained(
    dataset: ImageData, plan: _Plan, progress: Callable[[int, int, float], None] | None, note: str | None
) -> tuple[TrainedFeatures, _Network]:
    seed = plan.seed
    order = permutation(seed, "features: held out", 0, len(dataset))
    held = max(1, round(_HELD_OUT * len(dataset)))
    network = _fit(dataset, plan, order[held:], progress)
    accuracy = _accuracy(dataset, plan, network, order[:held])
    return TrainedFeatures(plan, network, accuracy=accuracy, held_out=held, note=note), network

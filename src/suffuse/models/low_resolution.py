"""Super-resolution by concatenation: the image is seen small, enlarged and put beside the noisy sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import derived, normal
from suffuse.base.randomness import keys as keys_of
from suffuse.models.conditioner import ClassLabel, Conditioner, ConditionerPart, NoCondition
from suffuse.models.picture import Picture
from suffuse.models.readers import BesidePart, with_presence
from suffuse.models.semantic import IMAGE
from suffuse.networks.blocks.embeddings import Sinusoids
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.part import seeded
from suffuse.process.corruption import Corruption

__all__ = ["LOW", "LOW_KEY", "LOW_NOISE", "Augmentation", "LowResolution", "downsampled"]

LOW, LOW_NOISE, LOW_KEY = "low_res", "low_res_noise", "low_res_key"
_WAVES = 64  # of the embedding of an amount of noise


def downsampled(x: Tensor, factor: int) -> Tensor:
    """Mean over blocks of factor x factor pixels: (B, C, H, W) -> (B, C, H/factor, W/factor).

    Raises:
        UsageError: A side is not divisible by `factor`.
    """
    _check_sides(tuple(x.shape[1:]), factor)
    return F.avg_pool2d(x, factor)


def _check_sides(shape: tuple[int, ...], factor: int) -> None:
    if len(shape) != 3:
        raise UsageError(
            f"conditioner 'low_resolution' needs images (C, H, W), but samples have shape {shape}; use conditioner=none"
        )
    if shape[1] % factor or shape[2] % factor:
        raise UsageError(
            f"the image is {shape[1]} x {shape[2]}, which conditioner.factor {factor} does not divide; resize the data "
            f"or choose a factor that divides both sides"
        )


class Augmentation(Corruption):
    """Noise on the low-resolution image, of which the network is told how much.

    Source: ho2022cascaded, Section 4.2 (non-truncated conditioning augmentation: any amount in training, one that is
    chosen after training in sampling).

    Attributes:
        drop: As for `Corruption`; nothing is left out.
        noise: As for `Corruption`; every sample's.
        amount: Share of the path's times to which the image is diffused in sampling where nothing is said.
    """

    drop: float = Field(default=0.0, ge=0, lt=1)
    noise: float = Field(default=1.0, ge=0, le=1)
    amount: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _trained(self) -> Self:
        if self.amount > self.up_to:
            raise ValueError(
                f"amount {self.amount} is more noise than training knows (up_to = {self.up_to}); "
                "lower it, or raise up_to"
            )
        return self


class _LowResolution(Conditioner):
    place: Tensor

    def __init__(self, part: LowResolution, width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.part, self.shape = part, shape
        self.small = part.small_shape(shape)
        reader: ConditionerPart = ClassLabel(classes=part.classes) if part.classes else part.reader
        with seeded(0):
            labels = reader.build(width)
            self.told = None if part.augmentation is None else _amount_embedding(width)
        self.beside = None if part.beside is None else part.beside.build(width, shape)
        self.labels = labels if labels.reads else None
        names = (LOW,) if part.augmentation is None else (LOW, LOW_NOISE, LOW_KEY)
        others = [live.reads for live in (self.labels, self.beside) if live is not None]
        self.reads = (*names, *(name for reads in others for name in reads))
        self.observes = (LOW,)
        # It may have no weights: an empty buffer tells on which device the model is.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for images of another size, noise that was not trained, or what no reader knows."""
        if LOW in cond.values:
            self._check_size(cond.values[LOW])
        augmentation = self.part.augmentation
        if augmentation is not None and LOW_NOISE in cond.values:
            amounts = cond.values[LOW_NOISE]
            if amounts.ndim != 1 or not bool(((amounts >= 0) & (amounts <= augmentation.up_to)).all()):
                raise UsageError(
                    f"low_res_noise is {amounts.tolist()}; give a number in [0, {augmentation.up_to:g}] for each "
                    "sample: no more was trained"
                )
        for live in (self.labels, self.beside):
            if live is not None:
                live.check(cond)

    def _check_size(self, images: Tensor) -> None:
        if tuple(images.shape[1:]) != self.small or not images.is_floating_point():
            raise UsageError(
                f"low_res has shape {tuple(images.shape)} and type {images.dtype}, but this model enlarges "
                f"{self.small} by {self.part.factor} to {self.part.large_shape(self.shape)}; give floats in [-1, 1] of "
                f"shape (B, {', '.join(map(str, self.small))})"
            )

    def observe(self, x0: Tensor, cond: Conditions, keys: Tensor | None = None) -> Conditions:
        """With `low_res` made from the data, unless there is one already, and keys of the noise on it."""
        if LOW in cond.values:
            return cond
        if self.part.of == "image" and IMAGE not in cond.values:
            raise UsageError(
                "conditioner 'low_resolution' of images is told no image with the latents; give `image` or `low_res`"
            )
        cond = cond.plus(low_res=downsampled(cond.values[IMAGE] if self.part.of == "image" else x0, self.part.factor))
        if self.part.augmentation is None or keys is None:
            return cond
        return cond.plus(low_res_key=keys)

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """The enlarged image, what is read, how noisy the image is, and the picture beside it."""
        found = self._enlarged(cond, batch, seeds)
        if self.beside is None:
            return found
        assert found.image is not None
        picture = self.beside(cond, batch, seeds).image
        return replace(found, image=torch.cat([found.image, picture.to(found.image.dtype)], dim=1))

    def _enlarged(self, cond: Conditions, batch: int, seeds: Tensor | None) -> Embedding:
        read = Embedding() if self.labels is None else self.labels(cond, batch, seeds)
        if LOW not in cond.values:
            image = torch.zeros(batch, self.small[0] + 1, *self.shape[1:], device=self.place.device)
            return replace(read, image=image)
        images, present = cond.values[LOW], cond.present[LOW]
        self._check_size(images)
        images, share = self._augmented(images, cond, seeds)
        # Without aligned corners a small pixel's centre is that of the block it is the mean of.
        if images.shape[2:] != self.shape[1:]:
            images = F.interpolate(images, size=self.shape[1:], mode="bilinear", align_corners=False)
        vector = read.vector
        if self.told is not None:
            told = self.told(1000 * share.float()) * present[:, None]
            vector = told if vector is None else vector + told
        return replace(read, vector=vector, image=with_presence(images, present))

    def _augmented(self, images: Tensor, cond: Conditions, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """The images with noise, and its share of the path's times, (B,)."""
        augmentation = self.part.augmentation
        if augmentation is None:
            return images, images.new_zeros(len(images))
        if seeds is not None and self.training and LOW_NOISE not in cond.values:
            return augmentation.of(images, seeds)
        share = torch.full((len(images),), augmentation.amount, dtype=torch.float64, device=images.device)
        if LOW_NOISE in cond.values:
            share = share.where(~cond.present[LOW_NOISE], cond.values[LOW_NOISE].double())
        # The same noise at every step of a sample: it is a function of the sample's key.
        zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        keys = cond.values[LOW_KEY] if LOW_KEY in cond.values else keys_of(0, LOW, 0, zeros)
        noisy = augmentation.at(images, share, normal(derived(keys, "low resolution"), self.small))
        return noisy.where((share > 0)[:, None, None, None], images), share


def _amount_embedding(width: int) -> nn.Module:
    """(B,) amounts of noise -> (B, width); zero at first."""
    if width < 1:
        raise UsageError(
            "conditioner 'low_resolution' with augmentation needs a network that takes a condition vector; this one "
            "has none"
        )
    waves = Sinusoids(_WAVES, freq_shift=0, cosine_first=False)
    last = nn.Linear(width, width)
    zero_weights(last)
    return _AmountEmbedding(waves, nn.Linear(_WAVES, width), nn.SiLU(), last)


class _AmountEmbedding(nn.Sequential):
    def forward(self, amount: Tensor) -> Tensor:
        waves, first, act, last = self
        found: Tensor = last(act(first(waves(amount).to(first.weight.dtype))))
        return found


class LowResolution(BesidePart):
    """The image itself at 1 / factor of its size: enlarged and concatenated to the noisy sample along the channels.

    It reads `low_res`, (B, C, H/factor, W/factor) in [-1, 1]. In training it is made from the data: the mean of every
    block of pixels. One channel more is 1 where a sample has a `low_res` and 0 where it has none; the image alone could
    not say so, because zeros are a grey image.

    With `augmentation` the small image is diffused by a random amount in training, which the network is told, so that
    it forgives what an earlier model makes of small images. In sampling it is diffused by `augmentation.amount`, or by
    `low_res_noise`, (B,) shares of the path's times; `low_res_key`, (B,) int64, decides the noise (without, it is the
    same for all samples).

    With `run`, a finished model of small images, nothing need be given: tasks draw the small image with it and enlarge
    that, a cascade. The model is kept in the run's folder.

    Source: saharia2021sr3, Section 2 (concatenation); dhariwal2021adm, Section 5.2 (bilinear); ho2022cascaded
    (cascades, augmentation); habibi2024ccdm (pictures `beside` both stages: inverse design).
    Deviation: saharia2021sr3 shrinks and enlarges with cubic kernels. Here what is seen is a plain mean, so that it can
    be told exactly whether a sample agrees with it.

    Attributes:
        reader: Reads labels or captions too; `none` for neither.
        factor: Side of the image over that of `low_res`; 4 as in saharia2021sr3's 64 to 256.
        classes: Number of classes, K, of a model that is told the `label` too, as by `class_label`; 0 without. Short
            for such a reader.
        augmentation: Noise on `low_res`; None for none.
        beside: A picture beside each sample that is shown too, at full size: what is asked of a design, say. None for
            none.
        of: Of what `low_res` is made in latents: of the `sample`, that is of the latent, or of the `image` behind it.
        image_shape: Of the pictures, (C, H, W), which is filled in where they are seen.
        run: Run of a finished model of small images; None where they are always given.
        weights: Which average of it; the primary one when None.
    """

    kind: Literal["low_resolution"] = "low_resolution"
    factor: int = Field(default=4, ge=2)
    classes: int = Field(default=0, ge=0)
    augmentation: Augmentation | None = None
    beside: Picture | None = None
    of: Literal["sample", "image"] = "sample"
    image_shape: tuple[int, ...] = ()
    run: str | None = None
    weights: str | None = None

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        if self.classes and self.reader != NoCondition():
            raise ValueError(
                f"classes = {self.classes} and reader {self.reader.kind!r} both say what is read beside the image; "
                "leave one of them out"
            )
        if self.beside is not None and self.beside.reader != NoCondition():
            raise ValueError("the picture beside the small image has a reader of its own; give conditioner.reader")
        return self

    @property
    def draws(self) -> bool:
        """The noise of the augmentation."""
        return self.augmentation is not None

    @property
    def companion(self) -> str | None:
        """The picture beside the small image, if there is one."""
        return None if self.beside is None else self.beside.companion

    def seeing_companion(self, shape: tuple[int, ...]) -> Self:
        """This for such pictures of one shape."""
        return self if self.beside is None else self.replace(beside=self.beside.seeing_companion(shape))

    @property
    def label_count(self) -> int:
        """K."""
        return self.classes or self.reader.label_count

    @property
    def sees_images(self) -> bool:
        """Where the small image is made of them."""
        return self.of == "image"

    @property
    def draws_from(self) -> str | None:
        """The model of small images."""
        return self.run

    def seeing(self, shape: tuple[int, ...]) -> Self:
        """This for pictures of one shape."""
        return self.replace(image_shape=shape)

    def large_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of what is made small, (C, H, W), for samples of `shape`.

        Raises:
            UsageError: It is made of images whose shape is not known yet.
        """
        if self.of == "image" and not self.image_shape:
            raise UsageError(
                "conditioner.of is 'image', but the images' shape is not known; give conditioner.image_shape"
            )
        return self.image_shape if self.of == "image" else shape

    def small_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of `low_res`, (C, H/factor, W/factor), for samples of `shape`.

        Raises:
            UsageError: A side is not divisible, or latents are smaller than the image that is put beside them.
        """
        large = self.large_shape(shape)
        _check_sides(large, self.factor)
        small = (large[0], large[1] // self.factor, large[2] // self.factor)
        if small[1] > shape[1] or small[2] > shape[2]:
            raise UsageError(
                f"low_res is {small[1]} x {small[2]}, but the latents beside which it is put are {shape[1]} x "
                f"{shape[2]}, so that detail would be lost; raise conditioner.factor from {self.factor}"
            )
        return small

    def extra_channels(self, shape: tuple[int, ...]) -> int:
        """The channels of `low_res` and the one that says whether there is an image; those of the picture beside it."""
        return self.small_shape(shape)[0] + 1 + (0 if self.beside is None else self.beside.extra_channels(shape))

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A module that has weights, a table (K + 1, width) say, only if something is read or told beside the image."""
        return _LowResolution(self, width, shape)

"""ModelConfig: all that is needed to build a model again; what `config.json` holds."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part
from suffuse.models.conditioner import ClassLabel, ClassToken, ConditionerPart, LabelNumber, NoCondition
from suffuse.models.denoiser import Denoiser
from suffuse.models.flow_map import FlowMap, FlowMapSettings
from suffuse.models.frozen_text import FrozenText
from suffuse.models.inpainting import Inpainting
from suffuse.models.low_resolution import LowResolution
from suffuse.models.picture import Picture
from suffuse.models.reconstruction import Reconstruction
from suffuse.models.semantic import Semantic
from suffuse.models.text import Text
from suffuse.networks import NetworkConfig
from suffuse.process import Identity, Path, Prediction, TimeCondition

__all__ = ["FORMAT_VERSION", "ConditionerConfig", "ModelConfig"]

FORMAT_VERSION = 1

ConditionerConfig = Annotated[
    ConditionerPart,
    Joint(
        "conditioner",
        NoCondition,
        ClassLabel,
        ClassToken,
        LabelNumber,
        LowResolution,
        Picture,
        Inpainting,
        Text,
        FrozenText,
        Semantic,
        Reconstruction,
    ),
]


class ModelConfig(Part):
    """A denoiser or a flow map as plain data.

    Attributes:
        network: What is learned; its `extra_channels`, `token_width` and `map_channels` follow from the conditioner and
            are filled in.
        shape: Shape of one sample, (C, H, W) or (D,).
        out_channels: Channels of the network's output when they are not the data's (2C for learned variances).
        path: How data become noise.
        prediction: What the network's output means.
        time: What the network is told about the time.
        conditioner: How conditions are embedded.
        sigma_data: Standard deviation of the data, for the EDM prediction.
        flow_map: What the model can do as a flow map; None for a denoiser.
        classes: Names of the classes, by label.
        codec: Folder, within the model's own, of the codec in whose latents the model lives; None for pixels.
        weights: Name of what `model.safetensors` holds: an EMA's name, or `raw`.
        others: Names of the other averages, in `ema/`.
        step: Training steps behind the weights.
    """

    format_version: int = FORMAT_VERSION
    kind: Literal["denoiser"] = "denoiser"
    network: NetworkConfig
    shape: tuple[int, ...] = Field(min_length=1)
    out_channels: int | None = Field(default=None, ge=1)
    path: Path
    prediction: Prediction
    time: TimeCondition = Identity()
    conditioner: ConditionerConfig = NoCondition()
    sigma_data: float = Field(default=0.5, gt=0)
    flow_map: FlowMapSettings | None = None
    classes: tuple[str, ...] = ()
    codec: str | None = None
    weights: str = "raw"
    others: tuple[str, ...] = ()
    step: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _network_takes_what_is_beside(self) -> ModelConfig:
        conditioner = self.conditioner
        network = self.network.taking(
            f"conditioner {conditioner.kind!r}",
            extra_channels=conditioner.extra_channels(self.shape),
            token_width=conditioner.token_width,
            map_channels=conditioner.map_channels,
        )
        object.__setattr__(self, "network", network)  # frozen, but not made yet
        return self

    def check_shape(self, shape: tuple[int, ...], mend: str) -> None:
        """Refuse samples of another shape than the model's own that it cannot take.

        Args:
            shape: Of a sample, (C, H, W).
            mend: What to do about it.

        Raises:
            UsageError: The network takes one size, or none of these sides; the conditioner shows pictures of one size.
        """
        if shape == self.shape:
            return
        if self.network.fixed_size:
            raise UsageError(f"network {self.network.kind!r} takes samples of {self.shape} alone, not {shape}; {mend}")
        if self.conditioner.extra_channels(self.shape):
            raise UsageError(
                f"conditioner {self.conditioner.kind!r} puts pictures of one size beside samples of {self.shape}, but "
                f"these have {shape}; {mend}"
            )
        try:
            with torch.device("meta"):
                self.network.build(shape)
        except UsageError as error:
            raise UsageError(f"samples of {shape} do not go with the model ({error}); {mend}") from None

    def facts(self) -> dict[str, str]:
        """What stands on the model card, by name."""
        process = f"path {self.path.kind}, prediction {self.prediction.kind}, time {self.time.kind}"
        return {"network": self.network.kind, "process": process}

    def build(self, *, seed: int = 0) -> Denoiser:
        """Make the model with fresh weights; equal seeds give equal weights.

        Raises:
            UsageError: Parts that do not go together.
        """
        network = self.network.build(self.shape, out_channels=self.out_channels, seed=seed)
        kind = Denoiser if self.flow_map is None else functools.partial(FlowMap, settings=self.flow_map)
        model: Denoiser = kind(
            network,
            path=self.path,
            prediction=self.prediction,
            time=self.time,
            conditioner=self.conditioner.build(network.cond_width, self.shape),
            sigma_data=self.sigma_data,
        )
        model.config = self
        return model

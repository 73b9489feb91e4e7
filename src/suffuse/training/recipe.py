"""Recipe: a training run of a denoiser or a flow map as plain data, and what the data decide about it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.acceleration import NoPlan, applied
from suffuse.base.errors import UsageError
from suffuse.data import Dataset
from suffuse.models.conditioner import ClassLabel, ConditionerPart, NoCondition
from suffuse.models.config import ConditionerConfig, ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.text import Text
from suffuse.networks import MLP, NetworkConfig, UNet, count_parameters
from suffuse.objectives import Denoising, ObjectiveConfig
from suffuse.objectives.frozen import FrozenRun
from suffuse.process import Coupling, CouplingPart, Identity, Independent, Path, Prediction, TimeCondition
from suffuse.process.compose import check_process
from suffuse.sampling import sample
from suffuse.training.latents import CodecRun
from suffuse.training.measured import deviation
from suffuse.training.recipe_base import Decode, RecipePart, Resolved
from suffuse.training.sample_conditions import sample_conditions
from suffuse.training.settings import SamplingSettings

__all__ = ["Recipe"]

AUTO = Literal["auto"]
# Up to here an MLP on all pixels learned flow maps better than any U-Net that was tried, at equal time on a CPU.
_SMALL_PIXELS = 16 * 16


class Recipe(RecipePart):
    """A training run of a denoiser or a flow map.

    Attributes:
        learns: What it makes.
        codec: A finished autoencoder in whose latents the model lives; None for pixels and points.
        network: What learns; `auto` is sized by the data's resolution.
        path, prediction, time: The process.
        conditioner: `auto` conditions on the data's labels when there are any.
        sigma_data: Standard deviation of the data, for the EDM prediction; `auto` measures it.
        objective: What is minimised.
        coupling: Which noise goes with which sample of a batch.
        init: A finished run whose weights training starts from; fresh weights when None.
        sampling: How samples are drawn.
    """

    learns: Literal["generator"] = "generator"
    codec: CodecRun | None = None
    network: AUTO | NetworkConfig = "auto"
    path: Path
    prediction: Prediction
    time: TimeCondition = Identity()
    conditioner: AUTO | ConditionerConfig = "auto"
    sigma_data: AUTO | Annotated[float, Field(gt=0)] = 0.5
    objective: ObjectiveConfig = Denoising()
    coupling: Coupling = Independent()
    init: FrozenRun | None = None
    sampling: SamplingSettings = SamplingSettings()

    def check(self) -> None:
        """Refuse parts that do not go together, before any data are read.

        Raises:
            UsageError: Names the parts, the reason and the mend.
        """
        objective, settings = self.objective, self.training
        check_process(self.path, self.prediction, self.time, getattr(objective, "noise_levels", None))
        # With a budget of time the number of steps is not known yet: as if there were enough.
        objective.check(self.path, settings.steps if settings.minutes is None else 10**9)
        if objective.needs_init and self.init is None:
            raise UsageError(
                f"objective {objective.kind!r} starts from a finished model; name its run with init.run=FOLDER"
            )
        if not objective.couples and not self.coupling.trivial:
            raise UsageError(
                f"objective {objective.kind!r} pairs no data with noise, so coupling {self.coupling.kind!r} would "
                "do nothing; leave coupling out"
            )
        if objective.differentiates and settings.compile:
            raise UsageError(
                f"objective {objective.kind!r} takes derivatives through the network, which a compiled one does not "
                "give; set training.compile=false"
            )
        if objective.differentiates and getattr(self.network, "checkpointing", False):
            raise UsageError(
                f"objective {objective.kind!r} takes derivatives through the network, which one that computes its "
                "blocks again does not give; set network.checkpointing=false"
            )
        if self.init is not None and _of_run(self.conditioner):
            raise UsageError(
                "init gives the model all weights, also those of its text encoder, so that conditioner.run would do "
                "nothing; leave one of them out"
            )
        if getattr(self.data, "aspects", ()) and not isinstance(self.network, str) and self.network.fixed_size:
            raise UsageError(
                f"data.aspects gives samples of several shapes, but network {self.network.kind!r} takes one; choose "
                "unet, diffnext or convnext_prior, or leave data.aspects out"
            )
        times = self.sampling.grid.times(self.path)
        self.sampling.solver.init(torch.zeros(1), times, self.path)
        self.sampling.guidance.check(self.sampling.solver)
        if self.sampling.solver.needs_mean and objective.flow_map() is not None:
            raise UsageError(
                f"sampling.solver {self.sampling.solver.kind!r} needs the posterior mean, but objective "
                f"{objective.kind!r} learns endpoints; use sampling.solver=consistency"
            )
        if not isinstance(self.conditioner, str):
            self.check_guidance(self.conditioner)

    @property
    def pairing(self) -> tuple[CouplingPart, bool]:
        """The coupling, by classes where the model is told them."""
        return self.coupling, self.labelled

    @property
    def labelled(self) -> bool:
        """Whether the model is told the data's classes, as far as is known before the data are seen."""
        return isinstance(self.conditioner, str) or bool(self.conditioner.label_count)

    def resolve(self, dataset: Dataset, shape: tuple[int, ...] | None = None) -> Resolved[Recipe, ModelConfig]:
        """Let the data, latents where there is a codec, decide what was left to them.

        Args:
            dataset: The data.
            shape: Of the model's samples; the data's when None.

        Raises:
            UsageError: Recipe and data do not go together.
        """
        notes, shape = [], shape or dataset.shape
        network = self.network
        if isinstance(network, str):
            network, why_network = self._sized(shape)
            notes.append(why_network)
        sigma_data, why_deviation = self._deviation(dataset)
        notes.extend(why_deviation)
        conditioner, why = self._conditioner(dataset)
        self.check_guidance(conditioner)
        self._check_plan(network, shape)
        notes.extend(why)
        model = ModelConfig(
            network=network,
            shape=shape,
            path=self.path,
            prediction=self.prediction,
            time=self.time,
            conditioner=conditioner,
            sigma_data=sigma_data,
            flow_map=self.objective.flow_map(),
            classes=dataset.classes if conditioner.label_count else (),
            codec=None if self.codec is None else self.codec.run,
        )
        notes.append(f"{count_parameters(model.network, shape):,} parameters in the network")
        chosen = self.replace(
            data=self.data.anchored(), network=network, conditioner=conditioner, sigma_data=sigma_data
        )
        return Resolved(chosen, model, tuple(notes))

    def _sized(self, shape: tuple[int, ...]) -> tuple[NetworkConfig, str]:
        """A network for the data: a U-Net, or an MLP for points and for maps of very small images."""
        if len(shape) == 1:
            return MLP(width=256), f"network: MLP of 256 units for points of {shape[0]} numbers"
        if self.objective.flow_map() is not None and math.prod(shape[1:]) <= _SMALL_PIXELS:
            told = f"network: MLP of 512 units, which on {shape[1]}x{shape[2]} pixels learns maps faster than a U-Net"
            return MLP(width=512, depth=4), told
        network = UNet.for_data(shape)
        return network, f"network: {network.describe(shape)}"

    def check_guidance(self, conditioner: ConditionerConfig) -> None:
        """Refuse a guidance that the model could not follow.

        Raises:
            UsageError: The model is unconditional, or its unconditional half would never be trained.
        """
        guidance = self.sampling.guidance
        if guidance.reads:
            raise UsageError(
                f"sampling.guidance {guidance.kind!r} needs a {guidance.reads[0]} of each sample, which a run's own "
                "samples do not have; use it from Python"
            )
        if not guidance.needs_absent:
            return
        if isinstance(conditioner, NoCondition):
            raise UsageError(
                f"sampling.guidance {guidance.kind!r} needs a conditional model, but the conditioner is 'none'; use "
                "sampling.guidance=none, or a conditioner"
            )
        if self.objective.condition_dropout == 0:
            raise UsageError(
                f"sampling.guidance {guidance.kind!r} needs an unconditional half, but objective.condition_dropout is "
                "0, so that it is never trained; set it above 0 (0.1 is usual)"
            )

    def _check_plan(self, network: NetworkConfig, shape: tuple[int, ...]) -> None:
        """Refuse a plan for another kind of network, or one whose schedule is longer than the run's own sampling."""
        if self.sampling.plan != NoPlan():
            with torch.device("meta"):
                self.sampling.plan.bind(network.build(shape), self.sampling.grid.steps)

    def _deviation(self, dataset: Dataset) -> tuple[float, list[str]]:
        if not isinstance(self.sigma_data, str):
            return self.sigma_data, []
        found = deviation(dataset)
        if not found > 0:
            raise UsageError(
                f"all samples of data {dataset.name!r} are the same, so sigma_data=auto has nothing to measure; choose "
                "other data, or give sigma_data a number"
            )
        return found, [f"sigma_data: {found:g}, the standard deviation of the data"]

    def _conditioner(self, dataset: Dataset) -> tuple[ConditionerConfig, list[str]]:
        labelled = dataset.labels is not None and len(dataset.classes) > 1
        if isinstance(self.conditioner, str):
            if labelled:
                classes = len(dataset.classes)
                return ClassLabel(classes=classes), [f"conditioner: {classes} class labels, because the data have them"]
            return NoCondition(), ["conditioner: none, because the data have no labels"]
        kind, count = self.conditioner.kind, self.conditioner.label_count
        if count and not labelled:
            raise UsageError(
                f"conditioner {kind!r} needs labels, but the data have none; use conditioner=none, or one without "
                "classes"
            )
        if count and len(dataset.classes) != count:
            raise UsageError(
                f"conditioner.classes is {count}, but the data have {len(dataset.classes)} classes; correct it, or "
                "leave conditioner=auto"
            )
        return self.conditioner, []

    def examples(self, model: Denoiser, dataset: Dataset, decode: Decode | None) -> Tensor:
        """Samples, conditioned as `sample_conditions` does: (n, ...)."""
        assert model.config is not None
        how, n = self.sampling, self.training.samples
        # What is told of pictures of the data, in buckets not of the model's own shape, draws in theirs.
        shape = dataset.shape if model.config.conditioner.sees_images else model.config.shape
        cond = sample_conditions(model, n, data=lambda: dataset, seed=self.training.seed)
        with nullcontext() if how.plan == NoPlan() else applied(model, how.plan):
            made = sample(
                model,
                n,
                shape=shape,
                solver=how.solver,
                grid=how.grid,
                guidance=how.guidance,
                cond=cond,
                seed=self.training.seed,
                batch=how.batch,
                precision=self.training.precision,
            ).x
        return made if decode is None else decode(made, cond)


def _of_run(conditioner: str | ConditionerPart) -> bool:
    """Whether text is read by an encoder of another run."""
    text = None if isinstance(conditioner, str) else conditioner.text
    return isinstance(text, Text) and text.run is not None

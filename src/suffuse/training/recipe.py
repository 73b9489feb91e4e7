"""Recipe: a whole training run as plain data, and what the data decide about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.data import Data, Dataset
from suffuse.models.conditioner import ClassLabel, NoCondition
from suffuse.models.config import ConditionerConfig, ModelConfig
from suffuse.networks import MLP, NetworkConfig, UNet, count_parameters
from suffuse.objectives import Denoising, ObjectiveConfig
from suffuse.objectives.frozen import FrozenRun
from suffuse.process import Coupling, Identity, Independent, Path, Prediction, TimeCondition
from suffuse.sampling import DPMSolverPP, Grid, Guidance, NoGuidance, Solver, Uniform

__all__ = ["EvaluationSettings", "OptimiserSettings", "Recipe", "Resolved", "SamplingSettings", "TrainingSettings"]

AUTO = Literal["auto"]
# Up to here an MLP on all pixels learned flow maps better than any U-Net that was tried, at equal time on a CPU.
_SMALL_PIXELS = 16 * 16


class OptimiserSettings(Part):
    """AdamW or RAdam with warm-up and decay.

    Attributes:
        kind: `radam` warms up by itself and is what the consistency papers train with.
        lr: Learning rate after warm-up.
        betas: Decays of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled; 0 is Adam.
        warmup: Steps over which the rate rises linearly from 0.
        decay: How it falls from `decay_from` on; it would reach 0 one step after the last.
        decay_from: Share of the run after which it falls.
        clip: Largest norm of the gradient; None for no clipping.
    """

    kind: Literal["adamw", "radam"] = "adamw"
    lr: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0)
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_from: float = Field(default=0.0, ge=0, lt=1)
    clip: float | None = Field(default=1.0, gt=0)


class TrainingSettings(Part):
    """How long and how.

    Attributes:
        steps: Steps of the optimiser.
        minutes: Budget of time instead; it is turned into steps before training, on the machine at hand.
        batch: Images per step, over all processes and accumulated parts.
        accumulate: Parts into which each process divides its share of the batch.
        ema: Half-lives of the averages in images; the first is the primary one.
        ema_ramp: Share of the images seen that bounds every half-life.
        precision: Of the network's matrix products; the rest stays float32.
        compile: Compile the network (minutes on a CPU; pays on long GPU runs).
        flip: Mirror half of the images.
        seed: Of weights, data order and noise.
        device: auto, cpu, cuda or cuda:N.
        log_every: Steps between lines of metrics.
        sample_every: Steps between sample sheets; 0 for none.
        samples: Images of a sample sheet.
        checkpoint_every: Steps between checkpoints.
        keep: Checkpoints that stay.
        tensorboard: Write TensorBoard files too.
    """

    steps: int = Field(default=10_000, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    batch: int = Field(default=128, ge=1)
    accumulate: int = Field(default=1, ge=1)
    ema: tuple[float, ...] = Field(default=(500_000.0,), min_length=1)
    ema_ramp: float = Field(default=0.05, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    flip: bool = False
    seed: int = 0
    device: str = "auto"
    log_every: int = Field(default=50, ge=1)
    sample_every: int = Field(default=0, ge=0)
    samples: int = Field(default=64, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep: int = Field(default=2, ge=1)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _positive_half_lives(self) -> TrainingSettings:
        if any(half_life <= 0 for half_life in self.ema) or len(set(self.ema)) < len(self.ema):
            raise ValueError(f"ema {self.ema} must be different half-lives above 0, in images")
        return self


class SamplingSettings(Part):
    """How a model is sampled when nothing else is said.

    Attributes:
        solver, grid, guidance: The way from noise to data.
        batch: Samples at a time.
        precision: Of the network's matrix products; the sampler's state stays float32.
    """

    solver: Solver = DPMSolverPP()
    grid: Grid = Uniform(steps=20)
    guidance: Guidance = NoGuidance()
    batch: int = Field(default=256, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"


class EvaluationSettings(Part):
    """How a model is judged when nothing else is said.

    Attributes:
        samples: Number of samples for the distances.
        seed: Of those samples; different from the training's so that nothing is shared.
        nearest: Samples whose nearest training image is looked up.
    """

    samples: int = Field(default=1000, ge=2)
    seed: int = 1
    nearest: int = Field(default=256, ge=1)


@dataclass(frozen=True)
class Resolved:
    """A recipe after the data have been seen.

    Attributes:
        recipe: With every `auto` replaced by what was chosen.
        model: The model to build.
        notes: What was chosen and why, a sentence each.
    """

    recipe: Recipe
    model: ModelConfig
    notes: tuple[str, ...]


class Recipe(Part):
    """A training run.

    Attributes:
        about: What it is for, in a line.
        technique: Key in the table of techniques; empty for a plain recipe.
        data: What is learned from.
        network: What learns; `auto` is sized by the data's resolution.
        path, prediction, time: The process.
        conditioner: `auto` conditions on the data's labels when there are any.
        sigma_data: Standard deviation of the data, for the EDM prediction.
        objective: What is minimised.
        coupling: Which noise goes with which sample of a batch.
        init: A finished run whose weights training starts from; fresh weights when None.
        training, optimiser, sampling, evaluation: How.
        out: The run's folder; runs/<name of the recipe> when None.
    """

    about: str = ""
    technique: str = ""
    data: Data
    network: AUTO | NetworkConfig = "auto"
    path: Path
    prediction: Prediction
    time: TimeCondition = Identity()
    conditioner: AUTO | ConditionerConfig = "auto"
    sigma_data: float = Field(default=0.5, gt=0)
    objective: ObjectiveConfig = Denoising()
    coupling: Coupling = Independent()
    init: FrozenRun | None = None
    optimiser: OptimiserSettings = OptimiserSettings()
    training: TrainingSettings = TrainingSettings()
    sampling: SamplingSettings = SamplingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    out: str | None = None

    def resolve(self, dataset: Dataset) -> Resolved:
        """Let the data decide what was left to them.

        Raises:
            UsageError: Recipe and data do not go together.
        """
        notes = []
        network = self.network
        if isinstance(network, str):
            network, why_network = self._sized(dataset.shape)
            notes.append(why_network)
        conditioner, why = self._conditioner(dataset)
        self.check_guidance(conditioner)
        notes.extend(why)
        model = ModelConfig(
            network=network,
            shape=dataset.shape,
            path=self.path,
            prediction=self.prediction,
            time=self.time,
            conditioner=conditioner,
            sigma_data=self.sigma_data,
            flow_map=self.objective.flow_map(),
            classes=dataset.classes if conditioner.label_count else (),
        )
        notes.append(f"{count_parameters(model.network, dataset.shape):,} parameters in the network")
        chosen = self.replace(data=self.data.anchored(), network=network, conditioner=conditioner)
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
        if guidance.most_evaluations < 2:
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

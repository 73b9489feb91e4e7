"""Objectives: from a batch to named losses."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.objectives.base import Following, Gathering, Objective, ObjectivePart, Playing, Progress
from suffuse.objectives.boot import Bootstrap
from suffuse.objectives.consistency import Consistency
from suffuse.objectives.denoising import Denoising, denoising_loss
from suffuse.objectives.mean_flow import MeanFlow
from suffuse.objectives.progressive import Progressive
from suffuse.objectives.sample_matching import SampleMatching
from suffuse.objectives.scm import ContinuousConsistency

__all__ = [
    "Bootstrap",
    "Consistency",
    "ContinuousConsistency",
    "Denoising",
    "Following",
    "Gathering",
    "MeanFlow",
    "Objective",
    "ObjectiveConfig",
    "ObjectivePart",
    "Playing",
    "Progress",
    "Progressive",
    "SampleMatching",
    "denoising_loss",
]

ObjectiveConfig = Annotated[
    ObjectivePart,
    Joint(
        "objective",
        Denoising,
        Consistency,
        ContinuousConsistency,
        MeanFlow,
        Progressive,
        Bootstrap,
        SampleMatching,
    ),
]

"""Objectives: from a batch to named losses."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.denoising import Denoising, denoising_loss

__all__ = ["Denoising", "Objective", "ObjectiveConfig", "ObjectivePart", "Progress", "denoising_loss"]

ObjectiveConfig = Annotated[ObjectivePart, Joint("objective", Denoising)]

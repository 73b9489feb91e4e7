"""Guidance: how sampling is steered."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.sampling.guidance.base import Denoise, GuidancePart, NoGuidance
from suffuse.sampling.guidance.classifier_free import CFG

__all__ = ["CFG", "Denoise", "Guidance", "GuidancePart", "NoGuidance"]

Guidance = Annotated[GuidancePart, Joint("guidance", NoGuidance, CFG)]

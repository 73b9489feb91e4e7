"""Guidance: how sampling is steered."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.sampling.guidance.base import Denoise, GuidancePart, NoGuidance
from suffuse.sampling.guidance.classifier_free import CFG, scale_from
from suffuse.sampling.guidance.projected import APG

__all__ = ["APG", "CFG", "Denoise", "Guidance", "GuidancePart", "NoGuidance", "scale_from"]

Guidance = Annotated[GuidancePart, Joint("guidance", NoGuidance, CFG, APG)]

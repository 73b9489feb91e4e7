"""Guidance: how sampling is steered.

`ClassifierGuidance` and `UniversalGuidance` hold functions, which no file can name: they are for Python and not in the
table.
"""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.sampling.guidance.autoguidance import Autoguidance
from suffuse.sampling.guidance.base import Denoise, GuidancePart, NoGuidance
from suffuse.sampling.guidance.cfg_plus_plus import CFGPlusPlus
from suffuse.sampling.guidance.classifier import ClassifierGuidance
from suffuse.sampling.guidance.classifier_free import CFG, scale_from
from suffuse.sampling.guidance.measurements import BlockMean, GaussianBlur, Inpainting, Measurement, MeasurementPart
from suffuse.sampling.guidance.noise_injection import NoiseInjection
from suffuse.sampling.guidance.posterior_sampling import DPS
from suffuse.sampling.guidance.projected import APG
from suffuse.sampling.guidance.universal import UniversalGuidance

__all__ = [
    "APG",
    "CFG",
    "DPS",
    "Autoguidance",
    "BlockMean",
    "CFGPlusPlus",
    "ClassifierGuidance",
    "Denoise",
    "GaussianBlur",
    "Guidance",
    "GuidancePart",
    "Inpainting",
    "Measurement",
    "MeasurementPart",
    "NoGuidance",
    "NoiseInjection",
    "UniversalGuidance",
    "scale_from",
]

Guidance = Annotated[
    GuidancePart, Joint("guidance", NoGuidance, CFG, APG, CFGPlusPlus, Autoguidance, DPS, NoiseInjection)
]

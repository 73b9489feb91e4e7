"""Measures on trained runs, a file a subject."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.claims.measures.designs import DesignsMet
from suffuse.claims.measures.distance import Distance
from suffuse.claims.measures.gradients import GradientNoise
from suffuse.claims.measures.known import ExcessError
from suffuse.claims.measures.outliers import InlierDistances
from suffuse.claims.measures.plans import FeatureDrift, PlanFidelity, Way
from suffuse.claims.measures.points import DenoisingErrorAt, MapError, PointDistances
from suffuse.claims.measures.profiles import GradientProfile, NoiseErrors, TimeLipschitz, TrainingSteadiness
from suffuse.claims.measures.prompts import PromptsMet
from suffuse.claims.measures.reconstruction import Reconstruction
from suffuse.claims.measures.teachers import TeacherMapError

__all__ = [
    "Bench",
    "DenoisingErrorAt",
    "DesignsMet",
    "Distance",
    "ExcessError",
    "FeatureDrift",
    "GradientNoise",
    "GradientProfile",
    "InlierDistances",
    "MapError",
    "Measure",
    "MeasurePart",
    "NoiseErrors",
    "PlanFidelity",
    "PointDistances",
    "PromptsMet",
    "Reconstruction",
    "TeacherMapError",
    "TimeLipschitz",
    "TrainingSteadiness",
    "Way",
]

Measure = Annotated[
    MeasurePart,
    Joint(
        "measure",
        Distance,
        TimeLipschitz,
        NoiseErrors,
        GradientProfile,
        TrainingSteadiness,
        ExcessError,
        PointDistances,
        MapError,
        DenoisingErrorAt,
        TeacherMapError,
        InlierDistances,
        GradientNoise,
        PlanFidelity,
        FeatureDrift,
        PromptsMet,
        DesignsMet,
    ),
]

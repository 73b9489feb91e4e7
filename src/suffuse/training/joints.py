"""All joints by name, read off the annotated types: what can be listed, documented and tested."""

from __future__ import annotations

from typing import Any, get_args

from suffuse.acceleration import Plan
from suffuse.base.part import Joint
from suffuse.data import Data
from suffuse.models.config import ConditionerConfig
from suffuse.networks import Autoencoder, NetworkConfig
from suffuse.objectives import ObjectiveConfig
from suffuse.objectives.pair_metric import PairMetric
from suffuse.objectives.perceptual import Perceptual
from suffuse.objectives.targets import TargetWeights
from suffuse.process import Coupling, Curriculum, NoiseLevels, Pairs, Path, Prediction, TimeCondition, Weighting
from suffuse.sampling import Grid, Guidance, Measurement, Solver

__all__ = ["JOINTS"]


def _joint(annotated: Any) -> Joint:  # Any: an annotated type
    joint = get_args(annotated)[1]
    assert isinstance(joint, Joint)
    return joint


JOINTS: dict[str, Joint] = {
    joint.name: joint
    for joint in map(
        _joint,
        (
            Data,
            NetworkConfig,
            Autoencoder,
            Path,
            Prediction,
            TimeCondition,
            ConditionerConfig,
            ObjectiveConfig,
            NoiseLevels,
            Weighting,
            Pairs,
            Curriculum,
            PairMetric,
            Perceptual,
            TargetWeights,
            Coupling,
            Solver,
            Grid,
            Guidance,
            Measurement,
            Plan,
        ),
    )
}

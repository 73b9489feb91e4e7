"""The process: paths, predictions, time conditions, noise levels, weightings. No networks, no files."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.process.noise_levels import LogitNormal, LogNormal, NoiseLevelsPart, UniformIndices, UniformTimes
from suffuse.process.path import EDM, Flow, Level, PathPart, TrigonometricPath, expand, perturb
from suffuse.process.prediction import (
    X0,
    EDMPrediction,
    Eps,
    FlowVelocity,
    PredictionPart,
    Score,
    V,
    eps_of,
    score_of,
    velocity_of,
    x0_of_eps,
)
from suffuse.process.time_condition import (
    ConstantTime,
    Identity,
    LogSigma,
    Remap,
    SharedTimesteps,
    TimeConditionPart,
    near_clean,
)
from suffuse.process.vp import VP
from suffuse.process.weighting import (
    P2,
    EDMWeighting,
    EpsWeighting,
    MinSNR,
    PlainWeighting,
    SigmoidWeighting,
    TruncatedSNR,
    VWeighting,
    WeightingPart,
    X0Weighting,
)

__all__ = [
    "EDM",
    "P2",
    "VP",
    "X0",
    "ConstantTime",
    "EDMPrediction",
    "EDMWeighting",
    "Eps",
    "EpsWeighting",
    "Flow",
    "FlowVelocity",
    "Identity",
    "Level",
    "LogNormal",
    "LogSigma",
    "LogitNormal",
    "MinSNR",
    "NoiseLevels",
    "NoiseLevelsPart",
    "Path",
    "PathPart",
    "PlainWeighting",
    "Prediction",
    "PredictionPart",
    "Remap",
    "Score",
    "SharedTimesteps",
    "SigmoidWeighting",
    "TimeCondition",
    "TimeConditionPart",
    "TrigonometricPath",
    "TruncatedSNR",
    "UniformIndices",
    "UniformTimes",
    "V",
    "VWeighting",
    "Weighting",
    "WeightingPart",
    "X0Weighting",
    "eps_of",
    "expand",
    "near_clean",
    "perturb",
    "score_of",
    "velocity_of",
    "x0_of_eps",
]

Path = Annotated[PathPart, Joint("path", VP, EDM, Flow, TrigonometricPath)]
Prediction = Annotated[PredictionPart, Joint("prediction", Eps, X0, V, FlowVelocity, Score, EDMPrediction)]
TimeCondition = Annotated[TimeConditionPart, Joint("time", Identity, SharedTimesteps, LogSigma, Remap, ConstantTime)]
NoiseLevels = Annotated[NoiseLevelsPart, Joint("noise levels", UniformIndices, UniformTimes, LogNormal, LogitNormal)]
Weighting = Annotated[
    WeightingPart,
    Joint(
        "weighting",
        PlainWeighting,
        EpsWeighting,
        X0Weighting,
        VWeighting,
        TruncatedSNR,
        MinSNR,
        P2,
        SigmoidWeighting,
        EDMWeighting,
    ),
]

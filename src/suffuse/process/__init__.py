"""The process: paths, predictions, time conditions, noise levels, weightings. No networks, no files."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.process.clamped_cosine import ClampedCosine
from suffuse.process.consistency_prediction import ConsistencyPrediction
from suffuse.process.coupling import CouplingPart, Independent, OptimalTransport
from suffuse.process.noise_levels import (
    LogitNormal,
    LogNormal,
    LogStudentT,
    NoiseLevelsPart,
    UniformIndices,
    UniformTimes,
)
from suffuse.process.pairs import Curriculum, GapPairs, GridPairs, Pair, PairsPart, sigma_over_alpha, time_at
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
from suffuse.process.transfer import aim, transfer
from suffuse.process.vp import VP
from suffuse.process.weighting import (
    P2,
    BoundedSNR,
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
    "BoundedSNR",
    "ClampedCosine",
    "ConsistencyPrediction",
    "ConstantTime",
    "Coupling",
    "CouplingPart",
    "Curriculum",
    "EDMPrediction",
    "EDMWeighting",
    "Eps",
    "EpsWeighting",
    "Flow",
    "FlowVelocity",
    "GapPairs",
    "GridPairs",
    "Identity",
    "Independent",
    "Level",
    "LogNormal",
    "LogSigma",
    "LogStudentT",
    "LogitNormal",
    "MinSNR",
    "NoiseLevels",
    "NoiseLevelsPart",
    "OptimalTransport",
    "Pair",
    "Pairs",
    "PairsPart",
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
    "aim",
    "eps_of",
    "expand",
    "near_clean",
    "perturb",
    "score_of",
    "sigma_over_alpha",
    "time_at",
    "transfer",
    "velocity_of",
    "x0_of_eps",
]

Path = Annotated[PathPart, Joint("path", VP, EDM, Flow, TrigonometricPath, ClampedCosine)]
Prediction = Annotated[
    PredictionPart, Joint("prediction", Eps, X0, V, FlowVelocity, Score, EDMPrediction, ConsistencyPrediction)
]
TimeCondition = Annotated[TimeConditionPart, Joint("time", Identity, SharedTimesteps, LogSigma, Remap, ConstantTime)]
NoiseLevels = Annotated[
    NoiseLevelsPart, Joint("noise levels", UniformIndices, UniformTimes, LogNormal, LogitNormal, LogStudentT)
]
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
        BoundedSNR,
        SigmoidWeighting,
        EDMWeighting,
    ),
]
Pairs = Annotated[PairsPart, Joint("pairs", GridPairs, GapPairs)]
Coupling = Annotated[CouplingPart, Joint("coupling", Independent, OptimalTransport)]

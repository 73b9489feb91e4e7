"""E-TSDM's experiments without training, on densities whose best network is known exactly."""

from __future__ import annotations

from suffuse.claims.exact import PerfectSampling, PriceOfSharing, Singularity
from suffuse.claims.protocol import Criterion, ExactArm, Experiment, Plot
from suffuse.process import VP, X0, Eps, Flow, FlowVelocity, PathPart, PredictionPart, V

__all__ = ["CELLS", "MANIFOLD", "PERFECT_SAMPLING", "PRICE", "SINGULARITY", "price_arm"]


def _exact(path: PathPart, prediction: PredictionPart, name: str) -> ExactArm:
    return ExactArm(name=name, exact=Singularity(path=path, prediction=prediction))


def _exponent(arm: str, least: float, most: float | None = None) -> Criterion:
    return Criterion(value="exponent", arm=arm, at_least=least, at_most=most)


SINGULARITY = Experiment(
    arms=(
        _exact(VP(), Eps(), "linear eps"),
        _exact(VP(), V(), "linear v"),
        _exact(VP(), X0(), "linear x0"),
        _exact(VP(schedule="cosine"), Eps(), "cosine eps"),
        _exact(VP(schedule="cosine"), V(), "cosine v"),
        _exact(VP(schedule="plain_cosine"), Eps(), "plain cosine eps"),
        _exact(VP(schedule="plain_cosine"), V(), "plain cosine v"),
        _exact(VP(zero_terminal_snr=True), V(), "zero terminal SNR v"),
        _exact(Flow(), Eps(), "flow eps"),
        _exact(Flow(), FlowVelocity(), "flow velocity"),
        _exact(VP(steps=1000), Eps(), "linear table eps"),
        _exact(VP(schedule="scaled_linear", steps=1000), Eps(), "scaled linear table eps"),
        _exact(VP(steps=1000, straight_below=100), Eps(), "straightened table eps"),
    ),
    criteria=(
        *(_exponent(arm, -0.55, -0.45) for arm in ("linear eps", "linear v", "cosine eps", "cosine v")),
        _exponent("zero terminal SNR v", -0.55, -0.45),
        *(
            _exponent(arm, -0.1)
            for arm in ("linear x0", "plain cosine eps", "plain cosine v", "flow eps", "flow velocity")
        ),
        Criterion(value="K@0", arm="linear table eps", over_value="K@100", at_least=3),
        Criterion(value="K@0", arm="flow eps", over_value="K@100", at_most=1.2),
        Criterion(value="K@0", arm="linear x0", over_value="K@100", at_most=1.2),
    ),
    columns=("exponent", "K@0", "K@20", "K@100", "K@400"),
    plots=(
        Plot(
            name="exact",
            values=("K",),
            title="Change of the best network in time, exact",
            xlabel="step of a thousand, from clean data (plus 1)",
            ylabel="K(t) per length of the path",
            log="xy",
            arms=(
                "linear eps",
                "linear v",
                "linear x0",
                "cosine eps",
                "plain cosine eps",
                "flow eps",
                "straightened table eps",
            ),
        ),
    ),
)

CELLS = ((2, 1), (8, 3), (48, 7), (192, 7), (784, 20))


def price_arm(ambient: int, rank: int, intervals: int) -> ExactArm:
    """Price of sharing on two subspaces of `rank` dimensions in a space of `ambient`."""
    name = f"n={ambient} d={rank}, {intervals} interval{'s' if intervals > 1 else ''}"
    return ExactArm(name=name, exact=PriceOfSharing(ambient=ambient, rank=rank, intervals=intervals))


PRICE = Experiment(
    arms=(
        *(price_arm(ambient, rank, 5) for ambient, rank in CELLS),
        price_arm(48, 7, 1),
        price_arm(192, 7, 1),
        price_arm(784, 20, 1),
        price_arm(48, 7, 20),
    ),
    criteria=(
        *(Criterion(value="over_bound", arm=f"n={n} d={d}, 5 intervals", at_most=1) for n, d in CELLS),
        Criterion(value="over_bound", arm="n=192 d=7, 1 interval", at_least=0.75, at_most=1.0),
        Criterion(value="relative", arm="n=48 d=7, 5 intervals", at_least=0.032, at_most=0.044),
        Criterion(value="relative", arm="n=2 d=1, 5 intervals", over="n=784 d=20, 5 intervals", at_least=1.0),
        Criterion(value="relative", arm="n=192 d=7, 5 intervals", over="n=784 d=20, 5 intervals", at_least=1.5),
        Criterion(value="relative", arm="n=784 d=20, 5 intervals", at_least=0.018, at_most=0.026),
    ),
    columns=("bayes", "excess", "bound", "relative", "plugged"),
)

PERFECT_SAMPLING = Experiment(
    arms=(
        ExactArm(name="n=48 d=7", exact=PerfectSampling()),
        ExactArm(name="n=48 d=7, 1 interval", exact=PerfectSampling(intervals=1)),
    ),
    criteria=tuple(
        Criterion(value=f"shared_over_{solver}@{nfe}", arm="n=48 d=7", at_least=0.95, at_most=1.05)
        for solver in ("ddim", "dpmpp")
        for nfe in (10, 20, 50)
    ),
    columns=(
        *(f"shared_over_{solver}@{nfe}" for solver in ("ddim", "dpmpp") for nfe in (5, 10, 20, 50)),
        *("told_all_ddim@50", "shared_ddim@50", "told_all_dpmpp@50", "shared_dpmpp@50", "floor_dpmpp@50"),
    ),
    notes=("Distances are squared and hold the floor of a finite sample; the ratios are not net of it.",),
)

_ON_SUBSPACES = tuple(
    ExactArm(name=f"{name}, subspaces", exact=Singularity(path=path, prediction=prediction, subspaces=(48, 7)))
    for name, path, prediction in (
        ("linear eps", VP(), Eps()),
        ("linear v", VP(), V()),
        ("linear x0", VP(), X0()),
        ("plain cosine eps", VP(schedule="plain_cosine"), Eps()),
        ("flow eps", Flow(), Eps()),
        ("flow velocity", Flow(), FlowVelocity()),
    )
)

MANIFOLD = Experiment(
    arms=_ON_SUBSPACES,
    criteria=(
        *(_exponent(arm.name, -1.1, -0.9) for arm in _ON_SUBSPACES if "x0" not in arm.name),
        _exponent("linear x0, subspaces", -0.1),
    ),
    columns=("exponent", "K@0", "K@20", "K@100", "K@400"),
    notes=("It was found when the instrument was tested: this criterion was written after a first look.",),
)

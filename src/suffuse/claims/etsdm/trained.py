"""E-TSDM's experiments with training: 8x8 digits (small), MNIST at 14x14 (long), CIFAR-10 (gpu, full)."""

from __future__ import annotations

from suffuse.claims.etsdm.changes import arms
from suffuse.claims.etsdm.known import CELLS, price_arm
from suffuse.claims.measures import (
    Distance,
    ExcessError,
    GradientProfile,
    MeasurePart,
    NoiseErrors,
    TimeLipschitz,
    TrainingSteadiness,
)
from suffuse.claims.protocol import Criterion, Experiment, Plot
from suffuse.process import SharedTimesteps
from suffuse.sampling import DDIM, DPMSolverPP

__all__ = [
    "ABLATION",
    "CIFAR",
    "CIFAR_DATA",
    "DIGITS",
    "FIT",
    "FULL",
    "LONGER",
    "MNIST",
    "MNIST_DATA",
    "TOO_LATE",
    "alternatives",
    "breadth",
    "distance",
    "lipschitz",
    "stability",
]


def _distances(samples: int, *costs: int) -> tuple[MeasurePart, ...]:
    """Both families of fast solvers at each cost."""
    return tuple(
        Distance(solver=solver, nfe=nfe, samples=samples) for solver in (DDIM(), DPMSolverPP()) for nfe in costs
    )


def _ratio(value: str, arm: str, over: str, least: float | None = None, most: float | None = None) -> Criterion:
    return Criterion(value=value, arm=arm, over=over, at_least=least, at_most=most)


# Equal budgets: 32,000 images of the digits (18 times the data), 128,000 of MNIST, 1,024,000 of CIFAR-10.
DIGITS = (
    "network.channels=16",
    "steps=250",
    "checkpoint_every=100",
    "training.ema=[5000]",
    "sampling.grid={kind: uniform, steps: 20}",  # measures bring their own; this one goes with every path
)
MNIST = (
    "network.channels=16",
    "steps=1000",
    "checkpoint_every=250",
    "training.ema=[10000]",
    "objective.noise_levels={kind: indices, stratified: true}",
    "optimiser={lr: 1.0e-3, warmup: 50, decay: cosine, decay_from: 0.3}",
)
CIFAR = (
    "steps=8000",
    "checkpoint_every=1000",
    "training.ema=[50000]",
    "precision=bfloat16",
    "optimiser={lr: 4.0e-4, warmup: 500, decay: cosine, decay_from: 0.5}",
)
SUBSPACES = (
    "data.kind=low_rank",
    "data.ambient=48",
    "data.rank=7",
    "data.count=50000",
    "network={kind: mlp, width: 256, depth: 3}",
    "conditioner=none",
    "steps=3000",
    "batch=128",
    "checkpoint_every=1000",
    "training.ema=[20000]",
    "optimiser={lr: 1.0e-3, warmup: 100, decay: cosine, decay_from: 0.3}",
)
FULL = ("checkpoint_every=5000",)
MNIST_DATA, CIFAR_DATA = "mnist-train.zip", "cifar10-train.zip"

_BRIEF: tuple[MeasurePart, ...] = (
    Distance(solver=DDIM(), nfe=10, samples=500),
    Distance(solver=DDIM(), nfe=50, samples=500),
)
_COLUMNS = ("distance_ddim@10", "distance_ddim@50", "eps_mse@0")
_CURVES = tuple(
    Plot(
        name=solver,
        values=(f"distance_{solver}",),
        title=f"{title}: distance against cost",
        xlabel="network evaluations per sample",
        ylabel="Frechet distance",
        log="xy",
    )
    for solver, title in (("ddim", "DDIM"), ("dpmpp", "DPM-Solver++ 2M"))
)
_PROFILE = Plot(
    name="lipschitz",
    values=("K",),
    title="Change of the network in time",
    xlabel="step of a thousand, from clean data (plus 1)",
    ylabel="K(t) per length of the path",
    log="xy",
)


def lipschitz(recipe: str, shared: tuple[str, ...], data: str | None, *others: str) -> Experiment:
    """Change of trained networks in time: the baseline and E-TSDM, and other targets and paths by name."""
    singular = [name for name in ("v", "v eps loss") if name in others]
    smooth = [name for name in ("x0", "flow", "plain cosine") if name in others]
    return Experiment(
        arms=arms(recipe, "none", "etsdm", *others),
        shared=shared,
        data=data,
        measures=(TimeLipschitz(), NoiseErrors()),
        criteria=(
            *(Criterion(value="K_first", arm=arm, over_value="K_middle", at_least=2) for arm in ("none", *singular)),
            *(Criterion(value="K_first", arm=arm, over_value="K_middle", at_most=1.5) for arm in smooth),
            Criterion(value="K_inside", arm="etsdm", at_most=0),
        ),
        columns=("K_first", "K_near", "K_middle", "K_inside", "eps_mse@0"),
        plots=(_PROFILE,),
        notes=("K_inside is 0 by construction, whatever was learned; K_near holds the jumps at the edges.",),
    )


def distance(
    recipe: str,
    shared: tuple[str, ...],
    data: str | None,
    *,
    most: float,
    full: Distance,
    samples: int = 500,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> Experiment:
    """Distance of samples by both families of fast solvers, and by DDPM.

    Args:
        recipe: The baseline.
        shared: Budget of both arms.
        data: File of the data; None when the package brings them.
        most: Largest ratio of E-TSDM's distance to the baseline's with fast solvers at 10, 20 and 50 evaluations. Where
            it is below 1, DDPM must not be worse; the paper gives no figure for it.
        full: DDPM's measure.
        samples: Of the fast solvers.
        seeds: Of both arms.
    """
    fast = tuple(f"distance_{solver}@{nfe}" for solver in ("ddim", "dpmpp") for nfe in (10, 20, 50))
    return Experiment(
        arms=arms(recipe, "none", "etsdm"),
        shared=shared,
        data=data,
        seeds=seeds,
        measures=(*_distances(samples, 5, 10, 20, 50), full),
        criteria=(
            *(_ratio(name, "etsdm", "none", most=most) for name in fast),
            *((_ratio(full.name, "etsdm", "none", most=1.0),) if most < 1 else ()),
        ),
        columns=(*(f"distance_{solver}@{nfe}" for solver in ("ddim", "dpmpp") for nfe in (5, 10, 20, 50)), full.name),
        plots=_CURVES,
    )


def alternatives(recipe: str, shared: tuple[str, ...], data: str | None, *others: str) -> Experiment:
    """E-TSDM against others by name; those that share themselves are shown, and not competed with."""
    return Experiment(
        arms=arms(recipe, "none", "etsdm", *others),
        shared=shared,
        data=data,
        measures=(*_BRIEF, NoiseErrors()),
        criteria=tuple(
            _ratio("distance_ddim@50", "etsdm", arm, most=1.0) for arm in ("none", *others) if not arm.endswith("etsdm")
        ),
        columns=_COLUMNS,
        plots=(
            Plot(
                name="alternatives",
                values=("distance_ddim@50",),
                title="DDIM, 50 evaluations",
                ylabel="Frechet distance",
            ),
        ),
    )


ABLATION = Experiment(
    arms=arms("digits-ddpm", "none", "etsdm", "below 300", "1 interval", "uneven"),
    shared=DIGITS,
    measures=(*_BRIEF, NoiseErrors()),
    criteria=(
        _ratio("distance_ddim@50", "1 interval", "etsdm", least=1.0),
        _ratio("distance_ddim@50", "below 300", "etsdm", least=1.0),
        _ratio("distance_ddim@50", "uneven", "etsdm", least=0.9, most=1.1),
    ),
    columns=_COLUMNS,
)


def breadth(
    recipe: str,
    shared: tuple[str, ...],
    data: str | None = None,
    *,
    helps: tuple[str, ...] = (),
    idle: tuple[str, ...] = (),
) -> Experiment:
    """Sharing on top of other paths, networks and targets, each against itself without sharing.

    Args:
        recipe: The baseline.
        shared: Budget of all arms.
        data: File of the data; None when the package brings them.
        helps: Where it is expected to lower the distance.
        idle: Where it is expected to change it by less than a twentieth.
    """
    pairs = [name for arm in (*helps, *idle) for name in (arm, f"{arm} etsdm")]
    return Experiment(
        arms=arms(recipe, *pairs),
        shared=shared,
        data=data,
        measures=(*_BRIEF, NoiseErrors()),
        criteria=(
            *(_ratio("distance_ddim@50", f"{arm} etsdm", arm, most=1.0) for arm in helps),
            *(_ratio("distance_ddim@50", f"{arm} etsdm", arm, least=0.95, most=1.05) for arm in idle),
        ),
        columns=_COLUMNS,
    )


LONGER = Experiment(
    arms=arms("digits-ddpm", "none", "etsdm"),
    shared=(*DIGITS, "steps=2000", "checkpoint_every=500"),
    measures=(*_distances(1000, 10, 20, 50), NoiseErrors(), TimeLipschitz()),
    criteria=tuple(
        _ratio(value, "etsdm", "none", most=1.0) for value in ("distance_ddim@50", "distance_dpmpp@20", "eps_mse@0")
    ),
    columns=(*(f"distance_{solver}@{nfe}" for solver in ("ddim", "dpmpp") for nfe in (10, 20, 50)), "eps_mse@0"),
)


def stability(recipe: str, shared: tuple[str, ...], data: str | None) -> Experiment:
    """Spread of losses and gradients near clean data, at the end of training and along it."""
    return Experiment(
        arms=arms(recipe, "none", "etsdm", "penalty"),
        shared=shared,
        data=data,
        measures=(GradientProfile(), TrainingSteadiness()),
        criteria=(
            _ratio("grad_spread@0", "etsdm", "none", most=1.0),
            _ratio("loss_spread@0", "etsdm", "none", most=1.0),
        ),
        columns=("grad_spread@0", "grad_signal@0", "loss_spread@0", "train_grad_spread", "train_grad_peak"),
    )


FIT = Experiment(
    arms=arms("digits-ddpm", "none", "etsdm", "smooth", "smooth etsdm"),
    shared=SUBSPACES,
    measures=(
        ExcessError(),
        TimeLipschitz(),
    ),
    criteria=tuple(
        _ratio(value, f"{arm} etsdm".removeprefix("none "), arm, most=1.0)
        for arm in ("none", "smooth")
        for value in ("fit@0", "excess@0")
    ),
    columns=(*("K_first", "K_middle", "bayes@0", "fit@0", "excess@0", "excess@100", "excess@400"),),
    plots=(_PROFILE,),
)

TOO_LATE = Experiment(
    arms=(*(price_arm(ambient, rank, 5) for ambient, rank in CELLS), *arms("digits-ddpm", "none")),
    shared=DIGITS,
    measures=(
        Distance(solver=DDIM(), nfe=50, samples=500),
        Distance(solver=DDIM(), nfe=50, samples=500, told=SharedTimesteps(below=100, intervals=5)),
        NoiseErrors(),
    ),
    criteria=(
        *(Criterion(value="plugged", arm=f"n={n} d={d}, 5 intervals", at_least=1) for n, d in CELLS),
        Criterion(value="distance_ddim_told_shared@50", arm="none", over_value="distance_ddim@50", at_least=2),
    ),
    columns=("bayes", "plugged", "distance_ddim@50", "distance_ddim_told_shared@50"),
)

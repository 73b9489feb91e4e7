"""What can be said of E-TSDM without training: the singularity, the price of sharing, sampling by the best networks.

Every network here is the best one for its task, known exactly; what is measured is the method and not an optimiser.
Expectations over data and noise are means over keyed samples, so that two arms of a comparison see the same ones.

Source: yang2024etsdm; the low-rank mixtures are those of wang2024subspace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys, normal
from suffuse.data import GaussianMixture, LowRankMixture
from suffuse.metrics import Moments, frechet
from suffuse.models.exact import ExactMixture, ExactModel
from suffuse.models.exact_low_rank import ExactLowRank
from suffuse.models.told_optimum import PluggedIn, ToldOptimum, exact_output
from suffuse.process import VP, Eps, PathPart, PredictionPart, SharedTimesteps, expand, perturb
from suffuse.sampling import DDIM, DPMSolverPP, Model, SolverPart, Uniform, sample

__all__ = [
    "Price",
    "Sampled",
    "exact_lipschitz",
    "limit_exponent",
    "price_of_sharing",
    "sampled_distance",
]

_TABLE = VP(schedule="linear", steps=1000)
_EPS = Eps()
_RING = GaussianMixture()
_SOLVERS = (DDIM(), DPMSolverPP())
# One thousandth of the path, one index of the usual table: what "the next time" means on a continuous path.
_NEXT = 1e-3
# At the limit the next time is this share further: small against t, large against rounding.
_SHARE = 1e-2


@dataclass(frozen=True)
class Price:
    """What sharing timesteps costs the best network, over times in the shared range; squared errors per dimension.

    Attributes:
        bayes: eps-error of the best network that is told every time: nobody can do better.
        excess: By how much the error of the best network that is told the shared time is larger.
        bound: 1 / (2 (n - d)), the law that the excess obeys: the noise level is estimated from n - d numbers.
        relative: excess / bayes.
        plugged: eps-error where the network that was told every time is told the shared one; answering 0 scores 1.
    """

    bayes: float
    excess: float
    bound: float
    relative: float
    plugged: float


@dataclass(frozen=True)
class Sampled:
    """Squared Frechet distances of samples to the mixture, averaged over components, by one solver.

    Attributes:
        solver: Its kind.
        nfe: Evaluations per sample.
        exact: Samples of the best network that is told every time.
        shared: Of the best network that is told the shared time.
        plugged: Of the network that is told every time in training and the shared time in sampling.
        floor: Of as many points of the mixture itself.
    """

    solver: str
    nfe: int
    exact: float
    shared: float
    plugged: float
    floor: float


def _noise(count: int, dimension: int, seed: int) -> Tensor:
    """Unit noise, (count, dimension) float64."""
    return normal(keys(seed, "etsdm exact: noise", 0, torch.arange(count)), (dimension,)).double()


def _model(density: GaussianMixture | LowRankMixture, path: PathPart) -> ExactModel:
    kind = ExactLowRank if isinstance(density, LowRankMixture) else ExactMixture
    return kind(path, *density.parameters())


def price_of_sharing(
    *,
    ambient: int,
    rank: int,
    intervals: int,
    below: int = 100,
    path: PathPart = _TABLE,
    prediction: PredictionPart = _EPS,
    components: int = 2,
    samples: int = 4000,
    seed: int,
) -> Price:
    """Price of telling the network the shared time alone, on a low-rank mixture at uniform indices 0..below-1.

    The best network that is told less is the conditional mean of the best one that is told all, so their errors are
    orthogonal and the excess is E|eps_shared - eps_exact|**2: far less noisy than a difference of two errors.

    Args:
        ambient: Dimensions n of the space.
        rank: Dimensions d of each of the subspaces.
        intervals: Sub-intervals of the shared range.
        below: Indices under this are shared.
        path: A table.
        prediction: What the networks' output means; errors are those of the noise that it implies.
        components: Number of subspaces.
        samples: A multiple of `below`: as many of every index.
        seed: Of subspaces, points and noise.

    Raises:
        UsageError: Samples that cannot be spread evenly, or parts that do not go together.
    """
    if samples < below or samples % below:
        raise UsageError(f"samples is {samples}, no multiple of the {below} shared indices; give {50 * below}")
    data = LowRankMixture(ambient=ambient, rank=rank, components=components, subspaces=seed)
    model, shared = _model(data, path), SharedTimesteps(below=below, intervals=intervals)
    best = ToldOptimum(model, prediction=prediction, time=shared)
    plugged = PluggedIn(model, prediction=prediction, time=shared)
    x0, eps = data.sample(samples, seed).double(), _noise(samples, ambient, seed)
    t = (torch.arange(samples) % below).double()
    x = perturb(path, x0, eps, t)
    level = path.level(t, x)
    exact = exact_output(model, prediction, x, t)
    # A change of F changes the estimate of x0 by c_out times as much, and that of eps by -alpha / sigma of it.
    _, c_out = prediction.output(path.alpha(t), path.sigma(t), best.sigma_data)
    per_output = expand(c_out, x) * level.alpha / level.sigma

    def error(difference: Tensor) -> float:
        return float((per_output * difference).square().mean())

    target = prediction.target(x0, eps, level, best.sigma_data)
    bayes, excess = error(exact - target), error(best.output(x, t) - exact)
    return Price(
        bayes=bayes,
        excess=excess,
        bound=1 / (2 * (ambient - rank)),
        relative=excess / bayes,
        plugged=error(plugged.output(x, t) - target),
    )


def _steepness(model: ExactModel, prediction: PredictionPart, x0: Tensor, eps: Tensor, t: float, later: float) -> float:
    """E|F*(x_t, later) - F*(x_t, t)| / (later - t), the same x_t at both times."""
    x = perturb(model.path, x0, eps, torch.full((len(x0),), t, dtype=torch.float64))
    difference = exact_output(model, prediction, x, later) - exact_output(model, prediction, x, t)
    return float(difference.norm(dim=1).mean()) / (later - t)


def exact_lipschitz(
    *,
    path: PathPart,
    prediction: PredictionPart,
    density: GaussianMixture | LowRankMixture = _RING,
    times: Sequence[float],
    samples: int = 20_000,
    seed: int,
) -> dict[float, float]:
    """How fast the best network changes with the time it is told, per length of the whole path.

    K(t) = E|F*(x_t, t + dt) - F*(x_t, t)| / dt with the same x_t, Euclidean norm, times the path's length: the number
    of its indices (dt is one index), or its range (dt is a thousandth of it).

    Args:
        path: How data become noise.
        prediction: What the output F means.
        density: Of the data.
        times: In the path's unit.
        samples: Over which K is averaged.
        seed: Of points and noise.

    Returns:
        K at each time.

    Raises:
        UsageError: No times, a time without noise or without a next one, or a prediction undefined there.
    """
    length = float(path.indices or path.t_max - path.t_clean)
    dt = 1.0 if path.indices else _NEXT * length
    if not times:
        raise UsageError("times is empty; name at least one")
    wrong = [t for t in times if not path.t_clean < t <= path.t_max - dt]
    if wrong:
        raise UsageError(
            f"times {wrong} have no noise, or no next time {dt:g} later; stay above {path.t_clean:g} and up to "
            f"{path.t_max - dt:g}"
        )
    # Not `check_process`: a prediction that is undefined at the end of the path alone has its times before it.
    last = path.alpha(torch.tensor(max(times) + dt, dtype=torch.float64)).item()
    if prediction.singular_at_zero_alpha() and last == 0:
        raise UsageError(f"prediction {prediction.kind!r} is undefined at time {max(times) + dt:g}, where alpha is 0")
    model, x0 = _model(density, path), density.sample(samples, seed).double()
    eps = _noise(samples, x0.shape[1], seed)
    return {t: length * _steepness(model, prediction, x0, eps, t, t + dt) for t in times}


def limit_exponent(
    *,
    path: PathPart,
    prediction: PredictionPart,
    density: GaussianMixture | LowRankMixture = _RING,
    span: tuple[float, float] = (1e-6, 1e-4),
    points: int = 9,
    samples: int = 2000,
    seed: int,
) -> float:
    """Exponent p of K(t) ~ t**p as t -> 0: the least-squares slope of log K over log t.

    -1/2 is the singularity of the paper's theorem, for eps and v on data of full dimension where beta(0) > 0; 0 and
    above is none. On low-rank data eps and v have another one, p = -1, on every path: across the subspace eps is
    x / sigma, and x stays the same.

    Args:
        path: A closed form, whose clean data are at t = 0.
        prediction: What the output F means.
        density: Of the data.
        span: Least and largest t. The power law holds up to where the path's beta has changed: on the linear schedule
            beta doubles by t = 0.005, and a span up to 1e-2 gives -0.42 for -0.5.
        points: Number of times, evenly spaced in log t.
        samples: Over which K is averaged.
        seed: Of points and noise.

    Raises:
        UsageError: A table, or a span that does not rise.
    """
    if path.indices is not None:
        raise UsageError(f"path {path.kind!r} is a table, whose first time has noise; take its closed form (no steps)")
    if not 0 < span[0] < span[1] or points < 2:
        raise UsageError(f"span {span} with {points} points gives no slope; give two rising times above 0")
    model, x0 = _model(density, path), density.sample(samples, seed).double()
    eps = _noise(samples, x0.shape[1], seed)
    logs = torch.linspace(math.log(span[0]), math.log(span[1]), points, dtype=torch.float64)
    steepness = [_steepness(model, prediction, x0, eps, t, (1 + _SHARE) * t) for t in logs.exp().tolist()]
    centred = logs - logs.mean()
    return float((centred @ torch.tensor(steepness, dtype=torch.float64).log()) / (centred @ centred))


def _distance(points: Tensor, bases: Tensor, stds: Tensor) -> float:
    """Mean over components of the squared Frechet distance between the samples nearest to it and the component itself.

    Of the pooled samples alone, samples between the subspaces could make up for each other.
    """
    wide = points.double()
    inside = torch.einsum("bn,knd->bkd", wide, bases)
    nearest = inside.square().sum(-1).argmax(1)
    total = 0.0
    for number, basis in enumerate(bases):
        # Two samples' scatter is their covariance: the known moments, in the form that `frechet` takes.
        truth = Moments(2, basis.new_zeros(basis.shape[0]), (basis * stds**2) @ basis.T)
        total += frechet(Moments.of(wide[nearest == number], f"the samples of component {number}"), truth)
    return total / len(bases)


def sampled_distance(
    *,
    ambient: int = 48,
    rank: int = 7,
    intervals: int = 5,
    below: int = 100,
    path: PathPart = _TABLE,
    prediction: PredictionPart = _EPS,
    solvers: Sequence[SolverPart] = _SOLVERS,
    steps: Sequence[int] = (5, 10, 20, 50),
    samples: int = 1000,
    seed: int,
) -> list[Sampled]:
    """How well few-step solvers sample from the best networks, on a mixture of two subspaces.

    All networks start from the same noise. A solver's own error is in all three numbers; what sharing adds, or saves,
    is the difference.

    Args:
        ambient: Dimensions n of the space.
        rank: Dimensions d of each of the two subspaces.
        intervals: Sub-intervals of the shared range.
        below: Indices under this are shared.
        path: A table.
        prediction: What the networks' output means.
        solvers: How to go back.
        steps: Steps of evenly spaced grids.
        samples: As many of each.
        seed: Of subspaces and noise.

    Raises:
        UsageError: Parts that do not go together.
    """
    data = LowRankMixture(ambient=ambient, rank=rank, components=2, subspaces=seed)
    _, bases, stds = data.parameters()
    model, shared = _model(data, path), SharedTimesteps(below=below, intervals=intervals)
    networks: tuple[Model, ...] = (
        model,
        ToldOptimum(model, prediction=prediction, time=shared),
        PluggedIn(model, prediction=prediction, time=shared),
    )
    floor = _distance(data.sample(samples, seed), bases, stds)
    found = []
    for solver in solvers:
        for count in steps:
            drawn = [
                sample(
                    network,
                    samples,
                    shape=(ambient,),
                    solver=solver,
                    grid=Uniform(steps=count),
                    seed=seed,
                    batch=samples,
                    dtype=torch.float64,
                )
                for network in networks
            ]
            exact, told, plugged = (_distance(one.x, bases, stds) for one in drawn)
            found.append(Sampled(solver.kind, round(drawn[0].nfe), exact, told, plugged, floor))
    return found

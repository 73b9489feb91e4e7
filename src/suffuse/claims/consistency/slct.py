"""sLCT: losses that forget outliers, with outliers and without; transport; all five changes one by one; latents."""

from __future__ import annotations

from suffuse.claims.consistency.budgets import DIGITS, MNIST, MNIST_DATA, RING, jumps
from suffuse.claims.measures import GradientNoise, InlierDistances, PointDistances
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment

__all__ = ["CLAIMS"]

_CLEAN = "data.share=0"
_L2 = "objective.metric={kind: l2}"
_CAUCHY = "objective.metric={kind: cauchy, c: grid, reduce: mean}"
_CAUCHY_SIZE = "objective.metric={kind: cauchy, c: size, reduce: mean}"
_GEMAN = "objective.metric={kind: geman_mcclure, c: grid, reduce: mean}"
_LOW = "objective.low_noise={strength: 5.0, share: 0.25}"
_TRANSPORT = "coupling=optimal_transport"
_NORM = "network.norm=non_scaling"
_VALUE = "inliers@1"
_COLUMNS = (_VALUE, "inliers@2", "outliers@1", "imbalance@1")


def _arm(name: str, *overrides: str) -> Arm:
    return Arm(name=name, recipe="cloud-ict", overrides=overrides)


_OUTLIERS = Experiment(
    arms=(
        _arm("L2", _L2),
        _arm("pseudo-Huber"),
        _arm("Cauchy", _CAUCHY),
        _arm("Geman-McClure", _GEMAN),
    ),
    shared=RING,
    measures=(InlierDistances(),),
    criteria=(
        Criterion(value=_VALUE, arm="Cauchy", over="pseudo-Huber", at_most=0.8),
        Criterion(value=_VALUE, arm="L2", over="pseudo-Huber", at_least=1.0),
        # Shares over the true one. Half of the Cauchy loss's was asked for at first: undefined, both make none.
        Criterion(value="outliers@1", arm="Geman-McClure", at_most=0.2),
        Criterion(value="outliers@1", arm="Cauchy", at_least=0.2),
    ),
    columns=_COLUMNS,
    notes=(
        "The criteria on outliers were changed once the figures were there: half of the Cauchy loss' share had been "
        "asked of Geman-McClure, which is undefined, because neither makes any.",
    ),
)

_CLEAN_DATA = Experiment(
    arms=(_arm("pseudo-Huber", _CLEAN), _arm("Cauchy", _CLEAN, _CAUCHY)),
    shared=RING,
    measures=(InlierDistances(),),
    criteria=(Criterion(value=_VALUE, arm="Cauchy", over="pseudo-Huber", at_least=0.9),),
    columns=(_VALUE, "inliers@2", "imbalance@1"),
)

_CRITERIA = (
    ("+ norms without scale: sLCT", "iCT", 0.8),
    ("+ adaptive c", "+ Cauchy, c of iCT", 1.0),
    ("+ low-noise denoising", "+ adaptive c", 1.0),
    ("+ transport", "+ low-noise denoising", 1.0),
    ("+ norms without scale: sLCT", "+ transport", 1.0),
)


def _one_by_one(value: str) -> tuple[Criterion, ...]:
    return tuple(Criterion(value=value, arm=arm, over=over, at_most=most) for arm, over, most in _CRITERIA)


_STEPWISE = Experiment(
    arms=(
        _arm("iCT"),
        _arm("+ Cauchy, c of iCT", _CAUCHY_SIZE),
        _arm("+ adaptive c", _CAUCHY),
        _arm("+ low-noise denoising", _CAUCHY, _LOW),
        _arm("+ transport", _CAUCHY, _LOW, _TRANSPORT),
        Arm(name="+ norms without scale: sLCT", recipe="cloud-slct"),
    ),
    shared=RING,
    measures=(InlierDistances(),),
    criteria=_one_by_one(_VALUE),
    columns=_COLUMNS,
)

_COUPLED = Experiment(
    arms=(
        Arm(name="iCT", recipe="ring-ict"),
        Arm(name="iCT with transport", recipe="ring-ict", overrides=(_TRANSPORT,)),
    ),
    shared=RING,
    measures=(PointDistances(), GradientNoise()),
    criteria=(
        Criterion(value="gradient_variance", arm="iCT with transport", over="iCT", at_most=0.9),
        Criterion(value="sliced_consistency@1", arm="iCT with transport", over="iCT", at_most=1.0),
    ),
    columns=("gradient_variance", "gradient_noise", "sliced_consistency@1", "sliced_consistency@2"),
)


def _latents(budget: tuple[str, ...], data: str | None, recipe: str, codec: str, samples: int) -> Experiment:
    """An autoencoder, and in its latents iCT, the Cauchy loss alone, and all five changes."""

    def inside(name: str, recipe: str, *overrides: str) -> Arm:
        return Arm(name=name, recipe=recipe, after="autoencoder", overrides=(*budget, "codec.run={after}", *overrides))

    value = "distance_consistency@1"
    return Experiment(
        arms=(
            Arm(name="autoencoder", recipe=codec, equal=False, note="the same for all three"),
            inside("iCT", f"{recipe}-ict"),
            inside("+ Cauchy, adaptive c", f"{recipe}-ict", _CAUCHY),
            inside("sLCT", f"{recipe}-slct"),
        ),
        measures=jumps(samples, 1, 2),
        criteria=(
            Criterion(value=value, arm="sLCT", over="iCT", at_most=0.8),
            Criterion(value=value, arm="+ Cauchy, adaptive c", over="iCT", at_most=1.0),
            Criterion(value=value, arm="sLCT", over="+ Cauchy, adaptive c", at_most=1.0),
        ),
        columns=("psnr", value, value.replace("@1", "@2")),
        data=data,
        notes=(
            "Before the criteria were written one run of iCT and of sLCT in the digits' latents, twice as long, had "
            "been seen; the order asked for is the paper's.",
        ),
    )


def _latents_one_by_one() -> Experiment:
    """The five changes one by one in latents of MNIST; arms that `_latents` has too are the same."""

    def inside(name: str, *overrides: str, recipe: str = "ict") -> Arm:
        changes = (*MNIST, "codec.run={after}", *overrides)
        return Arm(name=name, recipe=f"mnist28-latent-{recipe}", after="autoencoder", overrides=changes)

    value = "distance_consistency@1"
    return Experiment(
        arms=(
            Arm(name="autoencoder", recipe="mnist28-autoencoder", equal=False, note="the same for all"),
            inside("iCT"),
            inside("+ Cauchy, c of iCT", _CAUCHY_SIZE),
            inside("+ adaptive c", _CAUCHY),
            inside("+ low-noise denoising", _CAUCHY, _LOW),
            inside("+ transport", _CAUCHY, _LOW, _TRANSPORT),
            inside("+ norms without scale: sLCT", recipe="slct"),
        ),
        measures=jumps(2000, 1, 2),
        criteria=_one_by_one(value),
        columns=("psnr", value, value.replace("@1", "@2")),
        data=MNIST_DATA,
    )


def _claim(key: str, statement: str, figure: str, experiment: Experiment, long: Experiment | None = None) -> Claim:
    return Claim(
        key=f"slct-{key}",
        technique="consistency",
        paper="dao2025slct",
        by="paper",
        statement=statement,
        figure=figure,
        experiments={"small": experiment} if long is None else {"small": experiment, "long": long},
    )


CLAIMS: tuple[Claim, ...] = (
    _claim(
        "robust",
        "Among outliers the Cauchy loss meets the inliers better than pseudo-Huber, which is better than L2; "
        "Geman-McClure throws the outliers away.",
        "Figure 4 of the paper; our criteria: 0.8 times; a fifth of the outliers",
        _OUTLIERS,
    ),
    _claim(
        "clean",
        "Without outliers the Cauchy loss does not win.",
        "a guard of ours against a false reason",
        _CLEAN_DATA,
    ),
    _claim(
        "changes",
        "Each of the five changes helps, added one by one.",
        "FID 37.15 to 7.27 on CelebA-HQ latents for all five; per-row figures not available to us",
        _STEPWISE,
        _latents_one_by_one(),
    ),
    _claim(
        "latents",
        "In the latents of an autoencoder iCT is improved by the Cauchy loss, and by all five changes further.",
        "FID 37.15 to 7.27 on CelebA-HQ latents; our criterion: 0.8 times",
        _latents(DIGITS, None, "digits-latent", "digits-autoencoder", 1000),
        _latents(MNIST, MNIST_DATA, "mnist28-latent", "mnist28-autoencoder", 2000),
    ),
    _claim(
        "transport",
        "Exact transport within the batch lowers the variance of the gradient.",
        "no figure; our criterion: 10 %",
        _COUPLED,
    ),
)

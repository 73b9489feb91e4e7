"""E-TSDM's experiments without training, as parts: the singularity, the price of sharing, sampling by best networks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from suffuse.claims.exact.base import ExactPart
from suffuse.claims.exact.best_networks import exact_lipschitz, limit_exponent, price_of_sharing, sampled_distance
from suffuse.data import GaussianMixture, LowRankMixture
from suffuse.process import Path, Prediction

__all__ = ["PerfectSampling", "PriceOfSharing", "Singularity"]


class Singularity(ExactPart):
    """How fast the best network changes in time, on eight Gaussians in the plane or on two random subspaces.

    Values: K@i per length of the path at the indices i of a table of a thousand, and exponent: p of K(t) ~ t**p as
    t -> 0 where the path is a closed form.

    Attributes:
        path: A closed form, or a table of a thousand steps, which has no exponent.
        prediction: What the network's output means.
        subspaces: Dimensions of the space and of the two subspaces that the data fill; the plane's Gaussians when None.
    """

    kind: Literal["singularity"] = "singularity"
    path: Path
    prediction: Prediction
    subspaces: tuple[int, int] | None = None

    def of(self, seed: int) -> dict[str, float]:
        """Profile and exponent."""
        steps = (0, 1, 2, 5, 10, 20, 40, 100, 200, 400, 600, 800)
        if self.path.indices is None:
            width = (self.path.t_max - self.path.t_clean) / 1000
            times = {step: self.path.t_clean + (step + 1) * width for step in steps}
        else:
            times = {step: float(step) for step in steps}
        density = self._density(seed)
        found = exact_lipschitz(
            path=self.path, prediction=self.prediction, density=density, times=list(times.values()), seed=seed
        )
        values = {f"K@{step}": found[t] for step, t in times.items()}
        if self.path.indices is None:
            values["exponent"] = limit_exponent(path=self.path, prediction=self.prediction, density=density, seed=seed)
        return values

    def _density(self, seed: int) -> GaussianMixture | LowRankMixture:
        if self.subspaces is None:
            return GaussianMixture.ring()
        ambient, rank = self.subspaces
        return LowRankMixture(ambient=ambient, rank=rank, subspaces=seed)


class PriceOfSharing(ExactPart):
    """What sharing costs the best network on a mixture of two random subspaces, in squared error of the noise.

    Values: bayes, excess, bound, relative (excess over bayes), over_bound (excess over bound), plugged.

    Attributes:
        ambient: Dimensions of the space.
        rank: Dimensions of each subspace.
        intervals: Sub-intervals below the hundredth index.
        prediction: What the network's output means.
    """

    kind: Literal["price"] = "price"
    ambient: int = Field(ge=2)
    rank: int = Field(ge=1)
    intervals: int = Field(default=5, ge=1)
    prediction: Prediction = Field(default="eps", validate_default=True)

    def of(self, seed: int) -> dict[str, float]:
        """Errors per dimension."""
        found = price_of_sharing(
            ambient=self.ambient, rank=self.rank, intervals=self.intervals, prediction=self.prediction, seed=seed
        )
        return {
            "bayes": found.bayes,
            "excess": found.excess,
            "bound": found.bound,
            "relative": found.relative,
            "over_bound": found.excess / found.bound,
            "plugged": found.plugged,
        }


class PerfectSampling(ExactPart):
    """How well few-step solvers sample from the best networks: told all, told the shared time, or told it too late.

    Values: told_all_ddim@10, shared_ddim@10, too_late_ddim@10, and so on for DPM-Solver++ and other step counts;
    `shared_over_ddim@10` is the ratio of the second to the first, and floor_ddim@10 what as many points of the mixture
    itself score.

    Attributes:
        ambient: Dimensions of the space.
        rank: Dimensions of each subspace.
        intervals: Sub-intervals below the hundredth index.
    """

    kind: Literal["perfect_sampling"] = "perfect_sampling"
    ambient: int = Field(default=48, ge=2)
    rank: int = Field(default=7, ge=1)
    intervals: int = Field(default=5, ge=1)

    def of(self, seed: int) -> dict[str, float]:
        """Squared Frechet distances to the mixture."""
        values: dict[str, float] = {}
        for row in sampled_distance(ambient=self.ambient, rank=self.rank, intervals=self.intervals, seed=seed):
            place = f"{row.solver}@{row.nfe}"
            values |= {
                f"told_all_{place}": row.exact,
                f"shared_{place}": row.shared,
                f"too_late_{place}": row.plugged,
                f"floor_{place}": row.floor,
                f"shared_over_{place}": row.shared / row.exact,
            }
        return values

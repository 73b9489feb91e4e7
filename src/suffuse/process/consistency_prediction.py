"""The consistency papers' parameterisation: the identity at the least noise level by construction."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from suffuse.process.prediction import Number, PredictionPart

__all__ = ["ConsistencyPrediction"]


class ConsistencyPrediction(PredictionPart):
    """D = x / alpha where sigma / alpha = r_min, whatever the network says; EDM's preconditioning far from there.

    Source: song2023consistency, Appendix C, written for any path by u = x / alpha and r = sigma / alpha and multiplied
    out, so that it stays finite where alpha = 0.

    Attributes:
        r_min: sigma / alpha of the boundary; must be the path's own at `t_min`.
    """

    kind: Literal["consistency"] = "consistency"
    r_min: float = Field(default=0.002, gt=0)

    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """Coefficients of D: c_skip = 1 / alpha and c_out = 0 at the boundary."""
        beyond, data = sigma - self.r_min * alpha, sigma_data**2 * alpha**2
        return alpha * sigma_data**2 / (beyond**2 + data), sigma_data * beyond / (sigma**2 + data) ** 0.5

    def c_in(self, alpha: Number, sigma: Number, sigma_data: float) -> Number:
        """EDM's: brings the noisy sample to unit variance."""
        return (sigma**2 + alpha**2 * sigma_data**2) ** -0.5  # type: ignore[no-any-return]  # float ** float is Any

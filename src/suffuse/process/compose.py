"""Which parts of a process go together: checked before any work."""

from __future__ import annotations

import torch

from suffuse.base.errors import UsageError
from suffuse.process.noise_levels import NoiseLevelsPart
from suffuse.process.path import PathPart
from suffuse.process.prediction import PredictionPart
from suffuse.process.time_condition import TimeConditionPart

__all__ = ["check_process"]

# Below this alpha an eps- or score-prediction loses all seven digits of float32 when x0 is recovered from it.
_LEAST_ALPHA = 1e-6


def check_process(
    path: PathPart,
    prediction: PredictionPart,
    time: TimeConditionPart,
    noise_levels: NoiseLevelsPart | None = None,
) -> None:
    """Refuse parts that cannot be combined.

    Raises:
        UsageError: Names the two parts, the reason and the mend.
    """
    end = path.alpha(torch.tensor(path.t_max, dtype=torch.float64)).item()
    if prediction.singular_at_zero_alpha() and end < _LEAST_ALPHA:
        raise UsageError(
            f"prediction {prediction.kind!r} and path {path.kind!r} do not go together: at the path's last time "
            f"alpha is {end:.1g}, and x0 = (x - sigma eps) / alpha is undefined there; use prediction v, x0, flow or "
            "edm, or a path that keeps some signal (path.t_end: 0.999, or no zero_terminal_snr)"
        )
    time.check(path)
    if noise_levels is not None:
        noise_levels.check(path)

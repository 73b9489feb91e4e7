"""Autoguidance: away from a worse model of the same data."""

from __future__ import annotations

import functools
from typing import Literal, Self

from pydantic import InstanceOf, model_validator
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.denoiser import Denoiser
from suffuse.models.pretrained import load_model
from suffuse.process import PathPart
from suffuse.sampling.guidance.base import Denoise
from suffuse.sampling.guidance.interval import Interval
from suffuse.sampling.loop import Model
from suffuse.sampling.solvers.base import Estimate

__all__ = ["Autoguidance"]


class Autoguidance(Interval):
    """D = D_bad + scale (D - D_bad), both with the same conditions, where `bad` is a worse model of the same data.

    The bad model should fail as the good one does, only more: smaller, or trained for a shorter time. It needs no
    conditions, and none that are hidden. Scale 1 means none and leaves it alone.

    Source: karras2024autoguidance, Section 4.

    Attributes:
        scale: 1 none, 0 the bad model alone, above 1 away from it.
        bad: Folder of its run, or owner/name on the Hub; or the model itself, which no file can name.
        weights: Which average of a folder's; the primary one when None.
    """

    kind: Literal["autoguidance"] = "autoguidance"
    scale: float = 1.0
    bad: str | InstanceOf[Model]
    weights: str | None = None

    @model_validator(mode="after")
    def _weights_of_a_folder(self) -> Self:
        if self.weights is not None and not isinstance(self.bad, str):
            raise ValueError(f"weights {self.weights!r} is a choice among a folder's, but bad is a model; leave it out")
        return self

    @property
    def most_evaluations(self) -> int:
        """Two, one of each model, or one at scale 1 or 0."""
        return 1 if self.scale in (0.0, 1.0) else 2

    @functools.cached_property
    def _model(self) -> Model:
        """The bad model, read once; without gradients to its weights."""
        if isinstance(self.bad, str):
            return load_model(self.bad, weights=self.weights).requires_grad_(requires_grad=False)
        return self.bad

    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Wrap; the bad model is read on first use.

        Raises:
            UsageError: No such run, or a model of another path or in training mode.
        """
        if self.scale == 1.0:
            return denoise
        bad = self._model
        if bad.path != path:
            raise UsageError(
                f"the bad model lives on path {bad.path!r}, the good one on {path!r}; autoguidance needs both on one"
            )
        if isinstance(bad, nn.Module) and bad.training:
            raise UsageError("the bad model is in training mode, with its dropout; call its eval() first")

        def guided(x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
            if call.step == 0 and call.substep == 0:
                self._check(bad, x, cond)
            if not self.covers(path.level(t)):
                return denoise(x, t, cond, call)
            worse = bad.denoise(x, t, cond, call)
            if self.scale == 0.0:
                return Estimate(worse, evaluations=1.0)
            return Estimate(worse.lerp(denoise(x, t, cond, call).x0, self.scale), evaluations=1.0)

        return guided

    def _check(self, bad: Model, x: Tensor, cond: Conditions | None) -> None:
        """Bring a model that was read to the samples; refuse one of other samples or conditions."""
        if not isinstance(bad, Denoiser):
            return
        if isinstance(self.bad, str):
            bad.to(x.device)
        config, made = bad.config, tuple(x.shape[1:])
        if config is not None and (config.shape[0] != made[0] or (config.network.fixed_size and config.shape != made)):
            raise UsageError(
                f"the bad model makes samples of shape {config.shape}, the good one of {made}; "
                "autoguidance needs two models of the same data"
            )
        bad.conditioner.check(cond or Conditions())

"""Denoiser: a network and what its input, output and time mean. The one contract of solvers, guidance and tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import Conditioner, NoCondition
from suffuse.networks.contract import Network, Output
from suffuse.process import Identity, Level, PathPart, PredictionPart, TimeConditionPart, eps_of
from suffuse.process.compose import check_process

if TYPE_CHECKING:
    from suffuse.models.config import ModelConfig

__all__ = ["Denoiser", "Evaluation", "Planned"]


@dataclass(frozen=True)
class Evaluation:
    """All that one forward of a denoiser gives.

    Attributes:
        x: Noisy samples, (B, ...).
        t: Times, (B,), or one float for all.
        level: The path's coefficients at t.
        raw: The network's output F, (B, ...).
        c_out: How strongly F acts on the estimate: D = c_skip x + c_out F.
        denoised: Estimate of x0, (B, ...).
        features: Features asked for by taps.
        aux: The network's auxiliary values; `variance` holds the second half of the channels of a network that has
            twice as many as the data.
    """

    x: Tensor
    t: float | Tensor
    level: Level
    raw: Tensor
    c_out: float | Tensor
    denoised: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def eps(self) -> Tensor:
        """Noise implied by the estimate, (B, ...)."""
        return eps_of(self.x, self.denoised, self.level)


class Planned(Protocol):
    """What evaluates a denoiser's network while a plan is applied to it, see `suffuse.acceleration`."""

    def __call__(
        self, denoiser: Denoiser, x: Tensor, told: Tensor, cond: Embedding, call: Call, level: Level
    ) -> Output:
        """The network's output.

        Args:
            denoiser: The denoiser, which has the network.
            x: The network's input, (B, C, ...).
            told: What it is told of the time, (B,).
            cond: Embedded conditions.
            call: Context of the call.
            level: The path's coefficients.
        """
        ...


_REMEMBERED = 8  # embedded conditions of a batch: its own, those of guidance's other half, and both stacked


class Denoiser(nn.Module):
    """x_t, t -> x0 for any network, path, prediction and time condition.

    Args:
        network: Anything that keeps the network contract.
        path: How data become noise.
        prediction: What the network's output means.
        time: What the network is told about the time.
        conditioner: Embeds the conditions; None for an unconditional model.
        sigma_data: Standard deviation of the data, used by the EDM prediction.

    Raises:
        UsageError: Parts that do not go together.
    """

    estimate: ClassVar[Literal["mean", "endpoint"]] = "mean"
    config: ModelConfig | None = None
    planned: Planned | None = None

    def __init__(
        self,
        network: Network,
        *,
        path: PathPart,
        prediction: PredictionPart,
        time: TimeConditionPart | None = None,
        conditioner: Conditioner | None = None,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__()
        time = time or Identity()
        check_process(path, prediction, time)
        self.network = network
        self.conditioner = conditioner or NoCondition().build(0)
        self.path, self.prediction, self.time, self.sigma_data = path, prediction, time, sigma_data

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def told(self, t: float | Tensor, batch: int) -> Tensor:
        """What the network is told, (B,) float32: bf16 would know only a few hundred of the times 0..999."""
        if isinstance(t, Tensor):
            return self.time.told(t.double(), self.path).float().to(self.device)
        value = self.time.told(torch.tensor(t, dtype=torch.float64), self.path).item()
        return torch.full((batch,), value, device=self.device)

    def embed(self, cond: Conditions, batch: int, call: Call) -> Embedding:
        """What the network gets of the conditions of `batch` samples; made once for all steps of a sampling loop."""
        memory = call.memory
        if memory is None or not cond or call.seeds is not None or torch.is_grad_enabled():
            embedded: Embedding = self.conditioner(cond, batch, call.seeds)
            return embedded
        key = (id(self), id(cond))
        if key not in memory:
            if len(memory) >= _REMEMBERED:
                memory.clear()
            memory[key] = cond, self.conditioner(cond, batch, None)  # kept, so that its id stays its own
        found: Embedding = memory[key][1]
        return found

    def evaluate(
        self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None
    ) -> Evaluation:
        """One forward of the network.

        Args:
            x: Noisy samples x_t, (B, ...).
            t: Times in the path's unit: (B,), or one float for all samples.
            cond: Conditions of the samples.
            call: Context of the call: seeds, taps, step.
        """
        call = call or Call()
        level = self.path.level(t, x) if isinstance(t, Tensor) else self.path.level(t)
        c_skip, c_out = self.prediction.output(level.alpha, level.sigma, self.sigma_data)  # type: ignore[type-var]  # both of one kind
        c_in = self.prediction.c_in(level.alpha, level.sigma, self.sigma_data)  # type: ignore[type-var]  # both of one kind
        embedded = self.embed(cond or Conditions(), len(x), call)
        scaled = embedded.beside(x if isinstance(c_in, float) and c_in == 1.0 else c_in * x)
        told = self.told(t, len(x))
        if self.planned is None:
            output = self.network(scaled, told, embedded, seeds=call.seeds, taps=call.taps)
        else:
            output = self.planned(self, scaled, told, embedded, call, level)
        raw, aux = output.value.to(x.dtype), dict(output.aux)
        if raw.shape[1] == 2 * x.shape[1]:
            raw, aux["variance"] = raw.chunk(2, dim=1)
        denoised = c_skip * x + c_out * raw
        return Evaluation(x, t, level, raw, c_out, denoised, output.features, aux)

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """Estimate of x0, (B, ...): E[x0 | x_t] of the model."""
        return self.evaluate(x, t, cond, call).denoised

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, weights: str | None = None, revision: str | None = None, token: str | None = None
    ) -> Denoiser:
        """Load from a folder or from the Hub; arguments as for `suffuse.models.pretrained.load_model`."""
        from suffuse.models.pretrained import load_model

        return load_model(name, weights=weights, revision=revision, token=token)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`.

        Raises:
            UsageError: The model was put together by hand and has no configuration.
        """
        from suffuse.models.pretrained import save_model

        if self.config is None:
            raise UsageError("this model has no configuration to save; build it with ModelConfig(...).build()")
        if self.config.codec is not None:
            raise UsageError(
                "this model makes latents and would be saved without the codec that turns them into images; copy its "
                "run's folder, or upload that with suffuse.models.pretrained.push_folder"
            )
        save_model(Path(folder), self.config.replace(others=()), self.state_dict(), {})

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Save to a temporary folder and upload it; returns the commit's address."""
        from suffuse.models.pretrained import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(Path(folder), repository, private=private, token=token, commit_message=commit_message)

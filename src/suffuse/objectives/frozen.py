"""Frozen runs: finished models that an objective asks, teachers and first stages. A run keeps its own copy of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.models.denoiser import Denoiser
from suffuse.models.pretrained import load_model
from suffuse.process import PathPart

__all__ = ["FrozenRun", "check_space", "check_told_alike", "denoise_elsewhere", "load_frozen"]

_FAR = 20.0  # half log-SNR beyond which a path is pure noise, or clean


class FrozenRun(Part):
    """A finished run; a bare text is its folder.

    Attributes:
        run: Its folder, or owner/name on the Hub. Training copies the model into the new run's folder and refers to
            the copy from then on.
        weights: Which average; the primary one when None.
    """

    run: str
    weights: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:  # Any: fields before validation
        return {"run": data} if isinstance(data, str) else data


def load_frozen(frozen: FrozenRun, like: Denoiser, role: str) -> Denoiser:
    """Load a frozen model for the data of another one: evaluation mode, no gradients to its weights.

    Args:
        frozen: Which.
        like: The model that is trained, to whose device it goes.
        role: What it is, for messages.

    Raises:
        UsageError: No such run, samples of another shape, or other classes.
        RunError: A broken file.
    """
    model = load_model(Path(frozen.run) if Path(frozen.run).is_dir() else frozen.run, weights=frozen.weights)
    check_space(like, model, f"the {role} {frozen.run}")
    ours, theirs = like.config, model.config
    if ours is not None and theirs is not None:
        if ours.shape != theirs.shape:
            raise UsageError(
                f"the {role} {frozen.run} makes samples of shape {theirs.shape}, the model that is trained of "
                f"{ours.shape}; choose a {role} for the same data, or change data.size and data.channels"
            )
        told, known = theirs.conditioner.label_count, ours.conditioner.label_count
        if told and told != known:
            raise UsageError(
                f"the {role} {frozen.run} knows {told} classes, the model that is trained {known or 'none'}; use the "
                "same conditioner for both"
            )
    return model.to(like.device).requires_grad_(requires_grad=False)


def check_told_alike(model: Denoiser, role: str) -> None:
    """Refuse to train against a frozen model what is told something drawn anew: the other would not be told the same.

    Args:
        model: The one that is trained.
        role: What the frozen one is, for messages.

    Raises:
        UsageError: Its conditioner draws in training.
    """
    part = None if model.config is None else model.config.conditioner
    if part is not None and part.draws:
        raise UsageError(
            f"conditioner {part.kind!r} tells something that is drawn anew in training, of which the {role} would not "
            "know; train without that noise (augmentation=null, corruption and text_dropout of 0), or without the "
            f"{role}"
        )


def check_space(ours: Denoiser, theirs: Denoiser, name: str) -> None:
    """Refuse a model of other latents, or of pixels where the other has latents.

    Args:
        ours: The model that is trained.
        theirs: The one that it builds on.
        name: Of that one, for the message.

    Raises:
        UsageError: They live in different spaces.
    """
    if ours.config is None or theirs.config is None or ours.config.codec == theirs.config.codec:
        return
    spaces = ["pixels" if config.codec is None else f"codec {config.codec}" for config in (theirs.config, ours.config)]
    raise UsageError(
        f"{name} lives in {spaces[0]}, the model that is trained in {spaces[1]}; train both in one: with "
        "codec.run=ITS_FOLDER/parts/NAME codec.std=null, which keeps that codec as it is, or both in pixels"
    )


def denoise_elsewhere(
    model: Denoiser, path: PathPart, x: Tensor, t: Tensor, cond: Conditions | None = None, call: Call | None = None
) -> Tensor:
    """Estimate of x0 by a model of another path, at the same sigma / alpha: (B, ...).

    Args:
        model: On its own path.
        path: On which x and t are.
        x: Noisy samples, (B, ...).
        t: Times, (B,).
        cond: Conditions of the samples.
        call: Context of the call.
    """
    if model.path == path:
        return model.denoise(x, t, cond, call)
    theirs = model.path
    ends = theirs.half_log_snr(torch.tensor([theirs.t_max, theirs.t_min], dtype=torch.float64)).tolist()
    lam = path.half_log_snr(t.double())
    # Noisier than the model knows: its noisiest time, as if x were noise alone. Inverses are asked finite values only.
    there = theirs.t_of(lam.clamp(max(ends[0], -_FAR), min(ends[1], _FAR)))
    there = torch.where(lam <= max(ends[0], -_FAR), theirs.t_max, there)
    now, then = path.level(t, x), theirs.level(there, x)
    noisy = torch.as_tensor(now.sigma) > torch.as_tensor(now.alpha)
    scale = torch.where(noisy, then.sigma / now.sigma, then.alpha / torch.as_tensor(now.alpha).clamp_min(1e-12))
    return model.denoise(x * scale, there, cond, call)

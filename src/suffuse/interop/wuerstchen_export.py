"""A run of Wuerstchen's three stages as diffusers' two pipelines, in folders `prior` and `decoder` of one folder.

The numbers that standardise latents and codes go where diffusers has room for them: one scale for all channels into the
pipelines, several into the linear layers that read and write them.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.interop.autoencoders import autoencoder_to
from suffuse.interop.diffusers import write_checkpoint
from suffuse.interop.wuerstchen import write_decoder, write_prior
from suffuse.models.codec import Codec
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.frozen_text import FrozenText
from suffuse.models.pretrained import load_codec, load_codec_config, load_model
from suffuse.models.semantic import Semantic
from suffuse.networks import ConvNeXtAutoencoder, ConvNeXtPrior, DiffNeXt
from suffuse.process import ClampedCosine, Identity

__all__ = ["is_wuerstchen", "wuerstchen_to_diffusers"]

_LEAST = 1e-4  # of sigma**2 and alpha**2 in DDPMWuerstchenScheduler
_LATENTS = 4  # channels of stage A's latents that their pipeline writes for itself
_LIBRARY = "wuerstchen"  # as in the released folders
_ABOVE = 1 + 1e-6  # their pipelines round sides down after a product and up after a quotient


@dataclass(frozen=True)
class _Stages:
    """What a run has, live.

    Attributes:
        prior, decoder: Stages C and B.
        code: Standardises the code between them.
        latents: Stage A.
        places: Folders of C and B.
    """

    prior: Denoiser
    decoder: Denoiser
    code: Codec
    latents: Codec
    places: tuple[Path, Path]


def is_wuerstchen(folder: Path, config: ModelConfig) -> bool:
    """Whether a run lives in codes that another denoiser decodes."""
    place = None if config.codec is None else folder / config.codec
    return place is not None and place.is_dir() and load_codec_config(place).decoder is not None


def wuerstchen_to_diffusers(
    folder: Path, out: Path, *, weights: str | None = None, note: Callable[[str], None] = lambda text: None
) -> None:
    """Write folders that `WuerstchenPriorPipeline` and `WuerstchenDecoderPipeline` load, whole or not at all.

    Args:
        folder: The run of stage C.
        out: Folder to make.
        weights: Which average of stage C; the primary one when None.
        note: Told what is left behind.

    Raises:
        UsageError: A network, a process or a text that their pipelines cannot express.
        RunError: It cannot be written.
    """
    stages = _opened(folder, weights)
    texts = [_checked(model) for model in (stages.prior, stages.decoder)]
    staging = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        for name, text, place in zip(("prior", "decoder"), texts, stages.places, strict=True):
            _write_text(text, place, staging / name)
        _write_prior(stages, staging / "prior")
        folded = _write_decoder(stages, staging / "decoder")
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    note("the compressor is left behind: their pipelines have no encoder of images")
    note(
        "where diffusers has moved Wuerstchen's classes (0.42 has), it finds no folder's networks, released or not, "
        "until it is told: diffusers.pipelines.wuerstchen = diffusers.pipelines.deprecated.wuerstchen"
    )
    if folded:
        note(
            f"the deviations of single channels ({', '.join(folded)}) went into the layers beside them; the pipelines' "
            "own factors are 1. Leave decoder_guidance_scale at 0: a code of zeros is another one there"
        )


def _opened(folder: Path, weights: str | None) -> _Stages:
    prior = load_model(folder, weights=weights)
    assert prior.config is not None
    assert prior.config.codec is not None
    code = load_codec(folder / prior.config.codec)
    assert code.config is not None
    assert code.config.decoder is not None
    place = folder / prior.config.codec / code.config.decoder
    decoder = load_model(place)
    assert decoder.config is not None
    if decoder.config.codec is None:
        raise UsageError("stage B of this run makes pixels, and diffusers' decodes latents; sample it with suffuse")
    return _Stages(prior, decoder, code, load_codec(place / decoder.config.codec), (folder, place))


def _checked(model: Denoiser) -> FrozenText:
    """The text that a stage reads, once all is known to have a counterpart.

    Raises:
        UsageError: Something has none.
    """
    config = model.config
    assert config is not None
    wrong = _unlike(config)
    if wrong is not None:
        raise UsageError(f"this run has {wrong}; sample it with suffuse")
    text = config.conditioner.text
    if not isinstance(text, FrozenText):
        raise UsageError(
            f"conditioner {config.conditioner.kind!r} reads text by {'none' if text is None else text.kind!r}, but "
            "diffusers' pipelines read it by a frozen CLIP model (frozen_text); sample it with suffuse"
        )
    settings = {"absent": text.absent, "masked": text.masked, "layer": text.layer}
    for (name, value), theirs in zip(settings.items(), ("empty", False, -1), strict=True):
        if value != theirs:
            raise UsageError(
                f"conditioner.{name} is {value!r}, but diffusers' pipelines are as {theirs!r}: they would tell the "
                "networks another text than they were trained with. Sample it with suffuse"
            )
    return text


def _unlike(config: ModelConfig) -> str | None:
    """What of a stage has no counterpart."""
    network, path, time = config.network, config.path, config.time
    if not isinstance(network, ConvNeXtPrior | DiffNeXt):
        return f"network {network.kind!r} where diffusers has convnext_prior for stage C and diffnext for stage B"
    wanted = FrozenText if isinstance(network, ConvNeXtPrior) else Semantic
    if not isinstance(config.conditioner, wanted) and config.conditioner.text is None:
        return f"conditioner {config.conditioner.kind!r}, which network {network.kind!r} of diffusers does not know"
    if not isinstance(path, ClampedCosine) or path.least != _LEAST or config.prediction.kind != "eps":
        return (
            f"path {path.kind!r} with prediction {config.prediction.kind!r} where diffusers' scheduler has "
            f"clamped_cosine with least = {_LEAST:g} and eps"
        )
    if not isinstance(time, Identity) or time.scale_on(path) != 1000 or config.flow_map is not None:
        return f"time condition {time.kind!r}, or is a flow map, where diffusers' networks are told the true time"
    if isinstance(network, DiffNeXt) and config.shape[0] != _LATENTS:
        return f"latents of {config.shape[0]} channels where diffusers' pipeline makes {_LATENTS}"
    return None


def _write_text(text: FrozenText, place: Path, out: Path) -> None:
    model = text.opened(folder=place)
    if type(model.model).__name__ != "CLIPTextModel":
        raise UsageError(
            f"text model {text.model!r} is a {type(model.model).__name__}, but Wuerstchen's pipelines take a "
            "CLIPTextModel; sample this run with suffuse"
        )
    model.tokenizer.model_max_length = text.length
    files.make_folder(out)
    model.model.save_pretrained(out / "text_encoder")
    model.tokenizer.save_pretrained(out / "tokenizer")


def _write_pipeline(out: Path, name: str, path: ClampedCosine, numbers: Mapping[str, float], **networks: str) -> None:
    """Index and scheduler, beside networks by component."""
    files.make_folder(out / "scheduler")
    scheduler = "DDPMWuerstchenScheduler"
    files.write_json(
        out / "scheduler" / "scheduler_config.json", {"_class_name": scheduler, "scaler": 1.0, "s": path.offset}
    )
    components = {component: [_LIBRARY, kind] for component, kind in networks.items()}
    components |= {"scheduler": ["diffusers", scheduler]}
    texts = {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    files.write_json(out / "model_index.json", {"_class_name": name, **components, **texts, **numbers})


def _write_prior(stages: _Stages, out: Path) -> None:
    model, code = stages.prior, stages.code
    config = model.config
    assert config is not None
    assert code.config is not None
    assert isinstance(config.network, ConvNeXtPrior)
    assert isinstance(config.path, ClampedCosine)
    write_prior(out / "prior", config.network, model.network.state_dict(), channels=config.shape[0])
    # code = latent_mean * z - latent_std, whatever the names say.
    factor, less = (1 / _first(code.scale), -_first(code.shift)) if _uniform(code) else (1.0, 0.0)
    sides = code.config.shape[1] / config.shape[1] * _ABOVE
    numbers = {"latent_mean": _digits(factor), "latent_std": _digits(less), "resolution_multiple": sides}
    _write_pipeline(out, "WuerstchenPriorPipeline", config.path, numbers, prior="WuerstchenPrior")


def _write_decoder(stages: _Stages, out: Path) -> tuple[str, ...]:
    """Stages B and A; returns between which stages numbers of single channels went into layers."""
    model, latents, code = stages.decoder, stages.latents, stages.code
    config = model.config
    assert config is not None
    assert isinstance(config.network, DiffNeXt)
    assert isinstance(config.path, ClampedCosine)
    part = None if latents.config is None else latents.config.network
    if not isinstance(part, ConvNeXtAutoencoder) or part.quantise:
        kind = "none" if part is None else part.kind
        raise UsageError(
            f"stage A of this run is an autoencoder {kind!r} where diffusers' pipeline has convnext_vq that does not "
            "quantise; sample it with suffuse"
        )
    folded, weights = [], model.network.state_dict()
    if not _uniform(code):
        weights = {name: _reading(name, tensor, weights, code) for name, tensor in weights.items()}
        folded.append("C to B")
    if not _uniform(latents) or _first(latents.shift):
        _fold(latents)
        folded.append("B to A")
    write_decoder(out / "decoder", config.network, weights, channels=config.shape[0])
    write_checkpoint(out / "vqgan", *autoencoder_to(latents))
    assert stages.prior.config is not None
    numbers = {"latent_dim_scale": config.shape[1] / stages.prior.config.shape[1] * _ABOVE}
    networks = {"decoder": "WuerstchenDiffNeXt", "vqgan": "PaellaVQModel"}
    _write_pipeline(out, "WuerstchenDecoderPipeline", config.path, numbers, **networks)
    return tuple(folded)


def _reading(name: str, tensor: Tensor, weights: Mapping[str, Tensor], code: Codec) -> Tensor:
    """A weight of stage B, told z where it was told z / scale + shift: W (z / s + m) + b = (W / s) z + (b + W m).

    What resizes codes before those 1x1 convolutions keeps constants.
    """
    if not name.startswith("maps.convs."):
        return tensor
    if name.endswith("weight"):
        return tensor / code.scale
    weight = weights[name.removesuffix("bias") + "weight"]
    return tensor + (weight * code.shift).sum((1, 2, 3))


@torch.no_grad()
def _fold(latents: Codec) -> None:
    """Make stage A's own latents those that live outside of it: (z - shift) * scale."""
    shift, scale = latents.shift.flatten(), latents.scale.flatten()
    weights: dict[str, Any] = latents.network.state_dict()  # Any: tensors, which are changed where they are
    weights["decoder.stem.bias"] += (weights["decoder.stem.weight"] * latents.shift).sum((1, 2, 3))
    weights["decoder.stem.weight"] /= latents.scale
    for name, added in (("encoder.norm.weight", 0 * shift), ("encoder.norm.bias", shift), ("codebook.weight", shift)):
        weights[name].sub_(added).mul_(scale)
    latents.standardise(torch.zeros_like(shift), torch.ones_like(scale), 1.0)


def _uniform(codec: Codec) -> bool:
    """Whether one shift and one scale serve all channels."""
    return all(bool((values == values.flatten()[0]).all()) for values in (codec.shift, codec.scale))


def _first(values: Tensor) -> float:
    return float(values.flatten()[0])


def _digits(value: float) -> float:
    """To six digits: what a float32 keeps of a number that was written in decimals."""
    return float(f"{value:.6g}")

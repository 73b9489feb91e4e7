"""Wuerstchen's pipelines of diffusers as one run of ours: the folder of stage C, with B and A inside.

Read is the folder of a `WuerstchenCombinedPipeline`, or one that has the folders of a `WuerstchenPriorPipeline` and of
a `WuerstchenDecoderPipeline` as `prior` and `decoder`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.base.weights import load_weights
from suffuse.interop.autoencoders import autoencoder_from
from suffuse.interop.diffusers import read_checkpoint
from suffuse.interop.wuerstchen import read_decoder, read_prior
from suffuse.models.codec import Codec, CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.frozen_text import FrozenText, FrozenTextConditioner, TextModel
from suffuse.models.pretrained import save_model
from suffuse.models.semantic import Semantic
from suffuse.networks.autoencoders import Compressor
from suffuse.process import ClampedCosine, Eps
from suffuse.sampling import CFG, DDPM, GuidancePart, NoGuidance, Uniform
from suffuse.training.frozen_parts import PARTS, content_of
from suffuse.training.latents import DECODER
from suffuse.training.sampling_file import save_sampling
from suffuse.training.settings import SamplingSettings

__all__ = ["TEXT_FOLDER", "holds_wuerstchen", "wuerstchen_to_suffuse"]

TEXT_FOLDER = "text"
"""Folder, within a model's, of its text model and tokenizer."""
_INDEX = "model_index.json"
_COMBINED, _PRIOR, _DECODER = "WuerstchenCombinedPipeline", "WuerstchenPriorPipeline", "WuerstchenDecoderPipeline"
_STRIDE = 32  # pixels of a compressor's input for one of the code
_SIZE = 1024

Json = Mapping[str, Any]  # Any: JSON values


@dataclass(frozen=True)
class _Stage:
    """Folders of a stage's components, and the numbers of its pipeline."""

    network: Path
    text: Path
    tokenizer: Path
    scheduler: Path
    numbers: Json


def holds_wuerstchen(folder: Path) -> bool:
    """Whether a folder is one of Wuerstchen's pipelines, or has one as `prior` or `decoder`."""
    return _kind(folder) in (_COMBINED, _PRIOR, _DECODER) or _kind(folder / "prior") == _PRIOR


def wuerstchen_to_suffuse(
    folder: Path, out: Path, *, size: int | None = None, note: Callable[[str], None] = lambda text: None
) -> ModelConfig:
    """Convert Wuerstchen's three stages into a run that samples by itself.

    Its text models are copied; its compressor is absent, since none is released.

    Args:
        folder: See the module.
        out: Folder to make.
        size: Side of the images, which the folder does not say; 1024 when None.
        note: Told what is assumed.

    Raises:
        UsageError: A component is missing or has a setting without counterpart, pickles, or transformers is not
            installed.
        RunError: A broken file.
    """
    prior, decoder, vqgan, cfg = _stages(folder)
    existed = out.exists()
    try:
        config = _converted(prior, decoder, vqgan, out, cfg=cfg, size=size or _SIZE)
    except BaseException:
        if not existed:
            shutil.rmtree(out, ignore_errors=True)
        raise
    if size is None:
        note(f"the size of its images is not recorded: {_SIZE}x{_SIZE} is assumed; --size says another")
    note(
        "its compressor is not released: the run samples, but stage B cannot be trained further, nor stage C on images"
    )
    note(
        f"{_sampling(prior).grid.steps} steps with guidance {cfg:g}, then {_sampling(decoder).grid.steps} without, are "
        "the pipeline's; each stage's last step goes to clean data here, where theirs stops at a noise of 0.01"
    )
    return config


def _kind(folder: Path) -> str | None:
    path = folder / _INDEX
    return files.read_json(path).get("_class_name") if path.is_file() else None


def _stages(folder: Path) -> tuple[_Stage, _Stage, Path, float]:
    """Stage C, stage B, the folder of stage A, and the scale of guidance that is the pipeline's default.

    Raises:
        UsageError: A stage or a component is missing.
    """
    kind = _kind(folder)
    if kind == _COMBINED:
        first, decoder = _stage(folder, "prior_", "prior_prior"), _stage(folder, "", "decoder")
        vqgan, cfg = folder / "vqgan", 4.0
    elif kind is None and _kind(folder / "decoder") == _DECODER:
        first, decoder = _stage(folder / "prior", "", "prior"), _stage(folder / "decoder", "", "decoder")
        vqgan, cfg = folder / "decoder" / "vqgan", 8.0
    else:
        has, lacks = ("stages B and A", "stage C") if kind == _DECODER else ("stage C", "stages B and A")
        raise UsageError(
            f"{folder} holds Wuerstchen's {has} but not {lacks}; put the folders of both pipelines into one, as "
            "`prior` and `decoder`, and convert that one"
        )
    places = [place for stage in (first, decoder) for place in (stage.network, stage.text, stage.tokenizer)]
    for place in (*places, vqgan):
        if not place.is_dir():
            raise UsageError(f"{place} is missing; save the whole pipeline with save_pretrained and convert that")
    return first, decoder, vqgan, cfg


def _stage(folder: Path, before: str, network: str) -> _Stage:
    numbers = files.read_json(folder / _INDEX)
    return _Stage(
        network=folder / network,
        text=folder / f"{before}text_encoder",
        tokenizer=folder / f"{before}tokenizer",
        scheduler=folder / f"{before}scheduler",
        numbers=numbers,
    )


def _converted(prior: _Stage, decoder: _Stage, vqgan: Path, out: Path, *, cfg: float, size: int) -> ModelConfig:
    code = math.ceil(size / float(prior.numbers.get("resolution_multiple", 42.67)))
    side = int(code * float(decoder.numbers.get("latent_dim_scale", 10.67)))
    found = read_prior(prior.network, size=(code, code))
    files.make_folder(out)
    codec = _decoding(decoder, vqgan, out, code=found.shape, side=side, numbers=prior.numbers)
    text, empty = _text(prior, out)
    config = ModelConfig(
        network=found.network,
        shape=found.shape,
        path=_path(prior),
        prediction=Eps(),
        conditioner=text,
        codec=codec,
    )
    save_sampling(out, _sampling(prior, CFG(scale=cfg)))
    # Last, so that a folder with a configuration is whole.
    save_model(out, config, _under("network", found.weights) | _under("conditioner", empty), {})
    return config


def _decoding(decoder: _Stage, vqgan: Path, out: Path, *, code: tuple[int, int, int], side: int, numbers: Json) -> str:
    """Write the codec that stage B decodes, with B and A inside; returns its name within `out`."""
    staging = out / PARTS / "new"
    place = staging / DECODER
    files.make_folder(place)
    found = read_decoder(decoder.network, size=(side, side))
    images, inner = _autoencoder(vqgan, place, side)
    text, empty = _text(decoder, place)
    compressor = Compressor(backbone="absent", size=_STRIDE * code[1], latent_channels=code[0])
    wanted = getattr(found.network, "map_channels", 0)
    if wanted not in (0, code[0]):
        raise UsageError(
            f"{decoder.network} reads a code of {wanted} channels, but the prior makes {code[0]}; they are not of one "
            "pipeline"
        )
    config = ModelConfig(
        network=found.network,
        shape=found.shape,
        path=_path(decoder),
        prediction=Eps(),
        conditioner=Semantic(compressor=compressor, reader=text, image_shape=images),
        codec=inner,
    )
    weights = _under("network", found.weights) | _under("conditioner.reader", empty)
    save_sampling(place, _sampling(decoder))
    save_model(place, config, weights, {})
    told = CodecConfig(network=compressor, shape=images, decoder=DECODER)
    # What the pipeline calls mean and deviation are a factor and what is taken away: code = mean * z - deviation.
    factor, less = float(numbers.get("latent_mean", 42.0)), float(numbers.get("latent_std", 1.0))
    scaling = {"shift": torch.full((code[0], 1, 1), -less), "scale": torch.full((code[0], 1, 1), 1 / factor)}
    save_model(staging, told, scaling, {})
    name = f"{PARTS}/{content_of(_filled(told, scaling), content_of(_filled(config, weights)))}"
    staging.rename(out / name)
    return name


def _autoencoder(vqgan: Path, place: Path, side: int) -> tuple[tuple[int, int, int], str]:
    """Write stage A into the folder of stage B; returns the shape of an image and the codec's name."""
    found, weights, _ = autoencoder_from(*read_checkpoint(vqgan), place=vqgan)
    height = side * found.network.factor
    shape = (found.shape[0], height, height)
    config = found.replace(shape=shape)
    name = f"{PARTS}/{content_of(_filled(config, weights))}"
    files.make_folder(place / PARTS)
    save_model(place / name, config, weights, {})
    return shape, name


def _text(stage: _Stage, out: Path) -> tuple[FrozenText, dict[str, Tensor]]:
    """Copy a text model into a model's folder; returns its conditioner and the weights of that."""
    place = out / TEXT_FOLDER
    files.make_folder(place)
    weights = [stage.text / "model.safetensors"]
    if not weights[0].is_file():
        weights = sorted(stage.text.glob("model-*.safetensors")) + sorted(
            stage.text.glob("model.safetensors.index.json")
        )
    for path in (stage.text / "config.json", *weights):
        if path.is_file():
            shutil.copyfile(path, place / path.name)
    for path in sorted(stage.tokenizer.iterdir()):
        if path.suffix in (".json", ".txt", ".model"):
            shutil.copyfile(path, place / path.name)
    model = TextModel(str(place))
    if not (place / "tokenizer.json").is_file():  # which is all that is fetched from the Hub
        model.tokenizer.save_pretrained(place)
        model = TextModel(str(place))
    length = min(int(model.tokenizer.model_max_length), model.longest or 2**30)
    part = FrozenText(
        model=TEXT_FOLDER, length=length, width=model.width, absent="empty", masked=False, hash=model.hash
    )
    live = FrozenTextConditioner(part)
    live.fill(model)
    return part, live.state_dict()


def _path(stage: _Stage) -> ClampedCosine:
    """The process of a scheduler's configuration.

    Raises:
        UsageError: It is another scheduler's, or bends time.
    """
    file = stage.scheduler / "scheduler_config.json"
    config = files.read_json(file) if file.is_file() else {}
    name = config.get("_class_name", "DDPMWuerstchenScheduler")
    if name != "DDPMWuerstchenScheduler":
        raise UsageError(f"{file}: scheduler {name!r} has no counterpart; only DDPMWuerstchenScheduler can be imported")
    scaler = float(config.get("scaler", 1.0))
    if scaler != 1:
        raise UsageError(
            f"{file}: scaler = {scaler:g} bends the times of the schedule, which the path clamped_cosine does not; "
            "only scaler = 1 can be imported"
        )
    return ClampedCosine(offset=float(config.get("s", 0.008)))


def _sampling(stage: _Stage, guidance: GuidancePart | None = None) -> SamplingSettings:
    """The pipeline's own times and number of steps."""
    steps = 60 if stage.network.name.startswith("prior") else 12
    grid = Uniform(steps=steps, spacing="linspace", spare=True)
    return SamplingSettings(solver=DDPM(), grid=grid, guidance=guidance or NoGuidance())


def _under(module: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{module}.{name}": tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }


def _filled(config: ModelConfig | CodecConfig, weights: Mapping[str, Tensor]) -> Denoiser | Codec:
    """The live model."""
    model = config.build()
    load_weights(model, weights, owner="the pipeline")
    return model

"""Convert whole models: a diffusers folder to ours, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.interop.autoencoders import AUTOENCODERS, autoencoder_from, autoencoder_to
from suffuse.interop.diffusers import Imported, read_checkpoint, read_folder, write_checkpoint, write_folder
from suffuse.interop.sharing_config import MODULE, Sharing, make_sharing
from suffuse.interop.wuerstchen_export import is_wuerstchen, wuerstchen_to_diffusers
from suffuse.interop.wuerstchen_import import holds_wuerstchen, wuerstchen_to_suffuse
from suffuse.models.codec import CodecConfig
from suffuse.models.conditioner import ClassLabel, NoCondition
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import CONFIG_FILE, load_codec, load_config, load_model, read_config, save_model
from suffuse.process import (
    VP,
    X0,
    Eps,
    Identity,
    PathPart,
    PredictionPart,
    SharedTimesteps,
    TimeConditionPart,
    V,
)

__all__ = ["check_scheduler", "process_of", "scheduler_of", "to_diffusers", "to_suffuse"]

_PREDICTIONS: dict[str, PredictionPart] = {"epsilon": Eps(), "v_prediction": V(), "sample": X0()}
# Schedules by diffusers' names: ours, and whether beta_start and beta_end count.
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_DDPM: dict[str, Any] = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


_ENDPOINTS = ("LCMScheduler", "TCDScheduler")


def check_scheduler(scheduler: Mapping[str, Any]) -> None:  # Any: JSON values
    """Refuse a diffusers scheduler whose process only looks like one of ours.

    Raises:
        UsageError: Its network gives endpoints and no means, or its levels or times are others than its table's.
    """
    name = str(scheduler.get("_class_name", "DDPMScheduler"))
    if name in _ENDPOINTS:
        raise UsageError(
            f"scheduler {name!r} samples a distilled network, which gives endpoints and no means; our solvers would "
            "take them for means. Give the scheduler of the network that it was distilled from"
        )
    if scheduler.get("snr_shift_scale", 1.0) not in (None, 1, 1.0):
        raise UsageError(
            f"scheduler {name!r} shifts its levels by snr_shift_scale = {scheduler['snr_shift_scale']}, which we do "
            "not have; only 1 is known here"
        )
    if scheduler.get("timestep_type", "discrete") not in (None, "discrete"):
        raise UsageError(
            f"scheduler {name!r} tells its network times of timestep_type {scheduler['timestep_type']!r}; only "
            "'discrete' ones are known here"
        )


def process_of(scheduler: Mapping[str, Any]) -> tuple[PathPart, PredictionPart]:  # Any: JSON values
    """Path and prediction of a diffusers scheduler configuration.

    Raises:
        UsageError: A schedule or prediction that we do not have.
    """
    name = scheduler.get("_class_name", "DDPMScheduler")
    # A saved scheduler of the family always names its schedule; one without has another process (EDM, flow, VE).
    check_scheduler(scheduler)
    if scheduler and scheduler.get("beta_schedule") is None and scheduler.get("trained_betas") is None:
        raise UsageError(f"scheduler {name!r} has no table of betas; only diffusers' DDPM family can be imported")
    config = _DDPM | dict(scheduler)
    schedule, kind = str(config["beta_schedule"]), str(config.get("prediction_type", "epsilon"))
    betas = config.get("trained_betas")
    if kind not in _PREDICTIONS:
        raise UsageError(f"prediction_type {kind!r} has no counterpart; known are {', '.join(_PREDICTIONS)}")
    zero = bool(config.get("rescale_betas_zero_snr", False))
    if betas is not None:
        return parse(VP, {"schedule": "betas", "betas": betas, "zero_terminal_snr": zero}, name), _PREDICTIONS[kind]
    if schedule not in _SCHEDULES:
        raise UsageError(f"beta_schedule {schedule!r} has no counterpart; known are {', '.join(_SCHEDULES)}")
    limits = {"beta_min": config["beta_start"], "beta_max": config["beta_end"]} if "linear" in schedule else {}
    steps = config["num_train_timesteps"]
    fields = {"schedule": _SCHEDULES[schedule], "steps": steps, "zero_terminal_snr": zero, **limits}
    return parse(VP, fields, name), _PREDICTIONS[kind]


def scheduler_of(path: PathPart, prediction: PredictionPart) -> dict[str, Any]:  # Any: JSON values
    """The diffusers scheduler configuration of a process.

    Raises:
        UsageError: diffusers has no such process in its DDPM family.
    """
    kinds = {part.kind: name for name, part in _PREDICTIONS.items()}
    names = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    if not isinstance(path, VP) or path.indices is None or prediction.kind not in kinds:
        raise UsageError(
            f"path {path.kind!r} with prediction {prediction.kind!r} has no scheduler of diffusers' DDPM family; only "
            "tables of betas with eps, v or x0 can be exported"
        )
    config: dict[str, Any] = {  # Any: JSON values
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": path.indices,
        "prediction_type": kinds[prediction.kind],
        "clip_sample": False,
        "timestep_spacing": "trailing",  # as ours, and the only one that starts at the last index
        "rescale_betas_zero_snr": path.zero_terminal_snr,
    }
    if path.straight_below is not None:
        # diffusers has no such schedule, but takes any table; one that ends without signal is in it already.
        index = torch.arange(-1, path.indices, dtype=torch.float64)
        betas = 1 - (path.alpha(index[1:]) / path.alpha(index[:-1])) ** 2
        return config | {"trained_betas": betas.tolist(), "rescale_betas_zero_snr": False}
    if path.betas is not None:
        return config | {"trained_betas": list(path.betas)}
    if path.schedule not in names:
        raise UsageError(f"schedule {path.schedule!r} has no counterpart in diffusers; known are {', '.join(names)}")
    low, high = path.limits
    limits = {"beta_start": low, "beta_end": high} if "linear" in path.schedule else {}
    return config | {"beta_schedule": names[path.schedule], **limits}


def to_suffuse(
    folder: Path, out: Path, *, size: int | None = None, note: Callable[[str], None] = lambda text: None
) -> ModelConfig | CodecConfig:
    """Convert a diffusers model or pipeline folder; of an autoencoder's a codec is made.

    Of Wuerstchen's pipelines all three stages are, see `wuerstchen_import`.

    Args:
        folder: With `config.json`, or a pipeline's with `model_index.json`.
        out: Folder to make.
        size: Side of the images of Wuerstchen's pipelines; 1024 when None. Other folders say it themselves.
        note: Told what was assumed.

    Raises:
        UsageError: Not such a folder, or a setting without counterpart.
        RunError: A broken file.
    """
    _fresh(out)
    if holds_wuerstchen(folder):
        return wuerstchen_to_suffuse(folder, out, size=size, note=note)
    if size is not None:
        raise UsageError(f"size {size} is asked of Wuerstchen's pipelines alone, and {folder} is none; leave it out")
    if (folder / CONFIG_FILE).is_file() and files.read_json(folder / CONFIG_FILE).get("_class_name") in AUTOENCODERS:
        codec, tensors, told = autoencoder_from(*read_checkpoint(folder), place=folder)
        save_model(out, codec, tensors, {})
        for line in told:
            note(line)
        return codec
    found = read_folder(folder)
    path, prediction = process_of(found.scheduler or {})
    for line in _assumed(found, folder):
        note(line)
    classes = 0 if found.labels is None else len(found.labels) - 1
    config = ModelConfig(
        network=found.network,
        shape=found.shape,
        out_channels=None if found.out_channels == found.shape[0] else found.out_channels,
        path=path,
        prediction=prediction,
        time=Identity() if found.sharing is None else found.sharing.time,
        conditioner=ClassLabel(classes=classes) if classes else NoCondition(),
        classes=_class_names(found.pipeline, classes, note),
    )
    weights = {f"network.{name}": tensor for name, tensor in found.weights.items()}
    if found.labels is not None:
        weights["conditioner.table.weight"] = found.labels
    save_model(out, config, weights, {})
    return config


def _assumed(found: Imported, folder: Path) -> Iterator[str]:
    """Sentences on what was assumed and what is left behind."""
    if found.scheduler is None:
        yield "the folder has no scheduler: assuming DDPM's process (1000 linear betas, prediction eps)"
    for key in ("clip_sample", "thresholding"):
        if (found.scheduler or {}).get(key):
            yield f"the scheduler's {key} is left behind: estimates are not clipped here"
    for name in ("vae", "vqvae"):
        match found.pipeline.get(name):
            case [str(library), str(kind)]:  # two nulls stand for a component that was left out
                yield (
                    "samples are latents; their autoencoder is left behind: decode them, divided by its "
                    f"scaling_factor, with {library}.{kind}.from_pretrained({str(folder / name)!r})"
                )
    if found.labels is not None and found.network.kind == "unet":
        yield (
            "a UNet2DModel has no row for 'no class': it became zeros, which no training has seen, so guidance (cfg) "
            "would lean on an untrained estimate; sample without it"
        )


def _class_names(pipeline: Mapping[str, Any], classes: int, note: Callable[[str], None]) -> tuple[str, ...]:
    """Names of the classes by label where the pipeline has them all, as DiT's do; else none."""
    named = pipeline.get("id2label")
    if named is None or not classes:
        return ()
    if not isinstance(named, dict) or named.keys() != {str(label) for label in range(classes)}:
        note(f"id2label does not name the classes 0 to {classes - 1} one by one: their names are left behind")
        return ()
    return tuple(str(named[str(label)]) for label in range(classes))


def to_diffusers(
    folder: Path, out: Path, *, weights: str | None = None, note: Callable[[str], None] = lambda text: None
) -> None:
    """Convert a run to a diffusers pipeline folder, or to a model folder when there is no scheduler for it.

    Of a run of Wuerstchen's three stages two pipelines are made, see `wuerstchen_export`.

    Args:
        folder: A run.
        out: Folder to make.
        weights: Which average; the primary one when None.
        note: Told what is left behind.

    Raises:
        UsageError: Something that diffusers cannot express, above all a time condition that it would forget.
    """
    _fresh(out)
    if isinstance(read_config(folder), CodecConfig):
        write_checkpoint(out, *autoencoder_to(load_codec(folder, weights=weights)))
        return
    if is_wuerstchen(folder, load_config(folder)):
        wuerstchen_to_diffusers(folder, out, weights=weights, note=note)
        return
    model = load_model(folder, weights=weights)
    config = model.config
    assert config is not None
    if config.codec is not None:
        raise UsageError(
            "this run lives in the latents of a codec, which a folder of diffusers would not hold: its pipeline would "
            "show latents for images. Sample it with suffuse"
        )
    if config.flow_map is not None:
        raise UsageError(
            "this run is a flow map, whose estimate is an endpoint; a pipeline of diffusers would take it for a mean "
            "and step on. Sample it with suffuse (--solver consistency)"
        )
    scheduler = scheduler_of(config.path, config.prediction)
    if config.out_channels == 2 * config.shape[0]:  # of a second half that only such a scheduler looks for
        scheduler["variance_type"] = "learned_range"
    sharing = _sharing_of(config.time, config.path)
    labels = model.state_dict().get("conditioner.table.weight")
    beside = config.conditioner.extra_channels(config.shape)
    if beside:
        raise UsageError(
            f"conditioner {config.conditioner.kind!r} puts {beside} channels beside the sample, which no pipeline of "
            "diffusers would fill; sample such a model with suffuse"
        )
    if len(config.shape) != 3:
        raise UsageError(f"samples of shape {config.shape} are not images, and diffusers has no such network")
    is_unet = config.network.kind == "unet"
    for line in write_folder(
        out,
        config.network,
        model.network.state_dict(),
        shape=(config.shape[0], config.shape[1], config.shape[2]),
        out_channels=config.out_channels,
        labels=None if labels is None else labels.to(torch.float32),
        scheduler=scheduler if is_unet else None,
        sharing=sharing,
    ):
        note(line)
    if sharing is not None:
        note(f"its timesteps are shared: `import {MODULE}` before diffusers loads it")
    if not is_unet:
        note("written as a model; a DiT pipeline of diffusers needs an autoencoder, which this run has none of")


def _sharing_of(time: TimeConditionPart, path: PathPart) -> Sharing | None:
    """What a diffusers network must be told instead of the true index; None for nothing else.

    Raises:
        UsageError: Told something that neither diffusers nor our classes for it know.
    """
    then = time.then if isinstance(time, SharedTimesteps) else time
    if not isinstance(then, Identity) or then.scale_on(path) != 1 or path.indices is None:
        raise UsageError(
            f"time condition {time.kind!r} would be lost: a diffusers pipeline tells its network the true "
            "index, and this one was trained with another; sample it here instead"
        )
    if not isinstance(time, SharedTimesteps):
        return None
    return make_sharing(below=time.below, intervals=time.intervals, power=time.power, steps=path.indices, start="fresh")


def _fresh(out: Path) -> None:
    if (out / CONFIG_FILE).exists() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} exists already; choose another --out")

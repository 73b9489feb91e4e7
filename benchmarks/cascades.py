"""A cascade against one diffusion model of the same resolution: Wuerstchen v2 and a network of SD 2.1's shape."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import Times, alternate, ratio
from suffuse.acceleration.macs import counted_macs

__all__ = ["measure", "measure_gpu"]

Row = tuple[str, str, str]
# diffusers has moved them.
_HOMES = ("diffusers.pipelines.deprecated.wuerstchen", "diffusers.pipelines.wuerstchen")
_GUIDANCE = 4.0
# Of the cascade: guided calls of the prior as in its paper, and those of diffusers' default times; of the decoder.
_PRIOR_STEPS, _SHIPPED_STEPS, _DECODER_STEPS, _SINGLE_STEPS = 60, 29, 12, 50


def _wuerstchen(module: str, name: str) -> Any:
    for home in _HOMES:
        try:
            return getattr(importlib.import_module(f"{home}.{module}"), name)
        except ModuleNotFoundError:
            continue
    raise ImportError(f"this diffusers has no {name}")


def _prior() -> nn.Module:
    from diffusers.models.attention_processor import AttnProcessor2_0

    kind = _wuerstchen("modeling_wuerstchen_prior", "WuerstchenPrior")
    model: Any = kind(c_in=16, c=1536, c_cond=1280, c_r=64, depth=32, nhead=24)
    model.set_attn_processor(AttnProcessor2_0())  # as all other networks here have; its own default is not fused
    return model


def _decoder() -> nn.Module:
    return _wuerstchen("modeling_wuerstchen_diffnext", "WuerstchenDiffNeXt")()


def _quantised() -> nn.Module:
    kind = _wuerstchen("modeling_paella_vq_model", "PaellaVQModel")
    return kind(levels=2, bottleneck_blocks=12, embed_dim=384, latent_channels=4, num_vq_embeddings=8192)


def _single() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )


def _autoencoder() -> nn.Module:
    from diffusers import AutoencoderKL

    widths = (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=4,
    )


@dataclass(frozen=True)
class _Stage:
    """A network and what one call of it is given, for a number of rows.

    Attributes:
        build: Makes it.
        shape: Of a row of its input.
        call: (network, input, time of each row, like a tensor) -> its output.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    call: Callable[[Any, Tensor, Tensor], Tensor]


def _call_prior(model: Any, x: Tensor, t: Tensor) -> Tensor:
    made: Tensor = model(x, t, x.new_ones(len(x), 77, 1280))
    return made


def _call_decoder(model: Any, x: Tensor, t: Tensor) -> Tensor:
    made: Tensor = model(x, t, x.new_ones(len(x), 16, 24, 24), x.new_ones(len(x), 77, 1024))
    return made


def _call_single(model: Any, x: Tensor, t: Tensor) -> Tensor:
    made: Tensor = model(x, 1000 * t, x.new_ones(len(x), 77, 1024), return_dict=False)[0]
    return made


def _call_decode(model: Any, x: Tensor, t: Tensor) -> Tensor:
    made: Tensor = model.decode(x, return_dict=False)[0]
    return made


# All for pictures of 1024 x 1024.
_STAGES = {
    "prior": _Stage(_prior, (16, 24, 24), _call_prior),
    "decoder": _Stage(_decoder, (4, 256, 256), _call_decoder),
    "vq decoder": _Stage(_quantised, (4, 256, 256), _call_decode),
    "SD 2.1's shape": _Stage(_single, (4, 128, 128), _call_single),
    "its autoencoder": _Stage(_autoencoder, (4, 128, 128), _call_decode),
}


@dataclass(frozen=True)
class _Run:
    """A stage in a pipeline: so many calls, with guidance (both halves in one batch) or without."""

    stage: str
    calls: int
    guided: bool = False

    @property
    def words(self) -> str:
        if self.calls == 1:
            return self.stage
        return f"{self.stage}, {self.calls} calls {'with' if self.guided else 'without'} guidance"

    def macs(self, one: float) -> float:
        """Of a picture, by those of one row of one call."""
        return one * self.calls * (2 if self.guided else 1)


_RUNS = {
    "prior": _Run("prior", _PRIOR_STEPS, True),
    "prior, fewer": _Run("prior", _SHIPPED_STEPS, True),
    "decoder": _Run("decoder", _DECODER_STEPS),
    "decoder, guided": _Run("decoder", _DECODER_STEPS, True),
    "vq": _Run("vq decoder", 1),
    "single": _Run("SD 2.1's shape", _SINGLE_STEPS, True),
    "decode": _Run("its autoencoder", 1),
}
_SINGLE = ("single", "decode")
_PIPELINES: dict[str, tuple[str, ...]] = {
    "the cascade as its paper has it (60 calls, decoder with guidance)": ("prior", "decoder, guided", "vq"),
    "the cascade, 60 calls, decoder without guidance": ("prior", "decoder", "vq"),
    "the cascade as diffusers ships it (29 calls, decoder without guidance)": ("prior, fewer", "decoder", "vq"),
}


def _sampled(stage: _Stage, model: nn.Module, run: _Run, batch: int, device: str, dtype: torch.dtype) -> Tensor:
    """All calls of a stage for a batch of pictures: the network, the guidance and a step of Euler's."""
    x = torch.ones(batch, *stage.shape, device=device, dtype=dtype)
    if device == "cuda":
        x = torch.randn_like(x)
    times = torch.linspace(1, 0, run.calls + 1, device=device, dtype=dtype)
    for step in range(run.calls):
        rows = torch.cat([x, x]) if run.guided else x
        made = stage.call(model, rows, times[step].expand(len(rows)))
        if run.calls == 1:
            return made
        if run.guided:
            without, told = made.chunk(2)
            made = torch.lerp(without, told, _GUIDANCE)
        x = x - 0.01 * made
    return x


def measure(rounds: int = 1) -> Iterator[Row]:
    """Parameters, and multiply-accumulates of a picture, on the meta device: nothing is computed."""
    found: dict[str, float] = {}
    for name, stage in _STAGES.items():
        with torch.device("meta"):
            model = stage.build().eval()
            x, t = torch.zeros(1, *stage.shape), torch.zeros(1)
        with torch.no_grad():
            found[name] = counted_macs(partial(stage.call, model, x, t))
        count = sum(p.numel() for p in model.parameters()) / 1e6
        yield f"parameters of {name}", f"{count:.0f} M", "-"
        yield f"multiply-accumulates of a call of {name}", f"{found[name] / 1e9:.0f} G", "-"
    macs = {name: run.macs(found[run.stage]) for name, run in _RUNS.items()}
    for name, run in _RUNS.items():
        yield f"multiply-accumulates of a picture: {run.words}", f"{macs[name] / 1e12:.2f} T", "-"
    whole = sum(macs[name] for name in _SINGLE)
    yield "multiply-accumulates of a picture: SD 2.1's shape, whole", f"{whole / 1e12:.1f} T", "-"
    for words, names in _PIPELINES.items():
        mine = sum(macs[name] for name in names)
        yield f"multiply-accumulates of a picture: {words}", f"{mine / 1e12:.1f} T", "-"
        yield f"multiply-accumulates, SD 2.1's shape over {words}", f"{whole / mine:.2f}", "over 2"


def measure_gpu(
    rounds: int, device: str = "cuda", batches: tuple[int, ...] = (1, 4), dtype: torch.dtype = torch.bfloat16
) -> Iterator[Row]:
    """Seconds of a picture of 1024 x 1024 with random weights; text encoders are left out on both sides."""
    gpu = device == "cuda"
    models = {}
    for name, stage in _STAGES.items():
        with torch.device(device):
            models[name] = stage.build().eval()
        models[name].to(device, dtype)
    if gpu:
        held = torch.cuda.memory_allocated() / 1e9
        yield "memory that the weights of all five networks take, GB", f"{held:.1f}", "-"
    for batch in batches:
        peaks = {}

        def way(name: str, batch: int = batch, peaks: dict[str, float] = peaks) -> Callable[[], object]:
            run = _RUNS[name]
            stage = _STAGES[run.stage]

            def draw() -> None:
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated() if gpu else 0
                with torch.no_grad():
                    made = _sampled(stage, models[run.stage], run, batch, device, dtype)
                del made
                if gpu:
                    torch.cuda.synchronize()
                    peaks[name] = (torch.cuda.max_memory_allocated() - before) / 1e9

            return draw

        times = alternate({name: way(name) for name in _RUNS}, rounds=rounds)
        for name, run in _RUNS.items():
            beyond = f", {peaks[name]:.1f} GB beside weights" if gpu else ""
            each = times[name].median / batch
            yield f"seconds of a picture, batch {batch}: {run.words}", f"{each:.3f}{beyond}", "-"

        def together(names: tuple[str, ...], times: dict[str, Times] = times) -> Times:
            return Times(tuple(sum(seconds) for seconds in zip(*(times[name].rounds for name in names), strict=True)))

        whole = together(_SINGLE)
        each = whole.median / batch
        yield f"seconds of a picture, batch {batch}: SD 2.1's shape, whole", f"{each:.3f}", "-"
        for words, names in _PIPELINES.items():
            mine = together(names)
            yield f"seconds of a picture, batch {batch}: {words}", f"{mine.median / batch:.3f}", "-"
            middle, least, most = ratio(whole, mine)
            found = f"{middle:.2f} ({least:.2f} to {most:.2f})"
            yield f"SD 2.1's shape over {words}, batch {batch}", found, "over 2"
    models.clear()
    gc.collect()

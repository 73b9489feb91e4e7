"""Tiny pipelines of diffusers with random weights, made on the spot; and tiny denoisers of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.models.denoiser import Denoiser
from suffuse.networks.dit import DiT
from suffuse.networks.unet import UNet
from suffuse.process import Eps, Flow, FlowVelocity
from suffuse.process.vp import VP
from suffuse.sampling import DDIM, Uniform, sample

STEPS = 12


def randomised(module: nn.Module, seed: int = 0, std: float = 0.08) -> nn.Module:
    """A module with weights that are nowhere zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    return module.eval()


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.random.fork_rng(devices=())
def ddim_unet() -> Any:
    """An unconditional pipeline with a `UNet2DModel`."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    return quiet(DDIMPipeline(randomised(unet), DDIMScheduler()))


@torch.random.fork_rng(devices=())
def stable_diffusion(scheduler: Any = None) -> Any:
    """A text-to-image pipeline shaped like Stable Diffusion, to be called with embeddings."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    return quiet(
        StableDiffusionPipeline(
            vae=randomised(vae),
            text_encoder=None,
            tokenizer=None,
            unet=randomised(unet),
            scheduler=scheduler or DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


@torch.random.fork_rng(devices=())
def dit() -> Any:
    """A class-conditional pipeline with a `DiTTransformer2DModel`."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    return quiet(DiTPipeline(randomised(model), randomised(vae), DDIMScheduler(clip_sample=False)))


@torch.random.fork_rng(devices=())
def sd3(*, qk_norm: str | None = None, dual: tuple[int, ...] = ()) -> Any:
    """A text-to-image pipeline shaped like Stable Diffusion 3 (with a norm of keys and dual layers: 3.5)."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=16,
        caption_projection_dim=32,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
        qk_norm=qk_norm,
        dual_attention_layers=dual,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    nothing = {name: None for part in ("text_encoder", "tokenizer") for name in (part, f"{part}_2", f"{part}_3")}
    return quiet(
        StableDiffusion3Pipeline(
            transformer=randomised(model), vae=randomised(vae), scheduler=FlowMatchEulerDiscreteScheduler(), **nothing
        )
    )


def _embeddings(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))


def drawn(pipe: Any, *, count: int = 2, steps: int = STEPS, seed: int = 0, **options: Any) -> Tensor:
    """Latents or images that a pipeline of this file makes, (count, ...)."""
    generator = torch.Generator().manual_seed(seed)
    kind = type(pipe).__name__
    common = {"num_inference_steps": steps, "generator": generator, **options}
    if kind == "DDIMPipeline":
        return torch.from_numpy(pipe(batch_size=count, output_type="np", **common).images)
    if kind == "DiTPipeline":
        # It has no way to give latents back; images of a random decoder tell all the same.
        return torch.from_numpy(pipe(list(range(1, count + 1)), output_type="np", **common).images)
    if kind == "StableDiffusionPipeline":
        text = {"prompt_embeds": _embeddings(count, 5, 16), "negative_prompt_embeds": -_embeddings(count, 5, 16)}
        return pipe(**text, height=8, width=8, output_type="latent", **common).images
    text = {
        "prompt_embeds": _embeddings(count, 5, 16),
        "negative_prompt_embeds": -_embeddings(count, 5, 16),
        "pooled_prompt_embeds": _embeddings(count, 24),
        "negative_pooled_prompt_embeds": -_embeddings(count, 24),
    }
    return pipe(**text, height=8, width=8, output_type="latent", **common).images


PIPELINES: dict[str, Callable[[], Any]] = {
    "unet": ddim_unet,
    "stable_diffusion": stable_diffusion,
    "dit": dit,
    "sd3": sd3,
}


def network_of(pipe: Any) -> nn.Module:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def left_over(module: nn.Module) -> list[str]:
    """Names of modules whose forward is replaced."""
    return [name for name, child in module.named_modules() if "forward" in child.__dict__]


def our_unet(**options: Any) -> Denoiser:
    part = UNet(channels=16, multipliers=(1, 2), groups=4, attention_levels=(0, 1), **options)
    network = part.build((3, 8, 8))
    randomised(network)
    return Denoiser(network, path=VP(schedule="linear", steps=1000), prediction=Eps())


def our_dit(depth: int = 4) -> Denoiser:
    network = DiT(width=32, depth=depth, heads=4, patch=2).build((3, 8, 8))
    randomised(network)
    return Denoiser(network, path=Flow(), prediction=FlowVelocity())


SHAPE = (3, 8, 8)


def noise(count: int, seed: int = 1) -> Tensor:
    """Noisy samples for the networks above, (count, 3, 8, 8)."""
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def made(model: Denoiser, steps: int = 12, **options: Any) -> Tensor:
    """Four samples of DDIM, if nothing else is said."""
    options = {"solver": DDIM(), "grid": Uniform(steps=steps), **options}
    return sample(model, 4, shape=SHAPE, seed=3, **options).x


def at(step: int, steps: int = 10) -> Call:
    """A call of a sampling loop."""
    return Call(step=step, steps=steps)

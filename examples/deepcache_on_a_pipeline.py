"""A text-to-image pipeline of diffusers, and DeepCache on it: one line, and all is as it was afterwards.

Run: python examples/deepcache_on_a_pipeline.py [folder or name]     (a tiny random pipeline is made when none is given)
"""

import sys
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from suffuse.acceleration import DeepCache, applied

if len(sys.argv) > 1:
    pipe, asked = StableDiffusionPipeline.from_pretrained(sys.argv[1]), {"prompt": "a fox in the snow"}
else:
    unet = UNet2DConditionModel(sample_size=16, block_out_channels=(32, 64, 64), attention_head_dim=8,
                                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                                cross_attention_dim=32)  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,)), unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    words = torch.randn(1, 8, 32)
    asked = {"prompt_embeds": words, "negative_prompt_embeds": -words, "height": 16, "width": 16}
pipe.set_progress_bar_config(disable=True)

plain = None
for plan in (DeepCache(every=1), DeepCache(every=3), DeepCache(every=3, branch=1)):
    with applied(pipe, plan) as run:
        began = time.perf_counter()
        latents = pipe(**asked, output_type="latent", generator=torch.Generator().manual_seed(0)).images
        seconds = time.perf_counter() - began
    plain = latents if plain is None else plain
    away = (latents - plain).norm() / plain.norm()
    print(f"every {plan.every}, branch {plan.branch}: {seconds:.2f} s, {away:.1%} away from computing everything")
print(run.timeline().table())

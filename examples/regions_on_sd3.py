"""A Stable Diffusion 3 pipeline of diffusers that runs half of its tokens at most steps.

Run: python examples/regions_on_sd3.py [folder or name]     (a tiny random pipeline is made when none is given)
"""

import sys

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from suffuse.acceleration import RegionAdaptive, applied

if len(sys.argv) > 1:
    pipe, asked = StableDiffusion3Pipeline.from_pretrained(sys.argv[1]), {"prompt": "a fox in the snow"}
else:
    transformer = SD3Transformer2DModel(sample_size=16, in_channels=4, out_channels=4, num_layers=4,
                                        attention_head_dim=16, num_attention_heads=4, joint_attention_dim=32,
                                        caption_projection_dim=64, pooled_projection_dim=48)  # fmt: skip
    pipe = StableDiffusion3Pipeline(
        transformer=transformer, vae=AutoencoderKL(block_out_channels=(32,)),
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    words, pooled = torch.randn(1, 8, 32), torch.randn(1, 48)
    asked = {"prompt_embeds": words, "negative_prompt_embeds": -words, "pooled_prompt_embeds": pooled,
             "negative_pooled_prompt_embeds": -pooled, "height": 16, "width": 16}  # fmt: skip
pipe.set_progress_bar_config(disable=True)

with applied(pipe, RegionAdaptive(ratio=0.5)) as run:
    pipe(**asked, num_inference_steps=28, output_type="latent", generator=torch.Generator().manual_seed(0))
print(run.timeline().table())

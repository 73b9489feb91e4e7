"""A class-conditional DiT pipeline of diffusers under caches that forecast, or decide while they run.

Run: python examples/caches_on_a_dit.py [folder or name]     (a tiny random pipeline is made when none is given)
"""

import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from suffuse.acceleration import FirstBlockCache, MacCounter, NoPlan, Taylor, applied

if len(sys.argv) > 1:
    pipe = DiTPipeline.from_pretrained(sys.argv[1])
else:
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=4,
                                num_layers=6, sample_size=8, patch_size=2, num_embeds_ada_norm=1000)  # fmt: skip
    pipe = DiTPipeline(dit, AutoencoderKL(block_out_channels=(32,)), DDIMScheduler())
pipe.set_progress_bar_config(disable=True)

counter = MacCounter()
for plan in (NoPlan(), Taylor(every=3), FirstBlockCache(threshold=0.5)):
    with applied(pipe, plan, counter=counter) as run:
        pipe([207, 360], num_inference_steps=20, generator=torch.Generator().manual_seed(0))
    print(f"{plan.kind}: {run.macs / 1e9:.2f} GMACs")
    print(run.timeline().table(), "\n")

"""Our solvers and grids in a pipeline of diffusers: one line, and the pipeline stays as it is.

Run: python examples/our_solver_in_a_pipeline.py [folder]     (a tiny random pipeline is made when none is given)
"""

import sys
import time
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from suffuse.interop.solver_scheduler import SolverScheduler

if len(sys.argv) > 1:
    pipe = DDPMPipeline.from_pretrained(sys.argv[1])
else:
    unet = UNet2DModel(sample_size=16, block_out_channels=(32, 64), layers_per_block=1,
                       down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
                       )  # fmt: skip
    pipe = DDPMPipeline(unet, DDPMScheduler())
pipe.set_progress_bar_config(disable=True)
stock = pipe.scheduler

for solver, steps in ((None, 100), ("unipc", 10), ({"kind": "dpm", "order": 3}, 4)):
    pipe.scheduler = stock if solver is None else SolverScheduler.like(stock, solver=solver, grid="log_snr")
    began = time.perf_counter()
    images = pipe(batch_size=4, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images
    print(f"{solver or 'DDPM, as it came'}: {steps} steps, {time.perf_counter() - began:.2f} s")

Path("runs").mkdir(exist_ok=True)
images[0].save("runs/our-solver.png")

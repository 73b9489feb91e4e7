"""E-TSDM in a training loop of diffusers: one line more, and everything else as ever.

Run: python examples/share_timesteps_in_diffusers.py [steps]
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits

from suffuse.interop.shared_timesteps import share_timesteps

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
torch.manual_seed(0)
images = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1  # 1797 digits, (1, 8, 8) in [-1, 1]
model = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=1,
                    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
                    )  # fmt: skip
share_timesteps(model, below=100, intervals=5)  # the line more; the rest is diffusers' own training loop
scheduler = DDPMScheduler(num_train_timesteps=1000)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

for step in range(steps):
    clean = images[torch.randint(len(images), (64,))]
    noise, timesteps = torch.randn_like(clean), torch.randint(1000, (64,))
    predicted = model(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
    loss = F.mse_loss(predicted, noise)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

pipeline = DDPMPipeline(unet=model.eval(), scheduler=scheduler)
Path("runs").mkdir(exist_ok=True)
pipeline(batch_size=4, num_inference_steps=20).images[0].resize((64, 64)).save("runs/digit.png")
pipeline.save_pretrained("runs/digits-etsdm-diffusers")

# `share_timesteps` was imported above; a script that only samples imports suffuse.interop.shared_timesteps instead.
again = DDPMPipeline.from_pretrained("runs/digits-etsdm-diffusers").unet
with torch.no_grad():
    at = {t: again(images[:1], t).sample for t in (20, 27, 39, 40)}
print(f"loaded a {type(again).__name__}: {again.config['shared_timesteps']}")
print(f"equal to the bit at t = 20, 27, 39: {torch.equal(at[20], at[27]) and torch.equal(at[20], at[39])}")
print(f"and at t = 40, beyond the edge: {torch.equal(at[39], at[40])}")
try:
    UNet2DModel.from_pretrained("runs/digits-etsdm-diffusers/unet")
except ValueError as error:
    print(f"the stock class refuses the folder: {error}"[:130])

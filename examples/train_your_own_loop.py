"""Train with your own loop: the parts without the trainer.

Run: python examples/train_your_own_loop.py [steps]
"""

import sys

import torch

from suffuse.base.randomness import Draws
from suffuse.data import Digits
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.networks import UNet
from suffuse.objectives import Denoising, Progress
from suffuse.process import VP, MinSNR, SharedTimesteps, UniformIndices, V

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
data = Digits().load()
model = ModelConfig(
    network=UNet(channels=32, multipliers=(1, 2), blocks=1, attention_levels=(), groups=8),
    shape=data.shape,
    path=VP(schedule="linear", steps=1000),
    prediction=V(),
    time=SharedTimesteps(below=100, intervals=5),  # E-TSDM
    conditioner=ClassLabel(classes=10),
).build()
objective = Denoising(noise_levels=UniformIndices(stratified=True), weighting=MinSNR(gamma=5)).build(model)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

for step in range(steps):
    rows = torch.randint(len(data), (64,), generator=torch.Generator().manual_seed(step))
    noise = Draws(seed=0, index=torch.arange(64), step=step, total=64)
    losses = objective(model, data.batch(rows), Progress(step, steps), noise)
    loss = sum(value.mean() for value in losses.values())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 100 == 0:
        print(step, {name: round(value.mean().item(), 4) for name, value in losses.items()})

model.save_pretrained("runs/own-loop")
print("saved to runs/own-loop")

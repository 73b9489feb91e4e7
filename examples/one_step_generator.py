"""A one-step generator in a loop of your own: improved consistency training on eight Gaussians, judged by the truth.

Run: python examples/one_step_generator.py [steps]     (600 by default: half a minute)
"""

from __future__ import annotations

import sys

import torch

from suffuse import ModelConfig, sample
from suffuse.base.randomness import Draws
from suffuse.data import GaussianMixture, Loader
from suffuse.metrics import sliced_wasserstein
from suffuse.networks import MLP
from suffuse.objectives import Consistency, Progress
from suffuse.process import EDM, ConsistencyPrediction, GridPairs, LogSigma
from suffuse.process.curriculum import Doubling
from suffuse.sampling import Consistency as Jumps
from suffuse.sampling import Karras
from suffuse.training.radam import RAdam

STEPS, BATCH = int(sys.argv[1]) if len(sys.argv) > 1 else 600, 256

density = GaussianMixture.ring(radius=0.7, std=0.07)
objective = Consistency(pairs=GridPairs(curriculum=Doubling(s0=10, s1=80)))
model = ModelConfig(
    network=MLP(width=64, depth=2),
    shape=(2,),
    path=EDM(),
    prediction=ConsistencyPrediction(),
    time=LogSigma(),
    flow_map=objective.flow_map(),  # a map to the end of the path instead of a denoiser
).build(seed=0)
losses_of = objective.build(model)
optimiser = RAdam(model.parameters(), lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
loader = Loader(density.load(), batch=BATCH, seed=0)

for step in range(STEPS):
    noise: Draws = loader.draws(step)  # all randomness of the step: the same in any batch, on any device
    losses = losses_of(model, loader.at(step), Progress(step, STEPS), noise)
    optimiser.zero_grad()
    torch.stack([value.mean() for value in losses.values()]).sum().backward()
    optimiser.step()

truth = density.sample(4000, seed=9)
for nfe in (1, 2):
    made = sample(model, 4000, solver=Jumps(), grid=Karras(sigma_min=0.8, steps=nfe), batch=4000)
    distance = sliced_wasserstein(made.x, truth, seed=0)
    print(f"{made.nfe:g} evaluations a sample: sliced Wasserstein-2 distance {distance:.3f}")

"""Compare solvers where the truth is known: a ring of Gaussians, whose posterior mean is exact.

On this grid, from sigma 80 to 0.002, solvers of order 2 need some 20 evaluations to be nearer to the true ends than
DDIM: with fewer the steps are too wide for them. Distances near that of another 1000 real points cannot be told apart.

Run: python examples/solvers_on_a_known_density.py
"""

import torch

from suffuse.data import GaussianMixture
from suffuse.metrics import wasserstein
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM
from suffuse.sampling import DDIM, DPMSolverPP, Heun, Karras, sample

density = GaussianMixture.ring(components=8, radius=1.4, std=0.1)
weights, means, stds = torch.full((8,), 1 / 8), torch.tensor(density.means), torch.tensor(density.stds)
model = ExactMixture(EDM(), weights, means, stds)
truth = density.sample(1000, seed=1)

print(f"another 1000 real points: {wasserstein(density.sample(1000, seed=2), truth, seed=0).value:.3f}")
for solver in (DDIM(), Heun(), DPMSolverPP()):
    for nfe in (5, 9, 19):
        grid = Karras(steps=solver.steps_for(nfe))
        made = sample(model, 1000, shape=(2,), solver=solver, grid=grid, batch=1000)
        print(f"{solver.kind:6s} nfe {made.nfe:4g}: {wasserstein(made.x, truth, seed=0).value:.3f}")

"""Solvers and grids against diffusers' schedulers, step by step, both driven by the same analytic network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.part import parse
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.networks.contract import Network, Output
from suffuse.process import (
    EDM,
    VP,
    EDMPrediction,
    Eps,
    Flow,
    FlowVelocity,
    Identity,
    LogSigma,
    PathPart,
    PredictionPart,
    TimeConditionPart,
    V,
)
from suffuse.sampling import (
    DDIM,
    DDPM,
    DEIS,
    PLMS,
    DPMSolverPP,
    Estimate,
    Euler,
    EulerAncestral,
    Heun,
    Karras,
    ListedTimes,
    Midpoint,
    SolverPart,
    Uniform,
    UniPC,
)

diffusers = pytest.importorskip("diffusers")

# diffusers keeps its tables in float32, and some of its coefficients pass through a logarithm and back.
CLOSE = 1e-4
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLE = VP(schedule="scaled_linear", steps=1000)

Scheduler = Any  # diffusers' schedulers share no typed base


class Analytic(Network):
    """A smooth function of the input and of what is told, so that a wrong time or scale shows."""

    cond_width = 0

    def __init__(self) -> None:
        super().__init__()
        self.widths, self.graph = {}, {"output": ()}
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        return Output((0.7 * x + (3 * told[:, None] / 1000).sin()).tanh())


@dataclass(frozen=True)
class _Drawn(Draws):
    """Noise in the order in which a scheduler takes it from its generator."""

    generator: torch.Generator = field(default_factory=torch.Generator)

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn((len(self), *shape), generator=self.generator, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A solver of ours and the scheduler that must agree with it.

    Attributes:
        theirs: Name of the scheduler's class.
        options: Of its constructor.
        stepping: Of its `step`.
        timing: Of its `set_timesteps`.
        steps: Solver steps.
        end: Where our grid ends.
        scaled: Whether the scheduler's sample is x / alpha.
        drawing: Whether its `step` takes a generator.
        order: Network evaluations of a whole step.
        first: Network evaluations of the first step, where it is another number.
    """

    ours: SolverPart
    theirs: str
    options: dict[str, Any] = field(default_factory=dict)
    stepping: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    steps: int = 10
    end: str = "clean"
    path: PathPart = TABLE
    prediction: PredictionPart = field(default_factory=Eps)
    time: TimeConditionPart = field(default_factory=Identity)
    scaled: bool = False
    drawing: bool = False
    order: int = 1
    first: int | None = None

    def scheduler(self) -> Scheduler:
        made = getattr(diffusers, self.theirs).from_config(self.options)
        made.set_timesteps(**(self.timing or {"num_inference_steps": self.steps}))
        return made


_TRAILING = {**SD, "timestep_spacing": "trailing"}
_DDIM = {**_TRAILING, "clip_sample": False}
_LEADING = {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_PP = {**_TRAILING, "algorithm_type": "dpmsolver++"}
_TO_INDEX_0 = {"final_sigmas_type": "sigma_min"}
_VELOCITY = {"path": Flow(), "prediction": FlowVelocity()}
_EDM = {"path": EDM(), "prediction": EDMPrediction(), "time": LogSigma()}


def _pp(order: int, variant: str, steps: int, **options: Any) -> Case:
    lowered = options.get("lower_order_final", True)
    return Case(
        DPMSolverPP(order=order, variant=variant, lower_final=lowered),
        "DPMSolverMultistepScheduler",
        {**_PP, "solver_order": order, "solver_type": variant, **options},
        steps=steps,
        end="t_min" if options.get("final_sigmas_type") == "sigma_min" else "clean",
    )


CASES = {
    "ddim-leading+1-to-index-0": Case(DDIM(), "DDIMScheduler", _LEADING, end="t_min"),
    "ddim-trailing-to-clean": Case(DDIM(), "DDIMScheduler", _DDIM),
    "ddim-trailing-v": Case(DDIM(), "DDIMScheduler", {**_DDIM, "prediction_type": "v_prediction"}, prediction=V()),
    **{
        f"ddim-trailing-eta={eta}": Case(DDIM(eta=eta), "DDIMScheduler", _DDIM, {"eta": eta}, drawing=True)
        for eta in (0.3, 1.0)
    },
    # Leading, since the scheduler's fixed_large adds noise on the step to clean data from any index but 0.
    **{
        f"ddpm-{kind}-leading-{steps}-steps": Case(
            DDPM(variance=kind),
            "DDPMScheduler",
            {**SD, "timestep_spacing": "leading", "clip_sample": False, "variance_type": f"fixed_{kind}"},
            steps=steps,
            drawing=True,
        )
        # All 1000 indices as well, where `large` is the table's beta.
        for kind, steps in (("small", 10), ("large", 10), ("large", 1000))
    },
    "euler-trailing": Case(Euler(), "EulerDiscreteScheduler", _TRAILING, scaled=True),
    "ddim-is-euler-trailing": Case(DDIM(), "EulerDiscreteScheduler", _TRAILING, scaled=True),
    "heun-trailing": Case(Heun(), "HeunDiscreteScheduler", _TRAILING, scaled=True, order=2),
    "dpmpp-1-trailing": _pp(1, "midpoint", 10),
    "dpmpp-2m-midpoint-trailing-to-clean": _pp(2, "midpoint", 10),
    "dpmpp-2m-heun-trailing-to-clean": _pp(2, "heun", 10),
    "dpmpp-2m-midpoint-20-to-index-0": _pp(2, "midpoint", 20, **_TO_INDEX_0),
    "dpmpp-2m-heun-20-to-index-0": _pp(2, "heun", 20, **_TO_INDEX_0),
    "dpmpp-2m-midpoint-10-to-index-0-lowered": _pp(2, "midpoint", 10, **_TO_INDEX_0),
    "dpmpp-2m-heun-10-to-index-0-not-lowered": _pp(2, "heun", 10, **_TO_INDEX_0, lower_order_final=False),
    "dpmpp-2m-linspace": _pp(2, "midpoint", 12, timestep_spacing="linspace"),
    **{
        f"dpmpp-3m-{variant}-{end}": Case(
            DPMSolverPP(order=3, variant=variant, published=True, lower_final=True),
            "DPMSolverMultistepScheduler",
            {**_PP, "solver_order": 3, "solver_type": variant, **(_TO_INDEX_0 if end == "t_min" else {})},
            steps=steps,
            end=end,
        )
        for variant, end, steps in (("midpoint", "clean", 10), ("heun", "clean", 10), ("midpoint", "t_min", 20))
    },
    **{
        f"dpmpp-sde-{order}m-{variant}-{end}": Case(
            DPMSolverPP(order=order, variant=variant, sde=True, lower_final=True),
            "DPMSolverMultistepScheduler",
            {
                **_PP,
                "algorithm_type": "sde-dpmsolver++",
                "solver_order": order,
                "solver_type": variant,
                **(_TO_INDEX_0 if end == "t_min" else {}),
            },
            steps=steps,
            end=end,
            drawing=True,
        )
        for order, variant, end, steps in (
            (1, "midpoint", "clean", 10),
            (2, "midpoint", "clean", 10),
            (2, "heun", "clean", 10),
            (2, "midpoint", "t_min", 20),
        )
    },
    **{
        f"unipc-{order}-{b}-{end}": Case(
            UniPC(order=order, b=b, lower_final=True),
            "UniPCMultistepScheduler",
            {
                **_TRAILING,
                "solver_order": order,
                "solver_type": b.replace("b", "bh"),
                "final_sigmas_type": "sigma_min" if end == "t_min" else "zero",
            },
            steps=steps,
            end=end,
        )
        for b in ("b1", "b2")
        for order, end, steps in ((1, "t_min", 10), (2, "clean", 10), (2, "t_min", 20), (3, "t_min", 20))
        if (b, end) != ("b1", "clean")  # theirs is NaN there: 0 times the infinite width of the last step
    },
    "unip-2": Case(
        UniPC(corrector=False, lower_final=True),
        "UniPCMultistepScheduler",
        {**_TRAILING, **_TO_INDEX_0, "disable_corrector": list(range(10))},
        end="t_min",
    ),
    # Shorter than 15 steps theirs lowers the order at the end.
    **{
        f"deis-{order}": Case(
            DEIS(order=order, variable="log_sigma"),
            "DEISMultistepScheduler",
            {**_TRAILING, "solver_order": order},
            steps=20,
            end="t_min",
        )
        for order in (1, 2, 3)
    },
    "plms-leading": Case(
        PLMS(),
        "PNDMScheduler",
        {**SD, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
        end="t_min",
        first=2,
    ),
    "midpoint-is-dpm2": Case(Midpoint(), "KDPM2DiscreteScheduler", _TRAILING, scaled=True, order=2),
    "euler-ancestral": Case(EulerAncestral(), "EulerAncestralDiscreteScheduler", _TRAILING, scaled=True, drawing=True),
    "flow-euler": Case(
        Euler(variable="time"),
        "FlowMatchEulerDiscreteScheduler",
        timing={"sigmas": np.linspace(1, 0.1, 10).tolist()},
        **_VELOCITY,
    ),
    "flow-ddim-shift-3": Case(DDIM(), "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, **_VELOCITY),
    "flow-heun": Case(Heun(variable="time"), "FlowMatchHeunDiscreteScheduler", order=2, **_VELOCITY),
    "edm-euler": Case(Euler(), "EDMEulerScheduler", **_EDM),
    "edm-dpmpp-2m-midpoint": Case(DPMSolverPP(), "EDMDPMSolverMultistepScheduler", steps=18, **_EDM),
    "edm-dpmpp-2m-heun": Case(
        DPMSolverPP(variant="heun"), "EDMDPMSolverMultistepScheduler", {"solver_type": "heun"}, steps=18, **_EDM
    ),
}


def _listed(case: Case, scheduler: Scheduler) -> tuple[float, ...]:
    """The scheduler's own times, in our unit; its repeated ones once."""
    times = scheduler.timesteps[:: case.order].double()
    if case.first is not None:
        times = torch.unique_consecutive(times)
    if case.path == EDM():
        times = scheduler.sigmas[:-1].double()
    elif case.path == Flow():
        times = times / 1000
    return tuple(times.tolist())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_step_agrees(case: Case) -> None:
    scheduler = case.scheduler()
    times = ListedTimes(listed=_listed(case, scheduler), end=case.end).times(case.path)
    levels = [case.path.level(t) for t in times]
    model = Denoiser(Analytic(), path=case.path, prediction=case.prediction, time=case.time)
    index = torch.arange(4)
    x = Draws(0, index).normal("start", (3,)).double() * levels[0].sigma
    noise = _Drawn(0, index, generator=torch.Generator().manual_seed(7))
    stepping = {**case.stepping, **({"generator": torch.Generator().manual_seed(7)} if case.drawing else {})}

    def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
        return Estimate(model.denoise(x, t).detach())

    state = case.ours.init(x, times, case.path)
    sample, queue = x / levels[0].alpha if case.scaled else x, list(scheduler.timesteps)
    for i in range(len(times) - 1):
        x, state = case.ours.step(denoise, x, state, i, noise.at(i))
        count = case.first if case.first is not None and i == 0 else case.order
        for _ in range(min(count, len(queue))):
            t = queue.pop(0)
            scale = getattr(scheduler, "scale_model_input", lambda sample, t: sample)
            raw = model.network(scale(sample, t), torch.full((4,), float(t))).value.detach()
            sample = scheduler.step(raw, t, sample, **stepping).prev_sample
        expected = sample * levels[i + 1].alpha if case.scaled else sample
        difference = (x - expected).abs().max() / expected.abs().max()
        assert difference < CLOSE, f"step {i} of {case.steps} differs by {difference:.1e}"
    assert not queue, "all of the scheduler's evaluations are done"


@pytest.mark.parametrize(("spacing", "offset"), [("trailing", 0), ("leading", 0), ("leading", 1), ("linspace", 0)])
def test_indices_are_the_schedulers(spacing: str, offset: int) -> None:
    scheduler = diffusers.DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=offset)
    for steps in (*range(2, 60), 75, 128, 333, 999 if offset else 1000):
        if spacing == "trailing" and steps % 16 == 0:
            continue  # 1000 (1 - i / N) may lie halfway between two indices, and arange's rounding errors decide
        scheduler.set_timesteps(steps)
        grid = parse(Uniform, {"steps": steps, "spacing": spacing, "offset": offset})
        assert grid.nodes(TABLE).tolist() == scheduler.timesteps.tolist()


def test_karras_is_the_schedulers() -> None:
    for steps in (2, 7, 18, 40):
        scheduler = diffusers.EDMEulerScheduler()
        scheduler.set_timesteps(steps)
        assert Karras(steps=steps).times(EDM()) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)

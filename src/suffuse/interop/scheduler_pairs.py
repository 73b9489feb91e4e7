"""Pairs of a solver of ours and the scheduler of diffusers that must take the same steps, with all settings.

Tests hold every pair to it, and a claim of the ledger tells how equal they are. Where a scheduler has no equal here, or
only with an option that nobody would guess, the comment says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from suffuse.base.part import parse
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
    Euler,
    EulerAncestral,
    Heun,
    Midpoint,
    SolverPart,
    UniPC,
)

__all__ = ["BETAS", "PAIRS", "TABLE", "Pair", "Process"]

BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""Stable Diffusion's table, in diffusers' words."""
TABLE = VP(schedule="scaled_linear", steps=1000)
"""The same in ours."""


@dataclass(frozen=True)
class Process:
    """What the model that both sides ask is of; Stable Diffusion's when nothing is said."""

    path: PathPart = TABLE
    prediction: PredictionPart = field(default_factory=Eps)
    time: TimeConditionPart = field(default_factory=Identity)


@dataclass(frozen=True)
class Pair:
    """A solver of ours and the scheduler that must agree with it.

    Attributes:
        ours: The solver.
        theirs: Name of the scheduler's class.
        options: Of its constructor.
        stepping: Of its `step`.
        timing: Of its `set_timesteps`.
        steps: Solver steps.
        end: Where our grid ends.
        process: Of the model that both ask.
        scaled: Whether the scheduler's sample is x / alpha.
        drawing: Whether its `step` takes a generator.
        order: Network evaluations of a whole step.
        first: Network evaluations of the first step, where it is another number.
    """

    ours: SolverPart
    theirs: str
    options: dict[str, Any] = field(default_factory=dict)  # Any: diffusers' settings
    stepping: dict[str, Any] = field(default_factory=dict)  # Any: as above
    timing: dict[str, Any] = field(default_factory=dict)  # Any: as above
    steps: int = 10
    end: str = "clean"
    process: Process = field(default_factory=Process)
    scaled: bool = False
    drawing: bool = False
    order: int = 1
    first: int | None = None

    @property
    def settings(self) -> str:
        """Both sides in a line; the table of betas is left out."""
        changed = {name: value for name, value in self.options.items() if name not in BETAS} | self.stepping
        theirs = ", ".join(f"{name}={value}" for name, value in (changed | self.timing).items())
        fields = type(self.ours).model_fields
        ours = ", ".join(f"{name}={v}" for name, v in self.ours.dump().items() if v != fields[name].default)
        return f"{type(self.ours).__name__}({ours}) and {self.theirs}({theirs}), {self.steps} steps"


# Any below: diffusers' settings.
_TRAILING: dict[str, Any] = {**BETAS, "timestep_spacing": "trailing"}
_DDIM: dict[str, Any] = {**_TRAILING, "clip_sample": False}
_LEADING: dict[str, Any] = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_PP: dict[str, Any] = {**_TRAILING, "algorithm_type": "dpmsolver++"}
_TO_INDEX_0: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
_VELOCITY = Process(Flow(), FlowVelocity())
_EDM = Process(EDM(), EDMPrediction(), LogSigma())


def _ours(kind: type[SolverPart], **fields: object) -> SolverPart:
    return parse(kind, fields)


def _pp(order: int, variant: str, steps: int, **options: Any) -> Pair:
    lowered = options.get("lower_order_final", True)
    return Pair(
        _ours(DPMSolverPP, order=order, variant=variant, lower_final=lowered),
        "DPMSolverMultistepScheduler",
        {**_PP, "solver_order": order, "solver_type": variant, **options},
        steps=steps,
        end="t_min" if options.get("final_sigmas_type") == "sigma_min" else "clean",
    )


PAIRS: dict[str, Pair] = {
    "ddim-leading+1-to-index-0": Pair(DDIM(), "DDIMScheduler", _LEADING, end="t_min"),
    "ddim-trailing-to-clean": Pair(DDIM(), "DDIMScheduler", _DDIM),
    "ddim-trailing-v": Pair(
        DDIM(), "DDIMScheduler", {**_DDIM, "prediction_type": "v_prediction"}, process=Process(prediction=V())
    ),
    **{
        f"ddim-trailing-eta={eta}": Pair(DDIM(eta=eta), "DDIMScheduler", _DDIM, {"eta": eta}, drawing=True)
        for eta in (0.3, 1.0)
    },
    # Leading, since the scheduler's fixed_large adds noise on the step to clean data from any index but 0.
    **{
        f"ddpm-{kind}-leading-{steps}-steps": Pair(
            _ours(DDPM, variance=kind),
            "DDPMScheduler",
            {**BETAS, "timestep_spacing": "leading", "clip_sample": False, "variance_type": f"fixed_{kind}"},
            steps=steps,
            drawing=True,
        )
        # All 1000 indices as well, where `large` is the table's beta.
        for kind, steps in (("small", 10), ("large", 10), ("large", 1000))
    },
    "euler-trailing": Pair(Euler(), "EulerDiscreteScheduler", _TRAILING, scaled=True),
    "ddim-is-euler-trailing": Pair(DDIM(), "EulerDiscreteScheduler", _TRAILING, scaled=True),
    "heun-trailing": Pair(Heun(), "HeunDiscreteScheduler", _TRAILING, scaled=True, order=2),
    "dpmpp-1-trailing": _pp(1, "midpoint", 10),
    "dpmpp-2m-midpoint-trailing-to-clean": _pp(2, "midpoint", 10),
    "dpmpp-2m-heun-trailing-to-clean": _pp(2, "heun", 10),
    "dpmpp-2m-midpoint-20-to-index-0": _pp(2, "midpoint", 20, **_TO_INDEX_0),
    "dpmpp-2m-heun-20-to-index-0": _pp(2, "heun", 20, **_TO_INDEX_0),
    "dpmpp-2m-midpoint-10-to-index-0-lowered": _pp(2, "midpoint", 10, **_TO_INDEX_0),
    "dpmpp-2m-heun-10-to-index-0-not-lowered": _pp(2, "heun", 10, **_TO_INDEX_0, lower_order_final=False),
    "dpmpp-2m-linspace": _pp(2, "midpoint", 12, timestep_spacing="linspace"),
    **{
        f"dpmpp-3m-{variant}-{end}": Pair(
            _ours(DPMSolverPP, order=3, variant=variant, published=True, lower_final=True),
            "DPMSolverMultistepScheduler",
            {**_PP, "solver_order": 3, "solver_type": variant, **(_TO_INDEX_0 if end == "t_min" else {})},
            steps=steps,
            end=end,
        )
        for variant, end, steps in (("midpoint", "clean", 10), ("heun", "clean", 10), ("midpoint", "t_min", 20))
    },
    **{
        f"dpmpp-sde-{order}m-{variant}-{end}": Pair(
            _ours(DPMSolverPP, order=order, variant=variant, sde=True, lower_final=True),
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
        f"unipc-{order}-{b}-{end}": Pair(
            _ours(UniPC, order=order, b=b, lower_final=True),
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
    "unip-2": Pair(
        UniPC(corrector=False, lower_final=True),
        "UniPCMultistepScheduler",
        {**_TRAILING, **_TO_INDEX_0, "disable_corrector": list(range(10))},
        end="t_min",
    ),
    # Shorter than 15 steps theirs lowers the order at the end.
    **{
        f"deis-{order}": Pair(
            _ours(DEIS, order=order, variable="log_sigma"),
            "DEISMultistepScheduler",
            {**_TRAILING, "solver_order": order},
            steps=20,
            end="t_min",
        )
        for order in (1, 2, 3)
    },
    "plms-leading": Pair(
        PLMS(),
        "PNDMScheduler",
        {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
        end="t_min",
        first=2,
    ),
    "midpoint-is-dpm2": Pair(Midpoint(), "KDPM2DiscreteScheduler", _TRAILING, scaled=True, order=2),
    "euler-ancestral": Pair(EulerAncestral(), "EulerAncestralDiscreteScheduler", _TRAILING, scaled=True, drawing=True),
    "flow-euler": Pair(
        Euler(variable="time"),
        "FlowMatchEulerDiscreteScheduler",
        timing={"sigmas": [(10 - i) / 10 for i in range(10)]},
        process=_VELOCITY,
    ),
    "flow-ddim-shift-3": Pair(DDIM(), "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, process=_VELOCITY),
    "flow-heun": Pair(Heun(variable="time"), "FlowMatchHeunDiscreteScheduler", order=2, process=_VELOCITY),
    "edm-euler": Pair(Euler(), "EDMEulerScheduler", process=_EDM),
    "edm-dpmpp-2m-midpoint": Pair(DPMSolverPP(), "EDMDPMSolverMultistepScheduler", steps=18, process=_EDM),
    "edm-dpmpp-2m-heun": Pair(
        DPMSolverPP(variant="heun"), "EDMDPMSolverMultistepScheduler", {"solver_type": "heun"}, steps=18, process=_EDM
    ),
}

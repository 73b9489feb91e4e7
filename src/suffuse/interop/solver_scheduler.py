"""Our solvers and grids as a scheduler of diffusers, for any of their pipelines.

    pipe.scheduler = SolverScheduler.like(pipe.scheduler, solver="unipc", grid="karras")

A pipeline asks its network once for each of `timesteps` and hands the output to `step`; a solver asks `denoise` as
often as it likes within its step. The two meet by replay: a solver's step is started again with the estimates that are
known, until it asks for one that is not, which is the next that the pipeline will bring. Steps are functions, so that
starting them again changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import explain
from suffuse.base.randomness import Draws
from suffuse.interop.convert import check_scheduler, process_of
from suffuse.interop.scheduler_grids import grid_of
from suffuse.process import Flow, FlowVelocity, PathPart, PredictionPart
from suffuse.sampling import Adaptive, Estimate, Grid, GridPart, ListedTimes, Shifted, Solver, SolverPart
from suffuse.sampling.solvers import OnGrid

try:
    from diffusers import SchedulerMixin
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.schedulers.scheduling_utils import SchedulerOutput
    from diffusers.utils.torch_utils import randn_tensor
except ImportError:
    raise UsageError(
        "a scheduler for pipelines of diffusers needs diffusers, which is not installed; "
        "pip install 'suffuse[diffusers]'"
    ) from None

__all__ = ["SolverScheduler"]

Fields = str | Mapping[str, Any]  # Any: fields of a part
_FLOW_STEPS = 1000  # what networks on the flow path are told: 1000 t
_SHIFTING = ("shift", "use_dynamic_shifting", "time_shift_type")


class _NotKnownError(Exception):
    """A solver asked for an estimate that the pipeline has not brought yet."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


@dataclass(frozen=True)
class _Drawn(Draws):
    """Noise of a step from the pipeline's generator; the same again when the step is replayed."""

    generator: torch.Generator | list[torch.Generator] | None = None
    like: Tensor = field(default_factory=lambda: torch.zeros(1))
    known: list[Tensor] = field(default_factory=list)
    used: list[int] = field(default_factory=lambda: [0])

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        place = self.used[0]
        self.used[0] += 1
        if place == len(self.known):
            whole = (len(self.like), *shape)
            drawn = randn_tensor(whole, generator=self.generator, device=self.like.device, dtype=self.like.dtype)
            self.known.append(drawn)
        return self.known[place]


def _part(kind: Any, value: Fields, what: str) -> Any:  # Any: a joint's annotated type, and its part
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise explain(error, what) from None


class SolverScheduler(SchedulerMixin, ConfigMixin):
    """A solver on a grid, in the place of a scheduler. `like` makes one for a pipeline's process.

    Samples are ours, alpha x0 + sigma eps, so that `scale_model_input` does nothing. `timesteps` has an entry for each
    network evaluation, so that a step of Heun has two. Steps are computed in float32, and samples between them have the
    pipeline's type.

    Args:
        solver: Kind, or fields.
        grid: Kind, or fields; the number of steps comes from `set_timesteps`.
        flow: Whether the process is the flow path with the velocity as prediction, told 1000 t.
        shift, use_dynamic_shifting, time_shift_type: How sigmas that a pipeline of flow matching gives are shifted, as
            by diffusers' schedulers: by a number, or by the `mu` that comes with them.
        own_levels: Whether such sigmas give way to the grid, and only their number counts.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type,
            rescale_betas_zero_snr: As of diffusers' DDPM family, where the process is a table of betas.

    Raises:
        UsageError: No such solver or grid, or one that cannot be driven by a pipeline.
    """

    order = 1  # evaluations of a step, by which pipelines find where an image begins; the solver's once there is a grid

    @register_to_config  # type: ignore[untyped-decorator]  # as above
    def __init__(
        self,
        solver: Fields = "dpmpp",
        grid: Fields = "uniform",
        flow: bool = False,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        own_levels: bool = False,
    ) -> None:
        self._solver: SolverPart = _part(Solver, solver, "scheduler")
        self._grid: GridPart = _part(Grid, grid, "scheduler")
        if isinstance(self._solver, Adaptive) or not self._solver.needs_mean:
            raise UsageError(
                f"solver {self._solver.kind!r} cannot be driven by a pipeline, which must know its evaluations "
                "beforehand and brings means; choose another"
            )
        self._path, self._prediction = _process(dict(self.config), flow=flow)
        self._unit = float(_FLOW_STEPS) if flow else 1.0
        self._times: tuple[float, ...] = ()
        self._asked: list[tuple[int, int, float]] = []
        self.timesteps = torch.zeros(0)
        self.num_inference_steps: int | None = None
        self._forget()

    @classmethod
    def like(cls, scheduler: Any, *, solver: Fields = "dpmpp", grid: Fields | None = None) -> SolverScheduler:
        """For the process of another scheduler: any of diffusers' DDPM family or of flow matching.

        Estimates are not clipped: `clip_sample` and `thresholding` of the other one are left behind.

        Args:
            scheduler: A pipeline's scheduler, or its configuration.
            solver: Kind, or fields.
            grid: Kind, or fields; the other scheduler's own grid when None, see `grid_of`.

        Raises:
            UsageError: A process that we do not have.
        """
        config = dict(getattr(scheduler, "config", scheduler))
        name = str(config.get("_class_name", type(scheduler).__name__))
        check_scheduler({**config, "_class_name": name})
        flow = name.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))
        keys = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
        kept = {key: config[key] for key in (*keys, "num_train_timesteps", "rescale_betas_zero_snr") if key in config}
        if flow:
            kept = {key: config[key] for key in _SHIFTING if config.get(key) is not None}
            kept["shift"] = float(config.get("shift") or config.get("flow_shift") or 1.0)
            kept["num_train_timesteps"] = config.get("num_train_timesteps", _FLOW_STEPS)
        elif "beta_schedule" not in config:
            raise UsageError(
                f"scheduler {name!r} has neither a table of betas nor the flow path; pipelines of the DDPM family and "
                "of flow matching can be sampled by our solvers"
            )
        own = grid_of({**config, "_class_name": name}, 1).dump()
        del own["steps"]
        chosen = grid is not None
        made: SolverScheduler = cls(solver=solver, grid=grid if chosen else own, flow=flow, own_levels=chosen, **kept)
        return made

    def _forget(self) -> None:
        """Before the first step of a trajectory."""
        self._step: int | None = None
        self._offset = 0
        self._state: OnGrid | None = None
        self._start: Tensor | None = None
        self._known: list[Estimate] = []
        self._noise: _Drawn | None = None

    @property
    def init_noise_sigma(self) -> float:
        """Deviation of the first sample."""
        return float(self._path.level(self._times[0]).sigma) if self._times else 1.0

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Lay the grid.

        Args:
            num_inference_steps: Steps of the solver, not evaluations.
            device: Where `timesteps` are put.
            timesteps: Times of your own where steps start, in the pipeline's unit.
            sigmas: The same for the flow path, as sigmas before they are shifted, noise first; a last 0 is understood.
            mu: Logarithm of the shift, of processes whose shift depends on the size of the image.
            others: Settings of other schedulers, at None.

        Raises:
            UsageError: None of them, times that do not fall, no `mu` where the shift needs it, or a setting of another
                scheduler.
        """
        if meant := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"set_timesteps knows no {meant[0]}; it is another scheduler's, so leave it out")
        grid = self._grid
        if sigmas is not None and self.config["flow"]:
            listed = tuple(float(sigma) for sigma in sigmas if sigma > 0)
            own = self.config["own_levels"]
            grid = grid.replace(steps=len(listed)) if own else ListedTimes(listed=self._shifted(listed, mu))
        elif timesteps is not None:
            grid = ListedTimes(listed=tuple(float(t) / self._unit for t in timesteps))
        elif num_inference_steps is not None:
            grid = grid.replace(steps=num_inference_steps)
            if mu is not None and self.config["use_dynamic_shifting"] and not self.config["own_levels"]:
                grid = Shifted(steps=num_inference_steps, shift=self._shift(mu))
        else:
            raise UsageError("set_timesteps needs num_inference_steps, timesteps or sigmas; give one of them")
        self._times = grid.times(self._path)
        self._asked = self._rehearsed()
        counts = Counter(step for step, _, _ in self._asked)
        self.order = counts[0] if all(count == counts[0] for step, count in counts.items() if step < max(counts)) else 1
        told = torch.tensor([t * self._unit for _, _, t in self._asked], dtype=torch.float64)
        whole = bool((told == told.round()).all())
        self.timesteps = (told.round().long() if whole else told.float()).to(device or "cpu")
        self.num_inference_steps = len(self.timesteps)
        self._forget()

    def _shifted(self, sigmas: tuple[float, ...], mu: float | None) -> tuple[float, ...]:
        """Sigmas as diffusers' flow-matching schedulers shift those that they are given."""
        shift = self._shift(mu)
        return tuple(shift / (shift + (1 / sigma - 1)) for sigma in sigmas)

    def _shift(self, mu: float | None) -> float:
        if not self.config["use_dynamic_shifting"]:
            return float(self.config["shift"])
        if mu is None:
            raise UsageError("this process is shifted by the size of the image; give mu, as its pipelines do")
        return math.exp(mu) if self.config["time_shift_type"] == "exponential" else mu

    def _rehearsed(self) -> list[tuple[int, int, float]]:
        """(step, evaluation within it, time) of all evaluations of the grid."""
        asked: list[tuple[int, int, float]] = []
        x = torch.zeros(1, 1, dtype=torch.float64)
        state = self._solver.init(x, self._times, self._path)
        for i in range(len(self._times) - 1):
            count = 0

            def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None, step: int = i) -> Estimate:
                nonlocal count
                asked.append((step, count, t))
                count += 1
                return Estimate(torch.zeros_like(x))

            x, state = self._solver.step(denoise, x, state, i, Draws(0, torch.zeros(1, dtype=torch.int64)))
        return asked

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample itself: ours needs no scaling."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Take the network's output at a time; the next sample is where the network is asked next.

        Args:
            model_output: Raw output, (B, C, ...).
            timestep: The entry of `timesteps` that it belongs to.
            sample: What the network was given, (B, C, ...).
            generator: Where a stochastic solver's noise comes from.
            return_dict: An object instead of a tuple.
            others: Settings of other schedulers that pipelines hand on, at their neutral values.

        Raises:
            UsageError: `set_timesteps` was not called, a time that is not in it, or a setting of another scheduler.
        """
        if meant := [name for name, value in others.items() if value]:
            raise UsageError(
                f"{meant[0]} = {others[meant[0]]} is another scheduler's; set it in `solver`, or leave it out"
            )
        t = float(timestep) / self._unit
        x = sample.float()
        if self._step is None:
            self._begin(x, t)
        assert self._step is not None
        if not self._known:
            # The pipeline may have changed the sample since (inpainting does): what it says is where the step starts.
            self._start = x
            self._noise = _Drawn(0, torch.arange(len(x)), generator=generator, like=x)
        assert self._start is not None
        assert self._noise is not None
        assert self._state is not None
        level = self._path.level(self._expected())
        c_skip, c_out = self._prediction.output(float(level.alpha), float(level.sigma), 0.5)
        if model_output.shape[1] == 2 * x.shape[1]:  # a learned variance, which our solvers do not need
            model_output = model_output.chunk(2, dim=1)[0]
        self._known.append(Estimate(c_skip * x + c_out * model_output.float()))
        try:
            self._noise.used[0] = 0
            moved, self._state = self._solver.step(
                _Replay(self._known), self._start, self._state, self._step - self._offset, self._noise
            )
            self._step += 1
            self._known = []
        except _NotKnownError as wanted:
            moved = wanted.x
        if self._step == len(self._times) - 1:
            self._forget()  # the next call begins a new trajectory
        result = moved.to(sample.dtype)
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    def _expected(self) -> float:
        """Time of the evaluation that the pipeline is bringing."""
        assert self._step is not None
        place = len(self._known)
        return next(t for step, count, t in self._asked if (step, count) == (self._step, place))

    def _begin(self, x: Tensor, t: float) -> None:
        """Start at the grid's time t: the first one, or a later one for image to image."""
        if not self._times:
            raise UsageError("call set_timesteps before step")
        starts = [step for step, count, at in self._asked if count == 0 and abs(at - t) < 1e-4 * max(1.0, abs(t))]
        if starts and starts[0] and self.order == 1 and len(self._asked) > len(self._times) - 1:
            raise UsageError(
                f"solver {self._solver.kind!r} has steps of several numbers of evaluations, so that a pipeline cannot "
                "find where an image begins; choose another for image to image"
            )
        if not starts:
            raise UsageError(f"time {t * self._unit:g} is not one at which a step of the grid starts; use `timesteps`")
        self._step = self._offset = starts[0]
        self._state = self._solver.init(x, self._times[self._offset :], self._path)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma eps at the given timesteps, (B,): for image to image."""
        level = self._path.level(timesteps.double().cpu() / self._unit, original_samples)
        alpha, sigma = (torch.as_tensor(value).to(original_samples) for value in (level.alpha, level.sigma))
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` by the name and order that pipelines of flow matching use."""
        return self.add_noise(sample, noise, timestep)


class _Replay:
    """An estimator of what is known; it stops the solver at the first estimate that is not."""

    def __init__(self, known: list[Estimate]) -> None:
        self.known, self.place = known, 0

    def __call__(self, x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
        if self.place == len(self.known):
            raise _NotKnownError(x)
        self.place += 1
        return self.known[self.place - 1]


def _process(config: dict[str, Any], *, flow: bool) -> tuple[PathPart, PredictionPart]:
    """Path and prediction of a configuration."""
    if flow:
        return Flow(), FlowVelocity()
    table = {key: value for key, value in config.items() if key not in ("solver", "grid", "flow")}
    return process_of(table)

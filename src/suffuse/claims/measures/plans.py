"""Plans on a trained run: how near they stay to the full run, and whether fewer steps at the same cost stay nearer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, SkipValidation
from torch import Tensor

from suffuse.acceleration import MacCounter, NoPlan, Plan, applied
from suffuse.acceleration.deepcache import decoder_blocks
from suffuse.acceleration.plan import Ask, Moment, PlanPart, Policy
from suffuse.base.part import Part
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.metrics import psnr
from suffuse.networks.contract import Network, Output
from suffuse.sampling import DDIM, Guidance, NoGuidance, Solver, Uniform
from suffuse.tasks.generate import Generated, generate
from suffuse.tasks.judge import ruler_of
from suffuse.training.settings import SamplingSettings

__all__ = ["FeatureDrift", "PlanFidelity", "Way"]

_SOURCE = (
    "suffuse.sampling.loop",
    "suffuse.sampling.grid",
    "suffuse.acceleration.apply",
    "suffuse.claims.judging",
    "suffuse.tasks.generate",
    "suffuse.tasks.judge",
    "suffuse.training.sample_conditions",
)


class Way(Part):
    """A plan, and how its values are called.

    Attributes:
        name: At the end of their names.
        plan: The plan.
        solver: Where it is another than the measure's.
        guidance, steps: Likewise.
    """

    name: str
    plan: Plan = NoPlan()
    solver: Solver | None = None
    guidance: Guidance | None = None
    steps: int | None = Field(default=None, ge=1)


def _seed(bench: Bench) -> int:
    return 1 + (bench.run.recipe.training.seed if bench.run.recipe else 0)


class PlanFidelity(MeasurePart):
    """Plans against the full run, and each against the full run in as many steps as cost what the plan costs.

    Values, for each way: share, of the multiply-accumulates of the full run; psnr to it, in decibels; fewer, the PSNR
    to it of a run without a plan whose steps cost the same; lead, psnr minus fewer; distance and distance_fewer, to the
    data, in the judge's features. And distance_full.

    Attributes:
        solver, guidance: Of all ways that have none of their own.
        steps: Of the full run.
        ways: Plans.
        samples: How many; the same noise everywhere.
    """

    kind: Literal["plan_fidelity"] = "plan_fidelity"
    solver: Solver = DDIM()
    guidance: Guidance = NoGuidance()
    steps: int = Field(default=50, ge=2)
    ways: tuple[Way, ...] = Field(min_length=1)
    samples: int = Field(default=256, ge=6)
    judged: ClassVar[bool] = True
    source: ClassVar[tuple[str, ...]] = _SOURCE

    def of(self, bench: Bench) -> dict[str, float]:
        """All ways."""
        counter, judge = MacCounter(), bench.judge()
        made: dict[tuple[Way, int], tuple[Generated, float]] = {}

        def run(way: Way, steps: int) -> tuple[Generated, float]:
            if (way, steps) not in made:
                settings = SamplingSettings(
                    solver=way.solver or self.solver,
                    guidance=way.guidance or self.guidance,
                    plan=way.plan,
                    grid=Uniform(steps=steps),
                    batch=128,
                )
                drawn = generate(bench.run, self.samples, settings, seed=_seed(bench), counter=counter)
                distance = judge.distance(drawn, ruler_of(bench.run, settings, drawn, _seed(bench))).value
                made[way, steps] = (drawn, distance)
            return made[way, steps]

        found: dict[str, float] = {}
        full, found["distance_full"] = run(Way(name=""), self.steps)
        for way in self.ways:
            drawn, distance = run(way, way.steps or self.steps)
            assert drawn.macs is not None
            assert full.macs is not None
            share = drawn.macs / full.macs
            # As many steps of the plain way as cost nearest to the same.
            steps = min(range(1, self.steps + 1), key=lambda count: abs(count / self.steps - share))
            fewer, distance_fewer = run(Way(name=""), steps)
            near, other = _decibels(drawn.x, full.x), _decibels(fewer.x, full.x)
            row = {
                "share": share,
                "psnr": near,
                "fewer": other,
                "lead": near - other,
                "distance": distance,
                "distance_fewer": distance_fewer,
            }
            found |= {f"{value}_{way.name}": number for value, number in row.items()}
        return found

    def smaller(self) -> PlanFidelity:
        """Few samples in few steps."""
        return self.replace(samples=12, steps=12, ways=self.ways[:2])


def _decibels(images: Tensor, full: Tensor) -> float:
    """PSNR of images, 100 at most: equal ones have an infinite one."""
    return min(psnr(images.clamp(-1, 1), full.clamp(-1, 1)), 100.0)


class _Watch(PlanPart):
    """No plan, but the relative change of every feature from call to call is told."""

    kind: Literal["watch"] = "watch"
    told: SkipValidation[list[dict[str, float]]]

    def bind(self, network: Network, steps: int | None) -> Policy:
        names = tuple(name for name in network.graph if name != "output")
        before: dict[str, Tensor] = {}

        def watch(ask: Ask, moment: Moment) -> Output:
            output = ask(taps=names)
            if before:
                changes = {name: (output.features[name] - before[name]).norm() / before[name].norm() for name in names}
                self.told.append({name: float(change) for name, change in changes.items()})
            before.update(output.features)
            return output

        return watch


class FeatureDrift(MeasurePart):
    """How much a U-Net's features change from step to step along a trajectory, encoder against decoder.

    Values: drift_encoder, drift_decoder, means over blocks and steps of the relative change; drift_deep, of what
    DeepCache at branch 0 keeps.

    Attributes:
        solver: Of the trajectory.
        steps: Its steps.
        samples: How many.
    """

    kind: Literal["feature_drift"] = "feature_drift"
    solver: Solver = DDIM()
    steps: int = Field(default=50, ge=3)
    samples: int = Field(default=64, ge=2)
    source: ClassVar[tuple[str, ...]] = _SOURCE

    def of(self, bench: Bench) -> dict[str, float]:
        """Over the whole trajectory."""
        network = bench.run.model.network
        decoder = decoder_blocks(network)
        order = list(network.graph)
        encoder = order[: order.index(decoder[0])]
        settings = SamplingSettings(solver=self.solver, grid=Uniform(steps=self.steps), batch=self.samples)
        changes: list[dict[str, float]] = []
        with applied(bench.run.model, _Watch(told=changes)):
            generate(bench.run, self.samples, settings, seed=_seed(bench))

        def mean(names: list[str]) -> float:
            return sum(row[name] for row in changes for name in names) / (len(changes) * len(names))

        return {
            "drift_encoder": mean(encoder),
            "drift_decoder": mean(list(decoder)),
            "drift_deep": mean([network.graph[decoder[-1]][0]]),
        }

    def smaller(self) -> FeatureDrift:
        """Few steps."""
        return self.replace(steps=4, samples=4)

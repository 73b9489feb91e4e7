"""Plans: what the mechanism costs, DeepCache beside its package, the first-block cache beside diffusers' hooks."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from benchmarks.networks import DIGITS, RGB32, model_of
from benchmarks.timing import alternate, ratio
from suffuse.acceleration import (
    DeepCache,
    EncoderReuse,
    FirstBlockCache,
    NoPlan,
    PlanPart,
    RegionAdaptive,
    applied,
)
from suffuse.base.call import Call
from suffuse.base.conditions import Embedding
from suffuse.models.denoiser import Denoiser
from suffuse.networks.contract import Network, Output
from suffuse.networks.external.published import PUBLISHED
from suffuse.sampling import DDIM, DPMSolverPP, SolverPart, Uniform, UniPC, sample

__all__ = ["measure", "measure_gpu"]

Row = tuple[str, str, str]
_STEPS = 10


def _shown(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})"


class _Free(Network):
    """The blocks of a network, which cost nothing."""

    def __init__(self, like: Network) -> None:
        super().__init__()
        self.graph, self.widths, self.cond_width = like.graph, like.widths, like.cond_width
        self.weight = torch.nn.Parameter(torch.zeros(1))

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
        return Output(x, dict.fromkeys(taps, x))


def _overhead(rounds: int) -> list[Row]:
    """What a plan that computes everything adds to a call, over the forward of a network.

    Rounds of whole runs differ by more than that, so it is taken from the same blocks at no cost.
    """
    model = model_of(*RGB32)
    free = Denoiser(_Free(model.network), path=model.path, prediction=model.prediction)
    x, count = torch.zeros(16, *RGB32[1]), 500

    def run(plan: PlanPart | None) -> Callable[[], object]:
        def calls() -> None:
            with torch.no_grad(), contextlib.nullcontext() if plan is None else applied(free, plan):
                for step in range(count):
                    free.denoise(x, 500.0, None, Call(step=step, steps=count))

        return calls

    times = alternate({"bare": run(None), "none": run(NoPlan()), "all": run(DeepCache(every=1))}, rounds=5 * rounds)
    rows = []
    for words, (network, shape) in (("a U-Net of 6 M", RGB32), ("the digits network, 0.4 M", DIGITS)):
        model = model_of(network, shape)
        x, told = torch.randn(16, *shape), torch.full((16,), 500.0)

        def forward(model: Any = model, x: Tensor = x, told: Tensor = told) -> None:
            with torch.no_grad():
                for _ in range(_STEPS):
                    model.network(x, told)

        whole = alternate({"forward": forward}, rounds=rounds)["forward"].median / _STEPS
        for name, plan in (("none", "no plan"), ("all", "DeepCache(every=1)")):
            added = (min(times[name].rounds) - min(times["bare"].rounds)) / count
            row = f"what {plan} adds to a call ({added * 1e6:.0f} us) over a forward of {words}, batch 16"
            rows.append((row, f"{added / whole:.4f}", "at most 0.01"))
    return rows


def _solvers(rounds: int) -> list[Row]:
    """A solver's own arithmetic over a network's forward."""
    network, shape = RGB32
    model = model_of(network, shape)
    x, told = torch.randn(16, *shape), torch.full((16,), 500.0)

    class Free(torch.nn.Module):
        """A model that gives an estimate for nothing."""

        path, estimate, device = model.path, "mean", torch.device("cpu")

        def denoise(self, x: Tensor, *rest: Any) -> Tensor:
            return x

    def forward() -> object:
        with torch.no_grad():
            return [model.network(x, told) for _ in range(_STEPS)]

    def steps(solver: SolverPart) -> Callable[[], object]:
        return lambda: sample(Free(), 16, shape=shape, solver=solver, grid=Uniform(steps=_STEPS))

    solvers: dict[str, SolverPart] = {"DDIM": DDIM(), "DPM-Solver++ 2M": DPMSolverPP(), "UniPC": UniPC()}
    times = alternate({"forward": forward, **{name: steps(solver) for name, solver in solvers.items()}}, rounds=rounds)
    return [
        (
            f"{name}'s steps over forwards of a U-Net of 6 M, batch 16",
            _shown(ratio(times[name], times["forward"])),
            "at most 0.02",
        )
        for name in solvers
    ]


def _stable_diffusion() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(64, 128, 256, 256),
        cross_attention_dim=128,
        attention_head_dim=8,
    )
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,)),
        unet=unet.eval(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _package(rounds: int) -> list[Row]:
    """DeepCache's own package on the same pipeline."""
    try:
        from DeepCache import DeepCacheSDHelper
    except ImportError:
        return []
    pipe = _stable_diffusion()
    words = torch.randn(1, 16, 128)

    def draw() -> Tensor:
        made: Tensor = pipe(
            prompt_embeds=words,
            negative_prompt_embeds=-words,
            height=32,
            width=32,
            num_inference_steps=20,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images
        return made

    def ours(every: int, branch: int) -> Tensor:
        with applied(pipe, DeepCache(every=every, branch=branch)):
            return draw()

    def theirs(every: int, branch: int) -> Tensor:
        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=every, cache_branch_id=branch)
        helper.enable()
        try:
            return draw()
        finally:
            helper.disable()

    rows = []
    for every, branch in ((3, 0), (5, 0), (3, 1)):
        gap = (ours(every, branch) - theirs(every, branch)).abs().max().item()
        times = alternate(
            {
                "bare": draw,
                "ours": lambda every=every, branch=branch: ours(every, branch),
                "theirs": lambda every=every, branch=branch: theirs(every, branch),
            },
            rounds=rounds,
        )
        what = f"SD-like U-Net, 32x32 latents, 20 steps with guidance, N = {every}, branch {branch}"
        rows.append(
            (f"DeepCache, the package over ours: {what}", _shown(ratio(times["theirs"], times["ours"])), "at least 1.0")
        )
        rows.append((f"largest difference of the latents: {what}", f"{gap:.1e}", "at most 1e-5"))
        rows.append((f"without over with DeepCache: {what}", _shown(ratio(times["bare"], times["ours"])), "-"))
    return rows


def _first_block(rounds: int) -> list[Row]:
    """Diffusers' own first-block cache on a DiT, whose cache context is private there."""
    from diffusers import DiTTransformer2DModel
    from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, apply_first_block_cache
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        num_layers=12,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()
    for weight in model.parameters():  # adaLN starts at zero, where blocks add nothing
        torch.nn.init.normal_(weight, std=0.02)
    label, start = torch.tensor([1]), torch.randn(1, 4, 32, 32)

    def draw(before: Callable[[], object] = lambda: None) -> Tensor:
        x = start
        with torch.no_grad():
            for t in torch.linspace(600, 410, 20):  # as in a run of a hundred steps, where there is something to reuse
                before()
                x = x - 0.02 * model(x, timestep=t.expand(1).long(), class_labels=label).sample
        return x

    def ours() -> Tensor:
        with applied(model, FirstBlockCache(threshold=0.35), steps=20) as run:
            made = draw()
        shares.append(run.timeline().total)
        return made

    def theirs() -> Tensor:
        apply_first_block_cache(model, FirstBlockCacheConfig(threshold=0.35))
        _set_cache_context(model, CacheContext("run"))
        try:
            return draw()
        finally:
            for module in model.modules():
                registry = getattr(module, "_diffusers_hook", None)
                if isinstance(registry, HookRegistry):
                    for name in list(registry.hooks):
                        registry.remove_hook(name, recurse=False)

    shares: list[float] = []
    plain, mine, other = draw(), ours(), theirs()
    away = [((made - plain).norm() / plain.norm()).item() for made in (mine, other)]
    times = alternate({"bare": draw, "ours": ours, "theirs": theirs}, rounds=rounds)
    what = "DiT of 32 M, 256 tokens, threshold 0.35"
    return [
        (
            f"first-block cache, diffusers' hooks over ours: {what}",
            _shown(ratio(times["theirs"], times["ours"])),
            "at least 1.0",
        ),
        (f"distance from the full run, ours and theirs: {what}", f"{away[0]:.2e} and {away[1]:.2e}", "equal"),
        (
            f"without over with ours ({shares[-1]:.0%} of the blocks): {what}",
            _shown(ratio(times["bare"], times["ours"])),
            "-",
        ),
    ]


def _period(rounds: int) -> list[Row]:
    """SD 1.5's shape with random weights: a refresh and the steps until the next one, on small latents."""
    shape = PUBLISHED["sd15"]
    model = shape.build("cpu")
    call = shape.call(model, 2, side=16, device="cpu")
    rows = []
    for plan in (DeepCache(every=5, branch=1), DeepCache(every=5)):

        def steps(plan: PlanPart | None, count: int = 5) -> Callable[[], object]:
            def run() -> None:
                with torch.no_grad():
                    if plan is None:
                        for _ in range(count):
                            model(**call)
                        return
                    with applied(model, plan, steps=count):
                        for _ in range(count):
                            model(**call)

            return run

        times = alternate({"full": steps(None), "plan": steps(plan)}, rounds=rounds)
        what = f"SD 1.5's shape, float32, 16x16 latents, guidance's two halves, a period of 5 at branch {plan.branch}"
        rows.append((f"without over with DeepCache: {what}", _shown(ratio(times["full"], times["plan"])), "-"))
    return rows


_PARALLEL = "EncoderReuse, parallel"
# Networks of published shapes, their calls in a run, and the plans that are tried on each.
_ON_GPU: dict[str, tuple[int, tuple[tuple[str, PlanPart], ...]]] = {
    "sd15": (
        50,
        (
            (
                "DeepCache(5, branch 1)",
                DeepCache(every=5, schedule="published_power", centre=15, power=1.4, branch=1),
            ),
            ("EncoderReuse", EncoderReuse()),
            (_PARALLEL, EncoderReuse(parallel=True)),
        ),
    ),
    "sdxl": (50, (("DeepCache(3)", DeepCache(every=3)),)),
    "sd3": (
        28,
        (
            ("RegionAdaptive(0.5)", RegionAdaptive()),
            # With random weights no threshold means anything: every other step reuses, whatever has changed.
            ("FirstBlockCache, every other step", FirstBlockCache(threshold=1e9, longest=1)),
        ),
    ),
}
_TITLES = {"sd15": "SD 1.5", "sdxl": "SDXL", "sd3": "SD 3"}
# Parts of a joint block that no plan reaches into: blocks themselves are replaced by those that reuse them, and keys
# and values by the one that lets some tokens run.
_INSIDE = ("norm1", "norm1_context", "ff", "ff_context")


def _compile(model: nn.Module) -> str:
    """Compile what repeats inside a network, as far as plans leave it alone; says what that was."""
    blocks = [block for block in model.modules() if type(block).__name__ == "JointTransformerBlock"]
    if not blocks:
        model.compile_repeated_blocks(dynamic=False)  # type: ignore[operator]  # a method of diffusers' models
        return "its transformer blocks compiled"
    for block in blocks:
        for name in _INSIDE:
            part = getattr(block, name)
            if part is not None:
                part.compile(dynamic=False)
    return "norms and feed-forwards of its blocks compiled"


def _whole_runs(
    key: str, rounds: int, device: str, side: int | None = None, steps: int | None = None
) -> Iterator[tuple[str, str]]:
    """Whole runs of a shape without and with its plans, as they are and with what repeats compiled: (what, figure).

    Args:
        key: Of `PUBLISHED`.
        rounds: How often each way has its turn.
        device: Where.
        side: Of the latents; the usual one when None.
        steps: Calls of a run; those of `_ON_GPU` when None.
    """
    shape, (usual, tried) = PUBLISHED[key], _ON_GPU[key]
    pipe = _Pipeline(shape.build(device).to(device, torch.bfloat16))
    model, steps = pipe.unet, steps or usual
    call = _halved(shape.call(model, 2, side=side, device=device))
    ways: dict[str, PlanPart] = {"full": NoPlan(), **dict(tried)}
    peaks, shares = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 1.0)

    def run(name: str) -> Callable[[], object]:
        def whole() -> None:
            _fresh_peak(device)
            with torch.no_grad(), applied(pipe, ways[name]) as ran:
                pipe.set_timesteps(steps)
                times = pipe.timesteps.to(device)
                for step in range(steps):
                    model(**{**call, "timestep": times[step].expand(2)})
                _wait(device)
                shares[name] = ran.timeline().total
            peaks[name] = _peak(device)

        return whole

    title = f"{_TITLES[key]}'s shape, {steps} calls"
    for how in ("as it is", ""):
        if not how:
            how = _compile(model)
            ways.pop(_PARALLEL, None)  # each of its five sizes of batch would be compiled
        times = alternate({name: run(name) for name in ways}, rounds=rounds)
        yield f"{title}, {how}, without a plan", f"{times['full'].median:.3f} s, {peaks['full']:.1f} GB at most"
        for name in [name for name in ways if name != "full"]:
            words = f"{title}, {how}: without over with {name}, {shares[name]:.0%} of the blocks"
            yield words, f"{_shown(ratio(times['full'], times[name]))}, {peaks[name]:.1f} GB at most"


def _halved(call: dict[str, Any]) -> dict[str, Any]:
    """Arguments in bfloat16, those inside dictionaries too; whole numbers as they are."""
    return {
        name: _halved(value)
        if isinstance(value, dict)
        else value.bfloat16()
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in call.items()
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _fresh_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> float:
    """Most memory since `_fresh_peak`, 1e9 bytes."""
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else float("nan")


class _Pipeline:
    """A network, and a scheduler that tells its runs: all that plans must know of a pipeline."""

    def __init__(self, model: nn.Module) -> None:
        self.unet, self.scheduler, self.timesteps = model, self, torch.zeros(0)

    def set_timesteps(self, steps: int) -> None:
        """A run begins."""
        self.timesteps = torch.linspace(999, 0, steps)


def measure_gpu(rounds: int, device: str = "cuda") -> Iterator[Row]:
    """Whole runs of published shapes with random weights in bfloat16, both halves of a guidance in one batch."""
    torch._dynamo.config.recompile_limit = 256
    for key in _ON_GPU:
        for what, figure in _whole_runs(key, rounds, device):
            yield what, figure, "-"
        gc.collect()
        torch.cuda.empty_cache()


def measure(rounds: int) -> list[Row]:
    """All rows that need no GPU."""
    return [*_overhead(rounds), *_solvers(rounds), *_package(rounds), *_first_block(rounds), *_period(min(rounds, 3))]

"""Wuerstchen's whole pipelines as a run: the same texts, codes and steps as diffusers' own; and back."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.interop.convert import to_diffusers, to_suffuse
from suffuse.models.config import ModelConfig
from suffuse.models.frozen_text import FrozenText
from suffuse.models.pretrained import load_model
from suffuse.models.semantic import CODE
from suffuse.sampling import CFG, DDPM, NoGuidance, Uniform
from suffuse.sampling.solvers import Estimate
from suffuse.tasks.generate import Asked, generate
from suffuse.tasks.prompts import prompt_conditions
from suffuse.tasks.runs import OpenRun, open_run

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPT = "a red circle"
SIZE = 128  # codes of 3x3, latents of 32x32


def theirs(module: str, name: str) -> Any:
    """A class of diffusers, which moved it to the deprecated ones."""
    found = importlib.util.find_spec("diffusers.pipelines.deprecated.wuerstchen")
    package = "diffusers.pipelines.wuerstchen" if found is None else "diffusers.pipelines.deprecated.wuerstchen"
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def filled(model: nn.Module) -> nn.Module:
    """Weights on which outputs depend."""
    for place, parameter in enumerate(model.parameters()):
        scale = 0.3 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = scale * normal(*parameter.shape, seed=place)
    return model.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_text(width: int, length: int) -> tuple[Any, Any]:
    """A small CLIP text model and a tokenizer that knows bytes alone."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {token: number for number, token in enumerate(words)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return tokenizer, filled(transformers.CLIPTextModel(config))


def make_stages() -> dict[str, Any]:
    """Components of a combined pipeline by name, whose two stages read different texts."""
    prior = {"c_in": 4, "c": 16, "c_cond": 12, "c_r": 8, "depth": 2, "nhead": 2}
    decoder = {
        "c_r": 8,
        "c_cond": 12,
        "c_hidden": [8, 16],
        "nhead": [-1, 2],
        "blocks": [1, 1],
        "level_config": ["CT", "CTA"],
        "inject_effnet": [False, True],
        "effnet_embd": 4,
        "clip_embd": 8,
    }
    vqgan = {"embed_dim": 8, "bottleneck_blocks": 1, "num_vq_embeddings": 6}
    with torch.random.fork_rng():
        first, second = make_text(12, 20), make_text(8, 24)
        return {
            "prior_prior": filled(theirs("modeling_wuerstchen_prior", "WuerstchenPrior")(**prior)),
            "prior_text_encoder": first[1],
            "prior_tokenizer": first[0],
            "prior_scheduler": diffusers.DDPMWuerstchenScheduler(),
            "decoder": filled(theirs("modeling_wuerstchen_diffnext", "WuerstchenDiffNeXt")(**decoder)),
            "vqgan": filled(theirs("modeling_paella_vq_model", "PaellaVQModel")(**vqgan)),
            "text_encoder": second[1],
            "tokenizer": second[0],
            "scheduler": diffusers.DDPMWuerstchenScheduler(),
        }


def pipelines_of(stages: dict[str, Any]) -> tuple[Any, Any]:
    """Their prior's pipeline and their decoder's."""
    names = ("text_encoder", "tokenizer", "scheduler")
    prior = {name: stages[f"prior_{name}"] for name in (*names, "prior")}
    decoder = {name: stages[name] for name in (*names, "decoder", "vqgan")}
    found = diffusers.WuerstchenPriorPipeline(**prior), diffusers.WuerstchenDecoderPipeline(**decoder)
    for pipeline in found:
        pipeline.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    return make_stages()


@pytest.fixture(scope="module")
def combined(stages: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pipelines") / "combined"
    diffusers.WuerstchenCombinedPipeline(**stages).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(combined: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    folder = tmp_path_factory.mktemp("run")
    to_suffuse(combined, folder / "made", size=SIZE)
    shutil.move(folder / "made", folder / "moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return open_run(folder / "moved", device="cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Tape:
    """The same noise for both sides: that of a step, by its number."""

    def __init__(self, step: int, last: int) -> None:
        self.step, self.last = step, last

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        assert stream == "solver"
        # On the last step theirs adds none.
        return normal(1, *shape, seed=100 + self.step) * (self.step < self.last)


def our_steps(model: Any, x: Tensor, cond: Conditions, steps: int, guidance: Any) -> list[Tensor]:
    """States after each step of our solver on the times of their pipeline."""
    solver = DDPM()
    times = Uniform(steps=steps, spacing="linspace", spare=True, end="t_min").times(model.path)
    guided = guidance.bind(lambda x, t, cond, call: Estimate(model.denoise(x, t, cond)), model.path)
    state, found = solver.init(x, times, model.path), []
    for i in range(steps):

        def estimate(x: Tensor, t: float, substep: int = 0, target: float | None = None, i: int = i) -> Any:
            from suffuse.base.call import Call

            return guided(x, t, cond, Call(step=i, steps=steps, times=times))

        with torch.no_grad():
            x, state = solver.step(estimate, x, state, i, Tape(i, steps - 1))  # type: ignore[arg-type]
        found.append(x)
    return found


def their_steps(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch, latents: Tensor, steps: int, **asked: Any
) -> tuple[list[Tensor], Any]:
    """States after each step of their pipeline, and its output, with the noises of the tape."""
    count = iter(range(steps))
    scheduling = importlib.import_module(type(pipeline.scheduler).__module__)
    monkeypatch.setattr(scheduling, "randn_tensor", lambda shape, **_: normal(*shape, seed=100 + next(count)))
    found: list[Tensor] = []

    def keep(pipeline: Any, step: int, t: Any, inside: dict[str, Tensor]) -> dict[str, Tensor]:
        found.append(inside["latents"])
        return {}

    made = pipeline(latents=latents, num_inference_steps=steps, callback_on_step_end=keep, **asked)
    return found, made[0]


def test_texts_and_the_empty_prompt_are_their_pipelines(stages: dict[str, Any], run: OpenRun) -> None:
    prior, decoder = pipelines_of(stages)
    cond = prompt_conditions(run, (PROMPT,))
    assert set(cond.values) == {"caption", "caption_length", "decoder_caption", "decoder_caption_length"}
    with torch.no_grad():
        wanted = prior.encode_prompt("cpu", 1, True, prompt=[PROMPT])
        other = decoder.encode_prompt([PROMPT], "cpu", 1, False)[0]
    given = run.model.conditioner(cond, 1)
    assert given.tokens_mask is None, "all tokens count"
    torch.testing.assert_close(given.tokens, wanted[0], atol=1e-5, rtol=1e-5)
    for nothing in (cond.absent(), Conditions(), prompt_conditions(run, ("",))):
        torch.testing.assert_close(run.model.conditioner(nothing, 1).tokens, wanted[1], atol=1e-5, rtol=1e-5)
    assert run.decoder is not None
    assert run.decoder.model is not None
    told = run.decoder._told(torch.zeros(1, 4, 3, 3), cond)
    torch.testing.assert_close(run.decoder.model.conditioner(told, 1).tokens, other, atol=1e-5, rtol=1e-5)


def test_every_step_of_all_stages_is_their_pipelines(
    stages: dict[str, Any], run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, decoder = pipelines_of(stages)
    cond = prompt_conditions(run, (PROMPT,))
    start, steps = normal(1, 4, 3, 3, seed=1), 7
    asked: dict[str, Any] = {"prompt": PROMPT, "height": SIZE, "width": SIZE, "guidance_scale": 8.0}
    wanted, their_code = their_steps(prior, monkeypatch, start, steps, **asked)
    found = our_steps(run.model, start, cond, steps, CFG(scale=8.0))
    for ours, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)
    assert float(found[-1].std()) > 0.1
    assert run.codec is not None
    code = run.codec.raw(found[-1])
    torch.testing.assert_close(code, their_code, atol=42e-4, rtol=1e-4)

    assert run.decoder is not None
    assert run.decoder.model is not None
    assert run.decoder.inner is not None
    start = normal(1, 4, 32, 32, seed=2)
    asked = {"image_embeddings": their_code, "prompt": PROMPT, "guidance_scale": 0.0, "output_type": "pt"}
    wanted, images = their_steps(decoder, monkeypatch, start, steps, **asked)
    told = run.decoder._told(their_code, cond)
    found = our_steps(run.decoder.model, start, told, steps, NoGuidance())
    for ours, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)
    made = run.decoder.inner.decode(found[-1])
    assert made.shape == (1, 3, SIZE, SIZE)
    torch.testing.assert_close(((made + 1) / 2).clamp(0, 1), images, atol=1e-4, rtol=1e-4)
    assert float(images.std()) > 0.01


def test_a_converted_run_samples_wherever_it_is(run: OpenRun) -> None:
    assert (run.sampling.grid.steps, run.sampling.guidance) == (60, CFG(scale=4.0))
    assert run.decoder is not None
    assert (run.decoder.sampling.grid.steps, run.decoder.sampling.guidance) == (12, NoGuidance())
    settings = run.sampling.replace(grid=run.sampling.grid.replace(steps=2))
    made = generate(run, 2, settings, asked=Asked(prompts=(PROMPT,)), seed=1)
    assert made.x.shape == (2, 3, SIZE, SIZE)
    assert made.nfe == 4
    alone = generate(run, 1, settings, asked=Asked(prompts=(PROMPT,)), seed=1, first=1)
    torch.testing.assert_close(alone.x, made.x[1:], atol=1e-4, rtol=1e-4)
    other = generate(run, 1, settings, asked=Asked(prompts=(PROMPT,), negative="a blue square"), seed=1, first=1)
    assert not torch.allclose(other.x, alone.x, atol=1e-5)
    assert not list(run.folder.rglob("*.bin"))


def test_the_absent_compressor_says_so(run: OpenRun) -> None:
    assert run.codec is not None
    with pytest.raises(UsageError, match=r"compressor of this model is absent.*released.*train stage B"):
        run.codec.encode(torch.zeros(1, 3, SIZE, SIZE))

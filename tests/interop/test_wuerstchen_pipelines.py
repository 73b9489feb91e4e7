"""Wuerstchen's whole pipelines as a run: the same texts, codes and steps as diffusers' own; and back."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.weights import read_safetensors, save_safetensors
from suffuse.cli import main
from suffuse.interop.convert import to_diffusers, to_suffuse
from suffuse.models.config import ModelConfig
from suffuse.sampling import CFG, DDPM, NoGuidance, Uniform
from suffuse.sampling.solvers import Estimate
from suffuse.tasks.generate import Asked, generate
from suffuse.tasks.prompts import prompt_conditions
from suffuse.tasks.runs import OpenRun, open_run

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PROMPT = "a red circle"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SIZE = 128  # codes of 3x3, latents of 32x32


def theirs(module: str, name: str) -> Any:
    """A class of diffusers, which moved it to the deprecated ones."""
    found = importlib.util.find_spec("diffusers.pipelines.deprecated.wuerstchen")
    package = "diffusers.pipelines.wuerstchen" if found is None else "diffusers.pipelines.deprecated.wuerstchen"
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def filled(model: nn.Module, head: str = "") -> nn.Module:
    """Weights on which outputs depend, of about the size of noise: a head divides by what would be near 0."""
    for place, (name, parameter) in enumerate(model.named_parameters()):
        scale = 1 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = scale * normal(*parameter.shape, seed=place)
        if head and name.startswith(head):
            parameter.data *= 0.2
            if name.endswith("bias") and head == "clf.1":
                parameter.data[len(parameter) // 2 :] += 4
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
            "prior_prior": filled(theirs("modeling_wuerstchen_prior", "WuerstchenPrior")(**prior), "out.1"),
            "prior_text_encoder": first[1],
            "prior_tokenizer": first[0],
            "prior_scheduler": diffusers.DDPMWuerstchenScheduler(),
            "decoder": filled(theirs("modeling_wuerstchen_diffnext", "WuerstchenDiffNeXt")(**decoder), "clf.1"),
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
    # Eighths are exact: at 10000 r radians the last digit of another time would be seen.
    start, steps = normal(1, 4, 3, 3, seed=1), 8
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


def test_the_commands_convert_and_sample(
    combined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def suffuse(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["suffuse", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert not left.value.code, said.err
        return said.out

    out, back = tmp_path / "made", tmp_path / "back"
    assert "convnext_prior" in suffuse("convert", combined, "--to", "suffuse", "--size", SIZE, "--out", out)
    asked = ("--prompt", PROMPT, "--n", 2, "--steps", 2, "--device", "cpu", "--json")
    assert json.loads(suffuse("sample", out, *asked))["nfe"] == 4
    suffuse("convert", out, "--to", "diffusers", "--out", back)
    assert (back / "prior" / "model_index.json").is_file()


def test_the_absent_compressor_says_so(run: OpenRun) -> None:
    assert run.codec is not None
    with pytest.raises(UsageError, match=r"compressor of this model is absent.*released.*train stage B"):
        run.codec.encode(torch.zeros(1, 3, SIZE, SIZE))


def test_the_two_pipelines_side_by_side_are_read_and_one_alone_is_not(
    stages: dict[str, Any], run: OpenRun, tmp_path: Path
) -> None:
    for name, pipeline in zip(("prior", "decoder"), pipelines_of(stages), strict=True):
        pipeline.save_pretrained(tmp_path / "both" / name)
    notes: list[str] = []
    config = to_suffuse(tmp_path / "both", tmp_path / "made", size=SIZE, note=notes.append)
    assert config == run.config
    assert open_run(tmp_path / "made", device="cpu").sampling.guidance == CFG(scale=8.0)
    assert any("compressor is not released" in note for note in notes)
    for name, message in (("prior", "stage C but not stages B and A"), ("decoder", "stages B and A but not stage C")):
        with pytest.raises(UsageError, match=f"holds Wuerstchen's {message}; put the folders of both"):
            to_suffuse(tmp_path / "both" / name, tmp_path / "not")
    file = tmp_path / "both" / "decoder" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scaler": 2.0}))
    with pytest.raises(UsageError, match=r"scaler = 2 bends the times.*only scaler = 1"):
        to_suffuse(tmp_path / "both", tmp_path / "not", size=SIZE)
    shutil.rmtree(tmp_path / "both" / "decoder" / "vqgan")
    with pytest.raises(UsageError, match="vqgan is missing; save the whole pipeline"):
        to_suffuse(tmp_path / "both", tmp_path / "not", size=SIZE)
    assert not (tmp_path / "not").exists()


def test_there_and_back_is_the_same_pipelines(
    stages: dict[str, Any], combined: Path, run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_diffusers(run.folder, tmp_path / "back")
    for name, place in (("prior/prior", "prior_prior"), ("decoder/decoder", "decoder"), ("decoder/vqgan", "vqgan")):
        before, after = (load_file(folder / WEIGHTS) for folder in (combined / place, tmp_path / "back" / name))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    images = [images_of(found, monkeypatch) for found in (pipelines_of(stages), loaded(tmp_path / "back"))]
    torch.testing.assert_close(images[0], images[1], atol=1e-5, rtol=1e-5)
    again = to_suffuse(tmp_path / "back", tmp_path / "again", size=SIZE)
    assert again == run.config


def loaded(folder: Path) -> tuple[Any, Any]:
    """Both pipelines from where they were written; diffusers looks for their networks where they were once."""
    if not hasattr(diffusers.pipelines, "wuerstchen"):
        diffusers.pipelines.wuerstchen = importlib.import_module("diffusers.pipelines.deprecated.wuerstchen")
    with torch.random.fork_rng():
        found = (
            diffusers.WuerstchenPriorPipeline.from_pretrained(folder / "prior"),
            diffusers.WuerstchenDecoderPipeline.from_pretrained(folder / "decoder"),
        )
    for pipeline in found:
        pipeline.set_progress_bar_config(disable=True)
    return found


def images_of(pipelines: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What both draw of the prompt."""
    asked: dict[str, Any] = {"prompt": PROMPT, "height": SIZE, "width": SIZE}
    _, code = their_steps(pipelines[0], monkeypatch, normal(1, 4, 3, 3, seed=1), 4, **asked)
    start = normal(1, 4, 32, 32, seed=2)
    told = {"image_embeddings": code, "prompt": PROMPT, "guidance_scale": 0.0, "output_type": "pt"}
    images: Tensor = their_steps(pipelines[1], monkeypatch, start, 4, **told)[1]
    return images


def test_deviations_of_single_channels_go_into_the_layers(
    run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was measured draws the same as pipelines with factors of 1."""
    shutil.copytree(run.folder, tmp_path / "run")
    for codec in (path for path in (tmp_path / "run").rglob("model.safetensors") if path.parent.parent.name == "parts"):
        weights = read_safetensors(codec)
        weights["shift"] = 0.3 * normal(4, 1, 1, seed=8)
        weights["scale"] = 1 + 0.5 * normal(4, 1, 1, seed=9).abs()
        save_safetensors(codec, weights)
    notes: list[str] = []
    to_diffusers(tmp_path / "run", tmp_path / "back", note=notes.append)
    assert any("C to B, B to A" in note for note in notes)
    prior, decoder = loaded(tmp_path / "back")
    theirs = images_of((prior, decoder), monkeypatch)

    opened = open_run(tmp_path / "run", device="cpu")
    cond = prompt_conditions(opened, (PROMPT,))
    code = our_steps(opened.model, normal(1, 4, 3, 3, seed=1), cond, 4, CFG(scale=8.0))[-1]
    stage_b = opened.decoder
    assert stage_b is not None
    assert stage_b.inner is not None
    assert opened.codec is not None
    told = stage_b._told(opened.codec.raw(code), cond)
    latents = our_steps(stage_b.model, normal(1, 4, 32, 32, seed=2), told, 4, NoGuidance())[-1]
    images = ((stage_b.inner.decode(latents) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(images, theirs, atol=1e-4, rtol=1e-4)

    seen = normal(1, 3, 64, 64, seed=3).clamp(-1, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            stage_b.inner.codec.encode(seen), decoder.vqgan.encode((seen + 1) / 2).latents, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        ("", {"conditioner.absent": "learned"}, "conditioner.absent is 'learned', but diffusers' pipelines are as"),
        ("", {"conditioner.masked": True}, "conditioner.masked is True.*another text than they were trained with"),
        ("", {"network.head": "plain"}, "head = 'plain', and theirs is always 'ab'"),
        ("", {"path.least": 1e-3}, "path 'clamped_cosine' with prediction 'eps' where.*least = 0.0001"),
        ("decoder", {"conditioner.reader.layer": -2}, "conditioner.layer is -2"),
    ],
)
def test_what_their_pipelines_cannot_be_is_refused(
    run: OpenRun, tmp_path: Path, place: str, changes: dict[str, Any], message: str
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    file = next((tmp_path / "run").rglob("decoder/config.json")) if place else tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    for name, value in changes.items():
        *parents, last = name.split(".")
        inside = config
        for parent in parents:
            inside = inside[parent]
        inside[last] = value
    file.write_text(json.dumps(config))
    model = parse(ModelConfig, config, owner=str(file)).build()
    save_safetensors(file.parent / "model.safetensors", model.state_dict())
    with pytest.raises(UsageError, match=message):
        to_diffusers(tmp_path / "run", tmp_path / "back")
    assert not (tmp_path / "back").exists()

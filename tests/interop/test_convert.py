"""Whole diffusers folders to runs and back: the same tensors, the same process, the same samples; what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.interop.convert import process_of, scheduler_of, to_diffusers, to_suffuse
from suffuse.models.conditioner import ClassLabel, NoCondition
from suffuse.models.config import ModelConfig
from suffuse.models.flow_map import FlowMapSettings
from suffuse.models.low_resolution import LowResolution
from suffuse.models.pretrained import load_model, save_model
from suffuse.networks import MLP, DiT, UNet
from suffuse.process import EDM, VP, X0, EDMPrediction, Eps, Flow, FlowVelocity, LogSigma, Remap, SharedTimesteps, V
from suffuse.sampling import DDIM, Uniform, sample

diffusers = pytest.importorskip("diffusers")

SHAPE = (3, 8, 8)
WEIGHTS = "diffusion_pytorch_model.safetensors"
OURS = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4, zero_init=False)


def make_unet(**options: Any) -> nn.Module:
    """A small UNet2DModel whose output depends on all its weights; the global generator is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            **options,
        )
    return model.eval()


def make_run(folder: Path, **options: Any) -> Path:
    """A run of ours, with fresh weights."""
    fields: dict[str, Any] = {"network": OURS, "shape": SHAPE, "path": VP(steps=1000), "prediction": Eps(), **options}
    config = ModelConfig(**fields)
    save_model(folder, config, config.build(seed=1).state_dict(), {})
    return folder


SCHEDULERS: dict[str, tuple[dict[str, Any], VP, Any]] = {
    "linear": ({}, VP(steps=1000, beta_min=1e-4, beta_max=0.02), Eps()),
    "scaled linear": (
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "sample"},
        VP(schedule="scaled_linear", steps=1000, beta_min=0.00085, beta_max=0.012),
        X0(),
    ),
    "cosine": (
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        VP(schedule="cosine", steps=1000),
        V(),
    ),
    "zero terminal SNR": (
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "num_train_timesteps": 500},
        VP(steps=500, beta_min=1e-4, beta_max=0.02, zero_terminal_snr=True),
        V(),
    ),
    "own betas": (
        {"trained_betas": [0.01 * (i + 1) for i in range(20)], "num_train_timesteps": 20},
        VP(schedule="betas", betas=tuple(0.01 * (i + 1) for i in range(20))),
        Eps(),
    ),
}


@pytest.fixture(params=SCHEDULERS.values(), ids=list(SCHEDULERS))
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, nn.Module, Any, VP, Any]:
    """Folder of a DDPM pipeline, its network and scheduler, and the path and prediction that it should have here."""
    options, path, prediction = request.param
    network = make_unet()
    scheduler = diffusers.DDPMScheduler(clip_sample=False, **options)
    diffusers.DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs", network, scheduler, path, prediction


def their_ddim(network: nn.Module, scheduler: Any, x: Tensor, steps: int, scale: float) -> Tensor:
    """What diffusers' own DDIM makes of starting noise; where `steps` does not divide the table it misses its nodes."""
    ddim = diffusers.DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", clip_sample=False)
    ddim.set_timesteps(steps)
    x = x * scale
    with torch.no_grad():
        for t in ddim.timesteps:
            x = ddim.step(network(x, t).sample, t, x).prev_sample
    return x


def test_a_pipeline_s_process_network_and_samples_come_over(
    pipeline: tuple[Path, nn.Module, Any, VP, Any], tmp_path: Path
) -> None:
    folder, network, scheduler, path, prediction = pipeline
    notes: list[str] = []
    config = to_suffuse(folder, tmp_path / "ours", note=notes.append)
    assert notes == []
    assert (config.path, config.prediction, config.conditioner) == (path, prediction, NoCondition())
    model = load_model(tmp_path / "ours")
    ours = sample(model, 2, shape=SHAPE, solver=DDIM(), grid=Uniform(steps=4), seed=5).x
    # Ours starts at sigma times the noise; theirs leaves out the factor, which is 0.99998 on the linear table.
    scale = float(path.level(path.t_max).sigma)
    theirs = their_ddim(network, scheduler, Draws(5, torch.arange(2)).normal("start", SHAPE), 4, scale)
    # Their tables are float32, and the first step from eps divides by alpha = 0.006 at the noise end.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_there_and_back_gives_the_same_pipeline(pipeline: tuple[Path, nn.Module, Any, VP, Any], tmp_path: Path) -> None:
    folder, network, scheduler, *_ = pipeline
    to_suffuse(folder, tmp_path / "ours")
    notes: list[str] = []
    to_diffusers(tmp_path / "ours", tmp_path / "back", note=notes.append)
    assert notes == []
    before, after = (load_file(place / "unet" / WEIGHTS) for place in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "back")
    torch.testing.assert_close(again.scheduler.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-6, atol=0)
    assert again.scheduler.config.prediction_type == scheduler.config.prediction_type
    x = torch.linspace(-1, 1, 192).reshape(1, *SHAPE)
    twin = make_unet()  # a file's tensors lie otherwise in memory, which can move the last bit
    twin.load_state_dict(again.unet.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(x, 7).sample, network(x, 7).sample)


def test_a_model_alone_is_taken_as_ddpm_s_and_says_so(tmp_path: Path) -> None:
    network = make_unet(num_class_embeds=4)
    network.save_pretrained(tmp_path / "theirs")
    notes: list[str] = []
    config = to_suffuse(tmp_path / "theirs", tmp_path / "ours", note=notes.append)
    assert notes[0] == "the folder has no scheduler: assuming DDPM's process (1000 linear betas, prediction eps)"
    assert "no row for 'no class': it became zeros" in notes[1]
    assert "guidance (cfg) would lean on an untrained estimate" in notes[1]
    assert len(notes) == 2
    assert (config.path, config.prediction) == (VP(steps=1000, beta_min=1e-4, beta_max=0.02), Eps())
    assert config.conditioner == ClassLabel(classes=4)
    to_diffusers(tmp_path / "ours", tmp_path / "back")
    before, after = load_file(tmp_path / "theirs" / WEIGHTS), load_file(tmp_path / "back" / "unet" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_of_ours_becomes_a_pipeline_that_agrees(tmp_path: Path) -> None:
    make_run(tmp_path / "ours", path=VP(schedule="scaled_linear", steps=1000), prediction=V())
    to_diffusers(tmp_path / "ours", tmp_path / "theirs")
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "ours")
    ours = sample(model, 2, shape=SHAPE, solver=DDIM(), grid=Uniform(steps=5), seed=1).x
    noise = Draws(1, torch.arange(2)).normal("start", SHAPE)
    scale = float(model.path.level(model.path.t_max).sigma)
    expected = their_ddim(theirs.unet.eval(), theirs.scheduler, noise, 5, scale)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_what_is_left_behind_is_told(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler()  # clips its estimates unless told otherwise
    diffusers.DDPMPipeline(unet=make_unet(), scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    notes: list[str] = []
    to_suffuse(tmp_path / "theirs", tmp_path / "ours", note=notes.append)
    assert notes == ["the scheduler's clip_sample is left behind: estimates are not clipped here"]
    labelled = make_run(tmp_path / "labelled", conditioner=ClassLabel(classes=2))
    to_diffusers(labelled, tmp_path / "labels", note=notes.append)
    assert "the embedding of 'no class' is not zero" in notes[-1]
    dit = make_run(
        tmp_path / "dit",
        network=DiT(width=16, depth=1, heads=2, freq_shift=1),
        conditioner=ClassLabel(classes=2),
    )
    to_diffusers(dit, tmp_path / "transformer", note=notes.append)
    assert "a DiT pipeline of diffusers needs an autoencoder" in notes[-1]
    assert (tmp_path / "transformer" / "config.json").is_file(), "a model's folder, not a pipeline's"


def make_latent_pipeline(folder: Path, names: dict[str, str] | None) -> Path:
    """A DiT's pipeline as the Hub has them: with an autoencoder and names of the classes in its index."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dit = diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8, num_embeds_ada_norm=3
        )
        vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    diffusers.DiTPipeline(transformer=dit, vae=vae, scheduler=scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    extra = {"vqvae": [None, None]} if names is None else {"id2label": names}
    (folder / "model_index.json").write_text(json.dumps(index | extra))
    return folder


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ({"2": "crane", "0": "tench, Tinca tinca", "1": "cock"}, ("tench, Tinca tinca", "cock", "crane")),
        ({"0": "tench", "2": "crane"}, ()),
        (None, ()),
    ],
)
def test_latents_and_names_of_a_pipeline_are_told(
    tmp_path: Path, names: dict[str, str] | None, classes: tuple[str, ...]
) -> None:
    folder, notes = make_latent_pipeline(tmp_path / "theirs", names), []
    config = to_suffuse(folder, tmp_path / "ours", note=notes.append)
    assert config.classes == load_model(tmp_path / "ours").config.classes == classes
    latents, *others = notes
    assert latents.startswith("samples are latents; their autoencoder is left behind: decode them, divided by its sca")
    assert latents.endswith(f"with diffusers.AutoencoderKL.from_pretrained('{folder / 'vae'}')")
    missing = ["id2label does not name the classes 0 to 2 one by one: their names are left behind"]
    assert others == (missing if names and not classes else [])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"time": SharedTimesteps(then=Remap())}, "time condition 'shared' would be lost.*sample it here instead"),
        ({"time": Remap()}, "time condition 'remap' would be lost"),
        (
            {"flow_map": FlowMapSettings(end="clean")},
            "is a flow map, whose estimate is an endpoint.*--solver consistency",
        ),
        ({"codec": "parts/0123456789abcdef"}, "lives in the latents of a codec"),
        ({"conditioner": LowResolution(factor=2)}, "'low_resolution' puts 4 channels beside the sample.*with suffuse"),
        ({"time": {"kind": "identity", "scale": 0.5}}, "time condition 'identity' would be lost"),
        ({"path": Flow(), "prediction": FlowVelocity()}, "path 'flow' with prediction 'flow' has no scheduler"),
        ({"path": EDM(), "prediction": EDMPrediction(), "time": LogSigma()}, "path 'edm' with prediction 'edm' has no"),
        ({"path": VP()}, "path 'vp' with prediction 'eps' has no scheduler.*only tables of betas"),
        ({"path": VP(schedule="plain_cosine", steps=100)}, "schedule 'plain_cosine' has no counterpart"),
        ({"network": MLP(width=16, depth=1), "shape": (2,)}, r"samples of shape \(2,\) are not images"),
    ],
)
def test_what_diffusers_cannot_express_is_refused_with_the_reason(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    make_run(tmp_path / "run", **options)
    with pytest.raises(UsageError, match=told):
        to_diffusers(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("convert", [to_suffuse, to_diffusers])
def test_an_existing_target_is_left_alone(tmp_path: Path, convert: Callable[[Path, Path], object]) -> None:
    for name in ("config.json", "notes.txt"):
        target = tmp_path / name.split(".")[0]
        target.mkdir()
        (target / name).write_text("{}")
        with pytest.raises(UsageError, match=f"{target} exists already; choose another --out"):
            convert(tmp_path, target)
        assert [path.name for path in target.iterdir()] == [name]


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' has no counterpart; known are linear"),
        ({"beta_schedule": "linear", "prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction' has no"),
        ({"_class_name": "EDMEulerScheduler", "sigma_max": 80.0}, "'EDMEulerScheduler' has no table of betas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}, "only diffusers' DDPM family"),
        ({"beta_schedule": "linear", "num_train_timesteps": 0}, "DDPMScheduler: steps"),
        ({"beta_schedule": "linear", "beta_start": -1.0}, "DDPMScheduler"),
        ({"trained_betas": [0.1, 2.0]}, "DDPMScheduler"),
    ],
)
def test_processes_without_counterpart_are_refused(scheduler: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        process_of(scheduler)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler"])
def test_saved_schedulers_of_other_processes_are_recognised(tmp_path: Path, name: str) -> None:
    getattr(diffusers, name)().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=f"scheduler '{name}' has no table of betas"):
        process_of(json.loads((tmp_path / "scheduler_config.json").read_text()))


@pytest.mark.parametrize(("options", "path", "prediction"), SCHEDULERS.values(), ids=list(SCHEDULERS))
def test_process_there_and_back_is_the_same(options: dict[str, Any], path: VP, prediction: Any) -> None:
    assert process_of(scheduler_of(path, prediction)) == (path, prediction)
    written = scheduler_of(path, prediction)
    assert {key: written[key] for key in options if key in written} == {
        key: value for key, value in options.items() if key in written
    }


def test_tables_equal_diffusers_own(pipeline: tuple[Path, nn.Module, Any, VP, Any]) -> None:
    *_, scheduler, path, _ = pipeline
    alpha = path.alpha(torch.arange(path.indices or 0, dtype=torch.float64))
    # Theirs is a float32 product of up to 1000 factors.
    torch.testing.assert_close((alpha**2).float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)


def test_a_straightened_schedule_goes_out_as_its_table() -> None:
    path = VP(steps=1000, straight_below=100)
    scheduler = diffusers.DDPMScheduler(**{k: v for k, v in scheduler_of(path, Eps()).items() if k[0] != "_"})
    index = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), path.alpha(index) ** 2, rtol=1e-4, atol=1e-6)


def test_a_pipeline_starts_at_the_last_index_and_knows_a_learned_variance(tmp_path: Path) -> None:
    config = ModelConfig(
        network=UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4),
        shape=(3, 8, 8),
        path=VP(steps=1000, zero_terminal_snr=True),
        prediction=V(),
        out_channels=6,
    )
    config.build(seed=0).save_pretrained(tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "theirs")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "theirs")
    pipeline.scheduler.set_timesteps(20)
    assert pipeline.scheduler.timesteps[0] == 999, "where there is no signal left"
    made = pipeline(num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert made.shape == (1, 8, 8, 3)

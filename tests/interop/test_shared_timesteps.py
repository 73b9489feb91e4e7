"""Shared timesteps around diffusers' models: constant to the bit, kept by folders, refused by stock classes."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.interop.convert import to_diffusers, to_suffuse
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.pretrained import load_model, save_model
from suffuse.networks import DiT, UNet
from suffuse.networks.external import DiffusersNetwork
from suffuse.networks.part import seeded
from suffuse.process import VP, Eps, SharedTimesteps

diffusers = pytest.importorskip("diffusers")
from suffuse.interop.shared_timesteps import (  # noqa: E402  (needs diffusers)
    SharedTimestepsUNet2DModel,
    set_intervals,
    share_timesteps,
    unshare_timesteps,
)

MODULE = "suffuse.interop.shared_timesteps"


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def unet() -> nn.Module:
    model: nn.Module = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return model


ONE_LEVEL = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}


def conditional_unet() -> nn.Module:
    model: nn.Module = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    return model


def dit() -> nn.Module:
    model: nn.Module = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        sample_size=8,
        out_channels=4,
        num_embeds_ada_norm=3,
    )
    return model


def sd3() -> nn.Module:
    model: nn.Module = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
    )
    return model


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module, Any], Tensor]

    def fresh(self) -> nn.Module:
        with seeded(1):
            return self.build()

    def shared(self, **options: Any) -> nn.Module:
        # In evaluation mode afterwards: a DiT in training drops labels by the global generator.
        return share_timesteps(self.fresh(), **options).eval()

    def output(self, model: nn.Module, t: Any) -> Tensor:
        with torch.no_grad():
            return self.call(model, t)


X3, X4, TEXT, POOLED = noise(2, 3, 8, 8), noise(2, 4, 8, 8), noise(2, 5, 8), noise(2, 8)
LABELS = torch.tensor([0, 2])
CASES = {
    "UNet2DModel": Case(unet, lambda model, t: model(X3, t).sample),
    "UNet2DConditionModel": Case(conditional_unet, lambda model, t: model(X4, t, TEXT, return_dict=False)[0]),
    "DiTTransformer2DModel": Case(dit, lambda model, t: model(X4, timestep=t, class_labels=LABELS).sample),
    "SD3Transformer2DModel": Case(sd3, lambda model, t: model(X4, TEXT, POOLED, t).sample),
}
UNETS = [CASES["UNet2DModel"], CASES["UNet2DConditionModel"]]
every_class = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
UNET = CASES["UNet2DModel"]


def whole(t: float) -> Tensor:
    return torch.full((2,), t, dtype=torch.int64)


def floating(t: float) -> Tensor:
    return torch.full((2,), t, dtype=torch.float32)


def left_edge(t: float) -> float:
    """The paper's map with its own numbers, written out once more as an outside truth."""
    return t if t >= 100 else 20 * (t // 20)


# --- what the network is told ----------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("form", [whole, floating])
def test_the_model_is_the_stock_one_at_the_left_edge(case: Case, form: Callable[[float], Tensor]) -> None:
    stock, shared = case.fresh().eval(), case.shared()
    for t in (0, 19, 20, 57, 99, 100, 999):
        assert torch.equal(case.output(shared, form(t)), case.output(stock, form(left_edge(t)))), t


@every_class
def test_output_is_constant_within_a_sub_interval_and_changes_across_its_edge(case: Case) -> None:
    shared = case.shared()
    outputs = {t: case.output(shared, floating(t)) for t in (19.99, 20.0, 20.01, 33.3, 39.99, 40.0)}
    within = [outputs[t] for t in (20.01, 33.3, 39.99)]
    assert all(torch.equal(outputs[20.0], other) for other in within)
    assert not torch.equal(outputs[20.0], outputs[19.99])
    assert not torch.equal(outputs[20.0], outputs[40.0])


@pytest.mark.parametrize("case", UNETS, ids=["UNet2DModel", "UNet2DConditionModel"])
@pytest.mark.parametrize("t", [37, 37.0, torch.tensor(37), torch.tensor(37.5), torch.tensor([37, 37]), 250, 250.0])
def test_every_form_of_a_timestep_is_understood(case: Case, t: Any) -> None:
    stock, shared = case.fresh().eval(), case.shared()
    told = 20 if float(torch.as_tensor(t).max()) < 100 else 250
    assert torch.equal(case.output(shared, t), case.output(stock, told))


def test_rows_of_a_batch_are_told_their_own() -> None:
    stock, shared = UNET.fresh(), UNET.shared()
    assert torch.equal(UNET.output(shared, torch.tensor([37, 640])), UNET.output(stock, torch.tensor([20, 640])))


def test_range_count_and_division_are_chosen() -> None:
    stock = UNET.fresh()
    shared = UNET.shared(below=50, intervals=2, power=2.0)  # edges 0, 12.5 -> 12, 50
    for t, told in {0: 0, 11: 0, 12: 12, 49: 12, 50: 50, 99: 99}.items():
        assert torch.equal(UNET.output(shared, t), UNET.output(stock, told)), t
    assert UNET.shared(steps=200).config["shared_timesteps"]["below"] == 20


def test_a_timestep_by_its_name_and_a_missing_one() -> None:
    shared = UNET.shared()
    with torch.no_grad():
        assert torch.equal(shared(sample=X3, timestep=37).sample, UNET.output(shared, 20))
        with pytest.raises(TypeError, match="timestep"):
            shared(X3)


def test_other_models_of_the_class_are_left_alone() -> None:
    UNET.shared()
    stock = UNET.fresh()
    assert type(stock) is diffusers.UNet2DModel
    assert not torch.equal(UNET.output(stock, 37), UNET.output(stock, 20))


def test_as_many_intervals_as_times_share_nothing_and_fewer_may_follow() -> None:
    stock, shared = UNET.fresh(), UNET.shared(intervals=100)
    for t in (0, 1, 37, 99, 100):
        assert torch.equal(UNET.output(shared, t), UNET.output(stock, t))
    set_intervals(shared, 10)
    assert torch.equal(UNET.output(shared, 37), UNET.output(stock, 30))
    assert shared.config["shared_timesteps"]["intervals"] == 10
    with pytest.raises(UsageError, match="cannot be divided so"):
        set_intervals(shared, 300)
    with pytest.raises(UsageError, match="UNet2DModel does not share its timesteps"):
        set_intervals(stock, 5)


# --- the live model --------------------------------------------------------------------------------------------------


@every_class
def test_weights_names_and_configuration_stay(case: Case) -> None:
    model = case.fresh()
    names, weights, config = list(model.state_dict()), list(model.parameters()), dict(model.config)
    stock = type(model)
    shared = share_timesteps(model)
    assert shared is model
    assert isinstance(shared, stock)
    assert type(shared).__name__ == f"SharedTimesteps{stock.__name__}"
    assert list(shared.state_dict()) == names
    assert all(mine is theirs for mine, theirs in zip(shared.parameters(), weights, strict=True))
    changed = {name for name, value in config.items() if shared.config[name] != value and not name.startswith("_")}
    assert len(changed) == 1, "only the key that stops the stock class"


@every_class
def test_removal_gives_the_stock_model_back(case: Case, tmp_path: Path) -> None:
    model = case.fresh()
    stock, config = type(model), {name: value for name, value in model.config.items() if name[0] != "_"}
    before = case.output(model.eval(), whole(37))
    share_timesteps(model.train()).save_pretrained(tmp_path / "shared")
    assert unshare_timesteps(model) is model
    assert type(model) is stock
    assert {name: value for name, value in model.config.items() if name[0] != "_"} == config
    assert model.config["_class_name"] == stock.__name__
    assert torch.equal(case.output(model.eval(), whole(37)), before)
    model.save_pretrained(tmp_path / "stock")
    assert type(stock.from_pretrained(tmp_path / "stock")) is stock
    assert "shared" not in (tmp_path / "stock" / "config.json").read_text()


@every_class
def test_copies_share(case: Case) -> None:
    shared = case.shared()
    with seeded(2):
        again = type(shared).from_config(shared.config)
    for twin in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared)), again):
        assert type(twin) is type(shared)
        twin.load_state_dict(shared.state_dict())
        assert torch.equal(case.output(twin.eval(), whole(37)), case.output(shared, whole(20)))


def test_averages_made_before_and_after_go_on() -> None:
    model = UNET.fresh()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    average = diffusers.training_utils.EMAModel(model.parameters())
    share_timesteps(model)
    model(X3, torch.tensor([37, 3])).sample.square().mean().backward()
    before = [weight.clone() for weight in model.parameters()]
    optimiser.step()
    average.step(model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    average.copy_to(model.parameters())
    assert type(model) is SharedTimestepsUNet2DModel


def test_an_average_s_folder_is_of_our_class_or_refused(tmp_path: Path) -> None:
    """diffusers' training scripts save averages by `model_cls.from_config(model.config)`."""
    shared, make = UNET.shared(), diffusers.training_utils.EMAModel
    wrong = make(shared.parameters(), model_cls=diffusers.UNet2DModel, model_config=shared.config)
    with seeded(3), pytest.raises(ValueError, match=f"load it with {MODULE}"):
        wrong.save_pretrained(tmp_path / "wrong")
    right = make(shared.parameters(), model_cls=type(shared), model_config=shared.config)
    with seeded(3):
        right.save_pretrained(tmp_path / "right")
    again = SharedTimestepsUNet2DModel.from_pretrained(tmp_path / "right")
    again.load_state_dict(shared.state_dict())
    assert torch.equal(UNET.output(again, 37), UNET.output(shared, 20))
    with seeded(3):
        resumed = make.from_pretrained(tmp_path / "right", SharedTimestepsUNet2DModel)
    assert resumed.model_config == again.config


@every_class
def test_gradient_checkpointing_gives_the_same_gradients(case: Case) -> None:
    shared = case.shared()
    gradients = []
    for _ in range(2):
        shared.zero_grad()
        shared.train(not isinstance(shared, diffusers.DiTTransformer2DModel))
        case.call(shared, whole(37)).square().mean().backward()
        gradients.append([weight.grad for weight in shared.parameters() if weight.grad is not None])
        shared.enable_gradient_checkpointing()
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.allclose(plain, again, rtol=1e-5, atol=1e-7) for plain, again in zip(*gradients, strict=True))


def test_accelerate_prepares_and_unwraps(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    shared = UNET.shared()
    prepared = accelerator.prepare(shared)
    assert torch.equal(UNET.output(prepared, 37), UNET.output(prepared, 20))
    with pytest.raises(UsageError, match=r"forward of this .* is replaced"):
        unshare_timesteps(shared)
    bare = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert torch.equal(UNET.output(bare, 37), UNET.output(bare, 20))
    bare.save_pretrained(tmp_path)
    assert type(SharedTimestepsUNet2DModel.from_pretrained(tmp_path)) is type(bare)
    assert type(unshare_timesteps(bare.train())) is diffusers.UNet2DModel
    assert not torch.equal(UNET.output(bare, 37), UNET.output(bare, 20)), "no forward of ours may stay behind"
    prepared = accelerator.prepare(UNET.fresh())
    with pytest.raises(UsageError, match="call this before"):
        share_timesteps(prepared)


@pytest.mark.parametrize("name", ["UNet2DModel", "SD3Transformer2DModel"])
def test_compiled_whole_in_one_graph(name: str) -> None:
    case = CASES[name]
    with seeded(0):
        small = diffusers.UNet2DModel(sample_size=8, add_attention=False, block_out_channels=(32,), **ONE_LEVEL)
    shared = share_timesteps(small).eval() if name == "UNet2DModel" else case.shared()
    compiled = torch.compile(shared, backend="eager", fullgraph=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        for t in (37, 250):
            assert torch.equal(case.output(compiled, whole(t)), case.output(shared, whole(t)))
    torch.compiler.reset()


# --- folders ---------------------------------------------------------------------------------------------------------


@every_class
def test_folders_keep_the_setting_and_name_our_class(case: Case, tmp_path: Path) -> None:
    shared = case.shared(below=60, intervals=3)
    shared.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == type(shared).__name__
    again, info = type(shared).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    again.load_state_dict(shared.state_dict())  # a file's tensors lie otherwise in memory, which can move the last bit
    for t in (0, 19, 20, 37, 59, 60):
        assert torch.equal(case.output(again, whole(t)), case.output(shared, whole(t)))
    assert again.config["shared_timesteps"] == shared.config["shared_timesteps"]
    half = type(shared).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    assert half.sharing == shared.sharing


@every_class
def test_stock_classes_refuse_folder_and_configuration_aloud(case: Case, tmp_path: Path) -> None:
    """A class of another name is no obstacle to diffusers, and unknown keys are dropped: only the stop holds it."""
    shared = case.shared()
    stock = type(shared).__mro__[2]
    shared.save_pretrained(tmp_path)
    for load in (
        lambda: stock.from_pretrained(tmp_path),
        lambda: stock.from_config(shared.config),
        lambda: stock.from_config(stock.load_config(tmp_path)),
    ):
        with seeded(0), pytest.raises((ValueError, NotImplementedError), match=f"load it with {MODULE}"):
            load()
    with pytest.raises((ValueError, AttributeError), match=type(shared).__name__):
        diffusers.AutoModel.from_pretrained(tmp_path)
    # A training script's way to resume: the stock configuration over ours must not lift the stop.
    shared.register_to_config(**dict(case.fresh().config))
    with seeded(0), pytest.raises((ValueError, NotImplementedError), match=f"load it with {MODULE}"):
        stock.from_config(shared.config)


def test_a_stock_folder_is_refused_by_our_class(tmp_path: Path) -> None:
    UNET.fresh().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"was trained without; load it as UNet2DModel.*start='finetune'"):
        SharedTimestepsUNet2DModel.from_pretrained(tmp_path)
    with seeded(0):
        bare = SharedTimestepsUNet2DModel(sample_size=8, block_out_channels=(32,), **ONE_LEVEL)
    with pytest.raises(UsageError, match="is not built by its constructor"):
        UNET.output(bare, 37)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    UNET.shared().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for entry, told in (
        ({"below": 100}, "written by another version, or by hand"),
        ({**config["shared_timesteps"], "intervals": 0}, "intervals"),
        ({**config["shared_timesteps"], "start": "frsh"}, "did you mean 'fresh'"),
    ):
        file.write_text(json.dumps(config | {"shared_timesteps": entry}))
        with pytest.raises(UsageError, match=told):
            SharedTimestepsUNet2DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_stock_pipelines_sample_and_are_loaded_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, scheduler = getattr(diffusers, f"{kind}Pipeline"), getattr(diffusers, f"{kind}Scheduler")()
    shared, stock = UNET.shared(), UNET.fresh().eval()
    pipeline = make(unet=shared, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        batch_size=1, num_inference_steps=20, generator=torch.Generator().manual_seed(4), output_type="np"
    ).images
    # By hand: the stock network told the left edge, the scheduler the true time.
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, 3, 8, 8, generator=generator)
    scheduler.set_timesteps(20)
    assert len({int(left_edge(int(t))) for t in scheduler.timesteps if t < 100}) == 2
    for t in scheduler.timesteps:
        with torch.no_grad():
            x = scheduler.step(stock(x, int(left_edge(int(t)))).sample, t, x, generator=generator).prev_sample
    expected = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert (torch.from_numpy(made) == torch.from_numpy(expected)).all()

    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == [MODULE, "SharedTimestepsUNet2DModel"]
    again = make.from_pretrained(tmp_path)
    assert type(again.unet) is SharedTimestepsUNet2DModel
    assert torch.equal(UNET.output(again.unet, 37), UNET.output(again.unet, 20))
    # Where nobody has imported us: new versions of diffusers say what to import, old ones import it themselves.
    monkeypatch.delitem(sys.modules, MODULE)
    refusal, there = "", None
    try:
        there = make.from_pretrained(tmp_path).unet
    except ValueError as error:
        refusal = str(error)
    if there is None:
        assert f"import {MODULE} before" in refusal
    else:
        assert torch.equal(UNET.output(there, 37), UNET.output(there, 20))


def test_a_pipeline_of_latents_samples(tmp_path: Path) -> None:
    with seeded(0):
        vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    shared, stock = CASES["DiTTransformer2DModel"].shared(), CASES["DiTTransformer2DModel"].fresh().eval()
    told: list[int] = []
    stock.register_forward_pre_hook(
        lambda module, args, kwargs: told.extend(kwargs["timestep"].tolist()), with_kwargs=True
    )
    pictures = []
    for network in (shared, stock):
        pipeline = diffusers.DiTPipeline(transformer=network, vae=vae, scheduler=diffusers.DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        arguments = {"class_labels": [1], "num_inference_steps": 20, "generator": torch.Generator().manual_seed(0)}
        made = pipeline(**arguments, guidance_scale=1.0, output_type="np").images  # guided, it wants 1000 classes
        pictures.append(torch.from_numpy(made))
    assert min(told) < 100
    assert not torch.equal(*pictures)
    diffusers.DiTPipeline(transformer=shared, vae=vae, scheduler=diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    again = diffusers.DiTPipeline.from_pretrained(tmp_path)
    assert type(again.transformer) is type(shared)


# --- refusals --------------------------------------------------------------------------------------------------------


def loaded(folder: Path) -> nn.Module:
    UNET.fresh().save_pretrained(folder)
    model: nn.Module = diffusers.UNet2DModel.from_pretrained(folder).train()
    return model


def trained(folder: Path) -> nn.Module:
    model = UNET.fresh()
    optimiser = torch.optim.Adam(model.parameters())
    model(X3, whole(37)).sample.square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()
    return model


def training(folder: Path) -> nn.Module:
    model = CASES["SD3Transformer2DModel"].fresh()
    CASES["SD3Transformer2DModel"].call(model, whole(37)).square().mean().backward()
    return model


SIGNS: dict[str, tuple[Callable[[Path], nn.Module], str]] = {
    "loaded": (loaded, "it was loaded from"),
    "evaluated": (lambda folder: UNET.fresh().eval(), "it is in evaluation mode"),
    "training": (training, "it holds gradients"),
    "trained": (trained, "its norms have left their initial values"),
}


@pytest.mark.parametrize(("make", "sign"), SIGNS.values(), ids=list(SIGNS))
def test_a_model_trained_without_is_refused_with_the_price(
    tmp_path: Path, make: Callable[[Path], nn.Module], sign: str
) -> None:
    model = make(tmp_path)
    stock = type(model)
    with pytest.raises(UsageError, match="looks trained without shared timesteps") as caught:
        share_timesteps(model)
    assert type(model) is stock
    for words in (sign, "worse than predicting zero", "start='finetune'", "set_intervals", "start='experiment'"):
        assert words in str(caught.value)
    assert "shared_timesteps" not in model.config
    assert isinstance(share_timesteps(model, start="finetune"), stock)


@pytest.mark.parametrize(("make", "sign"), SIGNS.values(), ids=list(SIGNS))
def test_taking_it_off_a_model_trained_with_it_is_refused_alike(
    tmp_path: Path, make: Callable[[Path], nn.Module], sign: str
) -> None:
    model = share_timesteps(make(tmp_path), start="finetune")
    with pytest.raises(UsageError, match=f"looks trained with shared timesteps.*{sign}.*worse than predicting zero"):
        unshare_timesteps(model)
    assert type(model).__name__.startswith("SharedTimesteps")
    assert not type(unshare_timesteps(model, start="experiment")).__name__.startswith("SharedTimesteps")


@every_class
def test_a_fresh_model_shows_no_signs(case: Case) -> None:
    assert unshare_timesteps(share_timesteps(case.fresh())).training


def test_an_experiment_cannot_be_saved_and_is_taken_off_freely(tmp_path: Path) -> None:
    model = loaded(tmp_path / "stock")
    before = UNET.output(model, 37)
    share_timesteps(model, start="experiment")
    assert torch.equal(UNET.output(model, 37), UNET.output(model, 20))
    with pytest.raises(UsageError, match="a folder would claim otherwise"):
        model.save_pretrained(tmp_path / "shared")
    assert not (tmp_path / "shared").exists()
    assert torch.equal(UNET.output(unshare_timesteps(model), 37), before)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'Linear' does not exist.*UNet2DModel"):
        share_timesteps(nn.Linear(1, 1, device="meta"))
    with pytest.raises(UsageError, match="of wrapped models, give the model inside"):
        share_timesteps(nn.Sequential(UNET.fresh()))
    with pytest.raises(UsageError, match="UNet2DModel does not share its timesteps"):
        unshare_timesteps(UNET.fresh())
    model = UNET.fresh()
    for options, told in (
        ({"below": 2000}, "below is 2000.0, beyond"),
        ({"below": -1}, "greater than 0"),
        ({"intervals": 0}, "greater than or equal to 1"),
        ({"intervals": 150}, "cannot be divided so"),
        ({"power": 9.0, "intervals": 20}, "a power nearer 1"),
        ({"start": "fine-tune"}, "did you mean 'finetune'"),
        ({"steps": 1}, "steps"),
    ):
        with pytest.raises(UsageError, match=told):
            share_timesteps(model, **options)
    assert type(model) is diffusers.UNet2DModel


def test_sharing_twice() -> None:
    shared = UNET.shared()
    assert share_timesteps(shared) is shared
    assert share_timesteps(shared, below=100, steps=1000) is shared
    with pytest.raises(UsageError, match=r"shares timesteps already.*set_intervals"):
        share_timesteps(shared, intervals=10)


# --- to suffuse and back ---------------------------------------------------------------------------------------------


def test_a_shared_u_net_comes_over_with_its_sharing_and_goes_back(tmp_path: Path) -> None:
    shared = UNET.shared(below=60, intervals=3)
    diffusers.DDPMPipeline(unet=shared, scheduler=diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(
        tmp_path / "theirs"
    )
    config = to_suffuse(tmp_path / "theirs", tmp_path / "ours")
    assert config.time == SharedTimesteps(below=60, intervals=3)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["time"]["kind"] == "shared"
    model = load_model(tmp_path / "ours")
    for t in (0, 37, 59, 60, 500):
        with torch.no_grad():
            ours = model.evaluate(X3, torch.full((2,), float(t), dtype=torch.float64)).raw
        torch.testing.assert_close(ours, UNET.output(shared, t), rtol=1e-5, atol=1e-5)
    notes: list[str] = []
    to_diffusers(tmp_path / "ours", tmp_path / "back", note=notes.append)
    assert notes == [f"its timesteps are shared: `import {MODULE}` before diffusers loads it"]
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "back").unet
    assert type(again) is SharedTimestepsUNet2DModel
    assert again.sharing == shared.sharing
    with pytest.raises(ValueError, match=f"load it with {MODULE}"):
        diffusers.UNet2DModel.from_pretrained(tmp_path / "back" / "unet")
    again.load_state_dict(shared.state_dict())
    assert torch.equal(UNET.output(again, 37), UNET.output(shared, 37))


def test_a_shared_dit_comes_over_with_its_sharing(tmp_path: Path) -> None:
    CASES["DiTTransformer2DModel"].shared().save_pretrained(tmp_path / "theirs")
    assert to_suffuse(tmp_path / "theirs", tmp_path / "ours").time == SharedTimesteps(below=100)


@pytest.mark.parametrize("steps", [1000, 200])
def test_a_run_with_shared_time_is_exported_as_our_class(tmp_path: Path, steps: int) -> None:
    network = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4, zero_init=False)
    config = ModelConfig(
        network=network, shape=(3, 8, 8), path=VP(steps=steps), prediction=Eps(), time=SharedTimesteps(power=1.5)
    )
    save_model(tmp_path / "run", config, config.build(seed=1).state_dict(), {})
    to_diffusers(tmp_path / "run", tmp_path / "theirs")
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path / "theirs").unet
    ours = load_model(tmp_path / "run")
    for t in (0, steps // 50, steps // 11, steps // 10, steps - 1):
        with torch.no_grad():
            raw = ours.evaluate(X3, torch.full((2,), float(t), dtype=torch.float64)).raw
        torch.testing.assert_close(raw, UNET.output(theirs, t), rtol=1e-5, atol=1e-5)
    assert to_suffuse(tmp_path / "theirs", tmp_path / "again").time == SharedTimesteps(below=steps / 10, power=1.5)


def test_a_dit_with_shared_time_is_exported_as_our_class(tmp_path: Path) -> None:
    config = ModelConfig(
        network=DiT(width=16, depth=1, heads=2, freq_shift=1),
        shape=(4, 8, 8),
        path=VP(steps=1000),
        prediction=Eps(),
        time=SharedTimesteps(),
        conditioner=ClassLabel(classes=2),
    )
    save_model(tmp_path / "run", config, config.build(seed=1).state_dict(), {})
    to_diffusers(tmp_path / "run", tmp_path / "theirs")
    with pytest.raises(NotImplementedError, match=f"load it with {MODULE}"):
        diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "theirs")
    from suffuse.interop.shared_timesteps import SharedTimestepsDiTTransformer2DModel as Ours

    assert Ours.from_pretrained(tmp_path / "theirs").sharing.time == SharedTimesteps(below=100)


def test_a_folder_without_its_entry_is_refused(tmp_path: Path) -> None:
    UNET.shared().save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    config = json.loads(file.read_text())
    del config["shared_timesteps"]
    file.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="has no entry 'shared_timesteps'"):
        to_suffuse(tmp_path / "theirs", tmp_path / "ours")


def test_our_wrapper_takes_a_shared_network_and_solvers_then_share_too() -> None:
    with seeded(0):
        model = unet()
    share_timesteps(model, below=100, intervals=5)
    denoiser = Denoiser(DiffusersNetwork(model), path=VP(steps=1000), prediction=Eps())
    x = noise(2, 3, 8, 8)
    with torch.no_grad():
        raw = [denoiser.evaluate(x, t).raw for t in (20.0, 39.0, 40.0)]
    assert torch.equal(raw[0], raw[1])
    assert not torch.equal(raw[0], raw[2])

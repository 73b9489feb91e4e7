"""Wuerstchen's networks in diffusers' folders: the same numbers, the same tensors there and back, what is refused."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.interop.diffusers import Imported
from suffuse.interop.wuerstchen import (
    DECODER,
    PRIOR,
    decoder_from_config,
    decoder_to_config,
    prior_from_config,
    prior_to_config,
    read_decoder,
    read_prior,
    write_decoder,
    write_prior,
)
from suffuse.interop.wuerstchen_keys import decoder_names, prior_names
from suffuse.networks import ConvNeXtPrior, DiffNeXt, count_parameters

diffusers = pytest.importorskip("diffusers")

WEIGHTS = "diffusion_pytorch_model.safetensors"
PRIOR_OPTIONS: dict[str, Any] = {"c_in": 4, "c": 32, "c_cond": 24, "c_r": 16, "depth": 3, "nhead": 4, "dropout": 0.2}
DECODER_OPTIONS: dict[str, Any] = {
    "c_in": 4,
    "c_out": 4,
    "c_r": 16,
    "c_cond": 24,
    "c_hidden": [16, 32, 48],
    "nhead": [-1, 4, 6],
    "blocks": [2, 1, 2],
    "level_config": ["CT", "CTA", "CTAC"],
    "inject_effnet": [False, True, True],
    "effnet_embd": 5,
    "clip_embd": 12,
    "dropout": [0.0, 0.1, 0.1],
}


def their_class(name: str) -> Any:
    """A class of diffusers, which moved it to the deprecated ones."""
    found = importlib.util.find_spec("diffusers.pipelines.deprecated.wuerstchen")
    package = "diffusers.pipelines.wuerstchen" if found is None else "diffusers.pipelines.deprecated.wuerstchen"
    module = {PRIOR: "modeling_wuerstchen_prior", DECODER: "modeling_wuerstchen_diffnext"}[name]
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def make(name: str, **options: Any) -> nn.Module:
    """A small network whose output depends on all its weights; the global generator is put back."""
    with torch.random.fork_rng():
        model: nn.Module = their_class(name)(**options)
    for place, parameter in enumerate(model.parameters()):
        scale = 0.3 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = scale * normal(*parameter.shape, seed=place)
    return model.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def prior(tmp_path: Path) -> tuple[nn.Module, Path]:
    model = make(PRIOR, **PRIOR_OPTIONS)
    model.save_pretrained(tmp_path / "theirs" / "prior")
    return model, tmp_path / "theirs"


@pytest.fixture
def decoder(tmp_path: Path) -> tuple[nn.Module, Path]:
    model = make(DECODER, **DECODER_OPTIONS)
    model.save_pretrained(tmp_path / "theirs" / "decoder")
    return model, tmp_path / "theirs"


TIMES = pytest.mark.parametrize("r", [(0.0, 0.25, 1.0), (0.125, 0.4375, 0.9375), (1 / 1024, 0.5, 1023 / 1024)])


@TIMES
def test_a_prior_gives_the_same_numbers(prior: tuple[nn.Module, Path], r: tuple[float, ...]) -> None:
    theirs, folder = prior
    ours = read_prior(folder / "prior", size=(5, 7)).build()
    x, text, time = normal(3, 4, 5, 7), normal(3, 6, 24, seed=1), torch.tensor(r)
    with torch.no_grad():
        expected = theirs(x, time, text)
        found = ours(x, 1000 * time, Embedding(tokens=text)).value
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float(expected.abs().max()) > 1


@TIMES
def test_a_decoder_gives_the_same_numbers(decoder: tuple[nn.Module, Path], r: tuple[float, ...]) -> None:
    theirs, folder = decoder
    ours = read_decoder(folder, size=(16, 24)).build()
    x, text, code = normal(3, 4, 16, 24), normal(3, 6, 12, seed=1), normal(3, 5, 3, 5, seed=2)
    time = torch.tensor(r)
    with torch.no_grad():
        expected = theirs(x, time, code, text)
        found = ours(x, 1000 * time, Embedding(tokens=text, map=code)).value
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float(expected.abs().max()) > 1


def test_sinusoids_are_theirs_to_the_bit(prior: tuple[nn.Module, Path]) -> None:
    theirs, folder = prior
    ours = read_prior(folder).build()
    r = torch.arange(1024) / 1024
    assert torch.equal(ours.time(1000 * r, None), theirs.gen_r_embedding(r))


Read = Callable[[Path], Imported]


@pytest.mark.parametrize(
    ("name", "component", "options", "read", "write"),
    [
        (PRIOR, "prior", PRIOR_OPTIONS, read_prior, write_prior),
        (DECODER, "decoder", DECODER_OPTIONS, read_decoder, write_decoder),
        (DECODER, "decoder", {**DECODER_OPTIONS, "inject_effnet": [False] * 3}, read_decoder, write_decoder),
    ],
    ids=["prior", "decoder", "decoder without map"],
)
def test_there_and_back_is_the_same_folder(
    tmp_path: Path, name: str, component: str, options: dict[str, Any], read: Read, write: Any
) -> None:
    make(name, **options).save_pretrained(tmp_path / "theirs" / component)
    found = read(tmp_path / "theirs")
    write(tmp_path / "back" / component, found.network, found.build().state_dict(), channels=found.shape[0])
    before, after = (load_file(tmp_path / side / component / WEIGHTS) for side in ("theirs", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with torch.random.fork_rng():
        again = their_class(name).from_pretrained(tmp_path / "back" / component)
    config = json.loads((tmp_path / "theirs" / component / "config.json").read_text())
    assert {key: again.config[key] for key in options if key != "effnet_embd"} == {
        key: config[key] for key in options if key != "effnet_embd"
    }
    assert read(tmp_path / "back" / component).network == found.network


def test_names_are_one_to_one() -> None:
    # Every name of theirs stands once.
    for names in (prior_names(ConvNeXtPrior()), decoder_names(DiffNeXt())):
        theirs = [name for some in names.values() for name in some]
        assert len(theirs) == len(set(theirs))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (PRIOR, {"c": 1536, "depth": 32, "nhead": 24, "c_cond": 1280}),
        (PRIOR, {}),
        (DECODER, {}),
    ],
    ids=["released prior", "prior of the defaults", "released decoder"],
)
def test_full_sizes_have_as_many_weights(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = their_class(name)
    # Their initialisation goes through all blocks once for every module, which takes seconds.
    monkeypatch.setattr(theirs, "_init_weights", lambda self, module: None, raising=False)
    with torch.device("meta"):
        model = theirs(**options)
    count = sum(parameter.numel() for parameter in model.parameters())
    config = {**model.config, "_class_name": name}
    part, channels = prior_from_config(config) if name == PRIOR else decoder_from_config(config)
    assert count_parameters(part, (channels, 64, 64)) == count > 3e8
    names = prior_names(part) if isinstance(part, ConvNeXtPrior) else decoder_names(part)
    mapped = {mine for some in names.values() for mine in some}
    assert {key.rsplit(".", 1)[0] for key in model.state_dict()} <= mapped


def test_defaults_are_the_released_networks() -> None:
    part, channels = decoder_from_config({"_class_name": DECODER})
    assert (part, channels) == (DiffNeXt(token_width=1024, map_channels=16), 4)
    released = {"_class_name": PRIOR, "c": 1536, "depth": 32, "nhead": 24, "c_cond": 1280}
    assert prior_from_config(released) == (ConvNeXtPrior(token_width=1280), 16)


def test_pickles_and_other_components_are_refused(prior: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, folder = prior
    model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(UsageError, match=r"is a pickle, which can run code and is never read"):
        read_prior(tmp_path / "pickled")
    with pytest.raises(UsageError, match=r"holds a 'WuerstchenPrior', not a 'WuerstchenDiffNeXt'; give the folder"):
        read_decoder(folder / "prior")
    with pytest.raises(UsageError, match=r"config\.json does not exist"):
        read_prior(tmp_path / "nowhere")


def test_a_checkpoint_of_another_model_is_refused(prior: tuple[nn.Module, Path]) -> None:
    _, folder = prior
    path = folder / "prior" / WEIGHTS
    weights = load_file(path)
    save_file({**weights, "blocks.9.mapper.weight": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match=r"1 weights without a place, first 'blocks\.9\.mapper\.weight'"):
        read_prior(folder)
    save_file({name: tensor for name, tensor in weights.items() if name != "out.1.bias"}, path)
    with pytest.raises(UsageError, match=r"no weight 'out\.1\.bias'"):
        read_prior(folder)
    save_file({**weights, "out.1.bias": torch.zeros(3)}, path)
    with pytest.raises(UsageError, match=r"out\.1\.bias gives output\.conv\.bias the shape \(3,\)"):
        read_prior(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": PRIOR, "gain": 2}, "gain = 2 is not a setting of WuerstchenPrior"),
        ({"_class_name": PRIOR, "nhead": 7}, "heads = 7 does not divide width = 1280"),
        ({"_class_name": DECODER, "c_in": 8}, "c_in = 8 and c_out = 4 differ"),
        ({"_class_name": DECODER, "level_config": ["TC", "CTA", "CTA", "CTA"]}, r"layout\[0\] = 'TC'; begin with C"),
    ],
)
def test_settings_without_counterpart_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        (prior_from_config if config["_class_name"] == PRIOR else decoder_from_config)(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "plain"}, "head = 'plain', and theirs is always 'ab'.*sample it with suffuse"),
        ({"token_width": 0}, "token_width = 0, and theirs always reads text"),
        ({"extra_channels": 2}, "extra_channels = 2, and theirs would subtract"),
        ({"time_scale": 1.0}, "time_scale = 1, and theirs has 10000"),
    ],
)
def test_what_theirs_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prior_to_config(ConvNeXtPrior(token_width=4).replace(**changes), 4)
    with pytest.raises(UsageError, match=message):
        decoder_to_config(DiffNeXt(token_width=4).replace(**changes), 4)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists; choose another folder"):
        write_prior(tmp_path, ConvNeXtPrior(token_width=4), {}, channels=4)

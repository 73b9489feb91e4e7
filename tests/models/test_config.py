"""ModelConfig: what `config.json` holds builds the same model again."""

from __future__ import annotations

import json

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import FORMAT_VERSION, ModelConfig
from suffuse.networks import MLP, UNet
from suffuse.process import EDM, VP, EDMPrediction, Eps, LogSigma, SharedTimesteps

UNET = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4)
FULL = ModelConfig(
    network=UNET,
    shape=(3, 8, 8),
    out_channels=6,
    path=VP(schedule="betas", betas=(0.1, 0.2)),
    prediction=Eps(),
    time=SharedTimesteps(below=1, intervals=1),
    conditioner=ClassLabel(classes=2),
    sigma_data=0.7,
    classes=("Katze", "狗"),
    weights="ema_10",
    others=("ema_20",),
    step=7,
)


def test_json_gives_an_equal_configuration() -> None:
    plain = json.loads(json.dumps(FULL.dump()))
    assert plain["format_version"] == FORMAT_VERSION
    assert parse(ModelConfig, plain) == FULL


def test_equal_seeds_build_equal_weights_and_others_do_not() -> None:
    first, again, other = FULL.build(seed=3), FULL.build(seed=3), FULL.build(seed=4)
    assert first.config == FULL
    for (name, tensor), same in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, same), name
    # What starts at zero, at one, or in a table of labels is alike for all seeds; the first convolution is not.
    assert not torch.equal(other.state_dict()["network.stem.weight"], first.state_dict()["network.stem.weight"])


def test_the_model_is_what_the_configuration_says() -> None:
    model = ModelConfig(
        network=MLP(width=16, depth=1), shape=(2,), path=EDM(), prediction=EDMPrediction(), time=LogSigma()
    ).build()
    assert (model.path, model.prediction, model.time) == (EDM(), EDMPrediction(), LogSigma())
    x = torch.ones(3, 2)
    # A network that starts at zero leaves D = c_skip x, with c_skip = 0.25 / (t**2 + 0.25): karras2022edm, Table 1.
    torch.testing.assert_close(model.denoise(x, 2.0), x * 0.25 / 4.25)


def test_parts_that_do_not_go_together_are_refused_on_building() -> None:
    with pytest.raises(UsageError, match="prediction 'eps' and path 'vp' do not go together"):
        FULL.replace(path=VP(zero_terminal_snr=True), time={"kind": "identity"}).build()
    with pytest.raises(UsageError, match="'label_number' needs a network that embeds labels itself"):
        FULL.replace(conditioner={"kind": "label_number", "classes": 2, "null": True}).build()
    with pytest.raises(UsageError, match="U-Net needs data of shape"):
        FULL.replace(shape=(2,)).build()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shape": ()}, "shape"),
        ({"sigma_data": 0}, "sigma_data"),
        ({"step": -1}, "step"),
        ({"conditioner": {"kind": "class_label"}}, "classes"),
        ({"conditioner": {"kind": "label_number", "classes": 2}}, "null"),
        ({"netwrk": {}}, "no key 'netwrk'; did you mean 'network'"),
        ({"kind": "denoyser"}, "denoiser"),
        ({"conditioner": "clas_label"}, "conditioner 'clas_label' does not exist; did you mean 'class_label'"),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse(ModelConfig, {**FULL.dump(), **changes})

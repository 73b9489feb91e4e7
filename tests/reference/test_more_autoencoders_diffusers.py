"""Our autoencoders beside the Gaussian one against diffusers' with the same weights, and folders that go both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, VQModel
from diffusers.models.autoencoders.vae import VectorQuantizer
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.interop.convert import to_diffusers, to_suffuse
from suffuse.models.codec import Codec
from suffuse.models.pretrained import load_codec, save_model
from suffuse.networks import ConvNeXtAutoencoder
from suffuse.networks.autoencoders import Codebook, CodebookSettings
from suffuse.networks.part import seeded
from suffuse.objectives.autoencoding import CodebookLoss

try:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
except ImportError:  # before diffusers 0.36
    from diffusers.pipelines.wuerstchen import PaellaVQModel

VQ: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "sample_size": 16,
    "num_vq_embeddings": 11,
}
PAELLA: dict[str, Any] = {"embed_dim": 16, "bottleneck_blocks": 2, "num_vq_embeddings": 11}
TINY: dict[str, Any] = {
    "encoder_block_out_channels": (8,) * 3,
    "decoder_block_out_channels": (12,) * 3,
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 1),
    "latent_channels": 3,
}
THEIRS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "vq": (VQModel, VQ),
    "vq with codes of another width, grey": (VQModel, {**VQ, "vq_embed_dim": 5, "in_channels": 1, "out_channels": 1}),
    "paella": (PaellaVQModel, PAELLA),
    "paella of three levels": (PaellaVQModel, {**PAELLA, "levels": 3, "up_down_scale_factor": 1, "scale_factor": 0.5}),
    "tiny": (AutoencoderTiny, TINY),
    "tiny of one level": (
        AutoencoderTiny,
        {
            **TINY,
            "encoder_block_out_channels": (8,),
            "decoder_block_out_channels": (8,),
            "num_encoder_blocks": (1,),
            "num_decoder_blocks": (2,),
            "shift_factor": 0.25,
            "scaling_factor": 2.0,
        },
    ),
}
each = pytest.mark.parametrize(("kind", "options"), THEIRS.values(), ids=THEIRS)


def made(kind: Callable[..., nn.Module], options: dict[str, Any], folder: Path) -> Any:
    """Theirs with weights that nothing hides: gates and running statistics of their own."""
    with seeded(0):
        theirs = kind(**options).eval()
        for name, tensor in theirs.state_dict().items():
            if "gammas" in name or "running_mean" in name:
                tensor.normal_(0, 0.5)
            elif "running_var" in name:
                tensor.uniform_(0.5, 2.0)
            elif "embedding" in name:
                tensor.normal_()
    theirs.save_pretrained(folder)
    return theirs


def ours_of(folder: Path) -> Codec:
    to_suffuse(folder, folder.with_name("ours"))
    return load_codec(folder.with_name("ours"))


def images(options: dict[str, Any]) -> Tensor:
    shape = (3, options.get("in_channels", 3), 16, 24)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@each
@torch.no_grad()
def test_encoding_and_decoding_are_equal(kind: type[nn.Module], options: dict[str, Any], tmp_path: Path) -> None:
    theirs = made(kind, options, tmp_path / "theirs")
    ours, x = ours_of(tmp_path / "theirs").network, images(options)
    unit = kind is PaellaVQModel  # theirs sees and makes images in [0, 1]
    z, log_variance = ours.moments(x)
    assert log_variance is None
    torch.testing.assert_close(z, theirs.encode((x + 1) / 2 if unit else x).latents, atol=1e-5, rtol=1e-5)
    for quantise in (False,) if kind is AutoencoderTiny else (False, True):
        options = {} if kind is AutoencoderTiny else {"force_not_quantize": not quantise}
        back = theirs.decode(z, **options).sample
        ours.quantises = quantise
        torch.testing.assert_close(ours.decode(z), 2 * back - 1 if unit else back, atol=1e-5, rtol=1e-5)
    if kind is not AutoencoderTiny:
        torch.testing.assert_close(ours.decode(z, quantise=False), ours.images(z), atol=0, rtol=0)


@each
def test_they_come_back_bit_by_bit(kind: type[nn.Module], options: dict[str, Any], tmp_path: Path) -> None:
    theirs = made(kind, options, tmp_path / "theirs")
    ours_of(tmp_path / "theirs")
    to_diffusers(tmp_path / "ours", tmp_path / "again")
    again = kind.from_pretrained(tmp_path / "again")  # type: ignore[attr-defined]  # diffusers' mixin
    first, second = theirs.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = [{k: v for k, v in dict(model.config).items() if not k.startswith("_")} for model in (theirs, again)]
    changed = {k for k in configs[0] if k != "sample_size" and listed(configs[0][k]) != listed(configs[1].get(k))}
    # A VQModel's scale is left behind, and the width of its codes is written out.
    assert changed <= ({"scaling_factor", "vq_embed_dim"} if kind is VQModel else set())


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@torch.no_grad()
def test_their_scales_become_the_codecs(tmp_path: Path) -> None:
    said: list[str] = []
    theirs, x = made(PaellaVQModel, PAELLA, tmp_path / "theirs"), images({})
    to_suffuse(tmp_path / "theirs", tmp_path / "ours", note=said.append)
    ours = load_codec(tmp_path / "ours")
    assert said == [
        "the size of its images is not recorded: 128x128 is assumed; latents are divided by its scale_factor 0.3764"
    ]
    torch.testing.assert_close(ours.encode(x), theirs.encode((x + 1) / 2).latents / 0.3764, atol=1e-5, rtol=1e-5)
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.decode(z), 2 * theirs.decode(0.3764 * z).sample - 1, atol=1e-5, rtol=1e-5)


def test_stage_a_has_the_weights_of_theirs_at_full_size() -> None:
    with torch.device("meta"):
        ours, theirs = ConvNeXtAutoencoder().build((3, 64, 64)), PaellaVQModel()
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1] == 18_406_894


@pytest.mark.parametrize("legacy", [False, True])
def test_the_codebook_loss_and_its_gradients_are_theirs(legacy: bool) -> None:
    with seeded(0):
        theirs = VectorQuantizer(7, 3, beta=0.25, legacy=legacy)
        ours = Codebook(CodebookSettings(size=7), 3)
        z = torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        theirs.embedding.weight.copy_(ours.weight * 7)
        ours.weight.mul_(7)
    gradients = []
    for model in ("theirs", "ours"):
        leaf = z.clone().requires_grad_()
        if model == "theirs":
            value, loss, _ = theirs(leaf)
            weight = theirs.embedding.weight
        else:
            rounded = ours(leaf)
            value, weight = rounded.value, ours.weight
            loss = CodebookLoss(legacy=legacy).of(leaf, rounded.vectors, learned=True).mean()
        found = torch.autograd.grad(loss + value.square().sum(), (leaf, weight))
        gradients.append((loss.detach(), value.detach(), *found))
    for mine, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_what_our_networks_do_not_have_is_named(tmp_path: Path) -> None:
    made(VQModel, VQ, tmp_path / "spatial")
    config = json.loads((tmp_path / "spatial" / "config.json").read_text())
    (tmp_path / "spatial" / "config.json").write_text(json.dumps(config | {"norm_type": "spatial"}))
    with pytest.raises(UsageError, match="norm_type = 'spatial' has no counterpart"):
        to_suffuse(tmp_path / "spatial", tmp_path / "ours")
    made(AutoencoderTiny, TINY, tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config | {"encoder_block_out_channels": [8, 8, 16]}))
    with pytest.raises(UsageError, match=r"levels of widths \(8, 8, 16\) have no counterpart; ours have one width"):
        to_suffuse(tmp_path / "tiny", tmp_path / "ours")


def test_a_codec_measured_by_channels_is_not_exported_with_one_scale(tmp_path: Path) -> None:
    made(PaellaVQModel, PAELLA, tmp_path / "theirs")
    codec = ours_of(tmp_path / "theirs")
    codec.standardise(torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0]), 1.0)
    assert codec.config is not None
    save_model(tmp_path / "measured", codec.config, codec.state_dict(), {})
    with pytest.raises(UsageError, match="one scale for all; export the autoencoder's own run instead"):
        to_diffusers(tmp_path / "measured", tmp_path / "again")

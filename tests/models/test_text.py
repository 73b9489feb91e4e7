"""Text conditioners: tokens and masks, samples without a caption, a text model made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.models.config import ModelConfig
from suffuse.models.frozen_text import FrozenText, FrozenTextConditioner
from suffuse.models.text import Text
from suffuse.models.tokenizer import Tokenizer
from suffuse.networks import DiT, NetworkPart, UNet
from suffuse.process import Flow, FlowVelocity
from suffuse.training.first_stages import begun
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import load_recipe

CAPTIONS = ("a red circle", "a blue square", "a green triangle above a red square")
TEXT = Text(length=12, width=16, depth=1, heads=2, vocabulary=302)
UNET = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=4)
DIT = DiT(width=16, depth=2, heads=2, patch=2)


def ids(texts: tuple[str, ...] = CAPTIONS) -> Tensor:
    return torch.from_numpy(Tokenizer.trained(CAPTIONS, 300).encode(texts, 12).ids)


def embed(part: Text, cond: Conditions, n: int) -> Embedding:
    found: Embedding = part.build(8)(cond, n)
    return found


def test_the_width_of_the_tokens_is_filled_into_the_network() -> None:
    for network in (UNET, DIT):
        config = ModelConfig(network=network, shape=(3, 8, 8), path=Flow(), prediction=FlowVelocity(), conditioner=TEXT)
        assert dict(config.network)["token_width"] == 16
    with pytest.raises(Exception, match=r"gives tokens of width 16, but network 'mlp' has no token_width"):
        ModelConfig(network={"kind": "mlp"}, shape=(2,), path=Flow(), prediction=FlowVelocity(), conditioner=TEXT)


def test_a_sample_without_caption_has_one_learned_token() -> None:
    cond = Conditions({"caption": ids()}, {"caption": torch.tensor([True, False, True])})
    found = embed(TEXT, cond, 3)
    assert found.tokens is not None
    assert found.tokens_mask is not None
    assert found.tokens_mask[1].tolist() == [True] + [False] * 11
    nothing = embed(TEXT, Conditions(), 1)
    assert nothing.tokens is not None
    torch.testing.assert_close(found.tokens[1, :1], nothing.tokens[0])
    assert found.tokens_mask[0].sum() == (ids()[0] != 0).sum()


def test_a_caption_means_the_same_in_any_batch_and_whatever_stands_behind_it() -> None:
    many = embed(TEXT, Conditions.of(caption=ids()), 3)
    alone = embed(TEXT, Conditions.of(caption=ids()[1:2]), 1)
    assert many.tokens is not None
    assert alone.tokens is not None
    torch.testing.assert_close(many.tokens[1], alone.tokens[0], atol=1e-6, rtol=1e-6)
    assert alone.tokens_mask is not None
    count = int(alone.tokens_mask.sum())
    cut = embed(TEXT, Conditions.of(caption=ids()[1:2, :count]), 1)
    assert cut.tokens is not None
    torch.testing.assert_close(cut.tokens, alone.tokens[:, :count], atol=1e-6, rtol=1e-6)


def test_the_mean_of_the_tokens_is_no_vector_at_first_and_ignores_what_does_not_count() -> None:
    part = TEXT.replace(pooled=True)
    module = part.build(8)
    assert not module(Conditions.of(caption=ids()), 3).vector.any()
    with torch.no_grad():
        module.pooled.weight.fill_(0.1)
    count = int((ids()[1] != 0).sum())
    whole = module(Conditions.of(caption=ids()[1:2]), 1).vector
    torch.testing.assert_close(whole, module(Conditions.of(caption=ids()[1:2, :count]), 1).vector)
    with pytest.raises(UsageError, match=r"conditioner\.pooled adds a vector"):
        part.build(0)


@pytest.mark.parametrize("network", [UNET, DIT])
def test_networks_read_the_tokens_that_count_and_no_others(network: NetworkPart) -> None:
    config = ModelConfig(network=network, shape=(3, 8, 8), path=Flow(), prediction=FlowVelocity(), conditioner=TEXT)
    model = config.build().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # outputs and branches start at zero
        for weight in model.network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    x, tokens = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])

    def out(tokens: Tensor, mask: Tensor | None) -> Tensor:
        found: Tensor = model.network(x, torch.zeros(2), Embedding(tokens=tokens, tokens_mask=mask)).value
        return found

    with torch.no_grad():
        full, masked = out(tokens, None), out(tokens, mask)
        other = tokens.clone()
        other[0, 2:] = 9.0
        assert torch.equal(masked, out(other, mask)), "what does not count is not read"
        assert not torch.allclose(full[0], masked[0], atol=1e-4)
        torch.testing.assert_close(full[1], masked[1], atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match=r"takes cond.tokens \(token_width = 16\), but the condition has none"):
        model.network(x, torch.zeros(2), Embedding())
    with pytest.raises(UsageError, match=r"has shape \(2, 1, 3\), but the network takes token_width = 16"):
        model.network(x, torch.zeros(2), Embedding(tokens=torch.zeros(2, 1, 3)))
    with pytest.raises(UsageError, match=r"has cond\.map, which this network does not take"):
        model.network(x, torch.zeros(2), Embedding(tokens=tokens, map=torch.zeros(2, 4, 1, 1)))


def test_what_the_model_does_not_know_is_refused() -> None:
    module = TEXT.build(8)
    with pytest.raises(UsageError, match="captions have the token 999, but the model knows 302"):
        module.check(Conditions.of(caption=torch.tensor([[1, 999]])))
    with pytest.raises(UsageError, match=r"numbers of tokens \(B, up to 12\), not \(1, 3\) of type torch.float32"):
        module.check(Conditions.of(caption=torch.zeros(1, 3)))
    with pytest.raises(Exception, match="heads = 3 does not divide width = 16"):
        TEXT.replace(heads=3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP text model of random weights, with a tokenizer that knows bytes alone."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer as Live
    from tokenizers import decoders, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {
        token: n for n, token in enumerate(["<start>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    live = Live(models.BPE(vocab=vocabulary, merges=[]))
    live.pre_tokenizer, live.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    live.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=live, bos_token="<start>", eos_token="<end>", pad_token="<end>"
    )
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPTextModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layer", [-1, -2])
def test_states_of_a_text_model_are_its_own(clip: Path, layer: int) -> None:
    import transformers

    part = FrozenText(model=str(clip), length=20, layer=layer)
    model = part.opened()
    assert model.width == 16
    states, counts, cut = next(model.encode(("a red circle", "x" * 40), 20))
    assert counts.tolist() == [14, 20]
    assert cut == [1]
    plain = transformers.CLIPTextModel.from_pretrained(clip)
    tokens = transformers.AutoTokenizer.from_pretrained(clip)("a red circle", return_tensors="pt")
    with torch.no_grad():
        found = plain(**tokens, output_hidden_states=True)
    wanted = found.last_hidden_state if layer == -1 else found.hidden_states[layer]
    torch.testing.assert_close(states[0, :14], wanted[0], atol=1e-5, rtol=1e-5)


def test_of_t5_the_encoder_alone_is_read(clip: Path, tmp_path: Path) -> None:
    import transformers

    config = transformers.T5Config(
        vocab_size=300, d_model=12, d_kv=6, d_ff=24, num_layers=2, num_heads=2, pad_token_id=1, eos_token_id=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = transformers.T5ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    tokenizer.save_pretrained(tmp_path)
    model = FrozenText(model=str(tmp_path), length=20).opened()
    assert (model.width, model.longest) == (12, None), "positions are relative: any length"
    assert not any("decoder" in name for name, _ in model.model.named_parameters())
    states, counts, _ = next(model.encode(("a red circle", "a"), 20))
    assert counts.tolist() == [14, 3]
    with torch.no_grad():
        wanted = whole.encoder(**tokenizer("a red circle", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(states[0, :14], wanted[0], atol=1e-5, rtol=1e-5)


def test_a_frozen_text_counts_only_the_caption(clip: Path) -> None:
    part = FrozenText(model=str(clip), length=20, width=16)
    states = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0))
    cond = Conditions.of(caption=states, caption_length=torch.tensor([3, 20]))
    found = part.build(0)(cond.drop(torch.tensor([False, True])), 2)
    assert found.tokens_mask.sum(1).tolist() == [3, 1]
    assert torch.equal(found.tokens[0], states[0])


def test_the_empty_prompt_may_stand_for_no_caption(clip: Path) -> None:
    part = FrozenText(model=str(clip), length=20, width=16, absent="empty")
    live = part.build(0)
    assert isinstance(live, FrozenTextConditioner)
    live.fill(part.opened())
    assert set(live.state_dict()) == {"empty", "empty_length"}
    states, counts, _ = next(part.opened().encode(("a red circle", ""), 20))
    cond = Conditions.of(caption=states, caption_length=counts)
    for found in (live(Conditions(), 2), live(cond.drop(torch.tensor([True, True])), 2)):
        torch.testing.assert_close(found.tokens, states[1:].expand(2, -1, -1))
        assert found.tokens_mask.sum(1).tolist() == [2, 2]
    mixed = live(cond.drop(torch.tensor([False, True])), 2)
    torch.testing.assert_close(mixed.tokens, states)
    assert mixed.tokens_mask.sum(1).tolist() == [14, 2]
    assert FrozenTextConditioner(part.replace(masked=False))(cond, 2).tokens_mask is None
    learned = FrozenTextConditioner(part.replace(absent="learned", masked=False))(cond.drop(counts < 9), 2)
    assert learned.tokens_mask.sum(1).tolist() == [20, 1]


def test_a_text_model_is_found_in_the_run_and_may_move(clip: Path, tmp_path: Path) -> None:
    import shutil

    part = FrozenText(model="text", length=20, width=16)
    shutil.copytree(clip, tmp_path / "run" / "text")
    part = part.replace(hash=part.opened(folder=tmp_path / "run").hash)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert part.opened(folder=tmp_path / "moved").width == 16
    assert part.hash == FrozenText(model=str(clip), length=20).opened().hash


def test_a_text_model_that_cannot_be_used_says_why(clip: Path, tmp_path: Path) -> None:
    import shutil

    def copy(name: str, *without: str) -> str:
        folder = tmp_path / name
        shutil.copytree(clip, folder)
        for file in without:
            (folder / file).unlink()
        return str(folder)

    def open_it(model: str, **fields: Any) -> None:
        FrozenText(model=model, **{"length": 20, **fields}).opened()

    with pytest.raises(UsageError, match="cannot be found"):
        open_it(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="has no tokenizer"):
        open_it(copy("bare", "tokenizer.json", "tokenizer_config.json"))
    with pytest.raises(UsageError, match="has no weights as safetensors"):
        open_it(copy("empty", "model.safetensors"))
    with pytest.raises(UsageError, match=r"length is 77, but text model .* reads 24 tokens at most"):
        open_it(str(clip), length=77)
    with pytest.raises(UsageError, match="is not the one that this model was trained with"):
        open_it(str(clip), hash="another")


def test_training_begins_with_the_states_of_the_empty_prompt(clip: Path) -> None:
    part = FrozenText(model=str(clip), length=20, width=16, absent="empty")
    recipe = load_recipe("digits-ddpm")
    config = ModelConfig(network=UNET, shape=(3, 8, 8), path=Flow(), prediction=FlowVelocity(), conditioner=part)
    model = config.build()
    assert not model.conditioner.empty.any()
    assert isinstance(recipe, Recipe)
    begun(model, recipe, recipe.data.load())
    wanted = next(part.opened().encode(("",), 20))[0][0]
    torch.testing.assert_close(model.conditioner.empty, wanted)

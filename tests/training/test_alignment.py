"""Alignments: captions and images in one space, trained beforehand; generators that start from the text encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.data import Shapes
from suffuse.models.alignment import Alignment, AlignmentConfig
from suffuse.models.pretrained import load_alignment, load_codec, load_model
from suffuse.models.text import CAPTION, Text, TextEncoder
from suffuse.models.tokenizer import TOKENIZER_FILE
from suffuse.networks import Compressor
from suffuse.objectives import Progress
from suffuse.objectives.contrastive import Contrastive, belonging
from suffuse.tasks.align import evaluate_alignment, open_alignment
from suffuse.training.recipe_files import dump_tree, load_recipe, read_recipe_file
from suffuse.training.run import Watcher, train
from suffuse.training.stages import load_stages, train_stages

SMALL = (
    "data.count=60",
    "data.size=16",
    "network.widths=[8, 8]",
    "network.latent_channels=8",
    "width=8",
    "batch=8",
    "device=cpu",
    "training.log_every=2",
    "training.checkpoint_every=100",
)
PRIOR = (
    "codec=null",
    "data.count=60",
    "data.size=16",
    "network={kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention_levels: [1], groups: 4}",
    "batch=4",
    "steps=2",
    "device=cpu",
    "training.ema=[50]",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alignment") / "run"
    train(load_recipe("shapes-alignment", [*SMALL, "steps=6", "training.sample_every=3", f"out={folder}"]), "run")
    return folder


def model() -> Alignment:
    text = Text(width=8, depth=1, heads=2, length=6, vocabulary=50)
    config = AlignmentConfig(text=text, network=Compressor(widths=(4, 4), latent_channels=4), width=6, shape=(3, 8, 8))
    return config.build(seed=1)


def losses(live: Alignment, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
    batch = Batch(x0=x, cond=Conditions.of(**{CAPTION: ids}), index=torch.arange(len(x)))
    return Contrastive().build(live)(live, batch, Progress(0, 1), Draws(0, torch.arange(len(x)), step=0, total=len(x)))


def test_the_loss_is_clips_where_all_captions_differ() -> None:
    live = model().eval()
    ids = torch.arange(2, 26).view(4, 6)
    x = torch.linspace(-1, 1, 4 * 192).view(4, 3, 8, 8)
    found = losses(live, ids, x)
    text = live.captions(Conditions.of(**{CAPTION: ids}), 4)
    logits = live.scale * text @ live.images(x).T
    right = torch.arange(4)
    torch.testing.assert_close(
        2 * found["image_of_caption"], torch.nn.functional.cross_entropy(logits, right, reduction="none")
    )
    torch.testing.assert_close(
        2 * found["caption_of_image"], torch.nn.functional.cross_entropy(logits.T, right, reduction="none")
    )
    torch.testing.assert_close(text.norm(dim=1), torch.ones(4))
    assert live.scale.item() == pytest.approx(1 / 0.07)


def test_images_that_share_a_caption_are_all_right_answers() -> None:
    ids = torch.tensor([[1, 2, 0], [1, 3, 0], [1, 2, 0]])
    same = belonging(ids)
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    live = model().eval()
    x = torch.linspace(-1, 1, 3 * 192).view(3, 3, 8, 8)
    x[2] = x[0]
    found = losses(live, torch.tensor([[1, 2, 0], [1, 3, 0], [1, 2, 0]]), x)
    torch.testing.assert_close(found["image_of_caption"][0], found["image_of_caption"][2])
    with torch.no_grad():
        live.log_scale.fill_(10.0)
    live.warm()
    assert live.scale.item() == pytest.approx(100.0), "never colder than 0.01"


def test_one_sample_cannot_be_told_apart() -> None:
    with pytest.raises(UsageError, match="needs 2 or more"):
        losses(model(), torch.ones(1, 6, dtype=torch.int64), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match=r"training.batch 8 in 8 parts leaves nothing to tell apart"):
        load_recipe("shapes-alignment", [*SMALL, "training.accumulate=8"]).check()
    with pytest.raises(UsageError, match=r"leave conditioner.run and conditioner.pooled out"):
        load_recipe("shapes-alignment", [*SMALL, "conditioner.pooled=true"]).check()


def test_captions_are_learned_to_be_told_apart(tmp_path: Path) -> None:
    done = train(load_recipe("shapes-alignment", [*SMALL, "steps=40", "batch=16", f"out={tmp_path / 'r'}"]), "r")
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.75 * lines[0]["loss"]
    assert 0 <= lines[-1]["matched"] <= 1


def test_the_folder_is_an_alignment_and_nothing_else(run: Path) -> None:
    live = load_alignment(run)
    assert isinstance(live.text, TextEncoder)
    assert (run / TOKENIZER_FILE).is_file()
    assert "An alignment of captions with images" in (run / "README.md").read_text()
    assert list((run / "samples").glob("*.png"))
    with pytest.raises(UsageError, match=r"aligns captions with images and makes no samples.*conditioner\.run="):
        load_model(run)
    with pytest.raises(UsageError, match="is no autoencoder"):
        load_codec(run)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_generator_starts_from_the_text_encoder(run: Path, tmp_path: Path, frozen: bool) -> None:
    conditioner = f"conditioner={{kind: text, run: '{run}', frozen: {str(frozen).lower()}, pooled: true}}"
    recipe = load_recipe(
        "shapes-ldm:prior", [*PRIOR, conditioner, "optimiser.lr=1e-2", "steps=5", f"out={tmp_path / 'g'}"]
    )
    train(recipe, "g")
    source, made = load_alignment(run), load_model(tmp_path / "g")
    assert isinstance(made.conditioner, TextEncoder)
    assert made.conditioner.part.width == source.text.part.width == 64
    assert (tmp_path / "g" / TOKENIZER_FILE).read_text() == (run / TOKENIZER_FILE).read_text()
    own, theirs = made.conditioner.state_dict(), source.text.state_dict()
    shared = [name for name in theirs if name != "nothing"]
    same = [torch.equal(own[name], theirs[name]) for name in shared]
    near = [torch.allclose(own[name], theirs[name], atol=0.1) for name in shared]
    assert all(near), "five steps from where it began"
    assert all(same) == frozen
    moves = {name for name, p in made.conditioner.named_parameters() if p.requires_grad}
    assert not frozen or moves == {"nothing", "pooled.weight", "pooled.bias"}


def test_what_is_no_alignment_is_refused(run: Path, tmp_path: Path) -> None:
    def attempt(conditioner: str) -> None:
        train(load_recipe("shapes-ldm:prior", [*PRIOR, conditioner, f"out={tmp_path / 'g'}"]), "g")

    with pytest.raises(UsageError, match=r"conditioner.run 'nowhere' cannot be opened.*suffuse train shapes-alignment"):
        attempt("conditioner={kind: text, run: nowhere}")
    with pytest.raises(UsageError, match=r"conditioner.width is 48, but the text encoder of conditioner.run has 64"):
        attempt(f"conditioner={{kind: text, run: '{run}', width: 48, heads: 4}}")
    with pytest.raises(UsageError, match="frozen is for a transformer that was trained beforehand"):
        attempt("conditioner={kind: text, frozen: true}")


def test_a_run_goes_on_without_the_alignment_that_it_started_from(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when that run has become another one since: the tokenizer in the folder is the model's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "words")
    recipe = load_recipe("shapes-ldm:prior", [*PRIOR, "conditioner={kind: text, run: words}", "out=g"])
    train(recipe, "g")
    before = (tmp_path / "g" / TOKENIZER_FILE).read_text()
    other = load_recipe("shapes-alignment", [*SMALL, "steps=2", "data.objects=2", "data.size=32", "out=other"])
    train(other, "other")
    shutil.rmtree(tmp_path / "words")
    shutil.move(tmp_path / "other", tmp_path / "words")
    assert (tmp_path / "words" / TOKENIZER_FILE).read_text() != before
    longer = recipe.replace(training=recipe.training.replace(steps=4))
    assert train(longer, "g", resume=True).step == 4
    shutil.rmtree(tmp_path / "words")
    assert train(longer.replace(training=longer.training.replace(steps=5)), "g", resume=True).step == 5
    assert (tmp_path / "g" / TOKENIZER_FILE).read_text() == before
    assert load_recipe(str(tmp_path / "g" / "recipe.yaml")).conditioner.run == str(tmp_path / "words")  # type: ignore[union-attr]


def test_an_encoder_of_another_run_is_not_taken_half_way(run: Path, tmp_path: Path) -> None:
    own = [*PRIOR, f"out={tmp_path / 'plain'}"]
    train(load_recipe("shapes-ldm:prior", own), "x")
    tokenizer = (tmp_path / "plain" / TOKENIZER_FILE).read_bytes()
    with pytest.raises(UsageError, match="the run was begun without a text encoder of another run"):
        train(load_recipe("shapes-ldm:prior", [*own, f"conditioner.run={run}"]), "x", resume=True)
    assert (tmp_path / "plain" / TOKENIZER_FILE).read_bytes() == tokenizer


def test_a_tokenizer_that_a_refused_start_left_is_not_taken(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    shutil.copyfile(run / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    made = [*PRIOR, "data.objects=2", "data.size=32", "conditioner.most=280"]
    for name in ("begun", "clean"):
        train(load_recipe("shapes-ldm:prior", [*made, f"out={tmp_path / name}"]), "x")
    assert (folder / TOKENIZER_FILE).read_text() == (tmp_path / "clean" / TOKENIZER_FILE).read_text()
    assert (folder / TOKENIZER_FILE).read_text() != (run / TOKENIZER_FILE).read_text()


def test_an_alignment_needs_an_image_encoder() -> None:
    with pytest.raises(UsageError, match="backbone absent is none; use conv"):
        load_recipe("shapes-alignment", ["network.backbone=absent"]).check()


def test_init_and_an_alignment_are_refused_together(run: Path) -> None:
    changes = [f"conditioner={{kind: text, run: '{run}'}}", "init={run: somewhere}"]
    with pytest.raises(UsageError, match=r"conditioner\.run would do nothing; leave one of them out"):
        load_recipe("shapes-ldm:prior", [*PRIOR, *changes]).check()


def test_an_alignment_is_a_stage_like_any_other(tmp_path: Path) -> None:
    words = {key: value for key, value in read_recipe_file("shapes-alignment").items() if key not in ("data", "about")}
    prior = {**read_recipe_file("shapes-ldm:prior"), "codec": None, "data": None}
    prior = {key: value for key, value in prior.items() if value is not None}
    prior["conditioner"] = {"kind": "text", "run": "stage:words", "frozen": True}
    tree = {
        "learns": "stages",
        "data": {"kind": "shapes", "size": 16, "count": 60, "objects": 1},
        "stages": {"words": words, "prior": prior},
    }
    (tmp_path / "recipe.yaml").write_text(dump_tree(tree))
    changes = [
        "steps=2",
        "batch=4",
        "device=cpu",
        f"out={tmp_path / 'run'}",
        "training.ema=[50]",
        "stages.words.network.widths=[4, 4]",
        next(change for change in PRIOR if change.startswith("network=")).replace("network", "stages.prior.network", 1),
    ]
    said: list[str] = []
    train_stages(load_stages(str(tmp_path / "recipe.yaml"), changes), "run", watcher=Watcher(note=said.append))
    assert any("stages/words (ema_50, step 2; 1 layers of 64, captions of 16 tokens) is kept" in line for line in said)
    again = train_stages(load_stages(str(tmp_path / "recipe.yaml"), changes), "run", resume=True)
    assert again.step == 2


def test_evaluation_lets_captions_and_images_find_each_other(run: Path) -> None:
    live = open_alignment(run, device="cpu")
    data = Shapes(size=16, count=200, objects=1, seed=5)
    found = evaluate_alignment(live, data, samples=250)
    assert (found.samples, found.among) == (200, 100)
    assert 0.02 < found.chance < 0.2
    assert 0 <= found.image_of_caption <= 1
    assert json.loads((run / "evaluation" / "figures.json").read_text())["chance"] == found.chance
    assert "captions that find a right image" in (run / "README.md").read_text()
    with pytest.raises(UsageError, match="99 pairs are too few"):
        evaluate_alignment(live, data, samples=99)
    with pytest.raises(UsageError, match=r"takes images of \(3, 16, 16\), but data"):
        evaluate_alignment(live, Shapes(size=32, count=200), samples=200)

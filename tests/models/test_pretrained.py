"""Model folders: there and back without a bit lost, here and through a Hub that is faked at its client's functions."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from torch import Tensor

from suffuse.base import files
from suffuse.base.conditions import Conditions
from suffuse.base.errors import RunError, UsageError
from suffuse.base.weights import save_safetensors
from suffuse.models import pretrained
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.pretrained import load_model, local_folder, push_folder, save_model
from suffuse.networks import UNet
from suffuse.process import VP, V

CONFIG = ModelConfig(
    network=UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4, zero_init=False),
    shape=(3, 8, 8),
    path=VP(steps=100),
    prediction=V(),
    conditioner=ClassLabel(classes=3),
    weights="ema_10",
    others=("ema_20",),
    step=5,
)


def estimate(model: Denoiser) -> Tensor:
    """What a model makes of the same noisy samples with and without labels."""
    x = torch.linspace(-2, 2, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    cond = Conditions({"label": torch.tensor([2, 1])}, {"label": torch.tensor([True, False])})
    with torch.no_grad():
        return model.eval().denoise(x, 30.0, cond)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two averages, of seeds 1 and 2."""
    place = tmp_path / "model"
    primary, other = CONFIG.build(seed=1), CONFIG.build(seed=2)
    # The table of labels starts alike for all seeds; a trained one does not.
    with torch.no_grad():
        other.conditioner.table.weight.mul_(3)
    save_model(place, CONFIG, primary.state_dict(), {"ema_20": other.state_dict()})
    return place


def test_a_folder_gives_the_same_outputs_bit_by_bit(folder: Path) -> None:
    loaded = Denoiser.from_pretrained(folder)
    assert not loaded.training
    assert loaded.config == CONFIG
    assert torch.equal(estimate(loaded), estimate(CONFIG.build(seed=1)))


def test_the_average_can_be_chosen_and_is_kept_when_saved_again(folder: Path, tmp_path: Path) -> None:
    chosen = Denoiser.from_pretrained(folder, weights="ema_20")
    assert chosen.config is not None
    assert chosen.config.weights == "ema_20"
    assert not torch.equal(estimate(chosen), estimate(Denoiser.from_pretrained(folder)))
    chosen.save_pretrained(tmp_path / "again")
    again = Denoiser.from_pretrained(str(tmp_path / "again"))
    assert again.config is not None
    assert (again.config.weights, again.config.others, again.config.step) == ("ema_20", (), 5)
    assert torch.equal(estimate(again), estimate(chosen))
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["config.json", "model.safetensors"]


def test_the_configuration_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who finds a configuration finds weights: a writer that dies between the two leaves no model, not half of one.
    def full(path: Path, data: object) -> None:
        raise RunError("disk full")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(RunError):
        save_model(tmp_path / "model", CONFIG, CONFIG.build().state_dict(), {})
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        load_model(tmp_path / "model")


def test_a_model_made_by_hand_has_no_configuration_to_save(tmp_path: Path) -> None:
    parts = CONFIG.build()
    by_hand = Denoiser(parts.network, path=VP(steps=100), prediction=V())
    with pytest.raises(UsageError, match=r"no configuration to save; build it with ModelConfig\(\.\.\.\)\.build\(\)"):
        by_hand.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_missing_or_wrong_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"average 'ema_2' does not exist; did you mean 'ema_20'.*ema_10, ema_20"):
        load_model(folder, weights="ema_2")
    (folder / "ema" / "ema_20.safetensors").unlink()
    with pytest.raises(UsageError, match=r"ema_20\.safetensors is missing; finish or resume the run first"):
        load_model(folder, weights="ema_20")
    save_safetensors(folder / "model.safetensors", CONFIG.network.build((1, 8, 8)).state_dict())
    with pytest.raises(UsageError, match=r"model\.safetensors do not fit the model: \d+ missing .*; \d+ unknown"):
        load_model(folder)


def test_a_path_here_is_never_looked_for_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    monkeypatch.chdir(folder.parent.parent)
    near = f"{folder.parent.name}/model"
    assert local_folder(near) == Path(near)
    with pytest.raises(UsageError, match=f"run '{near}s' does not exist; did you mean '{near}'"):
        local_folder(f"{near}s")
    for name in ("lonely", "a/b/c", "/nowhere/at/all", "./model", "~/model", Path("owner/name")):
        with pytest.raises(UsageError):
            local_folder(name)


def test_a_model_comes_from_the_hub_s_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model = Denoiser.from_pretrained("someone/model", weights="ema_20", revision="v2")
    assert torch.equal(estimate(model), estimate(load_model(folder, weights="ema_20")))
    ((name, options),) = asked
    assert (name, options["revision"]) == ("someone/model", "v2")
    remote = ["config.json", "model.safetensors", "ema/ema_20.safetensors", "recipe.yaml", "README.md", "model.bin"]
    fetched = list(filter_repo_objects(remote, allow_patterns=options["allow_patterns"]))
    assert fetched == remote[:-1], "all that a model needs, and no pickle"


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (
            LocalEntryNotFoundError("no\n\nsnapshot"),
            RunError,
            r"the Hub cannot be reached \(no snapshot\); .*go online",
        ),
        (ConnectionError("offline"), RunError, r"the Hub cannot be reached \(offline\)"),
        (HFValidationError("bad name"), UsageError, r"neither a folder here nor a repository on the Hub \(bad name\)"),
    ],
)
def test_what_the_hub_cannot_do_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], told: str
) -> None:
    def snapshot(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(kind, match=f"^someone/model is .*{told}") as caught:
        local_folder("someone/model")
    assert "\n" not in str(caught.value)


class FakeHub:
    """Stands for `huggingface_hub.HfApi`: keeps what an upload would take."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Any]] = []
        self.uploaded: Path | None = None
        self.names: list[str] = []

    def create_repo(self, repository: str, **options: Any) -> None:
        self.made.append((repository, options))

    def upload_folder(self, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], **_: Any) -> Any:
        present = sorted(path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file())
        self.names = list(filter_repo_objects(present, ignore_patterns=ignore_patterns))
        self.uploaded = folder_path.with_name("uploaded")
        shutil.copytree(folder_path, self.uploaded, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: fake)
    return fake


def test_a_pushed_run_leaves_checkpoints_and_locks_at_home(folder: Path, hub: FakeHub) -> None:
    for name in ("checkpoints/step-00000001/model.safetensors", "tensorboard/events", ".lock", "samples/one.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "README.md").write_text("card")
    assert push_folder(folder, "me/model", private=True) == "https://hub/me/model/commit/1"
    assert hub.made == [("me/model", {"private": True, "exist_ok": True})]
    assert hub.names == ["README.md", "config.json", "ema/ema_20.safetensors", "model.safetensors", "samples/one.png"]


def test_a_model_in_memory_can_be_pushed(folder: Path, hub: FakeHub, tmp_path: Path) -> None:
    model = load_model(folder)
    assert model.push_to_hub("me/model").startswith("https://")
    assert hub.names == ["config.json", "model.safetensors"]
    assert hub.uploaded is not None
    assert torch.equal(estimate(load_model(hub.uploaded)), estimate(model))
    shutil.rmtree(hub.uploaded)


def test_what_is_no_model_is_not_pushed_and_a_refusal_is_told(
    folder: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="holds no model"):
        push_folder(tmp_path, "me/model")
    assert not hub.made

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(RunError, match=rf"could not push {folder} to me/model: no network; check login and network"):
        push_folder(folder, "me/model")


def test_names_of_files_are_the_hub_s_conventions() -> None:
    assert (pretrained.CONFIG_FILE, pretrained.WEIGHTS_FILE) == ("config.json", "model.safetensors")
    assert pretrained.ema_file("ema_20") == "ema/ema_20.safetensors"

import dataclasses
import json

import pytest
import torch
from sklearn.datasets import load_digits

from suffuse.base.batch import Batch
from suffuse.base.errors import RunError, UsageError
from suffuse.metrics import Moments, extract, frechet, frechet_floor
from suffuse.training import extractor
from suffuse.training.extractor import dihedral, train_extractor


class _Data:
    """Images in memory, as the extractor wants data sets."""

    def __init__(self, images, labels, *, name="Some digits", fingerprint="f00d"):
        self.images, self.labels, self.name, self.fingerprint = images, labels, name, fingerprint
        self.shape = tuple(images.shape[1:])
        self.classes = tuple(map(str, range(10)))

    def __len__(self):
        return len(self.images)

    def batch(self, index):
        return Batch(x0=self.images[index])


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(data.target)


@pytest.fixture(scope="module")
def trained(digits):
    return train_extractor(_Data(*digits), cache=None)


def _shortened(monkeypatch, steps, batch):
    whole = extractor._plan
    monkeypatch.setattr(extractor, "_plan", lambda *given: dataclasses.replace(whole(*given), steps=steps, batch=batch))


@pytest.fixture
def few(digits):
    """A few images, where it is not the training that is tested."""
    return digits[0][:60], digits[1][:60]


@pytest.fixture
def short(monkeypatch):
    """A few steps, for the same reason."""
    _shortened(monkeypatch, 5, 16)


def test_digits_are_told_apart_and_the_name_says_by_what(trained, digits):
    assert trained.name == "fd_some_digits_classes"
    assert trained.held_out == 180
    assert trained.accuracy > 0.95
    assert float((trained.labels(digits[0]) == digits[1]).double().mean()) > 0.97
    assert torch.equal(trained.logits(digits[0][:9]).argmax(1), trained.labels(digits[0][:9]))


def test_the_distance_orders_what_is_worse(trained, digits):
    images = digits[0]
    real = extract(trained, images.split(300))
    assert real.shape == (1797, trained.width)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = [extract(trained, [images + level * noise]) for level in (0.1, 0.3, 1.0)]
    worse = [frechet(Moments.of(real), Moments.of(features)) for features in noisy]
    assert worse == sorted(worse)
    assert worse[2] > 10 * frechet_floor(real, seed=0)  # half as many samples as the noise has, and still far nearer


def test_features_do_not_depend_on_the_batch(trained, digits):
    whole = trained(digits[0][:64])
    torch.testing.assert_close(torch.cat([trained(part) for part in digits[0][:64].split(7)]), whole, rtol=0, atol=1e-5)


def test_without_labels_the_transforms_are_learned(digits, monkeypatch):
    _shortened(monkeypatch, 120, 64)
    features = train_extractor(_Data(digits[0], None), cache=None)
    assert features.name == "fd_some_digits_dihedral"
    assert features.accuracy > 0.5  # by chance 0.125; a 0 or an 8 looks alike in several of the eight
    with pytest.raises(UsageError, match="fd_some_digits_dihedral was trained without labels"):
        features.labels(digits[0][:2])


def test_the_eight_transforms_are_different_and_one_is_none():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    every = dihedral(image.expand(8, -1, -1, -1), torch.arange(8))
    assert torch.equal(every[0], image[0])
    assert torch.equal(every[5], image[0].flip(2).rot90(1, (1, 2)))
    assert len({tuple(one.flatten().tolist()) for one in every}) == 8


@pytest.mark.usefixtures("short")
def test_same_seed_and_data_give_the_same_weights(few, tmp_path):
    data = _Data(*few)
    first, other = (train_extractor(data, cache=None, seed=seed) for seed in (0, 1))
    assert train_extractor(data, cache=None).hash == first.hash != other.hash
    assert train_extractor(data, cache=tmp_path).hash == first.hash


@pytest.mark.usefixtures("short")
def test_kept_features_are_read_and_not_trained_again(few, tmp_path):
    steps = []
    data = _Data(*few)
    made = train_extractor(data, cache=tmp_path, progress=lambda step, total, loss: steps.append((step, total, loss)))
    assert [step[:2] for step in steps] == [(i + 1, 5) for i in range(5)]
    read = train_extractor(data, cache=tmp_path, progress=lambda *_: pytest.fail("it was trained again"))
    assert (read.hash, read.accuracy, read.held_out, read.note) == (made.hash, made.accuracy, made.held_out, None)
    assert torch.equal(read(few[0][:5]), made(few[0][:5]))
    folder = tmp_path / "f00d-features-v1" / "seed-0"
    facts = json.loads((folder / "features.json").read_text())
    assert facts["plan"]["fingerprint"] == "f00d"
    assert facts["versions"]["torch"] == torch.__version__
    assert train_extractor(data, cache=tmp_path, seed=3).hash != made.hash  # beside it, not in its place
    assert folder.is_dir()


def _torn(folder):
    path = folder / "features.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _changed(folder):
    path = folder / "features.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _unsealed(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("harm", "said"), [(_torn, "bytes"), (_changed, "has changed"), (_unsealed, "missing")])
def test_damaged_features_are_trained_anew_and_it_is_said(few, tmp_path, harm, said):
    data = _Data(*few)
    made = train_extractor(data, cache=tmp_path)
    harm(tmp_path / "f00d-features-v1" / "seed-0")
    again = train_extractor(data, cache=tmp_path)
    assert again.hash == made.hash
    assert again.note is not None
    assert said in again.note
    assert train_extractor(data, cache=tmp_path).note is None


@pytest.mark.usefixtures("short")
def test_kept_features_of_other_labels_are_not_taken(few, tmp_path):
    train_extractor(_Data(*few), cache=tmp_path)
    other = train_extractor(_Data(few[0], None), cache=tmp_path)
    assert other.task == "dihedral"
    assert "trained in another way" in (other.note or "")


@pytest.mark.usefixtures("short")
def test_large_colour_images_and_oblong_ones_are_seen_smaller():
    images = torch.rand(20, 3, 48, 70, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = train_extractor(_Data(images, None), cache=None)
    assert features(images).isfinite().all()
    assert features(images).std(dim=0).max() > 0


def test_bad_data_are_named(digits):
    with pytest.raises(UsageError, match=r"'Some digits' has shape \(2,\); features are trained on images"):
        train_extractor(_Data(torch.zeros(10, 2), None), cache=None)
    with pytest.raises(UsageError, match="has 1 images; features need at least 2"):
        train_extractor(_Data(torch.zeros(1, 1, 8, 8), None), cache=None)
    with pytest.raises(RunError, match="images with NaN or infinity"):
        train_extractor(_Data(torch.full((9, 1, 8, 8), torch.nan), None), cache=None)


def test_other_channels_are_refused(trained):
    with pytest.raises(UsageError, match=r"shape \(2, 3, 8, 8\); fd_some_digits_classes takes \(B, 1, H, W\)"):
        trained(torch.zeros(2, 3, 8, 8))


@pytest.mark.usefixtures("short")
def test_the_same_pictures_by_another_name_have_the_same_features(few, tmp_path):
    made = train_extractor(_Data(*few), cache=tmp_path)
    other = _Data(*few)
    other.name = "renamed"
    again = train_extractor(other, cache=tmp_path)
    assert again.note is None
    assert again.hash == made.hash

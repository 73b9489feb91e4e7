"""Codebooks: nearest vectors, gradients straight through, averages as computed by hand, dead codes revived."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.networks.autoencoders import Codebook, CodebookSettings
from suffuse.networks.part import seeded

SIZE, WIDTH, SHAPE = 8, 3, (4, 3, 2, 5)


def made(**settings: object) -> Codebook:
    with seeded(0):
        codebook = Codebook(CodebookSettings.model_validate({"size": SIZE, **settings}), WIDTH)
        codebook.weight.data.normal_()
        codebook.share.fill_(1 / SIZE)  # as after some steps, when nothing is dead
        if not codebook.learned:
            codebook.mass.copy_(codebook.weight / SIZE)
    return codebook


def latents(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def draws(step: int = 0) -> Draws:
    return Draws(0, torch.arange(SHAPE[0]), step=step, total=SHAPE[0])


def stepped(codebook: Codebook, z: Tensor, step: int = 0, parts: int = 1) -> dict[str, Tensor]:
    codes = codebook(z).codes
    for rows in torch.arange(len(z)).chunk(parts):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        codebook.count(z[some], codes[some], draws(step)[some])
    return codebook.update()


def test_latents_are_rounded_to_the_nearest_vector() -> None:
    codebook, z = made(), latents()
    rounded = codebook(z)
    rows = z.movedim(1, -1).reshape(-1, WIDTH)
    nearest = (rows[:, None] - codebook.weight[None]).square().sum(-1).argmin(1)
    assert torch.equal(rounded.codes.flatten(), nearest)
    wanted = codebook.weight[nearest].view(4, 2, 5, WIDTH).movedim(-1, 1)
    assert torch.equal(rounded.vectors, wanted)
    torch.testing.assert_close(rounded.value, wanted)


def test_many_latents_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook, z = made(), latents()
    whole = codebook(z).codes
    monkeypatch.setattr("suffuse.networks.autoencoders.codebook._AT_ONCE", 3 * SIZE)
    assert torch.equal(codebook(z).codes, whole)


def test_bfloat16_finds_the_same_vectors() -> None:
    codebook, z = made(), latents()
    whole = codebook(z).codes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook(z).codes, whole)


def test_gradients_pass_straight_through_and_to_the_vectors_apart() -> None:
    codebook, z = made(), latents().requires_grad_()
    rounded, upstream = codebook(z), latents(1)
    through, none = torch.autograd.grad(rounded.value, (z, codebook.weight), upstream, allow_unused=True)
    assert torch.equal(through, upstream)
    assert none is None
    (onto,) = torch.autograd.grad(codebook(z).vectors, codebook.weight, upstream)
    rows, codes = upstream.movedim(1, -1).reshape(-1, WIDTH), rounded.codes.flatten()
    torch.testing.assert_close(onto, torch.stack([rows[codes == k].sum(0) for k in range(SIZE)]))


def test_averages_are_those_computed_by_hand() -> None:
    """Two steps of vandenoord2017vqvae, Eqs. 6 to 8, counts over the number of latents."""
    codebook = made(learns="ema", decay=0.9, dead=0)
    share, mass = torch.full((SIZE,), 1 / SIZE), codebook.weight.clone() / SIZE
    assert not list(codebook.parameters())
    for step in range(2):
        z = latents(step)
        codes, rows = codebook(z).codes.flatten(), z.movedim(1, -1).reshape(-1, WIDTH)
        for k in range(SIZE):
            share[k] = 0.9 * share[k] + 0.1 * (codes == k).sum() / len(rows)
            mass[k] = 0.9 * mass[k] + 0.1 * rows[codes == k].sum(0) / len(rows)
        stepped(codebook, z, step)
        torch.testing.assert_close(codebook.share, share)
        torch.testing.assert_close(codebook.weight, mass / share[:, None])


@pytest.mark.parametrize("learns", ["ema", "gradient"])
def test_dead_codes_become_latents_of_the_step_and_the_others_are_left_alone(learns: str) -> None:
    codebook, z = made(learns=learns, dead=0.5), latents()
    codebook.share[[2, 5]] = 1e-6
    codebook.weight.data[[2, 5]] = 100.0  # too far to be used
    if learns == "ema":
        codebook.mass[[2, 5]] = 1e-4
    calm = copy.deepcopy(codebook)
    calm.settings = CodebookSettings.model_validate({**codebook.settings.dump(), "dead": 0.0})
    stepped(codebook, z)
    stepped(calm, z)
    rows = z.movedim(1, -1).reshape(-1, WIDTH)
    for k in range(SIZE):
        if k in (2, 5):
            assert (rows == codebook.weight[k]).all(1).any()
            torch.testing.assert_close(codebook.share[k], torch.tensor(1 / SIZE))
        else:
            assert torch.equal(codebook.weight[k], calm.weight[k])
    assert not torch.equal(codebook.weight[2], codebook.weight[5])


def test_the_first_step_fills_the_codebook_from_its_latents() -> None:
    with seeded(0):
        codebook, z = Codebook(CodebookSettings(size=SIZE), WIDTH), latents() + 3  # far from all fresh vectors
    before = codebook(z)
    stepped(codebook, z)
    rows = z.movedim(1, -1).reshape(-1, WIDTH)
    known = [bool((rows == vector).all(1).any()) for vector in codebook.weight]
    unused = torch.bincount(before.codes.flatten(), minlength=SIZE) == 0
    assert unused.any()
    assert all(known[k] for k in range(SIZE) if unused[k])
    assert (z - codebook(z).vectors).square().mean() < 0.7 * (z - before.vectors).square().mean()


def test_without_revival_the_first_average_is_that_of_the_first_latents() -> None:
    with seeded(0):
        codebook, z = Codebook(CodebookSettings(size=SIZE, learns="ema", dead=0), WIDTH), latents()
    before, codes = codebook.weight.clone(), codebook(z).codes.flatten()
    stepped(codebook, z)
    rows = z.movedim(1, -1).reshape(-1, WIDTH)
    for k in range(SIZE):
        wanted = rows[codes == k].mean(0) if (codes == k).any() else before[k]
        torch.testing.assert_close(codebook.weight[k], wanted)


def test_nothing_is_touched_when_no_code_is_dead() -> None:
    codebook, z = made(dead=1e-6), latents()
    before = codebook.weight.clone()
    stepped(codebook, z)
    assert torch.equal(codebook.weight, before)


def test_revival_is_a_function_of_seed_and_step() -> None:
    z = latents()
    made_of = []
    for step in (3, 3, 4):
        codebook = made(dead=0.5)
        codebook.share.fill_(1e-6)
        codebook.weight.data += 100.0
        stepped(codebook, z, step)
        made_of.append(codebook.weight.detach().clone())
    assert torch.equal(made_of[0], made_of[1])
    assert not torch.equal(made_of[0], made_of[2])


@pytest.mark.parametrize("learns", ["ema", "gradient"])
def test_the_parts_of_a_step_change_nothing(learns: str) -> None:
    """Sums are taken in another order: float32's last digits."""
    whole, parts, z = made(learns=learns, dead=0.5), made(learns=learns, dead=0.5), latents()
    for codebook in (whole, parts):
        codebook.share[1] = 1e-6
        codebook.weight.data[1] = 50.0
    told, again = stepped(whole, z), stepped(parts, z, parts=4)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())
    torch.testing.assert_close(told, again)


def test_sums_averaged_over_processes_are_as_good() -> None:
    one, two, z = made(learns="ema", dead=0.5), made(learns="ema", dead=0.5), latents()
    for codebook in (one, two):
        codebook.share[1] = 1e-6
        codebook.weight[1] = 50.0
    told = stepped(one, z)
    codes = two(z).codes
    two.count(z, codes, draws())
    assert two.pending is not None
    two.pending /= 2
    torch.testing.assert_close(two.update(), told)
    torch.testing.assert_close(two.state_dict(), one.state_dict())


def test_usage_and_perplexity_are_those_of_the_step() -> None:
    codebook = made()
    codebook.weight.data = torch.eye(SIZE)[:, :WIDTH] * 10
    z = torch.zeros(1, WIDTH, 1, 4)
    z[0, 0, 0, :2], z[0, 1, 0, 2], z[0, 2, 0, 3] = 10.0, 10.0, 10.0  # codes 0, 0, 1, 2
    codebook.count(z, codebook(z).codes, Draws(0, torch.arange(1), total=1))
    told = codebook.update()
    torch.testing.assert_close(told["codebook_usage"], torch.tensor(3 / 4))  # four latents could use four codes
    torch.testing.assert_close(told["codebook_perplexity"], torch.tensor(2.0**1.5))
    assert codebook.update() == {}

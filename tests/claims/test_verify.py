"""Verify: every arm once, the same figures however it is run, resumed after a kill, nothing stale taken for fresh."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from suffuse.base.errors import RunError, UsageError
from suffuse.claims import arms, pool
from suffuse.claims.arms import Work
from suffuse.claims.pool import alone
from suffuse.claims.protocol import Arm, Claim, Criterion
from suffuse.claims.verify import Settings, verify
from suffuse.training.checkpoint import find_latest

from .conftest import TINY, tiny_claim, tiny_experiment

HERE = Path(__file__).parent


def started(store: Path, *, jobs: int, steps: int) -> subprocess.Popen[bytes]:
    """The tiny claim's check, in a process of its own."""
    words = [sys.executable, str(HERE / "verify_worker.py"), str(store), str(jobs), str(steps)]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL)


def trained(store: Path) -> dict[str, int]:
    """Model -> when its training ended, in nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("models/*/arm.json")}


def test_it_trains_measures_and_counts_what_it_cost(claim: Claim, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    (found,) = verify([claim], "small", Settings(store=tmp_path), progress=lambda *row: seen.append(row))
    assert set(found.values) == {"known", "none", "etsdm"}
    assert set(found.values["none"]) == {0, 1}
    assert set(found.values["known"][0]) >= {"bayes", "excess", "relative"}
    assert found.values["none"][0].keys() >= {"eps_mse@0", "eps_mse@100", "eps_mse@400", "train_grad_spread"}
    assert found.values["none"][0] != found.values["none"][1]
    assert found.costs["none"]["steps"] == 4
    assert found.costs["none"]["parameters"] == found.costs["etsdm"]["parameters"]
    assert (len(seen), seen[-1][0], seen[-1][1], found.fresh) == (5, 5, 5, 5)
    assert "min left" in seen[0][2]


def test_what_is_there_is_not_made_again_also_for_another_claim(claim: Claim, tmp_path: Path) -> None:
    (first,) = verify([claim], "small", Settings(store=tmp_path))
    stamps = trained(tmp_path)
    again, other = verify([claim, tiny_claim("other-claim")], "small", Settings(store=tmp_path))
    assert (again.values, other.values, again.fresh) == (first.values, first.values, 0)
    assert trained(tmp_path) == stamps
    # Another measure is taken on the models that are there.
    wider = tiny_claim(measures=({"kind": "noise_errors", "samples": 16},))
    (found,) = verify([wider], "small", Settings(store=tmp_path))
    assert trained(tmp_path) == stamps
    assert found.values["none"][0] != first.values["none"][0]


def test_a_changed_recipe_or_source_is_another_model(
    claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify([claim], "small", Settings(store=tmp_path))
    longer = tiny_claim(shared=(*TINY, "optimiser.lr=1e-4"))
    verify([longer], "small", Settings(store=tmp_path))
    assert len(trained(tmp_path)) == 8
    monkeypatch.setattr(arms, "source_hash", lambda modules, named=(): "another source")
    verify([claim], "small", Settings(store=tmp_path))
    assert len(trained(tmp_path)) == 12


def test_processes_side_by_side_find_the_same_figures(claim: Claim, tmp_path: Path) -> None:
    (alone,) = verify([claim], "small", Settings(store=tmp_path / "one", threads=1))
    (both,) = verify([claim], "small", Settings(store=tmp_path / "two", jobs=2, threads=1))
    assert both.values == alone.values


def test_after_a_kill_it_goes_on_and_finds_what_it_would_have_found(claim: Claim, tmp_path: Path) -> None:
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    process = started(killed, jobs=1, steps=4)
    deadline = time.monotonic() + 100
    while not trained(killed) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = trained(killed)
    assert before
    (resumed,) = verify([claim], "small", Settings(store=killed))
    (plain,) = verify([claim], "small", Settings(store=straight))
    assert resumed.values == plain.values
    assert before.items() <= trained(killed).items(), "a finished arm was trained again"


def test_a_signal_lets_all_processes_save_and_leave(tmp_path: Path) -> None:
    process = started(tmp_path, jobs=2, steps=100_000)
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("models/*/checkpoints/step-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    for _ in range(200):  # workers end a moment after their parent
        with contextlib.suppress(BlockingIOError):
            for folder in (tmp_path / "models").iterdir():
                with (folder / ".lock").open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.05)
    else:
        pytest.fail("a worker outlived the check")
    assert not trained(tmp_path)
    for folder in (tmp_path / "models").iterdir():
        found = find_latest(folder / "checkpoints")
        assert found.path is not None
        assert not found.skipped


def test_a_half_trained_arm_is_resumed_not_begun_again(
    claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = verify([claim], "small", Settings(store=tmp_path / "straight"))
    with monkeypatch.context() as patch:
        patch.setattr(arms.files, "discard", lambda folder: None)
        verify([claim], "small", Settings(store=tmp_path / "cut", jobs=1))
    for folder in (tmp_path / "cut" / "models").iterdir():
        (folder / "arm.json").unlink()  # killed between the last step and the seal
        assert (folder / "checkpoints").is_dir()
    for cell in (tmp_path / "cut" / "cells").iterdir():
        cell.unlink()
    (again,) = verify([claim], "small", Settings(store=tmp_path / "cut"))
    assert again.values == plain.values
    facts = [json.loads(path.read_text()) for path in (tmp_path / "cut").glob("models/*/arm.json")]
    assert all(fact["resumed"] for fact in facts)


def test_a_trial_starts_every_arm_and_touches_no_figure(claim: Claim, tmp_path: Path) -> None:
    (found,) = verify([claim], "small", Settings(store=tmp_path, trial=("steps=1", "batch=2")))
    assert found.costs["none"]["steps"] == 1
    assert set(found.values["none"]) == {0}


def test_mistakes_are_found_before_any_work(claim: Claim, tmp_path: Path) -> None:
    store = Settings(store=tmp_path / "store")
    with pytest.raises(UsageError, match="none of tiny-claim has a tier 'long'"):
        verify([claim], "long", store)
    with pytest.raises(UsageError, match=r"trained on pictures.zip; give its place with --data"):
        verify([tiny_claim(data="pictures.zip")], "small", store)
    arm = Arm(name="none", recipe="digits-ddpm", overrides=("path=edm", "objective.noise_levels=uniform"))
    with pytest.raises(UsageError, match="time condition 'identity' has no scale on path 'edm'"):
        verify([tiny_claim(arms=(arm, arm.replace(name="etsdm")))], "small", store)
    assert not store.store.exists()


def test_an_arm_that_fails_does_not_keep_the_others_from_being_finished(tmp_path: Path) -> None:
    wild = Arm(name="wild", recipe="digits-ddpm", overrides=("optimiser.lr=1e30", "optimiser.clip=null"))
    arms = (wild, Arm(name="none", recipe="digits-ddpm"), Arm(name="etsdm", recipe="digits-etsdm"))
    with pytest.raises(RunError, match=r"2 arms failed, the others are kept: step .* not finite"):
        verify([tiny_claim(arms=arms)], "small", Settings(store=tmp_path))
    assert len(trained(tmp_path)) == 4


def test_two_checks_do_not_share_a_store(claim: Claim, tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(UsageError, match=r"is in use by process .*choose another folder"):
        verify([claim], "small", Settings(store=tmp_path))


def test_a_signal_alone_does_not_break_a_step_in_half(tmp_path: Path) -> None:
    cut, straight = tmp_path / "cut", tmp_path / "straight"
    process = started(cut, jobs=1, steps=16)
    deadline = time.monotonic() + 100
    while not list(cut.glob("models/*/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    longer = tiny_claim(shared=(*TINY, "steps=16"))
    (resumed,) = verify([longer], "small", Settings(store=cut, threads=1))
    (plain,) = verify([longer], "small", Settings(store=straight, threads=1))
    assert resumed.values == plain.values


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_tier_for_a_gpu_says_that_its_figures_are_missing_here(tmp_path: Path) -> None:
    on_gpu = Claim("x", "etsdm", "yang2024etsdm", "paper", "So.", "none", {"gpu": tiny_claim().experiments["small"]})
    with pytest.raises(UsageError, match="needs a GPU and there is none here, so its figures are missing; --trial"):
        verify([on_gpu], "gpu", Settings(store=tmp_path))
    assert verify([on_gpu], "gpu", Settings(store=tmp_path, trial=("steps=1",)))


def test_a_missing_optional_package_is_named_before_any_work(tmp_path: Path) -> None:
    claim = tiny_claim(packages=("no_such_package",))
    with pytest.raises(UsageError, match=r"need no_such_package, which is not installed; pip install 'suffuse\["):
        verify([claim], "small", Settings(store=tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_versions_of_optional_packages_are_recorded(tmp_path: Path) -> None:
    known = tiny_experiment().arms[:1]
    criteria = (Criterion(value="relative", arm="known", at_least=0),)
    claim = tiny_claim(arms=known, criteria=criteria, plots=(), packages=("pytest",))
    (checked,) = verify([claim], "small", Settings(store=tmp_path))
    assert checked.made["pytest"] == (pytest.__version__,)


def test_an_error_that_cannot_travel_between_processes_tells_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's compiler raises errors that hold modules."""

    def fails(item: Work) -> str:
        error = ValueError("the compiler did not like it")
        error.module = sys  # type: ignore[attr-defined]  # as those errors have one
        raise error

    monkeypatch.setattr(pool, "work", fails)
    with pytest.raises(RunError, match=r"^an arm: ValueError: the compiler did not like it$"):
        pool._work(Work("key", "an arm", tmp_path, None, {}))

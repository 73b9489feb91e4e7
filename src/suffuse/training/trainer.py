"""The trainer: batches in, steps out, and a state that resumes bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import Draws
from suffuse.base.weights import check_state, load_weights
from suffuse.networks.precision import autocast
from suffuse.objectives import Following, Gathering, Objective, Progress
from suffuse.training.ema import EMA
from suffuse.training.optimiser import learning_rate, load_optimiser_state, optimiser_state
from suffuse.training.players import MODEL, Player, players_of, turn_of
from suffuse.training.settings import OptimiserSettings, TrainingSettings
from suffuse.training.world import World

if TYPE_CHECKING:
    from suffuse.models.alignment import Alignment
    from suffuse.models.codec import Codec
    from suffuse.models.denoiser import Denoiser

__all__ = ["ObjectiveOf", "Trainer"]

# On a GPU a look at the loss waits for the device, so it is looked at every few steps; a checkpoint is never written
# before a look.
_LOOK_EVERY = 10


class ObjectiveOf(Protocol):
    """What makes a live objective for a model: the configuration of one."""

    def build(self, model: Any) -> Objective:  # Any: the kind of model that the objective is for
        """Make it."""
        ...


class Trainer:
    """Owns the model, the averages and the optimisers of a run; knows nothing of files.

    Args:
        model: What is trained.
        objective: From which loss.
        settings: Steps, batch, averages, precision.
        optimiser: Rates and decays.
        world: This process among the others.

    Attributes:
        step: Steps taken so far.
        players: Who learns in a step, in the order of their turns.
        losses: Which numbers of the last report add up to the model's loss.
    """

    def __init__(
        self,
        model: Denoiser | Codec | Alignment,
        objective: ObjectiveOf,
        settings: TrainingSettings,
        optimiser: OptimiserSettings,
        world: World,
    ) -> None:
        self.model = model.to(world.device).train()
        self.settings, self.optimiser_settings, self.world = settings, optimiser, world
        self.objective = objective.build(model)
        if isinstance(self.objective, nn.Module):
            self.objective.to(world.device)
        self.players = players_of(model, self.objective, optimiser)
        self.named = {name: p for player in self.players for name, p in player.named.items()}
        self.losses: tuple[str, ...] = ()
        self.ema = EMA(model, settings.ema, settings.ema_ramp)
        self.step = 0
        self._look_every = 1 if world.device.type == "cpu" else _LOOK_EVERY
        if settings.compile:
            model.network.compile()

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Of the model."""
        return self.players[0].optimiser

    @property
    def images(self) -> int:
        """Images seen so far, over all processes."""
        return self.step * self.settings.batch

    def train_step(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Take one step.

        Args:
            batch: This process's share of the step's batch.
            draws: The randomness of that share.

        Returns:
            Mean losses by name, and `grad_norm`: scalars on the device, over this process's share. With several
            players theirs too, under their names, and what the objective tells beside losses.

        Raises:
            RunError: A loss or a gradient is not finite; the step, the losses and the first such tensor are named.
        """
        batch, draws = batch.to(self.world.device), draws.to(self.world.device)
        report: dict[str, Tensor] = {}
        for player in self.players:
            with turn_of(player, self.players):
                report |= self._turn(player, batch, draws)
        report |= self._follow()
        self.step += 1
        self.ema.update(self.settings.batch, self.images)
        return report

    def _turn(self, player: Player, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Move one player's weights."""
        rate = learning_rate(self.optimiser_settings, self.step, self.settings.steps)
        for group in player.optimiser.param_groups:
            group["lr"] = rate
        player.optimiser.zero_grad(set_to_none=True)
        report = self._backward(player, batch, draws)
        self.world.average_gradients(player.named.values())
        grads = [p.grad for p in player.named.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(grads).to(self.world.device)
        if player.name == MODEL:
            self.losses = tuple(report)
        report["grad_norm" if player.name == MODEL else f"{player.name}_grad_norm"] = norm
        if self.step % self._look_every == 0:
            self.check_finite(report)
        if self.optimiser_settings.clip is not None:
            nn.utils.clip_grads_with_norm_(player.named.values(), self.optimiser_settings.clip, norm)
        player.optimiser.step()
        return report

    def _follow(self) -> Mapping[str, Tensor]:
        """Let the objective follow the step; what it tells."""
        if isinstance(self.objective, Gathering):
            for tensor in self.objective.gathered(self.model):
                tensor.copy_(self.world.mean(tensor))
        if not isinstance(self.objective, Following):
            return {}
        return self.objective.after_step(self.model, Progress(self.step, self.settings.steps)) or {}

    def _backward(self, player: Player, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Accumulate gradients over the parts of the batch; mean losses."""
        pieces, size = self.settings.accumulate, len(draws)
        share = size // pieces
        progress = Progress(self.step, self.settings.steps)
        report: dict[str, Tensor] = {}
        for start in range(0, size, share):
            rows = slice(start, start + share)
            with autocast(self.world.device, self.settings.precision):
                losses = self.objective(self.model, batch[rows], progress, draws[rows], player.name)
            means = {name: value.mean() / pieces for name, value in losses.items()}
            total = torch.stack(list(means.values())).sum()
            if player.name == MODEL or total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]  # torch's stub
            for name, value in means.items():
                report[name] = report.get(name, torch.zeros_like(value)) + value.detach()
        return report

    def check_finite(self, report: Mapping[str, Tensor]) -> None:
        """Stop on NaN or Inf.

        Raises:
            RunError: With the step, the parts of the loss and the first tensor that is not finite.
        """
        values = {name: value.item() for name, value in report.items()}
        if all(abs(value) < float("inf") for value in values.values()):
            return
        parts = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        raise RunError(f"step {self.step}: the loss or its gradient is not finite ({parts}); {self._first_bad()}")

    def _first_bad(self) -> str:
        for name, p in self.named.items():
            if not bool(p.detach().isfinite().all()):
                return f"weight {name} is the first that is not finite"
        for name, p in self.named.items():  # a bad weight spoils the gradients before it
            if p.grad is not None and not bool(p.grad.isfinite().all()):
                return f"the gradient of {name} is the first that is not finite; lower optimiser.lr or check the data"
        return "all weights and gradients are finite, so the loss itself overflowed"

    def state(self) -> dict[str, Any]:  # Any: tensors and numbers, see CheckpointState
        """All that a bit-exact resume needs; randomness is a function of the step and needs nothing."""
        state: dict[str, Any] = {  # Any: as above
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": {
                name: moments
                for player in self.players
                for name, moments in optimiser_state(player.optimiser, player.named).items()
            },
            "ema": self.ema.state_dict(),
        }
        if isinstance(self.objective, nn.Module):
            state["objective"] = self.objective.state_dict()
        return state

    def load(self, state: Mapping[str, Any]) -> None:  # Any: as above
        """Take a state back.

        Raises:
            UsageError: It is of another architecture; nothing is loaded half.
        """
        check_state(self.model.state_dict(), state["model"], owner="the checkpoint's weights")
        if isinstance(self.objective, nn.Module):
            if "objective" not in state:
                raise UsageError(
                    "the checkpoint has no state of the objective (its heads, or the average that gives its targets); "
                    "resume with the objective that the run was trained with"
                )
            check_state(
                self.objective.state_dict(), state["objective"], owner="the checkpoint's state of the objective"
            )
        self.ema.load_state_dict(state["ema"])
        load_weights(self.model, state["model"])
        if isinstance(self.objective, nn.Module):
            load_weights(self.objective, state["objective"], owner="the checkpoint's weights of the objective")
        for player in self.players:
            load_optimiser_state(player.optimiser, player.named, state["optimiser"])
        self.step = int(state["step"])

"""The arms of E-TSDM's comparisons: the overrides by which each differs from the baseline, and in nothing else."""

from __future__ import annotations

from suffuse.claims.protocol import Arm

__all__ = ["CHANGES", "arms"]

_SHARED = "time={kind: shared, below: 100, intervals: 5}"

CHANGES: dict[str, tuple[str, ...]] = {
    "none": (),
    "etsdm": (_SHARED,),
    # What the paper compares with.
    "remap": ("time={kind: remap, by: sigma}",),
    "penalty": ("objective.time_penalty={strength: 100.0, below: 100}",),
    "straight": ("path.straight_below=100",),
    "min-snr": ("objective.weighting={kind: min_snr, gamma: 5.0}",),
    "p2": ("objective.weighting={kind: p2, k: 1.0, gamma: 1.0}",),
    # Other targets: v with its own loss, which weighs small t more lightly, and with that of eps; the others with that
    # of eps. The score itself is a reviewer's question.
    "v": ("prediction=v",),
    "v eps loss": ("prediction=v", "objective.weighting=eps"),
    "x0": ("prediction=x0", "objective.weighting=eps"),
    "score": ("prediction=score", "objective.weighting=eps"),
    "edm": ("prediction=edm", "time=log_sigma", "objective.weighting=eps"),
    "zero-snr": ("path.zero_terminal_snr=true", "prediction=v"),
    # Sharing on top of them.
    "v etsdm": ("prediction=v", _SHARED),
    "edm etsdm": (
        "prediction=edm",
        "time={kind: shared, below: 100, intervals: 5, then: log_sigma}",
        "objective.weighting=eps",
    ),
    # Ablations.
    "below 300": ("time={kind: shared, below: 300, intervals: 5}",),
    "1 interval": ("time={kind: shared, below: 100, intervals: 1}",),
    "uneven": ("time={kind: shared, below: 100, intervals: 5, power: 2.0}",),
    # Other paths and networks.
    "cosine": ("path={kind: vp, schedule: cosine, steps: 1000}",),
    "cosine etsdm": ("path={kind: vp, schedule: cosine, steps: 1000}", _SHARED),
    "plain cosine": ("path={kind: vp, schedule: plain_cosine, steps: 1000}",),
    "flow": ("path=flow", "prediction=flow", "objective.noise_levels={kind: uniform, stratified: true}"),
    "flow etsdm": (
        "path=flow",
        "prediction=flow",
        "objective.noise_levels={kind: uniform, stratified: true}",
        "time={kind: shared, below: 0.1, intervals: 5}",
    ),
    # The network is told t / 100: an embedding without steep sinusoids cannot hide the singularity.
    "smooth": ("time={kind: identity, scale: 0.01}",),
    "smooth etsdm": ("time={kind: shared, below: 100, intervals: 5, then: {kind: identity, scale: 0.01}}",),
    "dit": ("network={kind: dit, width: 64, depth: 2, heads: 2, patch: 2}",),
    "dit etsdm": ("network={kind: dit, width: 64, depth: 2, heads: 2, patch: 2}", _SHARED),
}
"""Arm -> the overrides by which it differs from `none`."""

_NOTES = {
    "penalty": "strength 100, not tuned; a tenth of each batch passes the network twice",
    "straight": "other noise levels near clean data: its eps_mse@0 is another quantity",
    "zero-snr": "v with its own loss; another path: its eps_mse is another quantity",
    "v": "with its own loss",
    "v etsdm": "with its own loss",
    "dit": "another network than the other arms",
    "dit etsdm": "another network than the other arms",
}


def arms(recipe: str, *names: str) -> tuple[Arm, ...]:
    """Arms by name, all of one recipe."""
    return tuple(
        Arm(name=name, recipe=recipe, overrides=CHANGES[name], note=_NOTES.get(name, ""), equal=name != "penalty")
        for name in names
    )

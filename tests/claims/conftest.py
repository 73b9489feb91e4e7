"""A claim that is checked in seconds: two arms of a tiny network, trained for a few steps on the digits."""

from __future__ import annotations

import pytest

from suffuse.claims.exact import PriceOfSharing
from suffuse.claims.measures import NoiseErrors, TrainingSteadiness
from suffuse.claims.protocol import Arm, Claim, Criterion, ExactArm, Experiment, Plot

TINY = ("network.channels=8", "network.multipliers=[1]", "steps=4", "batch=4", "checkpoint_every=2")


def tiny_experiment(**changes: object) -> Experiment:
    fields = {
        "arms": (
            ExactArm(name="known", exact=PriceOfSharing(ambient=3, rank=1), seeds=(0,)),
            Arm(name="none", recipe="digits-ddpm"),
            Arm(name="etsdm", recipe="digits-etsdm"),
        ),
        "shared": TINY,
        "measures": (NoiseErrors(samples=8), TrainingSteadiness()),
        "criteria": (Criterion(value="eps_mse@0", arm="etsdm", over="none", at_most=2.0),),
        "seeds": (0, 1),
        "columns": ("eps_mse@0", "train_grad_spread", "relative"),
        "plots": (Plot(name="bars", values=("eps_mse@0",)), Plot(name="curve", values=("eps_mse",), log="xy")),
    }
    return Experiment.model_validate({**fields, **changes})


def tiny_claim(key: str = "tiny-claim", **changes: object) -> Claim:
    return Claim(
        key=key,
        technique="etsdm",
        paper="yang2024etsdm",
        by="suffuse",
        statement="A tiny network learns.",
        figure="none",
        experiments={"small": tiny_experiment(**changes)},
    )


@pytest.fixture
def claim() -> Claim:
    return tiny_claim()

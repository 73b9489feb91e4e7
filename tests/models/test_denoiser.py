"""The denoiser: what the network gets, what its output means, and conditions as masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.conditioner import ClassLabel, Conditioner, LabelNumber, NoCondition
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.networks import MLP
from suffuse.networks.contract import Network, Output
from suffuse.process import (
    EDM,
    VP,
    X0,
    EDMPrediction,
    Eps,
    Flow,
    FlowVelocity,
    Identity,
    LogSigma,
    PathPart,
    Prediction,
    PredictionPart,
    SharedTimesteps,
    TimeConditionPart,
    TrigonometricPath,
    V,
    perturb,
)
from suffuse.sampling import CFG, NoGuidance, Uniform, sample


class Spy(Network):
    """Returns what it is told to return, and keeps what it was given."""

    cond_width = 3

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.widths, self.graph = {"mid": 2}, {"mid": (), "output": ("mid",)}
        self.value, self.weight = value, nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        self.seen = {"x": x, "told": told, "cond": cond, "seeds": seeds, "taps": taps}
        return Output(self.value, features=dict.fromkeys(taps, x), aux={"balance": told})


def _noise(stream: str, batch: int = 4) -> Tensor:
    return Draws(0, torch.arange(batch)).normal(stream, (2, 3, 3))


def _denoiser(
    value: Tensor,
    *,
    path: PathPart | None = None,
    prediction: PredictionPart | None = None,
    time: TimeConditionPart | None = None,
    conditioner: Conditioner | None = None,
    sigma_data: float = 0.5,
) -> Denoiser:
    return Denoiser(
        Spy(value),
        path=path or VP(steps=1000),
        prediction=prediction or V(),
        time=time,
        conditioner=conditioner,
        sigma_data=sigma_data,
    )


@pytest.mark.parametrize("part", get_args(Prediction)[1].parts.values(), ids=lambda part: part.__name__)
@pytest.mark.parametrize("path", [VP(steps=1000), EDM(), Flow(t_end=0.99), TrigonometricPath(t_end=1.5)])
def test_a_perfect_output_gives_the_data(part: type[PredictionPart], path: PathPart) -> None:
    x0, eps = _noise("x0"), _noise("eps")
    t = path.t_of(torch.tensor([-1.5, -0.2, 0.6, 1.5], dtype=torch.float64))
    x, prediction = perturb(path, x0, eps, t), part()
    target = prediction.target(x0, eps, path.level(t, x0), 0.8)
    time = LogSigma()
    model = _denoiser(target, path=path, prediction=prediction, time=time, sigma_data=0.8)
    found = model.evaluate(x, t)
    # Float32 rounding, magnified by the conversions at these noise levels.
    torch.testing.assert_close(found.denoised, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.eps, eps, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.denoise(x, t), found.denoised)
    # A raw output that is wrong by one is an estimate that is wrong by c_out.
    off = _denoiser(target + 1, path=path, prediction=prediction, time=time, sigma_data=0.8).evaluate(x, t)
    torch.testing.assert_close(off.denoised - found.denoised, off.c_out.expand_as(x), rtol=1e-4, atol=1e-4)


def test_edm_scales_the_input_and_tells_log_sigma() -> None:
    model = _denoiser(_noise("raw"), path=EDM(), prediction=EDMPrediction(), time=LogSigma())
    x, sigma = _noise("x"), torch.tensor([0.02, 0.5, 3.0, 70.0], dtype=torch.float64)
    found = model.evaluate(x, sigma)
    wide = sigma[:, None, None, None].float()
    # Karras et al. 2022, Table 1, with sigma_data 0.5.
    seen = model.network.seen
    torch.testing.assert_close(seen["x"], x / (wide**2 + 0.25).sqrt())
    torch.testing.assert_close(seen["told"], (sigma.log() / 4).float())
    expected = 0.25 / (wide**2 + 0.25) * x + wide * 0.5 / (wide**2 + 0.25).sqrt() * found.raw
    torch.testing.assert_close(found.denoised, expected)


@pytest.mark.parametrize("path", [VP(steps=1000), Flow(), EDM()], ids=lambda p: p.kind)
def test_one_time_is_the_same_time_for_each(path: PathPart) -> None:
    time = LogSigma() if path == EDM() else Identity()
    model, x = _denoiser(_noise("raw"), path=path, time=time), _noise("x")
    t = 0.3 * path.t_max
    one = model.evaluate(x, t)
    told = model.network.seen["told"]
    each = model.evaluate(x, torch.full((4,), t, dtype=torch.float64))
    assert torch.equal(told, model.network.seen["told"])
    assert told.dtype == torch.float32
    # A float's coefficients multiply in double precision, a tensor's are rounded to float32 first.
    torch.testing.assert_close(one.denoised, each.denoised, rtol=1e-6, atol=1e-6)


def test_the_time_condition_changes_what_is_told_and_nothing_else() -> None:
    x, t = _noise("x"), torch.tensor([0.0, 19.0, 20.0, 99.0], dtype=torch.float64)
    plain, shared = (_denoiser(_noise("raw"), time=time) for time in (Identity(), SharedTimesteps(below=100)))
    assert torch.equal(plain.denoise(x, t), shared.denoise(x, t))
    assert plain.network.seen["told"].tolist() == [0, 19, 20, 99]
    assert shared.network.seen["told"].tolist() == [0, 0, 20, 80]
    for network in (plain.network, shared.network):
        assert torch.equal(network.seen["x"], x)
    # bfloat16 would know 507 of the thousand times.
    assert plain.told(torch.arange(1000).bfloat16().double(), 1000).unique().numel() < 1000
    assert plain.told(torch.arange(1000), 1000).tolist() == list(range(1000))


def test_the_call_reaches_the_network() -> None:
    model, seeds = _denoiser(_noise("raw")), torch.arange(4)
    found = model.evaluate(_noise("x"), 500.0, call=Call(seeds=seeds, taps=("mid",)))
    assert model.network.seen["seeds"] is seeds
    assert set(found.features) == {"mid"}
    assert set(found.aux) == {"balance"}
    model.evaluate(_noise("x"), 500.0)
    assert (model.network.seen["seeds"], model.network.seen["taps"]) == (None, ())


def test_twice_the_channels_are_output_and_variance() -> None:
    raw, variance, x = _noise("raw"), _noise("variance"), _noise("x")
    found = _denoiser(torch.cat([raw, variance], dim=1)).evaluate(x, 500.0)
    assert torch.equal(found.aux["variance"], variance)
    assert torch.equal(found.denoised, _denoiser(raw).denoise(x, 500.0))


def test_a_half_precision_network_gives_an_estimate_in_the_samples_dtype() -> None:
    found = _denoiser(_noise("raw").bfloat16()).evaluate(_noise("x"), 500.0)
    assert found.denoised.dtype == found.raw.dtype == torch.float32


def test_labels_become_rows_and_absence_the_last_row() -> None:
    conditioner = ClassLabel(classes=5).build(3)
    model = _denoiser(_noise("raw"), conditioner=conditioner)
    labels = torch.tensor([4, 0, 2, 2])

    def embedded(cond: Conditions | None) -> Tensor:
        model.denoise(_noise("x"), 500.0, cond)
        vector: Tensor = model.network.seen["cond"].vector
        return vector

    table = conditioner.table.weight
    given = Conditions.of(label=labels)
    assert torch.equal(embedded(given), table[labels])
    for nothing in (None, Conditions(), given.absent()):
        assert torch.equal(embedded(nothing), table[5].expand(4, -1))
    dropped = given.drop(torch.tensor([False, True, False, False]))
    assert torch.equal(embedded(dropped), table[torch.tensor([4, 5, 2, 2])])
    # A value that is masked out may be anything.
    sentinel = Conditions({"label": torch.tensor([-1, 0, 99, 2])}, {"label": torch.tensor([False, True, False, True])})
    assert torch.equal(embedded(sentinel), table[torch.tensor([5, 0, 5, 2])])
    assert torch.equal(table, ClassLabel(classes=5).build(3).table.weight), "the start does not depend on a global seed"


def test_label_numbers_are_handed_on_as_they_are() -> None:
    cond = Conditions.of(label=torch.tensor([4, 0, 2])).drop(torch.tensor([False, True, False]))
    conditioner = LabelNumber(classes=5, null=True).build(1)
    assert torch.equal(conditioner(cond, 3).vector, torch.tensor([[4], [5], [2]]))
    assert torch.equal(conditioner(Conditions(), 3).vector, torch.full((3, 1), 5))
    assert conditioner(cond, 3).vector.dtype == conditioner(Conditions(), 3).vector.dtype == torch.int64
    assert not conditioner.state_dict(), "checkpoints of foreign networks have nothing for it"
    # Without weights it must learn in another way where the model is.
    assert conditioner.to("meta")(Conditions(), 3).vector.device.type == "meta"


@pytest.mark.parametrize("part", [ClassLabel(classes=3), LabelNumber(classes=3, null=True)], ids=lambda part: part.kind)
def test_labels_out_of_range_are_told_before_sampling(part: ClassLabel | LabelNumber) -> None:
    check = part.build(1).check
    for labels, low, high in (([0, 3], 0, 3), ([-1, 2], -1, 2)):
        given = Conditions.of(label=torch.tensor(labels))
        with pytest.raises(UsageError, match=rf"labels run from {low} to {high}, but the model knows 0 to 2; choose"):
            check(given)
        check(given.absent())  # a value that is masked out may be anything
    check(Conditions.of(label=torch.tensor([0, 2])))
    check(Conditions.of(label=torch.tensor([], dtype=torch.int64)))
    check(Conditions())
    NoCondition().build(0).check(Conditions.of(label=torch.tensor([99])))


def test_absent_labels_are_refused_where_no_class_does_not_exist() -> None:
    conditioner, given = LabelNumber(classes=3, null=False).build(1), Conditions.of(label=torch.tensor([0, 2]))
    conditioner.check(given)
    assert torch.equal(conditioner(given, 2).vector, torch.tensor([[0], [2]]))
    for cond in (Conditions(), given.absent(), given.drop(torch.tensor([False, True]))):
        for use in (conditioner.check, lambda cond: conditioner(cond, 2)):
            with pytest.raises(UsageError, match="no row for 'no class'; give every sample a label"):
                use(cond)


def test_without_a_conditioner_conditions_are_not_read() -> None:
    model = _denoiser(_noise("raw"))
    model.denoise(_noise("x"), 500.0, Conditions.of(label=torch.arange(4)))
    assert model.network.seen["cond"] == Embedding()
    assert NoCondition().build(7).reads == ()
    assert ClassLabel(classes=2).build(7).reads == ("label",)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"conditioner 'class_label' needs a network that takes a condition vector"):
        ClassLabel(classes=3).build(0)
    with pytest.raises(UsageError, match=r"'label_number' needs a network that embeds labels itself.*of width 64; use"):
        LabelNumber(classes=3, null=True).build(64)
    for path in (Flow(), TrigonometricPath(), VP(zero_terminal_snr=True)):
        with pytest.raises(UsageError, match=rf"prediction 'eps' and path '{path.kind}' do not go together.*use"):
            _denoiser(_noise("raw"), path=path, prediction=Eps())
        _denoiser(_noise("raw"), path=path, prediction=X0())
    with pytest.raises(UsageError, match=r"time condition 'identity' has no scale on path 'edm'.*'log_sigma'"):
        _denoiser(_noise("raw"), path=EDM())


class _Forgetful:
    """A model whose conditions are embedded at every evaluation."""

    def __init__(self, model: Denoiser) -> None:
        self.model, self.path, self.estimate, self.device = model, model.path, model.estimate, model.device

    def denoise(self, x: Tensor, t: float, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        assert call is not None
        return self.model.denoise(x, t, cond, call.replace(memory=None))


def test_conditions_are_embedded_once_for_all_steps_of_a_batch() -> None:
    config = ModelConfig(
        network=MLP(width=8, depth=1, zero_init=False),
        shape=(2,),
        path=Flow(),
        prediction=FlowVelocity(),
        conditioner=ClassLabel(classes=3),
    )
    model = config.build(seed=0).eval()
    asked: list[int] = []
    model.conditioner.register_forward_hook(lambda *_: asked.append(1))
    cond = Conditions.of(label=torch.arange(6) % 3)
    for guidance, halves in ((NoGuidance(), 1), (CFG(scale=2.0), 1), (CFG(scale=2.0, together=False), 2)):
        told = {"guidance": guidance, "cond": cond, "grid": Uniform(steps=3), "batch": 4, "shape": (2,)}
        once = sample(model, 6, **told)  # type: ignore[arg-type]  # arguments by name
        assert len(asked) == 2 * halves, "two batches"
        each = sample(_Forgetful(model), 6, **told)  # type: ignore[arg-type]  # as above
        assert torch.equal(once.x, each.x)
        asked.clear()

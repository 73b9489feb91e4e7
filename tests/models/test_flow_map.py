"""Flow maps: boundary, composition and endpoints on every path; the papers' form; exact maps of a normal law."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.errors import UsageError
from suffuse.models.config import ModelConfig
from suffuse.models.exact_flow_map import ExactGaussianMap
from suffuse.models.flow_map import FlowMap, FlowMapSettings
from suffuse.networks import MLP
from suffuse.process import (
    EDM,
    VP,
    ConsistencyPrediction,
    EDMPrediction,
    Flow,
    FlowVelocity,
    Identity,
    LogSigma,
    PathPart,
    PredictionPart,
    TrigonometricPath,
    V,
    sigma_over_alpha,
    time_at,
    transfer,
)
from suffuse.sampling import Consistency, ListedTimes, MapSteps, Uniform, sample

PATHS: tuple[PathPart, ...] = (EDM(), VP(), VP(steps=1000), Flow(t_start=0.002), TrigonometricPath(t_start=0.002))


def _map(
    path: PathPart, prediction: PredictionPart | None = None, *, any_target: bool = False, end: str = "t_min"
) -> FlowMap:
    """A map whose network is random from the first layer to the last."""
    config = ModelConfig(
        network=MLP(width=16, depth=2, zero_init=False),
        shape=(3,),
        path=path,
        prediction=prediction or EDMPrediction(),
        time=LogSigma() if path.told_scale is None else Identity(),
        flow_map=FlowMapSettings(any_target=any_target, end=end),  # type: ignore[arg-type]  # a literal
    )
    model = config.build(seed=1)
    assert isinstance(model, FlowMap)
    if model.target is not None:
        torch.nn.init.normal_(model.target.outer.weight, generator=torch.Generator().manual_seed(2))
    return model.eval()


def _x(n: int = 8) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def _far(path: PathPart) -> float:
    """A time of much noise: sigmas of EDM go to 80, most of it is far."""
    return 5.0 if isinstance(path, EDM) else path.t_max


def _own(path: PathPart) -> ConsistencyPrediction:
    return ConsistencyPrediction(r_min=sigma_over_alpha(path, path.t_min))


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("own", [True, False], ids=["own boundary", "the map's"])
def test_the_boundary_is_the_identity(path: PathPart, own: bool) -> None:
    model, x = _map(path, _own(path) if own else V()), _x()
    t = torch.full((8,), path.t_min, dtype=torch.float64)
    alpha = path.alpha(torch.tensor(path.t_min, dtype=torch.float64)).item()
    with torch.no_grad():
        assert torch.allclose(model.denoise(x, t), x / alpha, atol=1e-6, rtol=1e-6)
        assert torch.allclose(model(x, t, path.t_min), x, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_map_to_any_time_starts_at_the_identity(path: PathPart) -> None:
    model, x = _map(path, any_target=True), _x()
    for share in (0.2, 0.6, 0.9):
        t = path.t_min + share * (_far(path) - path.t_min)
        with torch.no_grad():
            assert torch.allclose(model(x, t, t), x, atol=1e-6)
            assert not torch.allclose(model(x, t, path.t_min), x, atol=1e-2)


def test_the_target_changes_what_the_network_says() -> None:
    model, x = _map(Flow(), FlowVelocity(), any_target=True, end="clean"), _x()
    with torch.no_grad():
        near, far = (model.denoise(x, 0.9, call=Call(target=s)) for s in (0.8, 0.1))
    assert not torch.allclose(near, far, atol=1e-3)


def test_a_fresh_target_changes_nothing() -> None:
    config = ModelConfig(
        network=MLP(width=16, depth=2, zero_init=False),
        shape=(3,),
        path=Flow(),
        prediction=FlowVelocity(),
        flow_map=FlowMapSettings(any_target=True, end="clean"),
    )
    plain, model, x = config.replace(flow_map=None).build(seed=1), config.build(seed=1), _x()
    assert isinstance(model, FlowMap)
    with torch.no_grad():
        assert torch.equal(plain.denoise(x, 0.7), model.denoise(x, 0.7, call=Call(target=0.2)))


def test_mean_flow_s_average_velocity_is_the_flow_prediction() -> None:
    model, x, t, s = _map(Flow(), FlowVelocity(), any_target=True, end="clean"), _x(), 0.8, 0.3
    with torch.no_grad():
        u = model.evaluate(x, t, call=Call(target=s)).raw
        assert torch.allclose(model(x, t, s), x - (t - s) * u, atol=1e-6)


def test_a_map_to_the_end_alone_refuses_other_targets() -> None:
    model = _map(EDM())
    with pytest.raises(UsageError, match=r"leads to t=0\.002 alone"):
        model(_x(), 1.0, 0.5)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_papers_form_on_every_path_is_edm_s_in_other_coordinates(path: PathPart) -> None:
    """f(alpha u, t) = f_EDM(u, r), with the same network told the same."""
    r0 = sigma_over_alpha(path, path.t_min)
    there, edm = _map(path, _own(path)), _map(EDM(sigma_min=r0), ConsistencyPrediction(r_min=r0))
    there.time = edm.time = LogSigma()
    r = torch.tensor([2 * r0, 0.1, 0.7, 3.0, 20.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    t = time_at(path, r)
    alpha = path.alpha(t).float()[:, None]
    with torch.no_grad():
        assert torch.allclose(there.denoise(alpha * _x(), t), edm.denoise(_x(), r), atol=1e-5)


def test_the_papers_coefficients() -> None:
    prediction, t, eps, data = ConsistencyPrediction(), 1.7, 0.002, 0.5
    c_skip, c_out = prediction.output(1.0, t, data)
    assert c_skip == pytest.approx(data**2 / ((t - eps) ** 2 + data**2), rel=1e-12)
    assert c_out == pytest.approx(data * (t - eps) / (t**2 + data**2) ** 0.5, rel=1e-12)
    assert prediction.c_in(1.0, t, data) == pytest.approx((t**2 + data**2) ** -0.5, rel=1e-12)


@pytest.mark.parametrize("prediction", [ConsistencyPrediction(r_min=1e-3), EDMPrediction(), V()], ids=repr)
def test_pure_noise_is_no_singularity(prediction: PredictionPart) -> None:
    path = Flow(t_start=1e-3 / 1.001)
    model = _map(path, prediction)
    with torch.no_grad():
        assert bool(model.denoise(_x(), 1.0).isfinite().all())
        assert bool(model.denoise(_x(), torch.ones(8, dtype=torch.float64)).isfinite().all())


def test_a_boundary_elsewhere_is_refused() -> None:
    with pytest.raises(UsageError, match=r"prediction\.r_min is 0\.01.*set prediction\.r_min=0\.002"):
        _map(EDM(), ConsistencyPrediction(r_min=0.01))
    with pytest.raises(UsageError, match="has none; raise"):
        _map(Flow(t_start=0.0))
    with pytest.raises(UsageError, match="log_sigma"):
        ModelConfig(
            network=MLP(width=16, depth=2),
            shape=(3,),
            path=EDM(),
            prediction=EDMPrediction(),
            time=LogSigma(),
            flow_map=FlowMapSettings(end="clean", any_target=True),
        ).build()


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_exact_maps_compose(path: PathPart) -> None:
    exact, x = ExactGaussianMap(path, mean=0.3, std=0.5), _x().double()
    span = _far(path) - path.t_min
    t, s, u = (path.t_min + share * span for share in (0.9, 0.5, 0.1))
    assert torch.allclose(exact(exact(x, t, s), s, u), exact(x, t, u), atol=1e-12)
    aim = exact.denoise(x, t, call=Call(target=s))
    assert torch.allclose(transfer(x, aim, path.level(t), path.level(s)), exact(x, t, s), atol=1e-10)


def test_the_exact_map_of_edm_is_the_closed_form() -> None:
    exact, x, t, eps = ExactGaussianMap(EDM(), mean=0.3, std=0.5, end=0.002), _x().double(), 7.0, 0.002
    expected = 0.3 + (x - 0.3) * ((0.25 + eps**2) / (0.25 + t**2)) ** 0.5
    assert torch.allclose(exact.denoise(x, t), expected, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_with_exact_maps_one_step_is_as_good_as_many(path: PathPart) -> None:
    exact = ExactGaussianMap(path, mean=0.1, std=0.5)
    made = [
        sample(exact, 4000, shape=(2,), solver=MapSteps(), grid=Uniform(steps=steps), batch=4000, dtype=torch.float64)
        for steps in (1, 4, 16)
    ]
    assert torch.allclose(made[0].x, made[1].x, atol=1e-9)
    assert torch.allclose(made[0].x, made[2].x, atol=1e-9)
    assert [part.nfe for part in made] == [1, 4, 16]


def test_consistency_sampling_keeps_an_exact_law_at_any_number_of_steps() -> None:
    exact = ExactGaussianMap(EDM(), mean=0.1, std=0.5)
    for times in ((80.0,), (80.0, 0.8), (80.0, 5.0, 0.8, 0.2)):
        made = sample(exact, 20_000, shape=(2,), solver=Consistency(), grid=ListedTimes(listed=times), batch=20_000)
        assert made.nfe == len(times)
        assert made.x.mean().item() == pytest.approx(0.1, abs=0.015)
        assert made.x.std().item() == pytest.approx(0.5, rel=0.02)


def test_consistency_sampling_does_not_depend_on_the_batch() -> None:
    model, grid = _map(EDM()), ListedTimes(listed=(80.0, 0.8))
    whole = sample(model, 12, shape=(3,), solver=Consistency(), grid=grid, batch=12, seed=3)
    parts = sample(model, 12, shape=(3,), solver=Consistency(), grid=grid, batch=5, seed=3)
    assert torch.allclose(whole.x, parts.x, atol=1e-5)


def test_solvers_that_need_a_mean_refuse_a_map() -> None:
    with pytest.raises(UsageError, match="use a consistency solver"):
        sample(_map(EDM()), 2, shape=(3,))


def test_a_map_is_saved_and_found_again(tmp_path: object) -> None:
    model = _map(Flow(t_start=0.002), any_target=True)
    model.save_pretrained(str(tmp_path))
    again = FlowMap.from_pretrained(str(tmp_path))
    assert isinstance(again, FlowMap)
    assert again.settings == model.settings
    with torch.no_grad():
        assert torch.equal(again(_x(), 0.9, 0.4), model(_x(), 0.9, 0.4))

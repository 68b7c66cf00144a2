"""Spiking neurons with feedback: the exact law of their rates, their equilibrium, and its gradient."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pellucid.nn import IF, LIF, FeedbackSpiking, Implicit, Neumann, OneStep, Picard, SpectralBound, Surrogate

EXACT = Implicit(Picard(max_iter=200, tol=1e-13))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def doubled(n: int = 12, *, gain: float = 1.0, **settings: object) -> FeedbackSpiking:
    """A layer of one population in float64."""
    feedback = SpectralBound(nn.Linear(n, n, bias=False), bound=gain)
    with torch.no_grad():
        feedback.scale.fill_(gain)
    return FeedbackSpiking(nn.Linear(5, n), feedback, **settings).double()  # type: ignore[arg-type]


def chain(**settings: object) -> FeedbackSpiking:
    """Three populations in float64."""
    first, *rest = nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(7, 6)
    for layer in rest:
        nn.init.uniform_(layer.weight, 0, 1)
    feedback = SpectralBound(nn.Linear((8, 7, 6)[settings.get("feedback_from", -1)], 8, bias=False))  # type: ignore[index]
    return FeedbackSpiking(first, feedback, layers=rest, **settings).double()  # type: ignore[arg-type]


def one_neuron(current: float, neuron: IF | LIF, steps: int) -> FeedbackSpiking:
    """One neuron without feedback that always gets the same current."""
    map, none = nn.Linear(1, 1), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(none.weight)
    nn.init.zeros_(map.weight)
    nn.init.constant_(map.bias, current)
    return FeedbackSpiking(map, none, neuron=neuron, time_steps=steps).double()


X1 = torch.zeros(1, 1, dtype=torch.float64)


@pytest.mark.parametrize("neuron", [IF(1.5), LIF(0.95, 1.5), LIF(0.5)], ids=str)
def test_rates_obey_the_exact_identity_at_every_step(neuron: IF | LIF) -> None:
    """V a_T = (Z_{T-1} / Z_T) W a_{T-1} + I - m_T / Z_T, for any feedback, contracting or not."""
    layer = doubled(gain=4.0, neuron=neuron, time_steps=50)
    x = torch.randn(3, 5, dtype=torch.float64)
    weight, current = layer.feedback_map.eval().weight, layer.input_map(x)
    for steps in (1, 2, 7, 50):
        layer.time_steps = steps
        run = layer.simulate(x)
        before = run.rates[0][-2] if steps > 1 else torch.zeros_like(run.rates[0][0])
        total = neuron.total(steps)
        right = neuron.total(steps - 1) / total * before @ weight.T + current - run.membrane[0] / total
        torch.testing.assert_close(neuron.threshold * run.rates[0][-1], right, atol=1e-12, rtol=0)


def test_rates_of_events_obey_the_identity_with_the_weighted_mean_input() -> None:
    layer = doubled(neuron=LIF(0.9), time_steps=None)
    x = torch.rand(20, 3, 5, dtype=torch.float64)
    weight, total = layer.feedback_map.eval().weight, layer.neuron.total(20)
    run = layer.simulate(x, layout="time-first")
    mean = sum(0.9 ** (19 - t) * layer.input_map(x[t]) for t in range(20)) / total
    right = layer.neuron.total(19) / total * run.rates[0][-2] @ weight.T + mean - run.membrane[0] / total
    torch.testing.assert_close(2 * run.rates[0][-1], right, atol=1e-12, rtol=0)


@pytest.mark.parametrize("current", [-1.0, 0.0, 0.25, 0.5, 1.5, 1.75, 2.0, 3.0])
def test_if_neuron_fires_when_the_floor_of_its_current_rises(current: float) -> None:
    for steps in (1, 3, 20, 100):
        layer = one_neuron(current, IF(2.0), steps)
        spikes = layer.spikes(X1)[:, 0, 0]
        if 0 <= current <= 2:  # currents are dyadic: others round before they reach the threshold
            floors = torch.tensor([math.floor(t * current / 2) for t in range(steps + 1)])
            assert torch.equal(spikes, floors.diff() > 0)
        rate = float(layer(X1).detach())
        assert rate == pytest.approx(min(max(math.floor(steps * current / 2), 0), steps) / steps, abs=1e-12)


@pytest.mark.parametrize("current", [0.05, 0.3, 1.1, 1.9])
def test_lif_neuron_lies_below_its_equilibrium_by_less_than_one_spike(current: float) -> None:
    neuron = LIF(0.95, 2.0)
    for steps in (1, 5, 60, 300):
        gap = current / 2 - float(one_neuron(current, neuron, steps)(X1).detach())
        assert -1e-12 <= gap < 1 / neuron.total(steps)
    if current < (1 - neuron.leak) * neuron.threshold:
        assert not one_neuron(current, neuron, 300).spikes(X1).any()


@pytest.mark.parametrize("neuron", [IF(2.0), LIF(0.95, 2.0)], ids=str)
def test_reset_is_a_weight_of_each_neuron_to_itself_and_no_reset_to_zero(neuron: IF | LIF) -> None:
    """Why there is no export to NIR, whose neurons fire above the threshold and start again at a fixed potential."""
    layer = FeedbackSpiking(nn.Linear(8, 20), nn.Linear(20, 20, bias=False), neuron=neuron, time_steps=60)
    x = 2 * torch.randn(8, 8)
    with torch.no_grad():
        weight, current = layer.feedback_map.weight, layer.input_map(x)
        run, leak, threshold = layer.simulate(x), neuron.leak, neuron.threshold
        itself = weight - leak * threshold * torch.eye(20)
        u, z = torch.zeros(8, 20), torch.zeros(8, 20)
        v, s, total = torch.zeros(8, 20), torch.zeros(8, 20), torch.zeros(8, 20)
        same = torch.ones(())
        for step in range(60):
            u = leak * u + current + z @ itself.T
            z = (u >= threshold).float()
            same = same.minimum((z == run.spikes[0][step]).float().mean())
            v = leak * v + current + s @ weight.T
            s = (v > threshold).float()
            v = torch.where(s > 0, 0.0, v)
            total = leak * total + s
    assert float(same) > 0.99  # sums in another order may round across the threshold
    assert float((total / neuron.total(60) - run.rates[0][-1]).abs().amax(1).mean()) > 0.1


def test_total_of_weights() -> None:
    assert LIF(0.5).total(3) == pytest.approx(1.75, abs=1e-15)
    assert LIF(0.95).total(30) == pytest.approx(sum(0.95**t for t in range(30)), rel=1e-13)
    assert LIF(1 - 1e-9).total(30) == IF().total(30) == 30


def equilibrium(layer: FeedbackSpiking, x: Tensor) -> Tensor:
    """Where the equation's iteration settles."""
    layer = copy.deepcopy(layer)
    layer.time_steps = 1
    with torch.no_grad():
        current, rates = layer.input_map(x), layer(x)
        for _ in range(100):
            rates = layer.equilibrium(current, rates)
    return rates


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_if_rates_near_the_equilibrium_as_one_over_the_steps(steps: int) -> None:
    layer = doubled(20, neuron=IF(), time_steps=steps).eval()
    x = 2 * torch.randn(8, 5, dtype=torch.float64)
    assert float((layer(x) - equilibrium(layer, x)).detach().abs().max()) * steps < 1.5


def test_more_steps_begin_with_the_same_spikes() -> None:
    layer = chain(time_steps=40)
    x = torch.randn(3, 5, dtype=torch.float64)
    long = layer.spikes(x)
    layer.time_steps = 15
    assert torch.equal(long[:15], layer.spikes(x))


def dense_gradients(layer: FeedbackSpiking, x: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Gradients of sum(v a) by a dense solve at the simulated rates, sample by sample."""
    out: dict[str, Tensor] = {}
    for k in range(len(x)):
        rates = layer(x[k : k + 1]).detach().requires_grad_()
        f = lambda a, k=k: layer.equilibrium(layer.input_map(x[k : k + 1]), a)  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(f, rates)[0, :, 0]
        u = torch.linalg.solve(torch.eye(len(jacobian), dtype=torch.float64) - jacobian.T, v[k])
        names = [name for name, _ in layer.named_parameters()]
        found = torch.autograd.grad(f(rates), list(layer.parameters()), u[None], allow_unused=True)
        for name, each in zip(names, found, strict=True):
            out[name] = out.get(name, 0) + (each if each is not None else torch.zeros(()))
    return out


@pytest.mark.parametrize("make", [doubled, chain], ids=["one population", "three"])
def test_gradient_equals_a_dense_solve_at_the_simulated_rates(make: Callable[..., FeedbackSpiking]) -> None:
    layer = make(time_steps=30, backward=EXACT).eval()
    x = torch.randn(4, 5, dtype=torch.float64) * 2
    v = torch.randn_like(layer(x))
    expected = dense_gradients(layer, x, v)
    (layer(x) * v).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-8, rtol=0)


def test_neumann_and_one_step_are_cut_series() -> None:
    layer = doubled(time_steps=30).eval()
    x = torch.randn(4, 5, dtype=torch.float64) * 2

    def gradient(backward: object) -> Tensor:
        layer.zero_grad()
        layer.backward = backward  # type: ignore[assignment]
        layer(x).sum().backward()
        return layer.input_map.weight.grad.clone()

    exact = gradient(EXACT)
    distance = [
        float((gradient(each) - exact).norm() / exact.norm())
        for each in (OneStep(), Neumann(steps=1, damping=1.0), Neumann(steps=4, damping=1.0), Neumann(steps=60))
    ]
    assert distance[0] == pytest.approx(distance[1])
    assert 0.5 > distance[1] > distance[2] > distance[3]
    assert distance[3] < 1e-6


def test_gradient_passes_finite_differences_at_the_equilibrium() -> None:
    """With many steps the simulated rates are the equilibrium, whose own derivative is what training follows."""
    layer = doubled(6, neuron=IF(), time_steps=400, backward=EXACT).eval()
    x = torch.randn(2, 5, dtype=torch.float64)
    layer(x).sum().backward()
    bias = layer.input_map.bias
    for k in range(3):
        sides = []
        for sign in (1, -1):
            moved = copy.deepcopy(layer)
            with torch.no_grad():
                moved.input_map.bias[k] += sign * 1e-4
            sides.append(float(equilibrium(moved, x).sum()))
        assert float(bias.grad[k]) == pytest.approx((sides[0] - sides[1]) / 2e-4, abs=1e-5)


def test_value_is_the_simulated_rate_and_gradients_reach_the_input_in_eval_mode() -> None:
    layer = doubled(time_steps=7).eval()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    rates = layer(x)
    assert torch.equal(rates, layer.simulate(x).rates[-1][-1])
    assert torch.equal((rates * 7).round() / 7, rates) or isinstance(layer.neuron, LIF)
    rates.sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_gradients_reach_every_frame_of_events_by_its_weight() -> None:
    layer = doubled(neuron=LIF(0.5), time_steps=None).eval()
    x = torch.rand(6, 3, 5, dtype=torch.float64, requires_grad=True)
    layer(x, layout="time-first").sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:-1], 0.5 * x.grad[1:])


def test_layouts_agree_and_frames_are_not_written() -> None:
    layer = doubled(neuron=LIF(0.8), time_steps=6)
    x = torch.rand(6, 3, 5, dtype=torch.float64)
    before = x.clone()
    first = layer(x, layout="time-first")
    torch.testing.assert_close(first, layer(x.transpose(0, 1), layout="batch-first"))
    torch.testing.assert_close(first, layer((x > -1) * x, layout="time-first"))
    assert torch.equal(x, before)
    constant = x[:1].expand(6, 3, 5)
    torch.testing.assert_close(layer(constant, layout="time-first"), layer(x[0]))


@pytest.mark.parametrize("back", [0, 1, 2])
def test_any_population_may_feed_back(back: int) -> None:
    layer = chain(time_steps=25, feedback_from=back, backward=EXACT).eval()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    rates = layer(x)
    assert rates.shape == (4, 6)
    assert torch.equal(rates, layer.simulate(x).rates[-1][-1])
    rates.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_samples_do_not_see_each_other() -> None:
    layer = chain(time_steps=20).eval()
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), atol=1e-12, rtol=0)


def saved_bytes(layer: FeedbackSpiking, x: Tensor) -> int:
    """What a forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x)
        out.sum().backward()
    return sum(kept.values())


def test_memory_for_the_backward_pass_does_not_grow_with_steps() -> None:
    x = torch.randn(64, 5, dtype=torch.float64)
    few, many = (saved_bytes(doubled(time_steps=steps), x) for steps in (10, 1000))
    assert few == many
    few, many = (saved_bytes(doubled(time_steps=steps, backward=Surrogate()), x) for steps in (10, 100))
    assert many > 5 * few


def peak_bytes(layer: FeedbackSpiking, x: Tensor) -> int:
    """The most that all tensors alive in a training step hold, beyond those before it."""
    layer(x).sum().backward()  # the parameters' gradients are there from now on
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        layer(x).sum().backward()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def test_peak_memory_of_a_training_step_does_not_grow_with_steps() -> None:
    x = torch.randn(64, 5, dtype=torch.float64)
    few, many = (peak_bytes(doubled(time_steps=steps), x) for steps in (10, 200))
    assert few == many


def test_surrogate_trains_the_same_spikes() -> None:
    layer = chain(time_steps=12)
    through = copy.deepcopy(layer)
    through.backward = Surrogate()
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), through(x))
    through(x).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in through.parameters())


def test_surrogate_of_one_neuron_without_reset_is_the_triangle() -> None:
    layer = one_neuron(1.5, IF(2.0), 1)
    layer.backward = Surrogate(width=1.0)
    layer(X1).sum().backward()
    assert float(layer.input_map.bias.grad) == pytest.approx((1 - 0.5 / 2) / 2)


def test_dropout_is_one_mask_for_all_steps() -> None:
    layer = doubled(40, time_steps=6, dropout=0.5)
    seen: list[Tensor] = []
    layer.feedback_map.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    layer(torch.ones(3, 5, dtype=torch.float64) * 9)  # all of them fire in the first steps
    fired = torch.stack(seen[1:6])
    assert set(fired.unique().tolist()) <= {0.0, 2.0}
    always = (fired > 0).all(0) | (fired == 0).all(0)
    firing = layer.eval().spikes(torch.ones(3, 5, dtype=torch.float64) * 9)[:5].all(0)
    assert bool(always[firing].all())
    layer.eval()
    assert torch.equal(layer(torch.ones(3, 5).double()), layer(torch.ones(3, 5).double()))


def test_normalization_takes_its_statistics_from_the_mean_input_once() -> None:
    norm = nn.BatchNorm1d(4)
    maps = nn.Sequential(nn.Linear(5, 4), norm)
    layer = FeedbackSpiking(maps, nn.Linear(4, 4, bias=False), neuron=IF(), time_steps=None)
    x = torch.rand(8, 6, 5)
    layer(x, layout="time-first")
    mean = maps[0](x.mean(0))
    torch.testing.assert_close(norm.running_mean, 0.1 * mean.detach().mean(0))
    assert int(norm.num_batches_tracked) == 1
    # The same normalization in every step: constant frames are a constant image.
    torch.testing.assert_close(layer(x[:1].expand(8, 6, 5), layout="time-first"), constant(layer, x[0], 8))


def constant(layer: FeedbackSpiking, x: Tensor, steps: int) -> Tensor:
    layer.time_steps = steps
    return layer(x)


def test_membrane_is_float32_under_autocast() -> None:
    layer = FeedbackSpiking(nn.Linear(5, 4), nn.Linear(4, 4, bias=False), time_steps=20)
    x = torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        rates = layer(x)
        assert layer.simulate(x).membrane[0].dtype == torch.float32
        rates.sum().backward()
    assert rates.dtype == torch.float32
    assert layer.input_map.weight.grad is not None


def test_bound_of_the_gain_is_the_product_of_all_maps() -> None:
    layer = chain(feedback_from=1)
    norms = [
        float(torch.linalg.matrix_norm(weight.detach(), 2))
        for weight in (layer.feedback_map.eval().weight, layer.layers[0].weight)
    ]
    assert layer.gain_bound((7,)) == pytest.approx(norms[0] / 2 * norms[1] / 2, rel=1e-4)
    rates = torch.rand(1, 7, dtype=torch.float64)
    current = layer.input_map(torch.randn(1, 5, dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(lambda a: layer.equilibrium(current, a), rates)[0, :, 0]
    assert float(torch.linalg.matrix_norm(jacobian, 2)) <= layer.gain_bound((7,)) + 1e-6


def test_info_of_the_last_pass() -> None:
    layer = doubled(neuron=IF(), time_steps=500).eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    rates = layer(x).detach()
    info = layer.last_info
    assert info is not None
    assert info.steps == 500
    assert torch.equal(info.rates[0], rates)
    gap = (rates - layer.equilibrium(layer.input_map(x), rates)).abs().amax(1)
    torch.testing.assert_close(info.residual, gap)
    assert float(info.residual.max()) < 0.01


def test_nan_weights_show_in_the_rates() -> None:
    layer = doubled(time_steps=3)
    with torch.no_grad():
        layer.input_map.bias[0] = math.nan
    assert bool(layer(torch.randn(2, 5, dtype=torch.float64))[:, 0].isnan().all())


def test_bad_input_is_refused() -> None:
    maps = nn.Linear(5, 4), nn.Linear(4, 4, bias=False)
    for settings, words in (
        ({"time_steps": 0}, "time_steps must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1"),
        ({"feedback_from": 1}, "feedback_from must name one of 1 populations, got 1"),
    ):
        with pytest.raises(ValueError, match=words):
            FeedbackSpiking(*maps, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold must be a positive number, got 0"):
        IF(0.0)
    with pytest.raises(ValueError, match="leak must lie above 0 and at most at 1, got 0"):
        LIF(0.0)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        Surrogate(0.0)
    layer = FeedbackSpiking(*maps, time_steps=9)
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        layer(torch.full((2, 5), math.nan))
    with pytest.raises(ValueError, match="time_steps is 9 but x has 8 frames as time-first; check the layout"):
        layer(torch.rand(8, 2, 5), layout="time-first")
    with pytest.raises(ValueError, match="inputs with time steps are"):
        layer(torch.rand(8, 5), layout="time-first")
    layer.time_steps = None
    with pytest.raises(ValueError, match="time_steps is needed for inputs without time steps"):
        layer(torch.rand(2, 5))

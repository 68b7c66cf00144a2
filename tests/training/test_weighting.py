import math

import pytest
import torch

from pellucid.core import RecipeError, moment_weights
from pellucid.training import FixedWeighting, MaxWeighting, MinNormWeighting, ParetoWeighting, UniformWeighting


@pytest.fixture
def terms():
    clean, flow = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    return {"clean": clean, "flow": flow, "accuracy": torch.tensor(0.5)}


def test_named_terms_are_summed_with_their_weights(terms):
    assert FixedWeighting({"clean": 1.0, "flow": 0.5})(terms, parameters=[]).item() == 3.5


def test_without_weights_every_term_with_a_gradient_counts_once(terms):
    assert FixedWeighting()(terms, parameters=[]).item() == 5.0


def test_unknown_and_absent_terms_are_refused(terms):
    with pytest.raises(RecipeError, match="names 'energy' but the terms are accuracy, clean, flow"):
        FixedWeighting({"energy": 1.0})(terms, parameters=[])
    with pytest.raises(RecipeError, match="no term has a gradient"):
        FixedWeighting()({"accuracy": torch.tensor(0.5)}, parameters=[])


def test_a_term_of_weight_zero_stays_out_even_where_it_is_infinite(terms):
    broken = terms | {"flow": torch.tensor(torch.inf, requires_grad=True)}
    assert FixedWeighting({"clean": 1.0, "flow": 0.0})(broken, parameters=[]).item() == 2.0
    with pytest.raises(RecipeError, match="every weight is 0"):
        FixedWeighting({"clean": 0.0})(terms, parameters=[])


def test_uniform_is_the_mean_and_max_the_worst(terms):
    assert UniformWeighting().build()(terms, parameters=[]).item() == 2.5
    worst = MaxWeighting().build()
    assert worst(terms, parameters=[]).item() == 3.0
    assert worst.weights == {"clean": 0.0, "flow": 1.0}


# -- gradients of the parameters ----------------------------------------------------------------------------------


def pulls(layer, head):
    """Two terms with the gradients (1, 0) and (0, 2) in the head, and others in the layer."""
    return {"a": 5 * layer.sum() + head[0, 0], "b": 2 * head[0, 1] - layer.sum()}


@pytest.mark.parametrize(("layers", "share"), [("last", 0.8), ("all", 10 / 41)])
def test_the_shortest_mix_of_parameter_gradients(layers, share):
    layer, head = torch.ones(1, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    bias = torch.ones(2, requires_grad=True)
    weighting = MinNormWeighting(layers=layers).build()
    total = weighting(pulls(layer, head), parameters=[layer, head, bias])
    # "all": g_a = (5, 1, 0), g_b = (-1, 0, 2): a = (g_b - g_a).g_b / |g_a - g_b|^2 = (5 + 5) / (36 + 1 + 4)
    assert weighting.weights["a"] == pytest.approx(share, abs=1e-6)
    total.backward()
    assert head.grad.tolist() == [[pytest.approx(share, abs=1e-6), pytest.approx(2 * (1 - share), abs=1e-6)]]
    assert bias.grad is None


# -- moments ------------------------------------------------------------------------------------------------------


def fed(settings, losses, names=("nat", "linf", "flow")):
    """The weights after each of a list of loss vectors."""
    weighting, seen = settings.build(), []
    for vector in losses:
        values = {
            name: torch.tensor(v, dtype=torch.float64, requires_grad=True)
            for name, v in zip(names, vector, strict=True)
        }
        weighting(values, parameters=[])
        seen.append(tuple(weighting.weights.values()))
    return seen


def vectors(count):
    return [(0.5 + 0.1 * (k % 3), 1.8 + 0.2 * (k % 2), 1.0 + 0.3 * (k % 5)) for k in range(count)]


def solved(losses, rho):
    stacked = torch.tensor(losses, dtype=torch.float64)
    mu = stacked.mean(0)
    level = None if rho == "free" else float((1 - rho) * mu.min() + rho * mu.max())
    return moment_weights(stacked.T @ stacked / len(stacked), mu, level)


def test_weights_are_equal_until_the_window_is_full_and_then_solved_now_and_then():
    losses = vectors(30)
    seen = fed(ParetoWeighting(rho=0.3, window=12, resolve_every=5, smoothing=0.0), losses)
    assert set(seen[:11]) == {(1 / 3, 1 / 3, 1 / 3)}
    for step in range(11, 30):
        last = step - (step - 11) % 5
        assert seen[step] == pytest.approx(solved(losses[last - 11 : last + 1], 0.3).tolist(), abs=1e-9)


def test_smoothing_keeps_a_share_of_the_weights_before():
    losses = vectors(12)
    (*_, last) = fed(ParetoWeighting(rho=0.7, window=12, resolve_every=1, smoothing=0.9), losses)
    fresh = solved(losses, 0.7)
    assert last == pytest.approx((0.9 / 3 + 0.1 * fresh).tolist(), abs=1e-9)


def test_the_dial_turns_from_the_cheapest_to_the_hardest():
    losses = vectors(10)
    means = torch.tensor(losses, dtype=torch.float64).mean(0)
    levels = []
    for rho in (0.0, 0.25, 0.5, 0.75, 1.0):
        (*_, last) = fed(ParetoWeighting(rho=rho, window=10, smoothing=0.0), losses)
        levels.append(float(torch.tensor(last, dtype=torch.float64) @ means))
    assert levels == pytest.approx([float(means.min() + k / 4 * (means.max() - means.min())) for k in range(5)])
    assert fed(ParetoWeighting(rho=0.0, window=10, smoothing=0.0), losses)[-1] == pytest.approx((1, 0, 0), abs=1e-9)
    assert fed(ParetoWeighting(rho=1.0, window=10, smoothing=0.0), losses)[-1] == pytest.approx((0, 1, 0), abs=1e-9)


def test_a_free_level_asks_for_the_least_second_moment():
    losses = vectors(10)
    (*_, last) = fed(ParetoWeighting(rho="free", window=10, smoothing=0.0), losses)
    assert last == pytest.approx(solved(losses, "free").tolist())


def test_loss_vectors_that_are_no_numbers_are_skipped():
    losses = vectors(6)
    broken = [*losses[:3], (math.nan, 1.0, 1.0), (1.0, math.inf, 1.0), *losses[3:]]
    settings = ParetoWeighting(window=6, smoothing=0.0)
    assert fed(settings, broken)[-1] == fed(settings, losses)[-1]


def test_more_than_eight_terms_are_refused():
    values = {f"t{k}": torch.tensor(1.0, requires_grad=True) for k in range(9)}
    with pytest.raises(RecipeError, match="this weighting takes at most 8 terms, got t0, t1"):
        ParetoWeighting().build()(values, parameters=[])

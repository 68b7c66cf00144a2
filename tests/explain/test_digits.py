"""Real data: the exact spectrum of a network trained on scikit-learn's digits has the paper's U shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pellucid.core import Stream
from pellucid.explain import SpectrumSettings, and_or_graph, bottleneck
from pellucid.games import ModelGame, Patches, log_odds, noise_floor, pair_interactions, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The reference run of the method: scikit-learn's network of 4 x 100, with its weights in torch."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    from sklearn.neural_network import MLPClassifier

    x = torch.tensor(data.images, dtype=torch.float64)[:, None] / 16
    fitted = MLPClassifier((100,) * 4, random_state=0).fit(x[:1500].flatten(1).numpy(), data.target[:1500])
    layers: list[nn.Module] = [nn.Flatten()]
    for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True):
        linear = nn.Linear(*weight.shape, dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(weight.T), torch.tensor(bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]), x, torch.tensor(data.target)


def test_spectrum_is_a_shallow_u(digits):
    model, x, y = digits
    assert float((model(x[1500:]).argmax(1) == y[1500:]).double().mean()) > 0.85
    cells = Patches(4, background=x)
    strength = torch.stack(
        [
            pair_interactions(table(ModelGame(model, x[k], cells, log_odds(int(y[k]))))).values.abs().mean(0)
            for k in range(1500, 1503)
        ]
    ).mean(0)
    relative = strength / strength.mean()
    assert float(relative[0]) > 1.3
    assert 0.4 <= int(relative.argmin()) / 14 <= 0.9
    # The sampled spectrum of the same samples and pairs of neighbors follows the same course.
    sampled = bottleneck(model, x[1500:1503], y[1500:1503], cells, settings=SpectrumSettings(3, 2, 12), rng=Stream(0))
    assert float(sampled.relative[0]) > 1.3
    assert bool((sampled.strength > 2 * sampled.floor).all())


def test_digits_are_not_sparse_in_every_sample(digits):
    model, x, y = digits
    found = and_or_graph(model, x[1500], Patches((3, 4), background=x), target=int(y[1500]), rng=Stream(0))
    assert found.n_all_patterns == 4095
    assert found.sparse == (found.needed <= 80)
    assert len(found.patterns) == min(80, found.needed)
    assert found.noise < 1e-4
    game = ModelGame(model, x[1500], Patches((3, 4), background=x), log_odds(int(y[1500])))
    assert noise_floor(game, rng=Stream(1)) < 1e-4

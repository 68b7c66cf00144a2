import pytest
import torch
from torch.testing import assert_close

from pellucid.core import ModelError
from pellucid.nn.models import MODELS, SmallCNN, SmallCNNSettings, build


def test_default_network_is_about_340_thousand_parameters_and_ten_logits():
    model = SmallCNN()
    assert sum(p.numel() for p in model.parameters()) == 348_086
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_pooling_keeps_the_sizes():
    model = SmallCNN(SmallCNNSettings(pooling=True))
    assert sum(p.numel() for p in model.parameters()) == 333_526
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_each_logit_depends_on_its_own_sample_only(rng):
    model, x = SmallCNN(), rng.uniform((5, 1, 28, 28))
    assert_close(model(x)[2:3], model(x[2:3]), atol=1e-5, rtol=1e-5)


def test_normalization_is_inside_the_model(rng):
    x = rng.uniform((2, 1, 8, 8))
    model = SmallCNN(SmallCNNSettings(image_size=8, mean=0.0, std=1.0))
    other = SmallCNN(SmallCNNSettings(image_size=8, mean=0.25, std=0.5))
    other.load_state_dict(model.state_dict())
    assert_close(other(x), model((x - 0.25) / 0.5))


def test_settings_rebuild_the_network_by_kind():
    settings = {"in_channels": 3, "image_size": 8, "channels": [2, 3], "hidden": 5, "classes": 4}
    model = build("small-cnn", settings)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert isinstance(MODELS["small-cnn"]().build(), SmallCNN)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("resnet", {}, "no network of kind 'resnet'; the kinds are alexnet-cifar, "),
        ("small-cnn", {"width": 3}, "unknown field `width`"),
        ("small-cnn", {"image_size": 30}, "multiple"),
        ("small-cnn", {"classes": 1}, ">= 2"),
    ],
)
def test_wrong_settings_are_refused(kind, settings, message):
    with pytest.raises(ModelError, match=message):
        build(kind, settings)

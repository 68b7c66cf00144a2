import pytest
import torch
from torch.testing import assert_close

from pellucid.core import ModelError
from pellucid.nn.models import AlexNet, AlexNetSettings, build

TINY = {"image_size": 16, "channels": [2, 3, 4, 3, 2], "hidden": 5, "classes": 4}


def test_the_network_of_the_paper():
    model = AlexNet()
    assert sum(p.numel() for p in model.parameters()) == 4_821_322
    assert [layer.kernel_size[0] for layer in model.features if isinstance(layer, torch.nn.Conv2d)] == [7, 5, 3, 3, 3]


def test_settings_rebuild_the_network_by_kind():
    model = build("alexnet-cifar", TINY)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 4)
    assert all("mean" not in name and "std" not in name for name in model.state_dict())


def test_normalization_is_inside_the_model(rng):
    with rng.child("weights").forked():
        plain = build("alexnet-cifar", TINY | {"mean": [0.0], "std": [1.0]}).eval()
    other = build("alexnet-cifar", TINY).eval()
    other.load_state_dict(plain.state_dict())
    x, settings = rng.uniform((2, 3, 16, 16)), AlexNetSettings()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.mean, settings.std))
    assert_close(other(x), plain((x - mean) / std))


def test_dropout_acts_in_training_only(rng):
    model, x = AlexNet(AlexNetSettings(image_size=16, channels=(2, 2, 2, 2, 2), hidden=64)), rng.uniform((2, 3, 16, 16))
    with rng.forked():
        assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_a_mean_of_another_number_of_channels_is_refused():
    with pytest.raises(ModelError, match="mean has 3 numbers but images have 1 channels"):
        build("alexnet-cifar", {"in_channels": 1})

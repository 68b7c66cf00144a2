import pytest
import torch
from torch.testing import assert_close

from pellucid.core import ModelError
from pellucid.nn.models import ResNet, ResNetSettings, build

TINY = {"width": 2, "blocks": [1, 1, 1, 1], "classes": 4}


def test_the_network_of_the_papers():
    model = ResNet()
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len([layer for layer in convolutions if layer.kernel_size == (3, 3)]) == 17  # and one linear layer: 18
    assert [layer.stride[0] for layer in convolutions].count(2) == 6  # twice in each of three stages


def test_settings_rebuild_the_network_by_kind():
    model = build("resnet18-cifar", TINY)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert model.stages(torch.zeros(1, 2, 32, 32)).shape == (1, 16, 4, 4)
    assert all(name != "mean" and name != "std" for name in model.state_dict())


def test_normalization_is_inside_the_model(rng):
    with rng.child("weights").forked():
        plain = build("resnet18-cifar", TINY | {"mean": [0.0], "std": [1.0]}).eval()
    other = build("resnet18-cifar", TINY).eval()
    other.load_state_dict(plain.state_dict())
    x, settings = rng.uniform((2, 3, 32, 32)), ResNetSettings()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.mean, settings.std))
    assert_close(other(x), plain((x - mean) / std))


def test_a_block_without_convolutions_is_its_shortcut(rng):
    with rng.child("weights").forked():
        model = build("resnet18-cifar", TINY).eval()
    block = model.stages[0][0]
    torch.nn.init.zeros_(block.bn2.weight)
    x = rng.uniform((2, 2, 8, 8))
    assert_close(block(x), x)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="mean has 2 numbers but images have 3 channels"):
        build("resnet18-cifar", {"mean": [0.5, 0.5]})

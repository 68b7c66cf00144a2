import pytest
import torch
from torch.testing import assert_close

from pellucid.core import ModelError
from pellucid.nn import etf_head
from pellucid.nn.models import ResNet32, ResNet32Settings, build

TINY = {"width": 4, "blocks": 1, "classes": 5}


def test_the_network_of_the_papers():
    model = ResNet32()
    assert sum(p.numel() for p in model.parameters()) == 464_154
    convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 31  # and one linear layer: 32
    assert [layer.stride[0] for layer in convolutions].count(2) == 2
    assert model.linear.in_features == 64
    assert build("resnet32-cifar", {"width": 32, "classes": 100}).linear.in_features == 128


def test_shortcuts_fill_new_channels_with_zeros(rng):
    with rng.child("weights").forked():
        model = build("resnet32-cifar", TINY).eval()
    block = model.stages[1][0]
    torch.nn.init.zeros_(block.bn2.weight)
    x = rng.uniform((2, 4, 8, 8))
    out = block(x)
    assert_close(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def test_normalization_is_inside_the_model(rng):
    with rng.child("weights").forked():
        plain = build("resnet32-cifar", TINY | {"mean": [0.0], "std": [1.0]}).eval()
    other = build("resnet32-cifar", TINY).eval()
    other.load_state_dict(plain.state_dict())
    x, settings = rng.uniform((2, 3, 32, 32)), ResNet32Settings()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.mean, settings.std))
    assert_close(other(x), plain((x - mean) / std))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("resnet32-cifar", TINY),
        ("resnet18-cifar", {"width": 2, "blocks": [1, 1, 1, 1]}),
        ("small-cnn", {"in_channels": 3, "image_size": 32, "channels": [2, 2], "hidden": 12}),
        ("alexnet-cifar", {"channels": [2, 2, 2, 2, 2], "hidden": 12}),
    ],
)
def test_networks_take_the_fixed_head(kind, settings):
    model = build(kind, {**settings, "head": "etf"})
    classes = settings.get("classes", 10)
    assert etf_head(model).n_classes == classes
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, classes)
    assert etf_head(build(kind, settings)) is None


def test_networks_of_texts_take_it_too():
    model = build("text-cnn", {"vocabulary": 9, "width": 4, "head": "etf"})
    assert etf_head(model).in_features == 12
    assert model(torch.tensor([[3, 4, 5, 0], [8, 2, 1, 1]])).shape == (2, 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="mean has 2 numbers but images have 3 channels"):
        build("resnet32-cifar", {"mean": [0.5, 0.5]})
    with pytest.raises(ModelError, match="10 classes cannot be equally far apart in 8 dimensions"):
        build("small-cnn", {"hidden": 8, "head": "etf"})
    with pytest.raises(ModelError, match="width"):
        build("resnet32-cifar", {"width": 3})

import pytest
import torch
from torch import nn

from pellucid.core import ModelError
from pellucid.nn import BatchCenter, BatchStandardize, insert_norm
from pellucid.nn.models import MLPSettings


def copy_of(layer, a):
    """Outputs and gradients of a layer for a batch, with a fixed weighting of its outputs."""
    x = a.clone().requires_grad_()
    out = layer(x)
    (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out) ** 3).sum().backward()
    return out.detach(), x.grad


@pytest.mark.parametrize("shape", [(9, 5), (4, 5, 3), (4, 5, 3, 2)])
def test_standardize_is_batch_norm_without_affine(rng, shape):
    ours = BatchStandardize(5)
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](5, affine=False)
    for turn in range(3):
        a = rng.child(turn).normal(shape) * 3 + 1
        for got, wanted in zip(copy_of(ours, a), copy_of(theirs, a), strict=True):
            assert torch.equal(got, wanted)
        assert torch.equal(ours.running_mean, theirs.running_mean)
        assert torch.equal(ours.running_var, theirs.running_var)
    ours.eval()
    theirs.eval()
    assert torch.equal(ours(a), theirs(a))


@pytest.mark.parametrize("shape", [(9, 5), (4, 5, 3, 2)])
def test_center_takes_the_mean_away_and_nothing_else(rng, shape):
    a = rng.normal(shape) + 2
    layer = BatchCenter(5)
    axes = [axis for axis in range(len(shape)) if axis != 1]
    out = layer(a)
    assert float(out.mean(axes).abs().max()) < 1e-6
    assert torch.allclose(out.std(axes), a.std(axes), atol=1e-6)
    assert torch.allclose(layer.running_mean, 0.1 * a.mean(axes))
    layer.eval()
    shaped = layer.running_mean.reshape(-1, *[1] * (len(shape) - 2))
    assert torch.equal(layer(a), a - shaped)


@pytest.mark.parametrize("norm", [BatchCenter, BatchStandardize])
def test_a_bias_before_it_gets_no_gradient_and_common_inputs_no_update(rng, norm):
    with rng.child("w").forked():
        linear = nn.Linear(6, 4).double()
    layer = norm(4).double()
    x = rng.child("x").normal((12, 6), dtype=torch.float64)
    x[:, 0] = 3.0  # all samples agree along the first input
    out, target = layer(linear(x)), rng.child("t").normal((12, 4), dtype=torch.float64)
    (out.relu() - target).square().sum().backward()
    size = float(linear.weight.grad.abs().max())
    assert float(linear.bias.grad.abs().max()) < 1e-12 * size
    assert float(linear.weight.grad[:, 0].abs().max()) < 1e-12 * size


@pytest.mark.parametrize("norm", [BatchCenter, BatchStandardize])
def test_one_sample_has_no_batch(norm):
    layer = norm(3)
    with pytest.raises(ModelError, match="at least two samples in train mode, got one"):
        layer(torch.ones(1, 3))
    assert layer.eval()(torch.ones(1, 3)).shape == (1, 3)
    with pytest.raises(ModelError, match=r"shape \(N, 3, \.\.\.\), got \(2, 4\)"):
        layer(torch.ones(2, 4))
    with pytest.raises(ValueError, match="features must be >= 1 and momentum in"):
        norm(3, momentum=2.0)
    assert "momentum=0.1" in repr(layer)


def test_half_precision_keeps_its_type():
    out = BatchCenter(2)(torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert out.tolist() == [[-1, -2], [1, 2]]


@pytest.mark.parametrize("kind", ["center", "standardize", "layer", "rms"])
def test_insert_norm_leaves_the_network_and_its_weights(rng, kind):
    with rng.child("w").forked():
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    new = insert_norm(net, kind)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(new.get_parameter("0.layer.weight"), net[0].weight)
    assert isinstance(new[4], nn.Linear)
    after = insert_norm(net, kind, where="post_activation")
    assert isinstance(after.get_submodule("3.layer"), nn.GELU)
    x = rng.child("x").normal((5, 4))
    hidden = new[0](x).detach()
    axis = 0 if kind in ("center", "standardize") else 1
    if kind != "rms":
        assert float(hidden.mean(axis).abs().max()) < 1e-5
    for made in (new, after):
        made(x).sum().backward()
        assert net(x).shape == made(x).shape


def test_insert_norm_finds_convolutions_and_nested_layers():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    assert isinstance(insert_norm(net, "center").get_submodule("0.0.norm"), BatchCenter)
    assert isinstance(insert_norm(net, "layer").get_submodule("0.0.norm"), nn.GroupNorm)
    assert insert_norm(net.eval(), "center").get_submodule("0.0.norm").training is False
    with pytest.raises(ValueError, match='use "layer" for a network of convolutions'):
        insert_norm(net, "rms")


def test_insert_norm_refuses():
    net = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(ModelError, match="no hidden layer to normalize"):
        insert_norm(net, "center")
    with pytest.raises(ValueError, match="kind must be one of center, standardize, layer, rms, got 'batch'"):
        insert_norm(net, "batch")
    with pytest.raises(ValueError, match="where must be pre_activation or post_activation"):
        insert_norm(net, "center", where="before")
    shared = nn.Linear(3, 3)
    with pytest.raises(ModelError, match="used in two places"):
        insert_norm(nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(3, 2)), "center")


# -- the network that recipes train -------------------------------------------------------------------------------


def test_mlp_is_what_its_settings_say(rng):
    with rng.forked():
        net = MLPSettings(bias="none").build()
    layers = [module.requires_grad_(False) for module in net.modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in layers] == [*[256] * 8, 10]
    assert all(layer.bias is None for layer in layers)
    bound = layers[3].in_features ** -0.5
    assert float(layers[3].weight.abs().max()) <= bound
    assert float(layers[3].weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    x = rng.child("x").uniform((2, 3, 32, 32))
    h = 2 * x.flatten(1) - 1
    for layer in layers[:-1]:
        h = layer(h).relu()
    assert torch.allclose(net(x), layers[-1](h), atol=1e-6)


def test_mlp_initializations(rng):
    small = {"inputs": 64, "depth": 3, "width": 64}
    with rng.child("he").forked():
        he = MLPSettings(init="he", bias="zero", **small).build()
    assert float(he.linear2.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert float(he.linear2.bias.detach().abs().max()) == 0
    with rng.child("o").forked():
        orthogonal = MLPSettings(init="orthogonal", **small).build()
    gram = orthogonal.linear2.weight.detach() @ orthogonal.linear2.weight.detach().T
    assert torch.allclose(gram, 2 * torch.eye(64), atol=1e-4)


@pytest.mark.parametrize("norm", ["center", "standardize", "layer", "rms"])
def test_mlp_normalizes_before_each_activation(rng, norm):
    with rng.forked():
        net = MLPSettings(inputs=6, depth=3, width=8, classes=2, norm=norm, activation="tanh").build()
    names = [name for name, _ in net.named_children()]
    assert names == ["linear1", "norm1", "act1", "linear2", "norm2", "act2", "linear3"]
    assert net(torch.rand(4, 6)).shape == (4, 2)

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.core import ModelError, Stream
from pellucid.nn import HamAttention, MatrixDecomposition, replace_attention


@pytest.fixture
def x() -> Tensor:
    return Stream(0).normal((2, 20, 16))


@pytest.fixture
def padding() -> Tensor:
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[1, 17:] = True
    return mask


def encoder(layers: int = 2) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), layers).eval()


class TestHamAttention:
    def test_layouts_agree(self, x: Tensor) -> None:
        layer = HamAttention(16).eval()
        out, weights = layer(x, x, x)
        assert weights is None
        other = HamAttention(16, batch_first=False).eval()
        other.load_state_dict(layer.state_dict())
        y = x.transpose(0, 1)
        assert_close(other(y, y, y)[0], out.transpose(0, 1))
        assert_close(layer(x[0], x[0], x[0])[0], out[0])
        views = [x.view(2, 20, 16) for _ in range(3)]
        assert_close(layer(*views)[0], out)

    def test_padding_equals_cutting(self, x: Tensor, padding: Tensor) -> None:
        layer = HamAttention(16).eval()
        out, _ = layer(x, x, x, key_padding_mask=padding)
        short = x[1:, :17]
        assert_close(out[1:, :17], layer(short, short, short)[0])
        assert_close(out[1, 17:], layer.upper.bias.expand(3, 16))
        additive = torch.zeros(2, 20).masked_fill(padding, float("-inf"))
        assert torch.equal(layer(x, x, x, additive)[0], out)
        assert_close(layer(x[1], x[1], x[1], padding[1])[0], out[1])

    def test_refusals(self, x: Tensor) -> None:
        layer = HamAttention(16)
        with pytest.raises(ValueError, match="query, key and value must be one tensor"):
            layer(x, x, x + 1)
        for settings in ({"attn_mask": torch.zeros(20, 20)}, {"is_causal": True}):
            with pytest.raises(ValueError, match="cannot be causal or follow attn_mask"):
                layer(x, x, x, **settings)
        with pytest.raises(ValueError, match="or hold 0 and minus infinity alone"):
            layer(x, x, x, key_padding_mask=torch.ones(2, 20))

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
    def test_put_into_an_encoder_by_hand(self, x: Tensor, padding: Tensor) -> None:
        model = encoder()
        model.layers[1].self_attn = HamAttention(16).eval()
        with torch.no_grad(), pytest.raises(ValueError, match="set use_nested_tensor = False"):
            model(x, src_key_padding_mask=padding)
        model.layers[0].self_attn = HamAttention(16).eval()
        model.use_nested_tensor = False
        with torch.no_grad():
            out = model(x, src_key_padding_mask=padding)
        assert_close(out[1:, :17], model(x[1:, :17]), rtol=1e-4, atol=1e-5)

    def test_settings_are_shown(self) -> None:
        assert repr(HamAttention(16)).startswith("HamAttention(\n  16, batch_first=True")


class TestReplaceAttention:
    def test_an_encoder_in_both_modes(self, x: Tensor, padding: Tensor) -> None:
        model = encoder()
        before = model(x)
        done = replace_attention(model)
        assert torch.equal(model(x), before)  # the model itself is as it was
        assert [part.name for part in done.replaced] == ["layers.0.self_attn", "layers.1.self_attn"]
        part = done.replaced[0]
        assert (part.was, part.parameters_before, part.parameters_after) == ("MultiheadAttention", 1088, 544)
        assert done.parameters_before - done.parameters_after == 2 * 544
        assert not done.left
        new = done.model
        with torch.no_grad():  # where torch's own layers take a fused path
            fused = new(x, src_key_padding_mask=padding)
        plain = new(x, src_key_padding_mask=padding)
        assert torch.equal(fused, plain)
        assert_close(plain[1:, :17], new(x[1:, :17]), rtol=1e-4, atol=1e-5)
        new.train()(x).sum().backward()
        assert all(p.grad is not None for p in new.parameters())

    def test_a_decoder_keeps_its_attention(self) -> None:
        model = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
        done = replace_attention(model)
        assert [part.name for part in done.replaced] == ["encoder.layers.0.self_attn"]
        assert set(done.left) == {"decoder.layers.0.self_attn", "decoder.layers.0.multihead_attn"}
        x = Stream(0).normal((2, 20, 16))
        assert done.model.eval()(x, x).shape == x.shape

    def test_one_module_in_two_places_stays_one(self) -> None:
        shared = nn.MultiheadAttention(16, 2)
        done = replace_attention(nn.ModuleDict({"a": shared, "b": shared}))
        assert isinstance(done.model, nn.ModuleDict)
        assert done.model["a"] is done.model["b"]
        assert len(done.replaced) == 1
        assert isinstance(replace_attention(shared).model, HamAttention)

    def test_attention_of_ones_own(self, x: Tensor) -> None:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.maps = nn.Linear(16, 48)

            def forward(self, x: Tensor) -> Tensor:
                return x

        model = nn.Sequential(nn.Linear(16, 16), Own())
        done = replace_attention(model, others={Own: lambda old: MatrixDecomposition(16, 4, kind="cd")})
        assert isinstance(done.model.get_submodule("1"), MatrixDecomposition)
        assert done.model(x).shape == x.shape

    def test_what_is_inside_ones_own_goes_with_it(self, x: Tensor) -> None:
        class Own(nn.Module):
            def __init__(self, **settings: int) -> None:
                super().__init__()
                self.attention = nn.MultiheadAttention(16, 2, batch_first=True, **settings)

        make: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
            Own: lambda old: MatrixDecomposition(16, 4, kind="cd")
        }
        done = replace_attention(nn.Sequential(nn.Linear(16, 16), Own(), Own(kdim=8)), others=make)
        assert [part.name for part in done.replaced] == ["1", "2"]
        assert not done.left
        assert done.parameters_after == 16 * 17
        assert done.model(x).shape == x.shape
        alone = replace_attention(Own(), others=make)
        assert isinstance(alone.model, MatrixDecomposition)
        assert not list(alone.model.children())

    def test_dtype_mode_and_kind_are_kept(self) -> None:
        model = nn.MultiheadAttention(16, 2, batch_first=True).double().eval()
        new = replace_attention(model, lambda channels: MatrixDecomposition(channels, 3, kind="vq")).model
        assert isinstance(new, HamAttention)
        assert (new.ham.kind, new.ham.rank, new.training, new.lower.weight.dtype) == ("vq", 3, False, torch.float64)

    def test_a_stream_gives_the_weights(self) -> None:
        one, two = (replace_attention(encoder(1), rng=Stream(3)).model.state_dict() for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one if "self_attn" in name)
        model = encoder(1)
        after = torch.get_rng_state()
        replace_attention(model, rng=Stream(3))
        assert torch.equal(torch.get_rng_state(), after)

    def test_nothing_to_replace(self) -> None:
        with pytest.raises(ModelError, match=r"has no nn\.MultiheadAttention to replace; name your own"):
            replace_attention(nn.Linear(3, 3))
        with pytest.raises(ModelError, match="a: its keys or values have other features than its queries"):
            replace_attention(nn.ModuleDict({"a": nn.MultiheadAttention(16, 2, kdim=8)}))

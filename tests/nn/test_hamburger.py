from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.nn import Hamburger, LightHamHead, MatrixDecomposition
from pellucid.nn.models._context import context

VARIANTS = ("v1", "v2", "v2+")


@pytest.fixture
def x() -> Tensor:
    return Stream(0).child("x").normal((2, 32, 4, 5))


def block(seed: int = 0, ham: MatrixDecomposition | None = None, **settings: object) -> Hamburger:
    with Stream(seed).forked():
        made = Hamburger(32, ham or MatrixDecomposition(16, 4), **settings)  # type: ignore[arg-type]
    return made.eval()


class TestHamburger:
    def test_the_first_variant_is_its_formula(self, x: Tensor) -> None:
        made = block()
        lower = made.lower.weight[..., 0] @ x.flatten(2) + made.lower.bias[:, None]  # type: ignore[index]
        middle = made.ham(F.relu(lower).mT).mT
        assert_close(made(x), F.relu(x + made.norm(made.upper.weight[..., 0] @ middle).reshape(x.shape)))
        assert not (made(x) < 0).any()
        assert (block(post_relu=False)(x) < 0).any()

    def test_weights(self) -> None:
        def size(module: nn.Module) -> int:
            return sum(p.numel() for p in module.parameters())

        assert size(block()) == 32 * 16 + 16 + 16 * 32 + 2 * 32
        assert size(block(variant="v2")) == 32 * 16 + 16 + 16 * 16 + 2 * 16 + 16 * 32
        assert size(block(variant="v2+")) == size(block(variant="v2")) + 2
        deviation = float(Hamburger(256, MatrixDecomposition(128)).lower.weight.detach().std())
        assert deviation == pytest.approx((2 / 128) ** 0.5, rel=0.02)

    def test_the_third_variant_begins_as_a_rectified_identity(self, x: Tensor) -> None:
        made = block(variant="v2+")
        assert torch.equal(made(x), F.relu(x))
        made(x).sum().backward()
        assert made.alpha.grad is not None
        assert float(made.alpha.grad) != 0

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("kind", ["nmf", "vq", "cd"])
    def test_layouts_agree(self, x: Tensor, variant: str, kind: str) -> None:
        made = block(
            ham=MatrixDecomposition(16, 4, kind=kind), variant=variant, norm=lambda channels: nn.GroupNorm(4, channels)
        )
        image = made(x)
        assert_close(made(x.flatten(2).mT), image.flatten(2).mT, atol=1e-4, rtol=1e-4)
        assert_close(made(x[:, :, None]), image[:, :, None], atol=1e-4, rtol=1e-4)
        assert torch.equal(made(x), image)

    def test_padding_equals_cutting(self, x: Tensor) -> None:
        sequence = x.flatten(2).mT
        mask = torch.zeros(2, 20, dtype=torch.bool)
        mask[1, 11:] = True
        for variant in VARIANTS:
            made = block(variant=variant, norm="layer").train()
            made.ham.eval()  # the same start atoms each time
            out = made(sequence, mask)
            assert_close(out[1:, :11], made(sequence[1:, :11]))
            assert not out[1, 11:].any()
            filled = sequence.masked_fill(mask[..., None], torch.nan)
            assert torch.equal(made(filled, mask), out)
            made(filled, mask).sum().backward()
            assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in made.parameters())

    def test_it_is_pickled_and_copied(self, x: Tensor) -> None:
        made = block(norm=lambda channels: nn.GroupNorm(4, channels))
        for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
            assert torch.equal(other(x), made(x))

    def test_narrow_ones_have_fewer_atoms(self, x: Tensor) -> None:
        assert Hamburger(32).ham.rank == 32
        assert Hamburger(128).ham.rank == 64
        head = LightHamHead(32, 8, 3, norm="batch")
        assert isinstance(head.context, Hamburger)
        assert head.context.ham.rank == 8
        head(x)

    def test_bad_settings_and_input(self, x: Tensor) -> None:
        with pytest.raises(ValueError, match=r"variant must be one of v1, v2, v2\+, got 'v3'"):
            block(variant="v3")
        with pytest.raises(ValueError, match="norm must be one of batch, group, layer, none, got 'rms'"):
            block(norm="rms")
        with pytest.raises(ValueError, match="32 groups of channels, which do not divide 16"):
            block(variant="v2", norm="group")
        with pytest.raises(ValueError, match="BatchNorm1d mixes positions"):
            block()(x, torch.zeros(2, 4, 5, dtype=torch.bool))
        for variant in VARIANTS:
            made = block(variant=variant, norm=lambda channels: nn.GroupNorm(8, channels))
            with pytest.raises(ValueError, match="GroupNorm mixes positions"):
                made(x, torch.zeros(2, 4, 5, dtype=torch.bool))
        with pytest.raises(ValueError, match="x must have 32 channels"):
            block()(x[:, :8])
        block(norm=lambda channels: nn.GroupNorm(8, channels))(x)


def test_a_block_tells_each_position_what_the_whole_image_says() -> None:
    # Three positions in ten show the image's class; all are to answer it.
    rng = Stream(0)
    y = (rng.child("y").uniform((64,)) < 0.5).long()
    shown = rng.child("shown").uniform((64, 1, 6, 6)) < 0.3
    x = 0.3 * rng.child("x").normal((64, 8, 6, 6)) + 3 * shown * F.one_hot(y, 8)[:, :, None, None]
    right = {}
    for kind in ("none", "attention", "nmf", "vq", "cd"):
        with Stream(1).forked():
            net = nn.Sequential(context(kind, 8, rank=1, norm="batch"), nn.Conv2d(8, 2, 1))  # type: ignore[arg-type]
            optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
            for _ in range(40):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y[:, None, None].expand(-1, 6, 6)).backward()
                optimizer.step()
        right[kind] = float((net.eval()(x).argmax(1) == y[:, None, None]).float().mean())
    assert right.pop("none") < 0.75
    assert min(right.values()) > 0.9


class TestLightHam:
    def test_maps_of_several_sizes(self) -> None:
        head = LightHamHead([8, 16], 32, 3).eval()
        maps = [Stream(k).normal((2, c, s, s)) for k, (c, s) in enumerate([(8, 8), (16, 4)])]
        logits = head(maps)
        assert logits.shape == (2, 3, 8, 8)
        assert torch.equal(head(maps), logits)
        assert isinstance(head.context, Hamburger)
        assert head.context.ham.rank == 16
        head(maps).sum().backward()
        assert all(p.grad is not None for p in head.parameters())

    def test_one_map_and_another_context(self) -> None:
        head = LightHamHead(8, 32, 3, width=64, context=nn.Identity(), norm="batch", dropout=0)
        assert head(Stream(0).normal((2, 8, 4, 4))).shape == (2, 3, 4, 4)
        empty = nn.Sequential()  # false, as it has no parts
        assert LightHamHead(8, 32, 3, context=empty).context is empty

    def test_bad_settings_and_input(self) -> None:
        with pytest.raises(ValueError, match=r"at least 1, got \(8, 0\), 32, 3 and 32"):
            LightHamHead([8, 0], 32, 3)
        with pytest.raises(ValueError, match=r"at least 1, got \(8,\), 32, 3 and 0"):
            LightHamHead(8, 32, 3, width=0)
        with pytest.raises(ValueError, match="32 groups of channels, which do not divide 40"):
            LightHamHead([8], 40, 3)
        with pytest.raises(ValueError, match=r"maps of \(8, 16\) channels, got \(8,\)"):
            LightHamHead([8, 16], 32, 3)(torch.zeros(1, 8, 4, 4))


@pytest.mark.parametrize("kind", ["none", "attention", "nmf", "vq", "cd"])
def test_contexts_have_equal_weights(kind: str, x: Tensor) -> None:
    made = context(kind, 32, rank=8, norm="group", gradient="unrolled")  # type: ignore[arg-type]
    assert made(x).shape == x.shape
    weights = sum(p.numel() for p in made.parameters() if p.ndim > 1)
    assert weights == 2 * 32 * 32
    assert sum(p.numel() for p in made.parameters()) - weights <= 3.5 * 32
    with pytest.raises(ValueError, match="an even number"):
        context("attention", 33, norm="batch")

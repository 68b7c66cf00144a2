from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from pellucid.core import Stream
from pellucid.nn import Hamburger, MatrixDecomposition, OneStep, Phantom, Unrolled
from pellucid.nn._hams import CD, NMF, VQ, Features

KINDS = ("nmf", "vq", "cd")


@pytest.fixture
def x() -> Tensor:
    """Nonnegative features (b, c, h, w) in float64."""
    return Stream(0).child("x").uniform((3, 6, 4, 5), dtype=torch.float64)


def layer(kind: str, channels: int = 6, rank: int = 3, **settings: object) -> MatrixDecomposition:
    return MatrixDecomposition(channels, rank, kind=kind, **settings).double().eval()  # type: ignore[arg-type]


def factors(b: int, d: int, n: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = Stream(1).child("factors")
    x = rng.child("x").uniform((b, d, n), dtype=torch.float64)
    atoms = F.normalize(rng.child("atoms").uniform((b, d, r), dtype=torch.float64), dim=1)
    return x, atoms, rng.child("codes").uniform((b, n, r), dtype=torch.float64)


def error(x: Tensor, atoms: Tensor, codes: Tensor) -> float:
    return float((x - atoms @ codes.mT).norm())


class TestNMF:
    def test_features_of_rank_one_are_a_fixed_point_after_one_step(self) -> None:
        rng = Stream(0)
        x = rng.child("a").uniform((1, 5, 1), dtype=torch.float64) * rng.child("b").uniform((1, 1, 7)).double() + 0
        ham = NMF(eps=1e-30)
        _, atoms, codes = factors(1, 5, 7, 1)
        once = ham.step(Features.of(x), atoms, codes)
        assert error(x, *once) < 1e-14
        assert error(x, once[0], ham.answer(Features.of(x), *once)) < 1e-14
        twice = ham.step(Features.of(x), *once)
        assert_close(twice, once, rtol=1e-12, atol=1e-14)
        # The codes alone do not get there: section 9 of the method's corrections.
        assert error(x, atoms, ham.answer(Features.of(x), atoms, codes)) > 0.1 * float(x.norm())

    def test_the_error_never_increases_and_factors_stay_nonnegative(self) -> None:
        x, atoms, codes = factors(4, 8, 20, 3)
        errors = []
        for _ in range(40):
            atoms, codes = NMF(eps=1e-12).step(Features.of(x), atoms, codes)
            errors.append(error(x, atoms, codes))
            assert float(atoms.min()) >= 0
            assert float(codes.min()) >= 0
        assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(errors))
        assert errors[-1] < 0.9 * errors[0]

    def test_scaled_features_scale_the_codes_alone(self) -> None:
        x, atoms, codes = factors(2, 8, 20, 3)
        ham = NMF(eps=1e-30)
        one, many = ham.step(Features.of(x), atoms, codes), ham.step(Features.of(7 * x), atoms, codes)
        assert_close(many[0], one[0])
        assert_close(many[1], 7 * one[1])
        assert_close(ham.answer(Features.of(7 * x), *many), 7 * ham.answer(Features.of(x), *one))

    def test_the_steps_are_those_of_scikit_learn(self) -> None:
        decomposition = pytest.importorskip("sklearn.decomposition")
        x, atoms, codes = factors(1, 8, 20, 3)
        theirs = decomposition.NMF(3, solver="mu", init="custom", max_iter=25, tol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 25 iterations are few
            found = theirs.fit_transform(x[0].T.numpy().copy(), W=codes[0].numpy().copy(), H=atoms[0].T.numpy().copy())
        for _ in range(25):
            atoms, codes = NMF(eps=1e-30).step(Features.of(x), atoms, codes)
        assert_close(codes[0], torch.from_numpy(found), rtol=1e-5, atol=1e-8)
        assert error(x, atoms, codes) == pytest.approx(float(theirs.reconstruction_err_), rel=1e-5)

    def test_negative_features_are_refused_or_set_to_zero(self, x: Tensor) -> None:
        with pytest.raises(ValueError, match="nowhere negative, got -0"):
            layer("nmf")(x - 0.5)
        assert_close(layer("nmf", relu=True)(x - 0.5), layer("nmf")(F.relu(x - 0.5)))

    def test_positions_of_zeros_stay_finite(self, x: Tensor) -> None:
        x[:, :, 1] = 0
        for kind in KINDS:
            assert bool(layer(kind)(x).isfinite().all())
        assert float(layer("nmf")(0 * x).abs().max()) == 0


class TestCD:
    def test_the_answer_is_a_projection(self) -> None:
        x, atoms, _ = factors(1, 8, 20, 3)
        ham = CD(beta=0.1)
        unit = torch.eye(8, dtype=torch.float64)[None]
        p = atoms @ ham.answer(Features.of(unit), atoms, atoms).mT
        assert_close(p, p.mT)
        values = torch.linalg.eigvalsh(p)
        assert float(values.min()) > -1e-12
        assert float(values.max()) < 1
        assert_close(atoms @ ham.answer(Features.of(x), atoms, atoms).mT, p @ x)

    def test_enough_atoms_give_the_features_back(self) -> None:
        x, atoms, _ = factors(2, 4, 20, 6)
        # The least ridge is enough in float32, also where all atoms are one.
        same = atoms[..., :1].expand(2, 4, 64)
        exact = same @ CD(beta=1e-4).answer(Features.of(x), same, same).mT
        single = same.float()
        assert_close(single @ CD(beta=1e-4).answer(Features.of(x.float()), single, single).mT, exact.float())
        assert_close(atoms @ CD(beta=1e-12).answer(Features.of(x), atoms, atoms).mT, x, rtol=1e-8, atol=1e-8)


class TestVQ:
    def test_the_sharpest_softmax_assigns_each_position_to_one_atom(self) -> None:
        x, atoms, codes = factors(2, 8, 20, 3)
        found = VQ(inv_temperature=1e6).answer(Features.of(x), atoms, codes)
        assert_close(found.amax(-1), torch.ones(2, 20, dtype=torch.float64))
        nearest = (F.normalize(x, dim=1).mT @ F.normalize(atoms, dim=1)).argmax(-1)
        assert bool((found.argmax(-1) == nearest).all())

    @pytest.mark.parametrize("ham", [VQ(), CD()])
    def test_two_clusters_give_their_means(self, ham: VQ | CD) -> None:
        means = torch.tensor([[1.0, 0.1, 0], [0, 0.2, 1.0]], dtype=torch.float64)
        x = (means.repeat_interleave(10, 0) + 0.01 * Stream(0).normal((20, 3), dtype=torch.float64)).T[None]
        atoms = F.normalize(means + 0.2, dim=1).T[None]
        for _ in range(4):
            atoms, _ = ham.step(Features.of(x), atoms, atoms)
        exact = torch.stack([x[0, :, :10].mean(1), x[0, :, 10:].mean(1)], 1)
        assert_close(F.normalize(atoms[0], dim=0), F.normalize(exact, dim=0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_positions_may_stand_in_any_order(self, kind: str, x: Tensor) -> None:
        flat = x.flatten(2).mT
        order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
        whole, turned = layer(kind).decompose(flat), layer(kind).decompose(flat[:, order])
        assert_close(turned.codes, whole.codes[:, :, order])
        assert_close(layer(kind)(flat[:, order]), layer(kind)(flat)[:, order])

    def test_atoms_may_stand_in_any_order(self, kind: str, x: Tensor) -> None:
        one = layer(kind)
        other = copy.deepcopy(one)
        assert one.start is not None
        assert other.start is not None
        other.start.copy_(one.start[:, :, [2, 0, 1]])
        assert_close(other(x), one(x))

    def test_layouts_agree(self, kind: str, x: Tensor) -> None:
        module = layer(kind, heads=2)
        image = module(x)
        assert_close(module(x.flatten(2).mT), image.flatten(2).mT)
        assert_close(module(x[:, :, None]), image[:, :, None])
        assert_close(module(x.contiguous(memory_format=torch.channels_last)), image)
        # A head is a layer of its own.
        alone = layer(kind, channels=3)
        assert alone.start is not None
        assert module.start is not None
        alone.start.copy_(module.start[1:])
        assert_close(alone(x[:, 3:]), image[:, 3:])

    def test_channel_mode_is_spatial_mode_of_the_transposed_features(self, kind: str, x: Tensor) -> None:
        module = layer(kind, axis="channel")
        other = layer(kind, channels=20)
        assert_close(module(x), other(x.flatten(2)).reshape(x.shape))
        found = module.decompose(x)
        assert found.maps.shape == (3, 1, 3, 4, 5)
        assert found.codes.shape == (3, 1, 6, 3)

    def test_padding_equals_cutting(self, kind: str, x: Tensor) -> None:
        module = layer(kind, heads=2)
        flat = x.flatten(2).mT.clone()
        mask = torch.zeros(3, 20, dtype=torch.bool)
        mask[1, 13:] = True
        flat[1, 13:] = 100.0
        flat.requires_grad_()
        out = module(flat, mask)
        assert_close(out[:1], module(flat[:1]))
        assert_close(out[1:2, :13], module(flat[1:2, :13]))
        assert not out[1, 13:].any()
        (gradient,) = torch.autograd.grad(out.square().sum(), flat)
        assert float(gradient[1, 13:].abs().max()) == 0
        found = module.decompose(flat, mask)
        assert float(found.codes[1, :, 13:].abs().max()) == 0
        assert_close(found.residual[1:2], module.decompose(flat[1:2, :13]).residual)
        assert_close(module(x, mask.reshape(3, 4, 5))[1].flatten(1).T[:13], out[1, :13])

    def test_what_stands_at_padding_does_not_matter(self, kind: str, x: Tensor) -> None:
        module = layer(kind)
        flat = x.flatten(2).mT
        mask = torch.arange(20).expand(3, 20) >= 13
        cut = module(flat[:, :13])
        for value in (-1.0, torch.nan, torch.inf):
            filled = flat.masked_fill(mask[..., None], value).requires_grad_()
            out = module(filled, mask)
            assert_close(out[:, :13], cut)
            (gradient,) = torch.autograd.grad(out.sum(), filled)
            assert bool(gradient.isfinite().all())

    @pytest.mark.parametrize("backward", [OneStep(), Unrolled()])
    def test_a_position_of_zeros_has_no_huge_gradient(self, kind: str, backward: OneStep | Unrolled, x: Tensor) -> None:
        x[:, :, 1, 2] = 0
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(layer(kind, backward=backward)(x).square().sum(), x)
        assert bool(gradient.isfinite().all())
        assert float(gradient[:, :, 1, 2].abs().max()) < 100

    def test_eval_mode_always_gives_the_same(self, kind: str, x: Tensor) -> None:
        module = layer(kind)
        first = module(x)
        assert torch.equal(module(x), first)
        reloaded = layer(kind)
        assert reloaded.start is not None
        reloaded.start.zero_()
        reloaded.load_state_dict(module.state_dict())
        assert torch.equal(reloaded(x), first)
        assert torch.equal(layer(kind)(x), first)  # a layer made elsewhere has the same start
        assert_close(torch.cat([module(row[None]) for row in x]), first)

    def test_training_draws_new_atoms_from_torchs_generator(self, kind: str, x: Tensor) -> None:
        module = layer(kind, steps=1).train()
        with Stream(3).forked():
            first, second = module(x), module(x)
        with Stream(3).forked():
            again = module(x)
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
        always = layer(kind, steps=1, init="random")
        with Stream(3).forked():
            assert not torch.equal(always(x), always(x))
        assert not always.state_dict()

    def test_the_one_step_gradient_is_its_closed_form(self, kind: str, x: Tensor) -> None:
        module = layer(kind)
        x = x.requires_grad_()
        found = module.decompose(x)
        atoms, codes = found.atoms[:, 0], found.codes[:, 0]
        v = Stream(5).normal((3, 6, 20), dtype=torch.float64)
        (gradient,) = torch.autograd.grad(module(x), x, v.reshape(x.shape))
        flat = x.detach().flatten(2)
        if kind == "nmf":
            weights = codes / (flat.mT @ atoms)  # C = (X^T D) * W
            exact = atoms @ ((v.mT @ atoms) * weights).mT
        elif kind == "cd":
            gram = atoms.mT @ atoms + 0.1 * torch.eye(3, dtype=torch.float64)
            exact = atoms @ torch.linalg.solve(gram, atoms.mT @ v)
        else:
            pull = v.mT @ atoms
            pull = 100 * codes * (pull - (pull * codes).sum(-1, keepdim=True)) / (flat.norm(dim=1)[..., None] + 1e-6)
            exact = F.normalize(atoms, dim=1) @ pull.mT
        assert_close(gradient, exact.reshape(x.shape), rtol=1e-10, atol=1e-12)

    def test_the_one_step_gradient_is_that_of_the_last_step(self, kind: str) -> None:
        x, atoms, codes = factors(1, 5, 6, 2)
        x.requires_grad_()
        ham = {"nmf": NMF(), "vq": VQ(inv_temperature=3), "cd": CD()}[kind]
        run: Callable[[Tensor], Tensor] = lambda x: atoms @ ham.answer(Features.of(x), atoms, codes).mT  # noqa: E731
        if kind == "vq":  # its lengths count as constants: on the sphere that is the exact gradient along the sphere
            tangent = Stream(2).normal((1, 5, 6), dtype=torch.float64)
            tangent = tangent - x.detach() * (tangent * x.detach()).sum(1, keepdim=True) / x.detach().square().sum(1)
            numeric = (run(x.detach() + 1e-6 * tangent) - run(x.detach() - 1e-6 * tangent)) / 2e-6
            v = torch.ones_like(x)
            (gradient,) = torch.autograd.grad(run(x), x, v)
            assert float((gradient * tangent).sum()) == pytest.approx(float(numeric.sum()), rel=1e-6)
        else:
            assert gradcheck(run, (x,))
            assert gradgradcheck(run, (x,))

    def test_the_unrolled_gradient_is_exact(self, kind: str) -> None:
        x, _, _ = factors(1, 4, 5, 2)
        module = layer(kind, channels=4, rank=2, steps=2, inv_temperature=2.0, backward=Unrolled())
        x = x.requires_grad_()
        if kind == "vq":  # but for the lengths in its last step, which count as constants: see above
            (unrolled,), (one_step,) = (
                torch.autograd.grad(layer(kind, 4, 2, steps=2, backward=backward)(x.mT).square().sum(), x)
                for backward in (Unrolled(), OneStep())
            )
            assert not torch.allclose(unrolled, one_step)
        else:
            assert gradcheck(lambda x: module(x.mT).mT, (x,))

    def test_all_phantom_steps_are_the_unrolled_gradient(self, kind: str, x: Tensor) -> None:
        def gradient(**settings: object) -> Tensor:
            y = x.detach().requires_grad_()
            return torch.autograd.grad(layer(kind, steps=3, **settings)(y).square().sum(), y)[0]

        unrolled = gradient(backward=Unrolled())
        assert torch.equal(gradient(backward=Phantom(steps=3, damping=1.0)), unrolled)
        assert torch.equal(gradient(backward=Phantom(steps=9, damping=1.0)), unrolled)
        one, two = gradient(), gradient(backward=Phantom(steps=2, damping=1.0))
        assert not torch.allclose(one, unrolled)
        assert not torch.allclose(two, one)
        assert not torch.allclose(two, unrolled)
        values = [layer(kind, steps=3, backward=b)(x) for b in (OneStep(), Unrolled(), Phantom(steps=2, damping=1.0))]
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])
        assert not torch.allclose(layer(kind, steps=3, backward=Phantom(steps=2, damping=0.5))(x), values[0])

    @pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, at the first jvp
    @pytest.mark.parametrize("backward", [OneStep(), Phantom(steps=2), Unrolled()])
    def test_forward_mode_derivatives_have_the_same_constants(
        self, kind: str, backward: OneStep | Phantom | Unrolled, x: Tensor
    ) -> None:
        module = layer(kind, inv_temperature=2.0, steps=3, backward=backward)
        v, g = (Stream(k).normal(x.shape, dtype=torch.float64) for k in (6, 7))
        _, forward = torch.func.jvp(module, (x,), (v,))
        _, pull = torch.func.vjp(module, x)
        assert_close((forward * g).sum(), (v * pull(g)[0]).sum())

    def test_more_steps_keep_no_more_memory(self, kind: str) -> None:
        x = torch.rand(1, 16, 8, 8, requires_grad=True)
        few, many = (kept(MatrixDecomposition(16, 4, kind=kind, steps=steps), x) for steps in (6, 60))
        assert few == many
        numbers = {"nmf": 16 * 4 + 64 * 4, "vq": 2 * 16 * 4 + 64 * 4 + 64, "cd": 2 * 16 * 4}[kind]
        assert few == 4 * numbers
        unrolled = [
            kept(MatrixDecomposition(16, 4, kind=kind, steps=steps, backward=Unrolled()), x) for steps in (6, 12)
        ]
        assert unrolled[0] > 4 * few
        assert unrolled[1] > 1.7 * unrolled[0]

    def test_half_precision(self, kind: str, x: Tensor) -> None:
        module = layer(kind).float()
        exact = module(x.float())
        for dtype in (torch.bfloat16, torch.float16):
            y = (1e-3 * x).to(dtype)
            out = module(y)
            assert out.dtype == dtype
            assert bool(out.isfinite().all())
            assert_close(out.float(), 1e-3 * exact, rtol=0.1, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(x.float()), exact)

    def test_moving_atoms_learn_in_training_alone(self, kind: str, x: Tensor) -> None:
        module = layer(kind, init="ema")
        assert module.start is not None
        before = module.start.clone()
        module(x)
        assert torch.equal(module.start, before)
        module.train()(x)
        assert not torch.equal(module.start, before)
        assert_close(module.start.norm(dim=1), torch.ones(1, 3, dtype=torch.float64))
        before = module.start.clone()
        module(x[:0])  # no samples move nothing
        assert torch.equal(module.start, before)

    def test_moving_atoms_and_unrolled_steps_go_together(self, kind: str, x: Tensor) -> None:
        module = layer(kind, init="ema", backward=Unrolled(), relu=True).train()
        x.requires_grad_()
        module(module(x)).sum().backward()  # the atoms moved twice since
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())

    def test_learned_atoms_get_a_gradient_where_steps_are_unrolled(self, kind: str, x: Tensor) -> None:
        for backward, learns in ((Unrolled(), True), (OneStep(), False)):
            module = layer(kind, init="learned", backward=backward, inv_temperature=1.0).train()
            module(x.clone().requires_grad_()).square().sum().backward()
            assert (module.start is not None and module.start.grad is not None) == learns

    def test_what_decompose_says(self, kind: str, x: Tensor) -> None:
        module = layer(kind, heads=2, eval_steps=4)
        found = module.decompose(x)
        assert found.atoms.shape == (3, 2, 3, 3)
        assert found.codes.shape == (3, 2, 20, 3)
        assert found.residual.shape == (3, 2, 5)
        answer = (found.atoms @ found.codes.mT).reshape(x.shape)
        assert_close(answer, module(x))
        gap = (x - answer).reshape(3, 2, -1).norm(dim=-1) / x.reshape(3, 2, -1).norm(dim=-1)
        assert_close(found.residual[..., -1], gap)
        assert_close(found.usage.sum(-1), torch.ones(3, 2, dtype=torch.float64))
        assert found.maps.shape == (3, 2, 3, 4, 5)
        values = torch.linalg.svdvals(answer.reshape(3, 2, 3, 20))
        shares = values / values.sum(-1, keepdim=True)
        assert_close(found.effective_rank, torch.special.entr(shares).sum(-1).exp())
        if kind != "vq":  # its answer is a mean of atoms
            assert not module.decompose(0 * x).effective_rank.any()
        module.train()
        assert torch.equal(module.decompose(x).codes, found.codes)  # what eval mode gives, in training too

    def test_no_steps_are_allowed(self, kind: str, x: Tensor) -> None:
        for backward in (OneStep(), Unrolled(), Phantom(damping=1.0)):
            assert layer(kind, steps=0, backward=backward)(x).shape == x.shape


def kept(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, each tensor counted once."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = module(x)
    del out
    return sum(found.values())


def test_multiply_adds_of_a_block() -> None:
    n, d, r, k = 16384, 512, 64, 6
    with torch.device("meta"), FlopCounterMode(display=False) as count:
        Hamburger(d)(torch.empty(1, d, 128, 128))
    formula = (
        2 * n * d * d + k * (2 * n * d * r + 2 * n * r * r + 2 * d * r * r) + 3 * n * d * r + n * r * r + d * r * r
    )
    assert count.get_total_flops() // 2 == formula == 17_542_676_480


def test_bad_settings() -> None:
    for settings, message in (
        ({"heads": 4}, "heads must divide the 6 channels, got 4"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"eval_steps": -1}, "eval_steps must be at least 0, got -1"),
        ({"beta": 1e-5}, "beta must be at least 0.0001 and finite, got 1e-05"),
        ({"beta": float("nan")}, "beta must be at least 0.0001 and finite, got nan"),
        ({"eps": 0.0}, "eps must be positive and finite, got 0.0"),
        ({"inv_temperature": -1.0}, "inv_temperature must be positive and finite, got -1.0"),
        ({"kind": "pca"}, "kind must be one of nmf, vq, cd, got 'pca'"),
        ({"axis": "both"}, "axis must be one of spatial, channel"),
        ({"init": "ones"}, "init must be one of fixed, random, learned, ema"),
        ({"axis": "channel", "init": "ema"}, "init='ema' needs axis=\"spatial\""),
    ):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            MatrixDecomposition(6, **{"rank": 3, **settings})  # type: ignore[arg-type]


def test_bad_input(x: Tensor) -> None:
    module = layer("cd")
    with pytest.raises(ValueError, match=r"6 channels, second, as in \(B, C, H, W\); got \(3, 4, 6, 5\)"):
        module(x.transpose(1, 2))
    with pytest.raises(ValueError, match=r"6 channels, last, as in a sequence \(B, N, C\); got \(3, 6, 20\)"):
        module(x.flatten(2))
    with pytest.raises(ValueError, match=r"padding_mask must be bool of shape \(3, 4, 5\), True at padding"):
        module(x, torch.zeros(3, 20, dtype=torch.bool))
    with pytest.raises(ValueError, match='a padding mask needs axis="spatial"'):
        layer("cd", axis="channel")(x, torch.zeros(3, 4, 5, dtype=torch.bool))
    with pytest.warns(UserWarning, match="rank 9 atoms for features of rank 6 at most: 6 do"):
        layer("nmf", rank=9)(x)


def test_the_layer_exports_and_compiles(x: Tensor) -> None:
    module = layer("nmf", relu=True, steps=2)
    exported = torch.export.export(module, (x,)).module()
    assert_close(exported(x), module(x))


def test_settings_are_shown() -> None:
    shown = repr(MatrixDecomposition(6, 2, kind="vq", heads=2))
    assert shown.startswith(
        "MatrixDecomposition(6, rank=2, kind='vq', steps=6, init='fixed', heads=2, backward=OneStep"
    )

"""Networks with an equilibrium inside: what they compute, what they keep apart, what they refuse."""

import msgspec
import pytest
import torch
from torch import nn

from pellucid.core import ModelError, Stream
from pellucid.data import synthetic_graphs
from pellucid.nn import Anderson, Broyden, Implicit, Neumann, OneStep, Phantom, spectral_radius
from pellucid.nn.models import (
    MDEQ,
    BackwardSettings,
    ImplicitConvSettings,
    ImplicitGraphSettings,
    ImplicitTextSettings,
    MDEQSettings,
    SolverSettings,
    build,
)

TIGHT = SolverSettings(max_iter=60, tol=1e-6)


@pytest.fixture(autouse=True)
def _same_weights(rng):
    with rng.child("weights").forked():
        yield


def conv(**settings):
    return ImplicitConvSettings(image_size=8, channels=4, groups=2, classes=3, **settings).build()


def graph(**settings):
    return ImplicitGraphSettings(features=3, width=6, **settings).build()


def text(**settings):
    return ImplicitTextSettings(vocabulary=20, length=6, width=8, heads=2, **settings).build()


def multi(**settings):
    sizes = {"image_size": 8, "channels": (4, 4), "head": (1, 1), "features": 4, "expansion": 1, "groups": 2}
    return MDEQSettings(**sizes, **settings).build()


CASES = {
    "conv": (conv, lambda: torch.rand(3, 1, 8, 8)),
    "graph": (graph, lambda: synthetic_graphs(3, rng=Stream(0), nodes=4).inputs),
    "text": (text, lambda: torch.tensor([[3, 4, 5, 0, 0, 0], [6, 7, 0, 0, 0, 0], [3, 8, 9, 10, 11, 12]])),
    "mdeq": (multi, lambda: torch.rand(3, 3, 8, 8)),
}


@pytest.mark.parametrize("name", ["conv", "graph", "text"])
def test_the_state_solves_its_equation(name):
    make, inputs = CASES[name]
    model = make(solver=TIGHT).double().eval()
    held = []
    model.equilibrium.cell.register_forward_hook(lambda _, given, out: held.append((given, out)))
    x = inputs()
    logits = model(x.double() if x.is_floating_point() else x)
    (z, *inputs), out = held[-1]
    assert bool(model.equilibrium.last.converged.all())
    assert (out - z).norm() <= 1e-4 * out.norm()
    assert logits.shape == (3, 3 if name == "conv" else 2)


@pytest.mark.parametrize("name", CASES)
def test_a_sample_is_answered_alike_alone_and_in_company(name):
    make, inputs = CASES[name]
    model, x = make(solver=SolverSettings(max_iter=8, tol=1e-6)).double().eval(), inputs()
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["upg", "npg", "one-step"])
def test_every_parameter_gets_a_gradient(name, mode):
    make, inputs = CASES[name]
    model = make(backward=BackwardSettings(mode=mode), solver=SolverSettings(max_iter=6)).train()
    model(inputs()).square().sum().backward()
    for where, parameter in model.named_parameters():
        assert parameter.grad is not None, where
        assert bool(parameter.grad.isfinite().all()), where


@pytest.mark.parametrize(("channels", "head"), [((8, 8), (2, 2)), ((8, 8, 16), (2, 2, 4))])
def test_a_fresh_multi_scale_network_settles(channels, head, rng):
    settings = MDEQSettings(channels=channels, head=head, features=8, expansion=2, groups=4, image_size=16)
    model = settings.build()  # in training mode, as in its first step
    given = []
    model.equilibrium.register_forward_hook(lambda _, arguments, __: given.append(arguments[1:]))
    with torch.no_grad():
        model(rng.uniform((4, 3, 16, 16)).float())
    layer = model.equilibrium
    assert bool(layer.last.converged.all())
    assert float(spectral_radius(layer.cell, layer.last.value, inputs=given[0], rng=rng).max()) < 0.9


def test_averages_of_a_multi_scale_network_arrive_within_a_hundred_steps(rng):
    model, x = multi(solver=SolverSettings(max_iter=3)), rng.uniform((6, 3, 8, 8)).float()
    with torch.no_grad():
        for _ in range(100):
            trained = model(x)
        logits = model.eval()(x)
    assert (logits - trained).norm() < 0.2 * (trained - trained.mean(0)).norm()


def test_absent_nodes_and_padding_change_nothing():
    model = graph(solver=TIGHT).double().eval()
    small = synthetic_graphs(2, rng=Stream(0), nodes=4).inputs.double()
    wide = torch.zeros(2, 6, 6 + 3, dtype=torch.float64)
    wide[:, :4, :4], wide[:, :4, 6:] = small[..., :4], small[..., 4:]
    torch.testing.assert_close(model(small), model(wide), rtol=1e-5, atol=1e-6)
    reads = text(solver=TIGHT).double().eval()
    torch.testing.assert_close(
        reads(torch.tensor([[3, 4, 5]])), reads(torch.tensor([[3, 4, 5, 0, 0, 0]])), rtol=1e-6, atol=1e-8
    )
    assert bool(reads(torch.zeros(1, 6, dtype=torch.int64)).isfinite().all())


def test_renumbered_nodes_give_the_same_answer():
    model = graph(solver=TIGHT).double().eval()
    x = synthetic_graphs(1, rng=Stream(0), nodes=5).inputs.double()
    order = torch.tensor([3, 0, 4, 1, 2])
    again = torch.cat([x[:, order][..., order], x[:, order][..., 5:]], dim=2)
    torch.testing.assert_close(model(x), model(again), rtol=1e-5, atol=1e-6)


def test_the_graph_cell_is_a_contraction_whatever_is_learned():
    model = graph(norm=0.8)
    weight = model.equilibrium.cell.weight
    with torch.no_grad():
        weight.parametrizations.weight.original.mul_(50)
    assert torch.linalg.matrix_norm(weight.weight, 2) <= 0.8 + 1e-5
    ties = Stream(1).uniform((1, 5, 5))
    from pellucid.nn.models._implicit_graph import _balanced

    assert torch.linalg.matrix_norm(_balanced(ties)[0], 2) <= 1 + 1e-6


def test_news_travels_the_whole_chain_and_three_steps_do_not():
    x = synthetic_graphs(2, rng=Stream(0), nodes=6).inputs.double().requires_grad_()
    for settings, hears in (({"solver": TIGHT}, True), ({"depth": 3}, False)):
        model = graph(readout="first", **settings).double().eval()
        (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
        assert bool((gradient[:, -1, 6:] != 0).any()) == hears


def test_parameter_counts_are_those_that_are_told():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert count(ImplicitConvSettings().build()) == 22_546
    with torch.device("meta"):
        assert count(MDEQ()) == 158_986
        large = MDEQSettings(channels=(32, 64, 128, 256), head=(14, 28, 56, 112), features=1680)
        assert count(MDEQ(large)) == 11_098_398


def test_one_block_is_as_large_as_its_equilibrium_and_a_row_of_them_learns_too():
    whole, one, two = (text(**settings) for settings in ({}, {"depth": 1}, {"depth": 2}))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (whole, one, two)]
    assert sizes[0] == sizes[1] < sizes[2]
    two(CASES["text"][1]()).square().sum().backward()
    assert all(p.grad is not None for p in two.parameters())


def test_memory_of_depth_belongs_to_the_explicit_network():
    model = conv(depth=2)
    assert len(model.cells) == 2
    assert not hasattr(model, "equilibrium")
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_settings_pick_solver_and_gradient():
    model = conv(
        solver=SolverSettings(method="broyden", max_iter=7, tol=0.01), backward=BackwardSettings(mode="npg", steps=3)
    )
    assert model.equilibrium.solver == Broyden(max_iter=7, tol=0.01)
    assert model.equilibrium.backward == Neumann(steps=3, damping=0.5)
    assert BackwardSettings().build() == Phantom(steps=5, damping=0.5)
    assert BackwardSettings(mode="one-step").build() == OneStep()
    assert BackwardSettings(mode="exact", tol=1e-4).build() == Implicit(Anderson(max_iter=50, tol=1e-4))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("implicit-conv", {"channels": 10}, "groups must divide channels"),
        ("implicit-conv", {"depth": 2, "solver": {"tol": 0.1}}, "nothing to solve"),
        ("implicit-text", {"depth": 2, "backward": {"mode": "npg"}}, "nothing to solve"),
        ("implicit-conv", {"backward": {"mode": "exact", "steps": 3}}, "steps does nothing in the mode 'exact'"),
        ("implicit-conv", {"backward": {"mode": "one-step", "damping": 0.3}}, "damping does nothing"),
        ("implicit-conv", {"backward": {"mode": "upg", "tol": 0.3}}, "tol does nothing"),
        ("implicit-conv", {"backward": {"mode": "upg", "max_iter": 3}}, "max_iter does nothing"),
        ("implicit-conv", {"solver": {"method": "newton"}}, "newton"),
        ("implicit-graph", {}, "features"),
        ("implicit-graph", {"features": 3, "norm": 1.0}, "norm"),
        ("implicit-text", {"width": 10, "heads": 3}, "heads must divide width"),
        ("mdeq", {"channels": [8]}, "two or more scales"),
        ("mdeq", {"channels": [24, 20]}, "groups must divide all channels"),
        ("mdeq", {"image_size": 33}, "multiple of 2"),
        ("mdeq", {"in_channels": 1, "mean": [0.1, 0.2]}, "mean has 2 numbers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind, settings, message):
    with pytest.raises(ModelError, match=message):
        build(kind, settings)


def test_graphs_of_another_width_are_refused():
    with pytest.raises(RuntimeError, match="have 7 columns, got 8"):
        graph()(torch.rand(1, 4, 8))


def test_weights_are_saved_and_loaded():
    for make, inputs in CASES.values():
        model, x = make().eval(), inputs()
        other = make().eval()
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(x), other(x))
        settings = msgspec.json.decode(msgspec.json.encode(model.settings))
        assert isinstance(build(settings.pop("kind"), settings), nn.Module)

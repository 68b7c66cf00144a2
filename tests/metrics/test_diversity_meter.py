import math

import pytest
import torch
from torch import nn

from pellucid.core import DataError, ModelError, Stream
from pellucid.metrics import (
    DiversityHead,
    DiversityHistory,
    DiversityMeter,
    DiversityRow,
    common_direction,
    history_row,
    similarity,
)
from pellucid.metrics._common_direction import per_sample_gradients
from pellucid.nn import insert_norm


@pytest.fixture
def net(rng: Stream) -> nn.Sequential:
    with rng.child("weights").forked():
        return nn.Sequential(
            nn.Linear(7, 16), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
        )


@pytest.fixture
def probe(rng: Stream) -> tuple[torch.Tensor, torch.Tensor]:
    return rng.child("x").normal((60, 7)), rng.child("y").integers(3, (60,))


@pytest.mark.parametrize("size", [256, 17])
def test_numbers_are_those_of_the_slow_functions(net, probe, size):
    meter = DiversityMeter(net, *probe, batch_size=size)
    assert meter.layers == ("1", "4")
    assert meter.kinds == ("ReLU", "ReLU")
    assert meter.gradient_layers == ("0", "3", "5")
    assert meter.biases
    features, gradients = meter.both()
    assert torch.allclose(features, meter.features(), atol=1e-6)
    net.eval()
    x, y = probe
    for row, h in zip(features, (net[:2](x), net[:5](x)), strict=True):
        slow = similarity(h, y)
        assert row[:4].tolist() == pytest.approx([slow.all, slow.intra, slow.inter, slow.dead_fraction], abs=1e-5)
        assert float(row[4]) == pytest.approx(float(h.detach().square().mean().sqrt()), rel=1e-5)
    for row, call in zip(gradients, per_sample_gradients(net, x, y, ("0", "3", "5")), strict=True):
        slow = similarity(call.gradients, y)
        assert row[:3].tolist() == pytest.approx([slow.all, slow.intra, slow.dead_fraction], abs=1e-5)
        assert float(row[3]) == pytest.approx(float(call.gradients.norm(dim=1).mean()), rel=1e-5)
        slower = common_direction(net, x, y, call.name)
        assert float(row[5]) == pytest.approx(float(slower.strength[0]), rel=1e-2)
        assert float(row[7]) == pytest.approx(slower.self_enhancement, abs=0.02)


def test_wide_random_networks_follow_the_theory_and_batch_norm_resets_it(rng):
    with rng.child("w").forked():
        layers = [nn.Linear(64, 1024, bias=False), nn.ReLU(), nn.Linear(1024, 1024, bias=False), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(1024, 4))
    x, y = rng.child("x").normal((64, 64)), torch.arange(64) % 4
    assert DiversityMeter(net, x, y).features()[:, 0].tolist() == pytest.approx([0.318, 0.494], abs=0.03)
    made = insert_norm(net, "standardize").train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    meter = DiversityMeter(made, x, y)
    # With the batch's own statistics every layer starts anew: J(0) = 1 / pi, before any running statistics exist.
    assert meter.features()[:, 0].tolist() == pytest.approx([0.318, 0.318], abs=0.03)
    assert meter.both()[0][:, 0].tolist() == pytest.approx([0.318, 0.318], abs=0.03)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert all(module.training for module in made.modules())
    assert made.get_submodule("0.norm").momentum == 0.1


def test_nothing_is_left_behind(net, probe):
    net.train()
    state = torch.get_rng_state()
    DiversityMeter(net, *probe).both()
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_convolutions_and_chosen_layers(rng):
    with rng.child("w").forked():
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    x, y = rng.child("x").uniform((12, 1, 4, 4)), torch.arange(12) % 2
    meter = DiversityMeter(net, x, y, reduce="mean")
    _, gradients = meter.both()
    assert bool(gradients[0, 5:].isnan().all())  # an update of a convolution has no one input direction
    assert bool(gradients[1, 5:].isfinite().all())
    assert DiversityMeter(net, x, y, layers=["0"]).layers == ("0",)
    with torch.no_grad():
        pooled = net[:2](x).mean((2, 3))
    assert float(meter.features()[0, 0]) == pytest.approx(similarity(pooled).all, abs=1e-5)


def test_dead_layers_and_gradients_too_small_for_fp16(probe):
    net = nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-1.0)
    features, gradients = DiversityMeter(net, *probe).both()
    assert math.isnan(features[0, 0])
    assert float(features[0, 3]) == 1
    assert float(gradients[0, 2]) == 1
    with torch.no_grad():
        net[0].bias.fill_(1.0)
        net[2].weight.fill_(0).add_(1e-7 * torch.tensor([[1.0], [2.0], [3.0]]))
    assert float(DiversityMeter(net, *probe).both()[1][0, 4]) == 1


def test_bad_probes(net, probe):
    x, y = probe
    with pytest.raises(DataError, match="two samples or more with one label each, got 1 samples"):
        DiversityMeter(net, x[:1], y[:1])
    with pytest.raises(ModelError, match="no activation module and no hidden linear layer"):
        DiversityMeter(nn.Linear(7, 3), x, y)
    with pytest.raises(ValueError, match="the model has no layer '8'"):
        DiversityMeter(net, x, y, layers=["8"])


# -- the record ---------------------------------------------------------------------------------------------------


def history(losses, similarity):
    """A record of one layer, measured every 50 steps."""
    head = DiversityHead(
        layers=("act",), kinds=("ReLU",), gradient_layers=("fc",), sample_ids=(0, 1), input_similarity=0.0, every=50,
        gradients_every=200, reduce="flatten",
    )  # fmt: skip
    rows = []
    for k, s in enumerate(similarity):
        part = losses[50 * (k - 1) : 50 * k] if k else []
        rows.append(history_row(50 * k, part, [[s, s, s, 0, 1]], [[0.1] * 8] if k % 4 == 0 else ()))
    return DiversityHistory(head, tuple(rows))


def test_the_trap_is_a_flat_loss_with_features_that_grow_alike():
    flat = [2.3] * 400 + [1.0] * 100
    rising = [0.7 + 0.01 * min(k, 8) for k in range(11)]
    trapped = history(flat, rising).phase()
    assert trapped.trapped
    assert trapped.phase.end == 401
    assert trapped.worst.start == pytest.approx(0.7)
    assert trapped.worst.highest == pytest.approx(0.78)
    assert not history(flat, [0.7] * 11).phase().trapped  # flat, but features do not grow alike
    assert history(flat, [0.96] * 11).phase().trapped  # or they are alike from the start
    assert not history(flat, rising).phase(patience=500).trapped
    assert not history([1.0 * 0.9**k for k in range(500)], rising).phase().trapped
    assert "lasted: 401 steps" in str(trapped)


def test_a_record_is_lines_of_json_that_come_back(tmp_path):
    made = history([2.3] * 100 + [None] * 50, [0.5, math.nan, 0.7, 0.8])
    made.write(tmp_path / "feature-diversity.jsonl")
    read = DiversityHistory.read(tmp_path)
    assert read == made
    assert read.losses[-1] is None
    assert math.isnan(read.features("similarity")[1, 0])
    assert read.measured == ((0, 50, 100, 150), (0,))
    assert read.reference == pytest.approx((0.31831,), abs=1e-5)
    with (tmp_path / "feature-diversity.jsonl").open("a") as file:
        file.write('{"step": 200, "los')  # a training killed while it wrote
    assert DiversityHistory.read(tmp_path) == made
    with pytest.raises(ValueError, match="column must be one of similarity"):
        read.features("color")


def test_files_that_are_no_record(tmp_path):
    with pytest.raises(DataError, match=r"there is no record of features in .*\[record\] table"):
        DiversityHistory.read(tmp_path)
    file = tmp_path / "x.jsonl"
    for text in ("", "no json\n", '{"step": 1}\n'):
        file.write_text(text)
        with pytest.raises(DataError, match="is no record of features"):
            DiversityHistory.read(file)
    made = history([2.3] * 50, [0.5, 0.6])
    bad = DiversityHistory(made.head, (made.rows[0], DiversityRow(step=9, features=((1.0,),))))
    bad.write(file)
    with pytest.raises(DataError, match="its lines do not fit the first one"):
        DiversityHistory.read(file)

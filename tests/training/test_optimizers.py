import pytest
import torch

from pellucid.training import OPTIMIZERS, SCHEDULES, Constant, Cosine, OneCycle


def test_one_cycle_climbs_and_falls_in_straight_lines():
    cycle = OneCycle(peak=0.25, final=0.1)
    assert [cycle.factor(p) for p in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    assert OneCycle(peak=1.0).factor(1.0) == 1
    assert OneCycle(peak=0.0).factor(0.0) == 1


def test_cosine_warms_up_and_ends_at_zero():
    cosine = Cosine(warmup=0.2)
    assert [cosine.factor(p) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert Cosine(warmup=0.0).factor(0.0) == 1


def test_constant_is_constant():
    assert {Constant().factor(p / 10) for p in range(11)} == {1.0}


def test_kinds_are_the_tables_keys():
    for table in (OPTIMIZERS, SCHEDULES):
        assert {kind: entry.__struct_config__.tag for kind, entry in table.items()} == {kind: kind for kind in table}


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_optimizers_go_downhill(kind):
    x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = OPTIMIZERS[kind](lr=0.05).build([x])
    for _ in range(100):
        optimizer.zero_grad()
        (x**2).sum().backward()
        optimizer.step()
    assert x.abs().max() < 0.1

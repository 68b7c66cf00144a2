"""The probe on a model whose answer hangs on one corner: the map, the words, and what it skips."""

import pytest
import torch
from torch import nn

from pellucid.audits.probes import AttackAttributions
from pellucid.audits.probes._attack_attribution import LADDER, _Rung
from pellucid.core import Gallery, Stream, Subject


class Corner(nn.Module):
    """Two classes by the brightness of the upper left quarter and of the border."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        bright = x[:, 0, :8, :8].mean((1, 2)) + 0.05 * x.mean((1, 2, 3)) - 0.525
        return self.scale * 20 * torch.stack([-bright, bright], dim=1)


def subject(**more):
    x = Stream(0).uniform((8, 1, 16, 16), low=0.3, high=0.7)
    x[::2, :, :8, :8] -= 0.1
    model = Corner()
    with torch.no_grad():
        labels = model(x).argmax(1)
    return Subject(model, x, labels, **more)


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    place = "pellucid.audits.probes._attack_attribution"
    monkeypatch.setattr(f"{place}.LADDER", (_Rung(2, 2, 3, 12, 4), _Rung(4, 2, 3, 12, 4), _Rung(4, 2, 4, 20, 4)))


def test_the_corner_is_found_and_said():
    whole, probe = subject(), AttackAttributions(grid=(2, 2))
    need = probe.need(whole, effort="quick")
    regions, groups = probe(whole, need.wanted, Stream(0))
    assert regions.measure.name == "attack_concentration[l2]"
    assert regions.measure.value > 90
    assert all(0 <= share <= 1 for share in regions.measure.samples)  # shares, which `compare` turns into percent
    assert regions.level == groups.level == "noted"
    assert "The strongest 1 of 4 regions of an image make" in regions.answer
    gallery = next(e for e in regions.exhibits if isinstance(e, Gallery))
    heat = gallery.pictures[2]
    assert heat.owners is not None
    assert max(heat.marks, key=lambda mark: mark.weight).cells == (0,)
    assert sum(mark.weight for mark in heat.marks) == pytest.approx(100)
    assert {m.name for m in groups.measures} | {groups.measure.name} == {"attack_lowers_true", "attack_foreground"}
    assert "guessed" in groups.cautions[0]


def test_what_it_skips_and_refuses():
    plain = subject()
    assert "more" not in AttackAttributions().need(plain, effort="quick").skip
    unlabelled = Subject(Corner(), plain.inputs, None)
    assert "labels" in AttackAttributions().need(unlabelled, effort="quick").skip
    assert "do not fit" in AttackAttributions(grid=(20, 20)).need(plain, effort="quick").skip
    with pytest.raises(ValueError, match="at least 2 regions"):
        AttackAttributions(grid=(1, 1))


def test_a_small_budget_buys_fewer_samples_paths_and_steps():
    whole, probe = subject(), AttackAttributions(grid=(2, 2))
    need = probe.need(whole, effort="full")
    assert need.least < need.wanted / 2
    few = probe(whole, need.least, Stream(0))
    assert sum(found.provenance.evaluations for found in few) <= need.least
    assert few[0].provenance.settings["steps"] == 3
    assert few[0].measure.low is None  # two samples do not say how far others would lie
    assert "A larger --budget sharpens them" in few[0].cautions[0]
    four = probe(whole, 2 * need.least, Stream(0))[0]
    assert four.measure.low is not None
    assert four.provenance.settings["steps"] == 3


def test_the_least_of_the_ladder_is_modest():
    """Of what a usual image costs at the end of the ladder."""
    assert LADDER[0].samples * LADDER[0].permutations * LADDER[0].steps < 0.06 * LADDER[-1].samples * 4 * 15


def test_groups_are_told_by_the_same_means_as_measured():
    whole, probe = subject(), AttackAttributions(grid=(2, 2))
    _, groups = probe(whole, probe.need(whole, effort="full").wanted, Stream(0))
    lowers, place = (next(m for m in (groups.measure, *groups.measures) if m.name == name) for name in MEANS)
    assert f"{place.value:.3g}% of their pixels" in groups.answer
    words = {0: "All mainly raise", 100: "All mainly lower"}.get(lowers.value, f"{lowers.value:.3g}% of a sample's")
    assert words in groups.answer


MEANS = ("attack_lowers_true", "attack_foreground")

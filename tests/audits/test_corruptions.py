"""The probes of corruptions and of reliance, through the command line and on models that are known."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.audits.probes import Corruptions, Reliance
from pellucid.cli import main
from pellucid.core import Gallery, Heatmap, Stream, Subject
from pellucid.reports import Report


def test_both_probes_report_on_the_shipped_model(tmp_path):
    folder = tmp_path / "audit"
    command = ["audit", "fashion-standard", "fashion-mnist", "--samples", "60", "--out", str(folder)]
    assert main([*command, "--probe", "corruptions", "--probe", "reliance"]) == 0
    spoiled, relied = Report.load(folder).findings
    measures = {m.name: m for m in (spoiled.measure, *spoiled.measures)}
    assert 70 < measures["corruption_accuracy"].value < measures["corruption_clean_accuracy"].value
    assert measures["corruption_accuracy[contrast]"].low < measures["corruption_accuracy[contrast]"].value
    assert any(isinstance(e, Heatmap) and len(e.rows) == 10 for e in spoiled.exhibits)
    turned = next(e for e in spoiled.exhibits if isinstance(e, Gallery) and "turns wrong" in e.title)
    assert len(turned.pictures) in (2, 4, 6)
    assert spoiled.provenance.evaluations == 60 * 51
    assert relied.level == "noted"
    assert "relies on where the parts are" in relied.answer
    assert relied.provenance.evaluations == 60 * 9 + 7 + 6 * 100
    maps = next(e for e in relied.exhibits if isinstance(e, Gallery) and "sensitive" in e.title)
    assert len(maps.pictures) == 12


class Blind(nn.Module):
    """Which half is brighter, without gradients."""

    def forward(self, x):
        x = x.detach()
        return torch.stack((x[:, :, :6].mean((1, 2, 3)), x[:, :, 6:].mean((1, 2, 3))), 1)


def halves(**changes):
    x = torch.full((40, 1, 12, 12), 0.2)
    x[:20, :, :6], x[20:, :, 6:] = 0.8, 0.8
    return Subject(Blind(), x, (torch.arange(40) >= 20).long(), **changes)


def test_a_model_without_gradients_gets_everything_but_maps():
    subject = halves()
    need = Reliance().need(subject, effort="full")
    assert need.wanted == 40 * 9
    (found,) = Reliance()(subject, need.wanted, Stream(0))
    assert not any(isinstance(e, Gallery) and "sensitive" in e.title for e in found.exhibits)
    assert any("no gradients" in caution for caution in found.cautions)
    assert "Fine detail is not needed" in found.answer
    (spoiled,) = Corruptions()(subject, 40 * 51, Stream(0))
    assert spoiled.level == "fine"


def test_what_cannot_be_corrupted_is_skipped_with_the_reason():
    table = Subject(nn.Linear(4, 2), Stream(0).uniform((8, 4)), torch.arange(8) % 2, modality="tabular")
    assert "modality tabular" in Corruptions().need(table, effort="full").skip
    assert "modality tabular" in Reliance().need(table, effort="full").skip
    assert "range of these images is not known" in Corruptions().need(halves(bounds=None), effort="full").skip
    unlabeled = Subject(Blind(), halves().inputs)
    assert "needs labels" in Reliance().need(unlabeled, effort="full").skip

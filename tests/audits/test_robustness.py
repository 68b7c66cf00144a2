"""The robustness probe's settings: radii and norms of one's own, by exact names."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.audits.probes import Robustness
from pellucid.core import Subject


@pytest.fixture
def subject():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Subject(model, x, model(x).argmax(1) if len(set(model(x).argmax(1).tolist())) > 1 else torch.arange(6) % 3)


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    monkeypatch.setattr("pellucid.audits.probes._balls.STEPS", 6)


def names(report):
    return [m.name for f in report.findings for m in (f.measure, *f.measures)]


def test_more_radii_have_measures_of_their_own(subject):
    probe = Robustness(radii={"linf": (0.033, 8 / 255)})
    report = pellucid.audit(subject, probes=probe)
    found = names(report)
    assert "robust_accuracy[linf,0.033]" in found
    assert found.count("robust_accuracy[linf,0.0313725]") == 1  # one of the usual ones
    assert len(set(found)) == len(found)
    curve = next(f for f in report.findings if f.name == "robustness-linf").exhibits[0]
    assert list(curve.lines[0].x) == sorted(curve.lines[0].x)
    assert len(curve.lines[0].x) == 8
    assert "0.033" in report.settings["probes"]


def test_norms_can_be_left_out(subject):
    report = pellucid.audit(subject, probes=["accuracy", Robustness(norms=("l2",))])
    assert [f.name for f in report.findings] == ["accuracy", "robustness-l2"]


def test_more_radii_cost_more(subject):
    plain, more = (p.need(subject, effort="full").wanted for p in (Robustness(), Robustness(radii={"l2": (0.5,)})))
    assert more > plain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radii": {"l1": (0.1,)}}, "norms are linf and l2, got 'l1'"),
        ({"norms": ("l3",)}, "norms are linf and l2, got 'l3'"),
        ({"norms": ()}, "norms must name at least one"),
        ({"radii": {"linf": (0.0,)}}, "a radius must be a positive number"),
        ({"radii": {"linf": (float("nan"),)}}, "a radius must be a positive number"),
        ({"radii": {"l2": (0.1,)}, "norms": ("linf",)}, "radii are given for l2, which norms leaves out"),
    ],
)
def test_unfit_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Robustness(**settings)


def test_images_without_bounds_name_their_unit():
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 40
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    subject = Subject(model, x, torch.arange(6) % 3, bounds=None)
    report = pellucid.audit(subject, probes="robustness")
    for finding in report.findings:
        assert finding.provenance.settings["unit of the radii"].endswith("shares of their median standard deviation")
        assert any("no known bounds" in caution for caution in finding.cautions)

"""The robustness probe's settings: radii and norms of one's own, by exact names."""

import copy

import pytest
import torch
from torch import nn

import pellucid
from pellucid.audits.probes import Robustness
from pellucid.audits.probes._balls import repeatable
from pellucid.audits.probes._move_findings import _arrows
from pellucid.core import Gallery, Heatmap, Stream, Subject


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


def replace_model(subject, model):
    other = copy.copy(subject)
    object.__setattr__(other, "model", model)  # a subject refuses a model that answers at random
    return other


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
    report = pellucid.audit(subject, probes=["accuracy", Robustness(attacks=("l2",))])
    assert [f.name for f in report.findings] == ["accuracy", "robustness-l2"]


def test_more_radii_cost_more(subject):
    plain, more = (p.need(subject, effort="full").wanted for p in (Robustness(), Robustness(radii={"l2": (0.5,)})))
    assert more > plain


def test_a_small_budget_takes_the_small_grid(subject, monkeypatch):
    for module, sizes in (("_moves", (3, 1, 1)), ("_robustness", (3, 1, 1))):
        monkeypatch.setattr(f"pellucid.audits.probes.{module}.SMALL_GRID", sizes)
    probe = Robustness(attacks=("rt",))
    need = probe.need(subject, effort="full")
    for budget, grid in ((need.least, "3 angles x 1 x 1"), (need.wanted, "31 angles x 5 x 5")):
        findings = probe(subject, budget, Stream(0))
        turned = next(f for f in findings if f.name == "robustness-rt")
        assert grid in turned.answer
        assert sum(f.provenance.evaluations for f in findings) <= budget


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radii": {"l1": (0.1,)}}, "norms are linf and l2, got 'l1'"),
        ({"attacks": ("l3",)}, "attacks are linf, l2, flow, rt, spatial and ensemble, got 'l3'"),
        ({"max_deg": 0.0}, "max_deg must be a positive number"),
        ({"padding": "wrap"}, "padding must be one of"),
        ({"radii": {"linf": (0.0,)}}, "a radius must be a positive number"),
        ({"radii": {"linf": (float("nan"),)}}, "a radius must be a positive number"),
        ({"radii": {"l2": (0.1,)}, "attacks": ("linf",)}, "radii are given for l2, which attacks leaves out"),
    ],
)
def test_unfit_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Robustness(**settings)


def test_images_without_bounds_name_their_unit():
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 40
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    subject = Subject(model, x, torch.arange(6) % 3, bounds=None)
    report = pellucid.audit(subject, probes="robustness", quick=True)
    for finding in report.findings:
        assert finding.provenance.settings["unit of the radii"].endswith("shares of their median standard deviation")
        assert any("no known bounds" in caution for caution in finding.cautions)


# -- bending, turning and shifting --------------------------------------------------------------------------------

ALL = ("linf", "flow", "rt", "spatial", "ensemble")


@pytest.fixture(scope="module")
def moved():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pellucid.audits.probes._balls.STEPS", 6)
        patch.setattr("pellucid.audits.probes._moves.GRID", (5, 3, 3))
        patch.setattr("pellucid.audits.probes._robustness.GRID", (5, 3, 3))
        patch.setattr("pellucid.audits.probes._moves.SMALL_GRID", (5, 3, 3))
        patch.setattr("pellucid.audits.probes._profile_findings.ENSEMBLE_STEPS", 4)
        patch.setattr("pellucid.audits.probes._profile_findings.ENSEMBLE_QUERIES", 10)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))
        x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        y = model(x).argmax(1)
        y[:2] = (y[:2] + 1) % 3
        report = pellucid.audit(Subject(model, x, y), probes=Robustness(attacks=ALL))
        assert not report.failed
        assert not report.skipped
        return {f.name: f for f in report.findings}


def test_each_attack_has_a_finding_and_all_of_them_one_table(moved):
    assert list(moved) == [f"robustness-{name}" for name in ("profile", "linf", "ensemble", "flow", "rt", "spatial")]
    profile = moved["robustness-profile"]
    assert profile.measure.name == "robust_accuracy[worst]"
    table = profile.exhibits[0]
    names = ["no attack", "linf", "ensemble", "flow", "rt", "spatial", "worst of all"]
    assert [row[0] for row in table.rows] == names
    values = {row[0]: row[2] for row in table.rows}
    assert values["no attack"] == 0.8
    assert values["worst of all"] <= min(values.values())
    assert values["spatial"] <= min(values["flow"], values["rt"])
    for name in ("flow", "rt", "spatial", "ensemble"):
        measure = moved[f"robustness-{name}"].measure
        assert measure.name == f"robust_accuracy[{name}]"
        assert measure.value == pytest.approx(100 * values[name])
        assert measure.samples


def test_the_checks_say_whether_a_number_can_be_trusted(moved):
    for name in ("linf", "flow", "rt", "spatial"):
        checks = next(e for e in moved[f"robustness-{name}"].exhibits if e.title == "Sanity checks of the attack")
        said = {row[0]: row[2] for row in checks.rows}
        assert "random search is not better" in said
        assert said["the same input gives the same answer"] == "holds"
        assert ("more steps find a higher loss" in said) == (name in ("linf", "flow"))
        assert ("an ensemble of four attacks is not better" in said) == (name == "linf")
        assert ("FAILS" in said.values()) == ("do not trust" in moved[f"robustness-{name}"].answer)


def test_turns_are_mapped_and_their_edges_told(moved):
    found = moved["robustness-rt"]
    (grid,) = (e for e in found.exhibits if isinstance(e, Heatmap))
    assert grid.columns == ("-30", "-15", "0", "+15", "+30")
    assert grid.rows == ("0 px", "1 px")
    assert grid.values[0][2] == pytest.approx(0.8)  # nothing moved: the clean accuracy
    assert any("with zeros" in caution and "mirrored" in caution for caution in found.cautions)


def test_flows_are_drawn_as_arrows_to_where_content_moves(moved):
    for name in ("flow", "spatial"):
        galleries = [e for e in moved[f"robustness-{name}"].exhibits if isinstance(e, Gallery)]
        for gallery in galleries:
            drawn = [p for p in gallery.pictures if p.arrows]
            assert all(abs(dx) <= 0.3 + 1e-6 and abs(dy) <= 0.3 + 1e-6 for p in drawn for _, _, dx, dy in p.arrows)
    flow = torch.zeros(2, 8, 8)
    flow[1] = 0.25  # every pixel shows what lies to its right: content moves left
    x, y, dx, dy = _arrows(flow)[0]
    assert (x, y, dx, dy) == (0.25, 0.0, -0.25, 0.0)


def test_an_audit_keeps_its_balls_and_adds_moves_where_there_is_room(subject):
    assert [f.name for f in pellucid.audit(subject, probes="robustness", quick=True).findings] == [
        "robustness-linf",
        "robustness-l2",
    ]
    full = pellucid.audit(subject, probes="robustness")
    assert [f.name for f in full.findings][2:] == [f"robustness-{n}" for n in ("flow", "rt", "spatial", "profile")]


def test_without_gradients_turns_and_a_blind_search_are_left(subject):
    class Blind(nn.Module):
        def forward(self, x):
            return subject.model(x.detach()).detach()

    blind = Subject(Blind(), subject.inputs, subject.labels)
    report = pellucid.audit(blind, probes=Robustness(attacks=("linf", "flow", "rt", "spatial", "ensemble")))
    assert not report.failed
    assert [f.name for f in report.findings] == ["robustness-profile", "robustness-linf", "robustness-rt"]
    assert report.findings[1].provenance.settings["attack"] == "Square"
    cautions = " ".join(report.findings[0].cautions)
    assert all(f"Left out: {name}, because it needs gradients" in cautions for name in ("flow", "spatial", "ensemble"))


def test_a_table_is_not_turned():
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    table = Subject(nn.Linear(4, 2), x, torch.arange(8) % 2, bounds=None, modality="tabular")
    skip = Robustness(attacks=("rt",)).need(table, effort="full").skip
    assert skip.startswith("bending, turning and shifting need images")
    found = pellucid.audit(table, probes=Robustness(attacks=("linf", "rt")))
    assert [f.name for f in found.findings] == ["robustness-linf"]
    assert any("Left out: rt, because" in caution for caution in found.findings[0].cautions)


def test_a_model_that_answers_at_random_is_not_trusted(subject):
    check, spent = repeatable(subject, subject.inputs, batch_size=4)
    assert check.holds
    assert spent == 12

    class Dice(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = 0

        def forward(self, x):
            self.turn += 1
            return nn.functional.one_hot(torch.full((len(x),), self.turn % 3), 3).float()

    check, _ = repeatable(replace_model(subject, Dice()), subject.inputs, batch_size=6)
    assert not check.holds
    assert "at random" in check.trouble

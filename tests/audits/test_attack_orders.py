"""The probe attack-orders: what it says of a model that is fooled, of one that is not, and of unfit settings."""

import pytest
import torch
from torch import nn

from pellucid.audits import audit, settings_of, with_settings
from pellucid.audits.probes import AttackOrderings
from pellucid.audits.probes._attack_orders import _acts
from pellucid.core import Curve, Heatmap, Stream, Subject, Table
from pellucid.data import synthetic_images, synthetic_table
from pellucid.explain import AttackOrders
from pellucid.reports import Report


def trained(data, *layers):
    with Stream(0).child("net").forked():
        model = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.inputs), data.labels).backward()
            optimizer.step()
    return Subject(model, data.inputs, data.labels, bounds=data.bounds, modality=data.modality)


@pytest.fixture(scope="module")
def images():
    data = synthetic_images(40, rng=Stream(0))
    return trained(data, nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 4))


@pytest.fixture(scope="module")
def found(images):
    probe = AttackOrderings(attack="linf:0.3", grid=4)
    (finding,) = probe(images, probe.need(images, effort="quick").least, Stream(0))
    return finding


def test_a_model_that_is_fooled_gets_the_parts_of_the_drop(found):
    assert found.level == "noted"
    assert "This attack acts" in found.answer or "No range of orders" in found.answer
    assert "with at least 70% of the image as context" in found.answer
    assert "linf radius 0.3" in found.answer
    measures = {m.name: m for m in (found.measure, *found.measures)}
    parts = [measures[f"{name}_order_drop"].value for name in ("single", "low", "middle", "high")]
    assert sum(parts) == pytest.approx(100)
    assert {"score_drop", "detector_auroc", "recovered", "corrected[cutout]", "corrected[0.2]"} <= set(measures)
    assert len(measures["score_drop"].samples) == len(found.provenance.sample_ids) >= 8


def test_the_bars_add_up_to_the_last_one(found):
    waterfall = found.exhibits[0]
    assert waterfall.bars
    assert waterfall.categories[0] == "single parts"
    assert waterfall.categories[-1] == "total"
    for line in waterfall.lines:
        assert sum(line.y[:-1]) == pytest.approx(line.y[-1])
    assert [type(e) for e in found.exhibits] == [Curve, Curve, Curve, Curve, Table, Heatmap, Heatmap]


def test_what_it_says_it_cost_is_what_it_cost(images):
    spent = []
    hook = images.model.register_forward_hook(lambda m, i, o: spent.append(len(o) * (1 + i[0].requires_grad)))
    probe = AttackOrderings(attack="linf:0.3", grid=4)
    need = probe.need(images, effort="quick")
    (finding,) = probe(images, need.least, Stream(0))
    hook.remove()
    assert finding.provenance.evaluations == sum(spent) <= need.least


def test_too_few_attacked_samples_are_told_and_not_taken_apart(images):
    probe = AttackOrderings(attack="linf:1e-6", grid=4)
    (finding,) = probe(images, probe.need(images, effort="quick").least, Stream(0))
    assert finding.measure.value is None
    assert finding.answer.startswith("Not told: the attack within linf radius 1.00e-06 turns 0 of")
    assert "at a larger radius, such as --set attack-orders.attack=linf:2e-06." in finding.answer
    assert finding.measures == ()


def test_features_play_on_a_table():
    data = synthetic_table(60, rng=Stream(0))
    subject = trained(data, nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    probe = AttackOrderings(attack="l2:3")
    (finding,) = probe(subject, probe.need(subject, effort="quick").least, Stream(0))
    assert "l2 radius 3 standard deviations" in finding.answer
    assert "of the row as context" in finding.answer
    assert finding.provenance.settings["orders"] == "5 ranges, 12 chains of nested coalitions per sample"
    assert not any("corrected" in m.name for m in finding.measures)
    # Six features: contexts of 0 or 4 others are unique, where every pair agrees with itself.
    agreement = next(e for e in finding.exhibits if isinstance(e, Curve) and "contexts agree" in e.title)
    assert agreement.lines[0].x == (50.0, 75.0) or agreement.lines[0].x == (0.5, 0.75)


def test_what_leads_must_lead_in_other_samples_too():
    def drop(single, high):
        other = torch.zeros(len(single), 1, dtype=torch.float64)
        low_to_high = torch.cat([other, other, torch.tensor(high, dtype=torch.float64)[:, None]], dim=1)
        alone = torch.tensor(single, dtype=torch.float64)
        edges, means = torch.tensor([0, 3, 6, 9]), torch.stack([low_to_high, low_to_high], dim=2)
        chains, total = torch.zeros(len(single), dtype=torch.int64), alone + low_to_high.sum(1)
        return AttackOrders(
            edges, total, 0 * alone, alone, low_to_high, 0 * low_to_high, means, chains, n_players=10, evaluations=0
        )

    rng = Stream(0)
    assert _acts(drop([1.0] * 8, [3.0] * 8), rng).startswith("This attack acts mostly through interactions of many")
    # 60 % and 40 % on average, but it is the one or the other from sample to sample.
    assert "No range" in _acts(drop([0.0, 4.0] * 4, [5.0, 1.0] * 4), rng)


def test_a_report_runs_it_when_asked_and_keeps_it(images, tmp_path):
    (probe,) = with_settings(["attack-orders"], ["attack-orders.attack=linf:0.3", "attack-orders.grid=4"])
    report = audit(images, probes=[probe], budget=60_000, quick=True, out=tmp_path)
    assert [f.name for f in report.findings] == ["attack-orders"]
    again = Report.load(tmp_path)
    assert again.findings[0].measure == report.findings[0].measure
    assert "linf:0.3" in str(again.settings["probes"])
    assert {s.name for s in settings_of(probe)} == {"attack", "grid", "samples"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"attack": "linff:0.1"}, "did you mean linf"),
        ({"attack": "linf:-1"}, "radius above 0"),
        ({"attack": "linf:1/0"}, "radius above 0"),
        ({"grid": 1}, "at least 2 cells per side"),
        ({"samples": 7}, "at least 8, got 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        AttackOrderings(**setting)


@pytest.mark.parametrize(
    ("probe", "reason"),
    [(AttackOrderings(grid=13), "smaller than the grid of 13 x 13"), (AttackOrderings(grid=20), "2 to 256 players")],
)
def test_subjects_that_do_not_fit_are_skipped_with_the_reason(images, probe, reason):
    assert reason in probe.need(images, effort="quick").skip
    few = images.take(torch.arange(5))
    assert "at least 8 samples, got 5" in AttackOrderings().need(few, effort="full").skip


def test_the_setting_reads_fractions_and_the_name_of_the_attack(images):
    text = AttackOrderings(attack="pgd:l2:16/255")._text(images)
    assert text == "l2 radius 0.0627"
    assert AttackOrderings()._text(images) == "linf radius 0.0314"

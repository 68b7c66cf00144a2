"""The probe of spiking layers: what it measures, when it warns, and whom it suits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pellucid import audits
from pellucid.audits import _levels, _spikes
from pellucid.audits.probes import Spiking
from pellucid.core import Curve, Finding, Stream, Subject
from pellucid.data import synthetic_images
from pellucid.nn import IF, FeedbackSpiking, SpectralBound
from pellucid.nn.models import FeedbackSpikingSettings


def subject_of(*, samples: int = 12, labels: bool = True, **settings: object) -> Subject:
    torch.manual_seed(0)
    data = synthetic_images(samples, rng=Stream(0), size=8)
    base = {"image_size": 8, "channels": (3,), "kernel": 3, "time_steps": 8, "classes": 4, "neuron": "if"}
    model = FeedbackSpikingSettings(**{**base, **settings}).build().eval()  # type: ignore[arg-type]
    inputs = data.inputs
    if settings.get("events"):
        inputs = (torch.rand(samples, 16, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    return Subject(model, inputs, data.labels if labels else None, name="tiny", data_name="bars")


def found(subject: Subject) -> Finding:
    (finding,) = Spiking()(subject, 10_000, Stream(0))
    return finding


def values(finding: Finding) -> dict[str, float | None]:
    return {measure.name: measure.value for measure in (finding.measure, *finding.measures)}


def test_measures_say_what_the_layer_does() -> None:
    subject = subject_of()
    finding = found(subject)
    measured = values(finding)
    layer = subject.model.hidden
    with torch.no_grad():
        logits = subject.model(subject.inputs)
    info = layer.last_info
    assert measured["spiking_residual"] == pytest.approx(float(info.residual.mean()), abs=1e-6)
    assert measured["spiking_rate"] == pytest.approx(100 * float(info.rates[0].mean()), abs=1e-4)
    assert measured["spiking_silent"] == pytest.approx(100 * float((info.rates[0] == 0).float().mean()), abs=1e-4)
    accuracy = float((logits.argmax(1) == subject.labels).float().mean())
    assert measured["spiking_accuracy[8]"] == pytest.approx(100 * accuracy)
    assert {f"spiking_accuracy[{t}]" for t in (1, 2, 4, 8, 16, 32)} <= set(measured)
    assert measured["spiking_gain"] <= measured["spiking_gain_bound"] + 1e-4
    assert layer.time_steps == 8  # as it was


def test_shares_of_samples_compare_in_percent() -> None:
    """Measures are in percent, their samples shares: a difference must not count the percent twice."""
    finding = found(subject_of())
    for name in ("spiking_rate", "spiking_silent", "spiking_saturated"):
        (measure,) = (each for each in finding.measures if each.name == name)
        assert measure.unit == "%"
        assert measure.value == pytest.approx(100 * sum(measure.samples) / len(measure.samples))


def test_operations_are_spikes_times_their_fan_out() -> None:
    """Two neurons, one of which always fires and has three synapses on each of the two."""
    into, back = nn.Linear(1, 2), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        into.weight.zero_()
        into.bias.copy_(torch.tensor([9.0, -9.0]))
        back.weight.zero_()
    layer = FeedbackSpiking(into, back, neuron=IF(), time_steps=10)
    calls = {"": _spikes.Call(layer, torch.zeros(4, 1), "constant")}
    cost = _spikes.operations(calls)
    assert (cost.once, cost.dense) == (2, 6)
    assert cost.spikes == 10 * 2  # ten spikes of one neuron, each reaching two
    kept = _spikes.kept_for_backward(calls, [2, 20])
    assert kept["at the equilibrium"][0] == kept["at the equilibrium"][1]
    assert kept["through time"][1] > 5 * kept["through time"][0]


def test_multiply_adds_of_known_maps() -> None:
    assert _spikes.multiply_adds(nn.Linear(5, 3), torch.zeros(1, 5)) == 15
    assert _spikes.multiply_adds(nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.zeros(1, 2, 8, 8)) == 16 * 3 * 18
    bounded = SpectralBound(nn.Linear(4, 4, bias=False))
    assert _spikes.multiply_adds(nn.Sequential(bounded, nn.ReLU()), torch.zeros(1, 4)) == 16


def test_memory_curve_is_flat_at_the_equilibrium_alone() -> None:
    curves = {each.title: each for each in found(subject_of()).exhibits if isinstance(each, Curve)}
    lines = {line.name: line.y for line in curves["Memory of training by time steps"].lines}
    assert len(set(lines["at the equilibrium"])) == 1
    assert lines["through time"][-1] > 10 * lines["through time"][0]  # type: ignore[operator]


def test_warns_where_rates_do_not_settle_and_says_what_helps() -> None:
    finding = found(subject_of(time_steps=4))
    assert finding.level == "watch"
    assert finding.answer.startswith("Not at equilibrium: after 4 time steps")
    assert finding.advice is not None
    assert "With 16 time steps" in finding.advice.text
    settled = found(subject_of(time_steps=16))
    assert settled.level == "fine"
    assert settled.advice is None


def test_level_follows_the_residual() -> None:
    assert _levels.settled(0.05, 0.01, 30, 120).level == "fine"
    assert _levels.settled(0.3, 0.05, 5, 20).level == "watch"
    assert _levels.settled(0.3, 0.2, 5, 20).level == "weak"
    events = _levels.settled(0.3, 0.3, 5, 5)
    assert events.level == "watch"
    assert "there are no more steps to try" in events.reason


def test_events_are_tried_with_fewer_steps_only() -> None:
    subject = subject_of(events=True, in_channels=2)
    finding = found(subject)
    names = [name for name in values(finding) if name.startswith("spiking_accuracy")]
    assert names == [f"spiking_accuracy[{t}]" for t in (1, 2, 4, 8)]
    assert finding.provenance.settings["input"] == "events"


def test_samples_without_labels_have_rates_but_no_accuracy() -> None:
    finding = found(subject_of(labels=False))
    assert not [name for name in values(finding) if name.startswith("spiking_accuracy")]
    assert "right on" not in finding.answer


def test_suits_models_with_a_spiking_layer_alone() -> None:
    spiking = subject_of()
    other = Subject(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), spiking.inputs, spiking.labels)
    assert "spiking" in audits.usual_probes(spiking)
    assert "spiking" not in audits.usual_probes(other)
    assert Spiking().need(other, effort="full").skip == "model holds no spiking layer (nn.FeedbackSpiking)"


def test_audit_stays_within_its_budget_and_repeats() -> None:
    subject = subject_of(time_steps=4)
    reports = [audits.audit(subject, probes="spiking", budget=400, seed=1) for _ in range(2)]
    assert reports[0].findings == reports[1].findings
    assert reports[0].findings[0].provenance.evaluations <= 400
    assert {audits.MEASURES[name.partition("[")[0]].probe for name in values(reports[0].findings[0])} == {"spiking"}

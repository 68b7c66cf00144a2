"""What the bottleneck probe concludes from a spectrum, and what it leaves open."""

import pytest
import torch

from pellucid.audits.probes import _bottleneck
from pellucid.audits.probes._signed_orders import signed_finding
from pellucid.core import Stream, Subject
from pellucid.explain import SignedCurve
from pellucid.games import Features


def spectrum(strength, spread=0.01, floor=0.0, samples=16):
    values = torch.tensor(strength, dtype=torch.float64)
    relative = values / values.mean()
    return _bottleneck._Spectrum(
        ratios=torch.linspace(0, 1, len(values), dtype=torch.float64),
        strength=values,
        low=values - spread,
        high=values + spread,
        floor=torch.full_like(values, floor),
        relative=relative,
        relative_low=relative,
        relative_high=relative,
        per_sample=values.expand(samples, -1),
        evaluations=1,
        method="made up",
    )


@pytest.mark.parametrize(
    ("s", "found", "words"),
    [
        (spectrum([4, 2, 1, 2, 4]), True, "a bottleneck"),
        (spectrum([4, 3, 3, 3, 4]), False, "no bottleneck"),
        (spectrum([4, 3, 3, 3, 4], spread=2), False, "no bottleneck"),
        (spectrum([4, 2, 1, 2, 4], spread=2), None, "their intervals overlap"),
        (spectrum([4, 2, 1, 2, 4], spread=torch.nan), None, "one sample gives no intervals"),
        (spectrum([4, 2, 1, 2, 4], floor=0.8), None, "too close to the noise floor"),
        (spectrum([4, 3, 3, 3, 4], samples=1), None, "1 sample cannot speak for the model"),
        (spectrum([0, 0, 0, 0, 0]), False, "no interactions"),
    ],
)
def test_a_deep_middle_is_a_bottleneck_only_with_intervals_apart(s, found, words):
    reading = _bottleneck._read(s)
    assert reading.found is found
    assert words in _bottleneck._answer(s, reading)


@pytest.mark.parametrize(
    ("strength", "lead"),
    [
        ([2, 9, 2, 2, 2, 2, 2, 2, 2, 2, 5], "most in simple contexts"),
        ([2, 2, 2, 2, 2, 9, 2, 2, 2, 2, 5], "most in contexts of middle size"),
        ([5, 2, 2, 2, 2, 2, 2, 2, 2, 9, 2], "most in nearly complete contexts"),
    ],
)
def test_the_strongest_order_leads(strength, lead):
    # The strongest order need not be an end of the curve.
    s = spectrum([float(v) + 3 for v in strength])
    assert lead in _bottleneck._answer(s, _bottleneck._read(s))


def signed(mean, spread=0.1):
    mean = torch.tensor(mean, dtype=torch.float64)
    edges = torch.arange(len(mean) + 1)
    utilities = mean + torch.tensor([[-spread], [spread]], dtype=torch.float64)
    return SignedCurve(
        edges=edges,
        first_order=torch.zeros(2, dtype=torch.float64),
        utilities=utilities,
        total=utilities.sum(1),
        mean=mean,
        stderr=torch.full_like(mean, spread),
        low=mean - spread,
        high=mean + spread,
        noise=torch.full_like(mean, spread / 10),
        n_players=len(mean) + 1,
        evaluations=1,
    )


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        ([3.0, -5.0, 3.0], "the range of orders that counts most adds -5, with about 50%"),
        ([0.01, 0.01, 0.01], "no range of orders stands out"),
    ],
)
def test_the_signed_curve_names_its_strongest_range_with_its_sign(mean, words):
    x = torch.zeros(2, 4)
    subject = Subject(torch.nn.Linear(4, 2), x, torch.tensor([0, 1]), bounds=None, modality="tabular")
    players = Features(fill="zero")(x[0])
    finding = signed_finding("bottleneck", "?", subject, players, signed(mean), needed=9, looked=0, rng=Stream(0))
    assert words in finding.answer
    assert "95% interval" in finding.answer
